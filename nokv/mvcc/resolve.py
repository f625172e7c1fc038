"""Resolve: finish the locks of a transaction whose fate is known.

Why: an owner that died after its primary was decided leaves locks; whoever meets one asks the primary's region and
then finishes the rest here (M28: forward at once when the primary is committed).
Invariants: keys without the transaction's own lock are skipped and not marked; only finished locks are counted; one
request looks at a bounded number of locks and says where the next one goes on.
Not here: how the fate becomes known (status.py).
"""

from nokv.mvcc.commit import commit_lock, too_low
from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.records import LockRecord, decode_lock
from nokv.mvcc.rollback import rollback_lock
from nokv.proto.errors import CommitTsTooLow
from nokv.proto.kv import ResolveLockReply, ResolveLockRequest
from nokv.storage.engine import ColumnFamily, Engine, Reader
from nokv.storage.keys import decode_key, encode_bounds, encode_key

Held = list[tuple[bytes, bytes, LockRecord]]
"""(key, encoded key, lock) of locks to be finished."""


def resolve(
    engine: Engine, request: ResolveLockRequest, *, region_start: bytes, region_end: bytes, limits: ApplyLimits
) -> ResolveLockReply | CommitTsTooLow:
    """Commit (commit_ts > 0) or roll back (0) the transaction's locks on `keys`, or on all keys of the region.

    REQUIRES: validate(request) found nothing.
    """
    resume = b""
    if request.keys:
        held = _held_on(engine, request)
    else:
        start = max(region_start, request.start)
        held, resume = _held_in(engine, request, start, region_end, limits.resolve_visited_max)
    if request.commit_ts:
        for key, _, lock in held:
            if (low := too_low(key, lock, request.commit_ts)) is not None:
                return low
    for _, encoded, lock in held:
        if request.commit_ts:
            commit_lock(engine, encoded, lock, request.commit_ts)
        else:
            rollback_lock(engine, encoded, lock)
    return ResolveLockReply(len(held), bool(resume), resume)


def _held_on(reader: Reader, request: ResolveLockRequest) -> Held:
    """The transaction's locks on the named keys."""
    held: Held = []
    for key in dict.fromkeys(request.keys):
        encoded = encode_key(key)
        raw = reader.get(ColumnFamily.LOCK, encoded)
        if raw is not None and (lock := decode_lock(raw)).start_ts == request.start_ts:
            held.append((key, encoded, lock))
    return held


def _held_in(
    reader: Reader, request: ResolveLockRequest, start: bytes, end: bytes, visited_max: int
) -> tuple[Held, bytes]:
    """The transaction's locks among the first `visited_max` of a range, and where to go on (b"": the range is done)."""
    held: Held = []
    low, high = encode_bounds(start, end)
    for visited, (encoded, raw) in enumerate(reader.scan(ColumnFamily.LOCK, low, high)):
        if visited >= visited_max:
            return held, decode_key(encoded)
        lock = decode_lock(raw)
        if lock.start_ts == request.start_ts:
            held.append((decode_key(encoded), encoded, lock))
    return held, b""
