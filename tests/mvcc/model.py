"""The naive twin of nokv.mvcc: every commit in a list, every question answered by looking at all of them.

Why: the package answers in constant time by invariants about order and by pointers. This model has neither; it is
written from the rules of the scenario files and the docstrings, and forgets nothing.
Not here: bounds of work, bytes, collection (a model that keeps everything is what reads above the safe point must agree
with).
"""

from dataclasses import dataclass, field

from nokv.proto.errors import (
    AlreadyCommitted,
    AlreadyExists,
    CommitTsTooLow,
    ErrorDetail,
    KeyIsLocked,
    LockNotFound,
    RolledBack,
    TxnNotFound,
    TypeMismatch,
    WriteConflict,
)
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import (
    AtomicOp,
    AtomicReply,
    AtomicRequest,
    BatchGetReply,
    BatchGetRequest,
    BatchRollbackReply,
    BatchRollbackRequest,
    CheckTxnStatusReply,
    CheckTxnStatusRequest,
    CommitReply,
    CommitRequest,
    DeleteRangeReply,
    DeleteRangeRequest,
    GetReply,
    GetRequest,
    KvReply,
    KvRequest,
    MutationOp,
    OnePhaseReply,
    OnePhaseRequest,
    PrewriteError,
    PrewriteReply,
    PrewriteRequest,
    ResolveLockReply,
    ResolveLockRequest,
    ScanReply,
    ScanRequest,
    TxnAction,
    TxnHeartbeatReply,
    TxnHeartbeatRequest,
)

PUT, DELETE, LOCK = "put", "delete", "lock"
EFFECT = {
    MutationOp.PUT: PUT,
    MutationOp.INSERT: PUT,
    MutationOp.DELETE: DELETE,
    MutationOp.LOCK: LOCK,
    MutationOp.CHECK_NOT_EXISTS: None,
}
MUST_BE_ABSENT = (MutationOp.INSERT, MutationOp.CHECK_NOT_EXISTS)
ZERO = Ts(0)


@dataclass
class Commit:
    at: Ts
    start: Ts
    effect: str
    value: bytes | None


@dataclass
class Lock:
    start: Ts
    primary: bytes
    effect: str
    value: bytes | None
    ttl: int
    min_commit: Ts
    txn_size: int


@dataclass
class Row:
    commits: list[Commit] = field(default_factory=list)
    lock: Lock | None = None
    marks: set[Ts] = field(default_factory=set)
    looked_at: dict[Ts, bytes | None] = field(default_factory=dict)
    """For a mark of an atomic operation that did nothing: the value it saw."""

    def newest(self) -> Commit | None:
        return max(self.commits, key=lambda commit: commit.at, default=None)

    def newest_ts(self) -> int:
        newest = self.newest()
        return newest.at if newest else 0

    def version(self, at: int) -> Commit | None:
        seen = [commit for commit in self.commits if commit.effect != LOCK and commit.at <= at]
        return max(seen, key=lambda commit: commit.at, default=None)

    def value(self, at: int = LATEST) -> bytes | None:
        version = self.version(at)
        return version.value if version else None

    def fate(self, start: Ts) -> Ts | None:
        """Committed at, 0 for rolled back, None for unknown."""
        for commit in self.commits:
            if commit.start == start:
                return commit.at
        return ZERO if start in self.marks else None


