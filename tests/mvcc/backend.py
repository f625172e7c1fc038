"""A backend of the scenario player on the functions of nokv.mvcc, in this process.

It does what a region's leader does around them and nothing more: validate before evaluating, remember the highest
timestamp read at, assign commit timestamps above it.
"""

from collections.abc import Callable
from typing import Any

from nokv.mvcc.evaluate import evaluate, evaluate_read, observed_ts, validate
from nokv.mvcc.limits import APPLY_LIMITS, LIMITS, ApplyLimits, Limits
from nokv.mvcc.records import NO_TS
from nokv.proto.errors import (
    AlreadyCommitted,
    AlreadyExists,
    CommitTsTooLow,
    ErrorDetail,
    InvalidArgument,
    KeyIsLocked,
    LimitExceeded,
    LockNotFound,
    RolledBack,
    TxnNotFound,
    WriteConflict,
)
from nokv.proto.ids import U64_MAX, Ts
from nokv.proto.kv import (
    BatchGetReply,
    BatchGetRequest,
    BatchRollbackReply,
    BatchRollbackRequest,
    CheckTxnStatusReply,
    CheckTxnStatusRequest,
    CommitReply,
    CommitRequest,
    GcReply,
    GcRequest,
    GetReply,
    GetRequest,
    KvReply,
    KvRequest,
    Mutation,
    MutationOp,
    OnePhaseReply,
    OnePhaseRequest,
    PrewriteReply,
    PrewriteRequest,
    ReadRequest,
    ResolveLockReply,
    ResolveLockRequest,
    ScanReply,
    ScanRequest,
    TxnHeartbeatReply,
    TxnHeartbeatRequest,
)
from nokv.proto.region import FIRST_EPOCH
from nokv.storage.engine import Engine
from nokv.storage.memory_engine import MemoryEngine

Answer = KvReply | ErrorDetail

KIND: dict[type, str] = {
    KeyIsLocked: "locked",
    WriteConflict: "write_conflict",
    AlreadyExists: "already_exists",
    InvalidArgument: "invalid",
    LimitExceeded: "invalid",
    LockNotFound: "lock_not_found",
    RolledBack: "rolled_back",
    CommitTsTooLow: "commit_ts_too_low",
    AlreadyCommitted: "already_committed",
    TxnNotFound: "txn_not_found",
}
"""What the files call a refusal."""


class Leader:
    """The part of a region's leader that timestamps and limits depend on, around an engine."""

    def __init__(self, engine: Engine, *, limits: Limits = LIMITS, apply_limits: ApplyLimits = APPLY_LIMITS) -> None:
        self.engine = engine
        self.limits = limits
        self.apply_limits = apply_limits
        self.read_ts_max = NO_TS
        self.ts_limit = Ts(U64_MAX - 1)

    def ask(self, request: KvRequest) -> Answer:
        """Refuse, read or apply one request."""
        refusal = validate(request, self.limits)
        if refusal is not None:
            return refusal
        observed = observed_ts(request)
        if isinstance(request, ReadRequest):
            answer = evaluate_read(self.engine, request, limits=self.limits)
            self.read_ts_max = max(self.read_ts_max, observed)
            return answer
        self.read_ts_max = max(self.read_ts_max, observed)
        return evaluate(
            self.engine,
            request,
            commit_ts=Ts(self.read_ts_max + 1),
            ts_limit=self.ts_limit,
            limits=self.apply_limits,
        )


