"""nokv.mvcc and its naive twin answer every request of random sequences alike, and leave records that obey the laws.

NOKV_MVCC_SEQUENCES sets how many sequences are tried (5,000 by default; a night run takes more).
"""

import os
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nokv.mvcc.evaluate import evaluate, evaluate_read, observed_ts
from nokv.mvcc.limits import APPLY_LIMITS, LIMITS, ApplyLimits, Limits
from nokv.mvcc.records import CommitRecord, Kind, TraceTag, decode_commit, decode_lock, decode_trace
from nokv.proto.errors import ErrorDetail, KeyIsLocked, WriteConflict
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import (
    AtomicOp,
    AtomicReply,
    AtomicRequest,
    BatchGetRequest,
    BatchRollbackRequest,
    CheckTxnStatusRequest,
    CommitRequest,
    DeleteRangeRequest,
    GcReply,
    GcRequest,
    GetRequest,
    KvReply,
    KvRequest,
    Mutation,
    MutationOp,
    OnePhaseRequest,
    PrewriteRequest,
    ReadRequest,
    ResolveLockReply,
    ResolveLockRequest,
    ScanReply,
    ScanRequest,
    TxnHeartbeatRequest,
    WriteRequest,
)
from nokv.proto.region import FIRST_EPOCH as E
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import decode_versioned_key
from nokv.storage.memory_engine import MemoryEngine
from tests.mvcc.ask import LONG, ms
from tests.mvcc.model import Model

SEQUENCES: Final = int(os.environ.get("NOKV_MVCC_SEQUENCES", "5000"))
"""Random sequences of all tests of this file together."""
STEPS_MAX: Final = 24
KEYS: Final = (b"a", b"a\0", b"b", b"c" * 9)
VALUES: Final = (b"", b"1", b"-7", b"text", LONG, b"5")
TINY: Final = Limits(scan_pairs_max=2, scan_bytes_max=8, scan_visited_max=3)
TINY_APPLY: Final = ApplyLimits(gc_visited_max=1, gc_records_max=1)

