"""Short names for requests and records, so that a test reads as a sequence of steps."""

from typing import TypeVar

from nokv.mvcc.history import History, history
from nokv.mvcc.limits import APPLY_LIMITS, ApplyLimits
from nokv.mvcc.records import NO_TS
from nokv.proto.ids import Ts, ts_of
from nokv.proto.kv import (
    AtomicOp,
    AtomicRequest,
    BatchRollbackRequest,
    CheckTxnStatusRequest,
    CommitRequest,
    DeleteRangeRequest,
    GcRequest,
    GetRequest,
    KvRequest,
    Mutation,
    MutationOp,
    OnePhaseRequest,
    PrewriteRequest,
    ResolveLockRequest,
    ScanRequest,
    TxnHeartbeatRequest,
)
from nokv.proto.region import FIRST_EPOCH
from nokv.storage.memory_engine import MemoryEngine
from tests.mvcc.backend import Answer, Leader

T = TypeVar("T")
LONG = b"long " * 60
"""A value that does not fit into a commit record."""


class Store:
    """A region's leader on a memory engine, asked in one line. Every timestamp is a physical millisecond."""

    def __init__(self, apply_limits: ApplyLimits = APPLY_LIMITS) -> None:
        self.engine = MemoryEngine()
        self.leader = Leader(self.engine, apply_limits=apply_limits)

    def ask(self, request: KvRequest) -> Answer:
        return self.leader.ask(request)

    def expect(self, answer_type: type[T], request: KvRequest) -> T:
        """The answer, which must be of this type."""
        answer = self.ask(request)
        assert isinstance(answer, answer_type), answer
        return answer

    def dump(self) -> list[tuple[int, bytes, bytes]]:
        """Everything stored, to see that a refusal changed nothing."""
        return [(cf, key, value) for cf, table in enumerate(self.engine.tables) for key, value in table.items()]

    def history(self, key: bytes) -> History:
        return history(self.engine, key, records_max=1000)

    def committed(self, key: bytes, value: bytes, start: int, commit: int) -> None:
        """Commit a put in two phases."""
        assert not getattr(self.ask(prewrite(start, put(key, value))), "errors", True)
        self.ask(commit_keys(start, commit, key))

    def value(self, key: bytes, at: int) -> bytes | None:
        """What a get answers, which must not be a refusal."""
        answer = self.ask(get(key, at))
        return answer.value  # type: ignore[union-attr]


def ms(physical: int) -> Ts:
    return ts_of(physical) if physical else NO_TS


def put(key: bytes, value: bytes = b"v") -> Mutation:
    return Mutation(MutationOp.PUT, key, value)


def delete(key: bytes) -> Mutation:
    return Mutation(MutationOp.DELETE, key)


def lock(key: bytes) -> Mutation:
    return Mutation(MutationOp.LOCK, key)


def insert(key: bytes, value: bytes = b"v") -> Mutation:
    return Mutation(MutationOp.INSERT, key, value)


def absent(key: bytes) -> Mutation:
    return Mutation(MutationOp.CHECK_NOT_EXISTS, key)


def prewrite(
    start: int, *mutations: Mutation, primary: bytes | None = None, ttl: int = 3000, min_commit: int = 0
) -> PrewriteRequest:
    if primary is None:
        primary = mutations[0].key
    return PrewriteRequest(FIRST_EPOCH, mutations, primary, ms(start), ttl, ms(min_commit), len(mutations))


def commit_keys(start: int, commit: int, *keys: bytes) -> CommitRequest:
    return CommitRequest(FIRST_EPOCH, keys, ms(start), ms(commit))


def rollback(start: int, *keys: bytes) -> BatchRollbackRequest:
    return BatchRollbackRequest(FIRST_EPOCH, keys, ms(start))


def resolve(start: int, commit: int, *keys: bytes, begin: bytes = b"") -> ResolveLockRequest:
    return ResolveLockRequest(FIRST_EPOCH, ms(start), ms(commit), keys, begin)


def check(
    primary: bytes, lock_at: int, *, caller: int = 0, current: int = 0, roll_back: bool = False
) -> CheckTxnStatusRequest:
    return CheckTxnStatusRequest(FIRST_EPOCH, primary, ms(lock_at), ms(caller), ms(current), roll_back)


def heartbeat(primary: bytes, start: int, ttl: int) -> TxnHeartbeatRequest:
    return TxnHeartbeatRequest(FIRST_EPOCH, primary, ms(start), ttl)


def one_phase(start: int, *mutations: Mutation, blind: bool = False) -> OnePhaseRequest:
    return OnePhaseRequest(FIRST_EPOCH, mutations, ms(start), blind)


def atomic(op: AtomicOp, key: bytes, operand: bytes | None, start: int, expect: bytes | None = None) -> AtomicRequest:
    return AtomicRequest(FIRST_EPOCH, op, key, operand, ms(start), expect)


def delete_range(start: int, begin: bytes = b"", end: bytes = b"", limit: int = 100) -> DeleteRangeRequest:
    return DeleteRangeRequest(FIRST_EPOCH, begin, end, ms(start), limit)


def collect(safe_point: int, begin: bytes = b"", limit: int = 1000) -> GcRequest:
    return GcRequest(FIRST_EPOCH, ms(safe_point), begin, limit)


def get(key: bytes, at: int) -> GetRequest:
    return GetRequest(FIRST_EPOCH, key, ms(at))


def scan(
    at: int, begin: bytes = b"", end: bytes = b"", limit: int = 100, *, reverse: bool = False, keys_only: bool = False
) -> ScanRequest:
    return ScanRequest(FIRST_EPOCH, begin, end, limit, ms(at), reverse, keys_only)