class LocalBackend:
    """cases.Backend over a Leader. `make_engine` gives the empty engine of the next case."""

    def __init__(
        self,
        make_engine: Callable[[], Engine] = MemoryEngine,
        *,
        limits: Limits = LIMITS,
        apply_limits: ApplyLimits = APPLY_LIMITS,
    ) -> None:
        self._make_engine = make_engine
        self._limits = limits
        self._apply_limits = apply_limits
        self.reset()

    def reset(self) -> None:
        """Start from an empty engine."""
        self.leader = Leader(self._make_engine(), limits=self._limits, apply_limits=self._apply_limits)

    def run(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation in the terms of the files."""
        outcome: dict[str, Any] = getattr(self, f"_{op}")(**arguments)
        return outcome

    # ---- writes ----

    def _prewrite(
        self,
        mutations: list[tuple[Any, ...]],
        primary: bytes,
        start_ts: Ts,
        lock_ttl: int,
        min_commit_ts: Ts = NO_TS,
    ) -> dict[str, Any]:
        request = PrewriteRequest(FIRST_EPOCH, to_mutations(mutations), primary, start_ts, lock_ttl, min_commit_ts)
        answer = self.leader.ask(request)
        if isinstance(answer, PrewriteReply):
            errors = [keyed(error, mutations) for error in answer.errors]
            return {"errors": errors} if errors else {"ok": True}
        return {"errors": [keyed(answer, mutations)]}

    def _one_phase(self, mutations: list[tuple[Any, ...]], start_ts: Ts) -> dict[str, Any]:
        answer = self.leader.ask(OnePhaseRequest(FIRST_EPOCH, to_mutations(mutations), start_ts))
        if isinstance(answer, OnePhaseReply):
            return {"ok": True, "commit_ts": answer.commit_ts}
        return {"errors": [keyed(answer, mutations)]}

    def _commit(self, keys: list[bytes], start_ts: Ts, commit_ts: Ts) -> dict[str, Any]:
        answer = self.leader.ask(CommitRequest(FIRST_EPOCH, tuple(keys), start_ts, commit_ts))
        return {"ok": True} if isinstance(answer, CommitReply) else refused(answer)

    def _rollback(self, keys: list[bytes], start_ts: Ts) -> dict[str, Any]:
        answer = self.leader.ask(BatchRollbackRequest(FIRST_EPOCH, tuple(keys), start_ts))
        return {"ok": True} if isinstance(answer, BatchRollbackReply) else refused(answer)

    def _resolve(self, start_ts: Ts, commit_ts: Ts, keys: list[bytes] | None = None) -> dict[str, Any]:
        resolved = 0
        start = b""
        while True:
            request = ResolveLockRequest(FIRST_EPOCH, start_ts, commit_ts, tuple(keys or ()), start)
            answer = self.leader.ask(request)
            if not isinstance(answer, ResolveLockReply):
                return refused(answer)
            resolved += answer.resolved
            if not answer.more:
                return {"ok": True, "resolved": resolved}
            start = answer.resume

    def _check(
        self, primary: bytes, lock_ts: Ts, caller_start_ts: Ts, current_ts: Ts, rollback_if_not_exist: bool
    ) -> dict[str, Any]:
        request = CheckTxnStatusRequest(
            FIRST_EPOCH, primary, lock_ts, caller_start_ts, current_ts, rollback_if_not_exist
        )
        answer = self.leader.ask(request)
        if not isinstance(answer, CheckTxnStatusReply):
            return refused(answer)
        return {
            "action": answer.action.name.lower(),
            "commit_ts": answer.commit_ts,
            "lock_ttl": answer.lock_ttl_ms,
        }

    def _heartbeat(self, primary: bytes, start_ts: Ts, advise_ttl: int) -> dict[str, Any]:
        answer = self.leader.ask(TxnHeartbeatRequest(FIRST_EPOCH, primary, start_ts, advise_ttl))
        return {"lock_ttl": answer.lock_ttl_ms} if isinstance(answer, TxnHeartbeatReply) else refused(answer)

    def _gc(self, safe_point: Ts) -> dict[str, Any]:
        start = b""
        while True:
            answer = self.leader.ask(GcRequest(FIRST_EPOCH, safe_point, start, self.leader.apply_limits.gc_visited_max))
            if not isinstance(answer, GcReply):
                return refused(answer)
            if not answer.resume:
                return {"ok": True}
            start = answer.resume

    # ---- reads ----

    def _get(self, key: bytes, ts: Ts) -> dict[str, Any]:
        answer = self.leader.ask(GetRequest(FIRST_EPOCH, key, ts))
        if not isinstance(answer, GetReply):
            return refused(answer)
        return {"not_found": True} if answer.value is None else {"value": answer.value}

    def _batch_get(self, keys: list[bytes], ts: Ts) -> dict[str, Any]:
        answer = self.leader.ask(BatchGetRequest(FIRST_EPOCH, tuple(keys), ts))
        return {"values": list(answer.values)} if isinstance(answer, BatchGetReply) else refused(answer)

    def _scan(
        self, start: bytes, limit: int, ts: Ts, end: bytes = b"", reverse: bool = False, keys_only: bool = False
    ) -> dict[str, Any]:
        pairs: list[tuple[bytes, bytes | None]] = []
        while True:
            left = limit - len(pairs)
            answer = self.leader.ask(ScanRequest(FIRST_EPOCH, start, end, left, ts, reverse, keys_only))
            if not isinstance(answer, ScanReply):
                return refused(answer)
            pairs.extend(answer.pairs)
            if not answer.more or len(pairs) >= limit:
                return {"pairs": pairs}
            if reverse:
                end = answer.resume
            else:
                start = answer.resume


def to_mutations(mutations: list[tuple[Any, ...]]) -> tuple[Mutation, ...]:
    """The wire form of (op name, key[, value]) tuples."""
    return tuple(Mutation(MutationOp[op.upper()], *rest) for op, *rest in mutations)


def keyed(answer: Answer, mutations: list[tuple[Any, ...]]) -> dict[str, Any]:
    """A refusal of a write as the files have it: kind and key."""
    if isinstance(answer, InvalidArgument) and answer.field.startswith("mutations["):
        return {"kind": "invalid", "key": mutations[int(answer.field[10:].partition("]")[0])][1]}
    return {"kind": KIND[type(answer)], "key": getattr(answer, "key", b"")}


def refused(answer: Answer) -> dict[str, Any]:
    """A refusal of anything else."""
    outcome: dict[str, Any] = {"error": KIND[type(answer)]}
    if isinstance(answer, KeyIsLocked):
        outcome["key"] = answer.key
        outcome["lock"] = {
            "key": answer.key,
            "primary": answer.primary,
            "start_ts": answer.start_ts,
            "ttl": answer.ttl_ms,
            "min_commit_ts": answer.min_commit_ts,
        }
    return outcome