byte = st.integers(0, 255)
Draw = tuple[int, int, int, int, int, int]
draws = st.lists(st.tuples(byte, byte, byte, byte, byte, byte), min_size=1, max_size=STEPS_MAX)
fast = settings(
    max_examples=SEQUENCES // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Mirror:
    """Both sides of the comparison, and the safe point that both respect."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = Model()
        self.safe_point = Ts(0)

    def ask(self, request: KvRequest, commit_ts: Ts, ts_limit: Ts) -> None:
        """Ask both and compare."""
        expected = self.model.run(request, commit_ts, ts_limit)
        if isinstance(request, ScanRequest):
            assert self.scan(request) == expected, request
            return
        if isinstance(request, ReadRequest):
            assert evaluate_read(self.engine, request, safe_point=self.safe_point) == expected, request
            return
        found = evaluate(self.engine, request, commit_ts=commit_ts, ts_limit=ts_limit, safe_point=self.safe_point)
        if isinstance(request, AtomicRequest) and self.safe_point and found != expected:
            # The version that the first execution looked at was collected: "no effect, begin anew" instead.
            assert not isinstance(expected, AtomicReply) or not expected.swapped
            assert found == WriteConflict(request.key, b"", request.start_ts, request.start_ts, Ts(0))
            return
        assert found == expected, request

    def scan(self, request: ScanRequest) -> KvReply | ErrorDetail:
        """All pages of a scan under tiny limits."""
        pairs: list[tuple[bytes, bytes | None]] = []
        start, end = request.start, request.end
        while True:
            left = request.limit - len(pairs)
            page = ScanRequest(E, start, end, left, request.ts, request.reverse, request.keys_only)
            reply = evaluate_read(self.engine, page, safe_point=self.safe_point, limits=TINY)
            if not isinstance(reply, ScanReply):
                return reply
            pairs.extend(reply.pairs)
            if not reply.more or len(pairs) >= request.limit:
                return ScanReply(tuple(pairs))
            assert reply.resume not in (start, end)
            if request.reverse:
                end = reply.resume
            else:
                start = reply.resume

    def collect(self, wanted: Ts) -> None:
        """Raise the safe point, as far as pending locks allow, and collect in the smallest steps."""
        locks = [row.lock.start for row in self.model.rows.values() if row.lock is not None]
        self.safe_point = max(self.safe_point, min([wanted, *locks]))
        if not self.safe_point:
            return
        start = b""
        while True:
            reply = evaluate(self.engine, GcRequest(E, self.safe_point, start, 9), limits=TINY_APPLY)
            assert isinstance(reply, GcReply)
            if not reply.resume:
                return
            start = reply.resume


def keys_of(number: int) -> tuple[bytes, ...]:
    """A non-empty choice of keys, in an order of its own."""
    chosen = tuple(key for bit, key in enumerate(KEYS) if number >> bit & 1) or (KEYS[number >> 4 & 3],)
    return chosen[::-1] if number & 64 else chosen


def mutations_of(keys: int, ops: int, values: int) -> tuple[Mutation, ...]:
    """A mutation for each of the chosen keys; puts are twice as likely as anything else."""
    kinds = (*MutationOp, MutationOp.PUT)
    return tuple(
        Mutation(kinds[(ops >> at) % len(kinds)], key, VALUES[(values >> at) % len(VALUES)])
        for at, key in enumerate(keys_of(keys))
    )


def request_of(draw: Draw, base: int) -> KvRequest:
    """The request that six bytes mean. Timestamps lie at most 15 ms above the safe point `base`."""
    kind, a, b, c, d, e = draw
    start, later = ms(base + 1 + b % 15), ms(base + 1 + c % 15)
    commit = Ts(max(later, start) + 1 + (d & 1)) if d & 2 else Ts(max(later, start + 1))
    key = KEYS[a & 3]
    flag = bool(e & 1)
    low, high = sorted((KEYS[d & 3], KEYS[d >> 2 & 3] + b"\0"))
    match kind % 16:
        case 0 | 1 | 2:
            min_commit = (Ts(0), Ts(start + 1), later)[e % 3]
            keys = mutations_of(a, d, e)
            primary = keys[0].key if e & 8 else KEYS[e >> 4 & 3]
            return PrewriteRequest(E, keys, primary, start, c % 9, min_commit, len(keys))
        case 3 | 4:
            return CommitRequest(E, keys_of(a), start, commit)
        case 5:
            return BatchRollbackRequest(E, keys_of(a), start)
        case 6:
            return ResolveLockRequest(E, start, commit if flag else Ts(0), keys_of(a) if e & 2 else ())
        case 7:
            caller = (Ts(0), later, LATEST)[d % 3]
            return CheckTxnStatusRequest(E, key, start, caller, ms(base + d % 25), flag)
        case 8:
            return TxnHeartbeatRequest(E, key, start, c % 30)
        case 9 | 10:
            return OnePhaseRequest(E, mutations_of(a, d, e), start, flag)
        case 11:
            op = AtomicOp(c % 5)
            text = VALUES[d % len(VALUES)]
            if op is AtomicOp.COMPARE_AND_SET:
                return AtomicRequest(E, op, key, None if flag else text, start, (None, *VALUES)[e % 7])
            return AtomicRequest(E, op, key, text if op is AtomicOp.APPEND else b"%d" % (e - 99), start)
        case 12:
            return DeleteRangeRequest(E, b"" if flag else low, b"" if e & 2 else high, start, 99)
        case 13:
            at = LATEST if e % 5 == 0 else start
            return GetRequest(E, key, at)
        case 14:
            return BatchGetRequest(E, keys_of(a), start)
        case _:
            return ScanRequest(E, b"" if flag else low, b"" if e & 2 else high, c % 6, start, bool(e & 4), bool(e & 8))


def assigned(request: KvRequest, number: int) -> tuple[Ts, Ts]:
    """A commit timestamp above start_ts, and a limit that allows some raising or none."""
    start = getattr(request, "start_ts", Ts(0))
    commit_ts = Ts(start + 1 + (number >> 4) * (1 << 16))
    return commit_ts, Ts(commit_ts + (number & 15) * (1 << 17))


def audit(mirror: Mirror) -> None:
    """The laws of the records, checked on everything that is stored."""
    commits: dict[bytes, dict[Ts, CommitRecord]] = {}
    for stored, raw in mirror.engine.scan(ColumnFamily.WRITE, b"", b""):
        key, at = decode_versioned_key(stored)
        commits.setdefault(key, {})[at] = decode_commit(raw)
    owners = {(key, record.start_ts) for key, own in commits.items() for record in own.values() if record.has_trace}
    for own in commits.values():
        for at, record in own.items():
            record.check()
            assert record.start_ts < at
            if record.kind is Kind.LOCK and record.last_change >= mirror.safe_point:
                versions = [ts for ts, other in own.items() if ts < at and other.kind is not Kind.LOCK]
                assert record.last_change == max(versions, default=0)
            newer = any(record.start_ts < ts < at for ts in own)
            assert record.raised or not newer
    for stored, raw in mirror.engine.scan(ColumnFamily.DEFAULT, b"", b""):
        key, start = decode_versioned_key(stored)
        trace = decode_trace(raw)
        lock_raw = mirror.engine.get(ColumnFamily.LOCK, stored[:-8])
        pending = lock_raw is not None and decode_lock(lock_raw).start_ts == start
        if trace.tag is TraceTag.VALUE:
            assert pending or (key, start) in owners
        elif trace.tag is TraceTag.RAISED:
            assert commits[key][trace.ts].start_ts == start
        else:
            assert not pending
            assert (key, start) not in owners


@fast
@given(draws)
def test_both_answer_alike(sequence: list[Draw]) -> None:
    """Any requests in any order: duplicates, mixed phases, misused timestamps and all."""
    mirror = Mirror(MemoryEngine())
    for draw in sequence:
        base = mirror.safe_point >> 18
        if draw[0] >= 250:
            mirror.collect(ms(base + draw[1] % 8))
            continue
        request = request_of(draw, base)
        mirror.ask(request, *assigned(request, draw[5]))
    audit(mirror)
    for key in KEYS:
        for at in range(max(1, mirror.safe_point >> 18), (mirror.safe_point >> 18) + 20):
            mirror.ask(GetRequest(E, key, ms(at)), Ts(0), Ts(0))


@fast
@given(draws)
def test_an_answered_read_never_changes(sequence: list[Draw]) -> None:
    """Snapshot isolation with a leader that follows its rules and clients that follow theirs.

    Timestamps come from a counter, as from the oracle; a client takes its commit timestamp after its last prewrite; the
    leader assigns above everything read at. Then no read that was answered is ever answered differently.
    """
    engine = MemoryEngine()
    now = ms(1)
    read_ts_max = Ts(0)
    open_transactions: list[tuple[Ts, tuple[bytes, ...]]] = []
    answers: dict[tuple[bytes, Ts], KvReply | ErrorDetail] = {}
    for kind, a, b, c, d, e in sequence:
        now = Ts(now + 16)
        request: WriteRequest | None = None
        match kind % 7:
            case 0 | 1:
                old = Ts(now - 16 * (c % 6))
                mutations = mutations_of(a, d, e)
                if kind & 8:
                    request = OnePhaseRequest(E, mutations, old, bool(e & 1))
                else:
                    request = PrewriteRequest(E, mutations, mutations[0].key, old, 9, Ts(old + 1))
                    locked = tuple(m.key for m in mutations if m.op is not MutationOp.CHECK_NOT_EXISTS)
                    open_transactions.append((old, locked))
            case 2 if open_transactions:
                start, keys = open_transactions[b % len(open_transactions)]
                request = CommitRequest(E, keys, start, now)
            case 3 if open_transactions:
                start, keys = open_transactions[b % len(open_transactions)]
                request = CheckTxnStatusRequest(E, keys[0] if keys else KEYS[0], start, Ts(now - 1), now, False)
            case 4:
                request = DeleteRangeRequest(E, b"", b"", Ts(now - 16 * (c % 6)), 99)
            case 5:
                request = AtomicRequest(E, AtomicOp.APPEND, KEYS[a & 3], b"x", Ts(now - 16 * (c % 6)))
            case _:
                for key in keys_of(a):
                    at = Ts(now - d % 64)
                    reply = evaluate_read(engine, GetRequest(E, key, at))
                    read_ts_max = max(read_ts_max, at)
                    if not isinstance(reply, KeyIsLocked):
                        assert answers.setdefault((key, at), reply) == reply
        if request is not None:
            read_ts_max = max(read_ts_max, observed_ts(request))
            evaluate(engine, request, commit_ts=Ts(read_ts_max + 1), ts_limit=Ts(now + 15))
            # A leader's slots end below the next timestamp of the oracle.
            now = Ts(max(now, (read_ts_max // 16 + 1) * 16))
    for (key, at), reply in answers.items():
        again = evaluate_read(engine, GetRequest(E, key, at))
        assert again == reply or isinstance(again, KeyIsLocked)


def test_the_limits_of_the_comparison_are_tiny() -> None:
    assert TINY != LIMITS
    assert TINY_APPLY != APPLY_LIMITS
    assert isinstance(evaluate(MemoryEngine(), ResolveLockRequest(E, ms(1), Ts(0))), ResolveLockReply)