class Model:
    """Evaluates requests as nokv.mvcc.evaluate does; timestamps to be assigned are given."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}

    def row(self, key: bytes) -> Row:
        return self.rows.setdefault(key, Row())

    def run(self, request: KvRequest, commit_ts: Ts = ZERO, ts_limit: Ts = ZERO) -> KvReply | ErrorDetail:
        match request:
            case GetRequest():
                return self.get(request)
            case BatchGetRequest():
                return self.batch_get(request)
            case ScanRequest():
                return self.scan(request)
            case PrewriteRequest():
                return self.prewrite(request)
            case CommitRequest():
                return self.commit(request)
            case BatchRollbackRequest():
                return self.rollback(request)
            case ResolveLockRequest():
                return self.resolve(request)
            case CheckTxnStatusRequest():
                return self.check(request)
            case TxnHeartbeatRequest():
                return self.heartbeat(request)
            case OnePhaseRequest():
                return self.one_phase(request, commit_ts, ts_limit)
            case AtomicRequest():
                return self.atomic(request, commit_ts, ts_limit)
            case DeleteRangeRequest():
                return self.delete_range(request, commit_ts)
            case _:
                raise NotImplementedError(request)

    # ---- reads ----

    def get(self, request: GetRequest) -> GetReply | KeyIsLocked:
        row = self.row(request.key)
        if self.stops(request.key, request.ts):
            return self.locked(request.key)
        version = row.version(request.ts)
        if version is None or version.value is None:
            return GetReply(None)
        return GetReply(version.value, version.at)

    def batch_get(self, request: BatchGetRequest) -> BatchGetReply | KeyIsLocked:
        for key in request.keys:
            if self.stops(key, request.ts):
                return self.locked(key)
        return BatchGetReply(tuple(self.row(key).value(request.ts) for key in request.keys))

    def scan(self, request: ScanRequest) -> ScanReply | KeyIsLocked:
        pairs: list[tuple[bytes, bytes | None]] = []
        inside = [key for key in self.rows if request.start <= key and (not request.end or key < request.end)]
        for key in sorted(inside, reverse=request.reverse):
            if len(pairs) >= request.limit:
                break
            if self.stops(key, request.ts):
                return self.locked(key)
            value = self.row(key).value(request.ts)
            if value is not None:
                pairs.append((key, None if request.keys_only else value))
        return ScanReply(tuple(pairs))

    def stops(self, key: bytes, ts: Ts) -> bool:
        lock = self.row(key).lock
        if lock is None or lock.effect == LOCK or lock.start > ts or lock.min_commit > ts:
            return False
        return ts != LATEST or lock.primary != key

    def locked(self, key: bytes) -> KeyIsLocked:
        lock = self.row(key).lock
        assert lock is not None
        kind = {PUT: 0, DELETE: 1, LOCK: 2}[lock.effect]
        return KeyIsLocked(key, lock.primary, lock.start, lock.ttl, kind, lock.min_commit, lock.txn_size)

    # ---- two phases ----

    def own(self, key: bytes, start: Ts) -> Lock | None:
        lock = self.row(key).lock
        return lock if lock is not None and lock.start == start else None

    def prewrite(self, request: PrewriteRequest) -> PrewriteReply:
        errors: list[PrewriteError] = []
        for mutation in request.mutations:
            row = self.row(mutation.key)
            newest = row.newest()
            if row.lock is not None:
                if row.lock.start != request.start_ts:
                    errors.append(self.locked(mutation.key))
            elif request.start_ts in row.marks:
                errors.append(WriteConflict(mutation.key, request.primary, request.start_ts, request.start_ts, ZERO))
            elif newest is not None and newest.at > request.start_ts:
                errors.append(WriteConflict(mutation.key, request.primary, request.start_ts, newest.start, newest.at))
            elif mutation.op in MUST_BE_ABSENT and row.value() is not None:
                errors.append(AlreadyExists(mutation.key))
        if errors:
            return PrewriteReply(tuple(errors))
        for mutation in request.mutations:
            row, effect = self.row(mutation.key), EFFECT[mutation.op]
            if row.lock is None and effect is not None:
                row.lock = Lock(
                    request.start_ts,
                    request.primary,
                    effect,
                    mutation.value if effect == PUT else None,
                    request.lock_ttl_ms,
                    request.min_commit_ts,
                    request.txn_size,
                )
        return PrewriteReply()

    def commit(self, request: CommitRequest) -> KvReply | ErrorDetail:
        stands = None
        for key in request.keys:
            own, fate = self.own(key, request.start_ts), self.row(key).fate(request.start_ts)
            if own is not None:
                if request.commit_ts < own.min_commit:
                    return CommitTsTooLow(key, own.start, request.commit_ts, Ts(max(own.min_commit, own.start + 1)))
            elif fate == 0:
                return RolledBack(key, request.start_ts)
            elif fate is None:
                if self.row(key).lock is not None:
                    return self.locked(key)
                return LockNotFound(key, request.start_ts)
            elif stands is None:
                stands = fate
        for key in request.keys:
            if self.own(key, request.start_ts) is not None:
                self.finish(key, request.commit_ts)
        return CommitReply(request.commit_ts if stands is None else stands)

    def finish(self, key: bytes, commit_ts: Ts) -> None:
        """Commit the lock on the key, or roll it back at 0."""
        row = self.row(key)
        lock, row.lock = row.lock, None
        assert lock is not None
        if commit_ts:
            row.commits.append(Commit(commit_ts, lock.start, lock.effect, lock.value))
        else:
            row.marks.add(lock.start)

    def rollback(self, request: BatchRollbackRequest) -> KvReply | ErrorDetail:
        for key in request.keys:
            fate = self.row(key).fate(request.start_ts)
            if self.own(key, request.start_ts) is None and fate:
                return AlreadyCommitted(key, request.start_ts, fate)
        for key in request.keys:
            if self.own(key, request.start_ts) is not None:
                self.finish(key, ZERO)
            self.row(key).marks.add(request.start_ts)
        return BatchRollbackReply()

    def resolve(self, request: ResolveLockRequest) -> KvReply | ErrorDetail:
        held = [key for key in sorted(self.rows) if self.own(key, request.start_ts) is not None]
        if request.keys:
            held = [key for key in dict.fromkeys(request.keys) if key in held]
        for key in held:
            own = self.own(key, request.start_ts)
            assert own is not None
            if request.commit_ts and request.commit_ts < own.min_commit:
                return CommitTsTooLow(key, own.start, request.commit_ts, Ts(max(own.min_commit, own.start + 1)))
        for key in held:
            self.finish(key, request.commit_ts)
        return ResolveLockReply(len(held))

    def check(self, request: CheckTxnStatusRequest) -> KvReply | ErrorDetail:
        row, own = self.row(request.primary), self.own(request.primary, request.lock_ts)
        if own is not None:
            if own.primary != request.primary:
                return self.locked(request.primary)
            if (own.start >> 18) + own.ttl < request.current_ts >> 18:
                self.finish(request.primary, ZERO)
                return CheckTxnStatusReply(TxnAction.TTL_EXPIRE_ROLLBACK, ZERO, 0)
            if own.min_commit and own.min_commit <= request.caller_start_ts != LATEST:
                own.min_commit = Ts(max(request.caller_start_ts + 1, request.current_ts))
            pushed = request.caller_start_ts and own.min_commit > request.caller_start_ts
            action = TxnAction.MIN_COMMIT_TS_PUSHED if pushed else TxnAction.NONE
            return CheckTxnStatusReply(action, ZERO, own.ttl, own.min_commit)
        fate = row.fate(request.lock_ts)
        if fate:
            return CheckTxnStatusReply(TxnAction.NONE, fate, 0)
        if fate is None and not request.rollback_if_not_exist:
            return TxnNotFound(request.primary, request.lock_ts) if row.lock is None else self.locked(request.primary)
        row.marks.add(request.lock_ts)
        return CheckTxnStatusReply(TxnAction.LOCK_NOT_EXIST_ROLLBACK, ZERO, 0)

    def heartbeat(self, request: TxnHeartbeatRequest) -> KvReply | ErrorDetail:
        own = self.own(request.primary, request.start_ts)
        if own is None:
            return TxnNotFound(request.primary, request.start_ts)
        own.ttl = max(own.ttl, request.advise_ttl_ms)
        return TxnHeartbeatReply(own.ttl)

    # ---- one phase ----

    def one_phase(self, request: OnePhaseRequest, commit_ts: Ts, ts_limit: Ts) -> KvReply | ErrorDetail:
        rows = [(mutation, self.row(mutation.key)) for mutation in request.mutations]
        for _, row in rows:
            fate = row.fate(request.start_ts)
            if fate:
                return OnePhaseReply(fate)
        for mutation, row in rows:
            if row.lock is not None:
                return self.locked(mutation.key)
        refusal = self.one_phase_refusal(request, commit_ts, ts_limit)
        if refusal is not None:
            first = rows[0][1]
            if request.blind:
                first.marks.add(request.start_ts)
            return refusal
        if request.blind:
            commit_ts = Ts(max([commit_ts] + [row.newest_ts() + 1 for _, row in rows]))
        for mutation, row in rows:
            effect = EFFECT[mutation.op]
            if effect is not None:
                value = mutation.value if effect == PUT else None
                row.commits.append(Commit(commit_ts, request.start_ts, effect, value))
        return OnePhaseReply(commit_ts)

    def one_phase_refusal(self, request: OnePhaseRequest, commit_ts: Ts, ts_limit: Ts) -> ErrorDetail | None:
        top = max(self.row(mutation.key).newest_ts() for mutation in request.mutations)
        hopeless = top + 1 > commit_ts and top + 1 > ts_limit
        for mutation in request.mutations:
            row = self.row(mutation.key)
            newest = row.newest()
            if request.start_ts in row.marks:
                return WriteConflict(mutation.key, b"", request.start_ts, request.start_ts, ZERO)
            if newest is not None and newest.at > request.start_ts and (hopeless or not request.blind):
                return WriteConflict(mutation.key, b"", request.start_ts, newest.start, newest.at)
        for mutation in request.mutations:
            if mutation.op in MUST_BE_ABSENT and self.row(mutation.key).value() is not None:
                return AlreadyExists(mutation.key)
        return None

    def atomic(self, request: AtomicRequest, commit_ts: Ts, ts_limit: Ts) -> KvReply | ErrorDetail:
        row = self.row(request.key)
        fate = row.fate(request.start_ts)
        never = WriteConflict(request.key, b"", request.start_ts, request.start_ts, ZERO)
        if fate:
            (own,) = [commit for commit in row.commits if commit.start == request.start_ts]
            return AtomicReply(True, own.value, fate)
        if fate == 0:
            if request.start_ts not in row.looked_at:
                return never
            refusal = self.operate(request, row.looked_at[request.start_ts])
            return never if isinstance(refusal, bytes) or refusal is None else refusal
        if row.lock is not None:
            return self.locked(request.key)
        current = row.value()
        outcome = self.operate(request, current)
        newest = row.newest()
        if isinstance(outcome, bytes) or outcome is None:
            at = Ts(max(commit_ts, row.newest_ts() + 1))
            if at > commit_ts and at > ts_limit:
                assert newest is not None
                row.marks.add(request.start_ts)
                return WriteConflict(request.key, b"", request.start_ts, newest.start, newest.at)
            row.commits.append(Commit(at, request.start_ts, DELETE if outcome is None else PUT, outcome))
            return AtomicReply(True, outcome, at)
        row.marks.add(request.start_ts)
        row.looked_at[request.start_ts] = current
        return outcome

    def operate(self, request: AtomicRequest, current: bytes | None) -> bytes | AtomicReply | TypeMismatch | None:
        """The new value, or the answer of an operation that does nothing."""
        if request.op == AtomicOp.COMPARE_AND_SET:
            return request.operand if current == request.expect else AtomicReply(False, current)
        assert request.operand is not None
        if request.op == AtomicOp.APPEND:
            return (current or b"") + request.operand
        if current is None:
            return request.operand
        if not current.lstrip(b"-").isdigit():
            return TypeMismatch(request.key, "value is not an integer or out of range")
        pair = (int(current), int(request.operand))
        number = {AtomicOp.ADD: sum(pair), AtomicOp.MIN: min(pair), AtomicOp.MAX: max(pair)}[request.op]
        return str(number).encode()

    def delete_range(self, request: DeleteRangeRequest, commit_ts: Ts) -> KvReply | ErrorDetail:
        victims: list[bytes] = []
        done: list[Ts] = []
        for key in sorted(self.rows):
            row = self.row(key)
            if not (request.start <= key and (not request.end or key < request.end)):
                continue
            fate = row.fate(request.start_ts)
            if fate:
                done.append(fate)
            elif row.value(request.start_ts) is not None and row.newest_ts() <= request.start_ts:
                victims.append(key)
            if row.lock is not None and (key in victims or self.stops(key, request.start_ts)):
                return self.locked(key)
        for key in victims:
            if request.start_ts in self.row(key).marks:
                return WriteConflict(key, b"", request.start_ts, request.start_ts, ZERO)
        for key in victims:
            self.row(key).commits.append(Commit(commit_ts, request.start_ts, DELETE, None))
        at = max(done + [commit_ts] * bool(victims), default=ZERO)
        return DeleteRangeReply(len(done) + len(victims), False, b"", at)
