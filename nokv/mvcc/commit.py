"""Commit: the second phase. A lock becomes a commit record.

Why: the transaction is committed at the moment its primary's commit record is written; the other keys follow, by their
owner or by whoever meets their locks (Percolator, section 2.2).
Invariants: refused means that no key was changed; a committed key stays committed at its first commit timestamp, and a
repeated commit succeeds whatever has happened to the key since; commit_ts > start_ts and >= min_commit_ts.
Not here: resolve.py, which commits the locks of others.
"""

from nokv.mvcc.lookup import NEVER, commit_at_most, fate_of
from nokv.mvcc.records import NO_TS, CommitRecord, Kind, LockRecord, decode_lock, encode_commit
from nokv.mvcc.site import locked
from nokv.proto.errors import CommitTsTooLow, KeyIsLocked, LockNotFound, RolledBack
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import CommitReply, CommitRequest
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import encode_key, encode_ts

CommitRefusal = KeyIsLocked | LockNotFound | RolledBack | CommitTsTooLow


def commit(engine: Engine, request: CommitRequest) -> CommitReply | CommitRefusal:
    """Commit the transaction on its keys, or refuse all of them for the first one that cannot be committed.

    REQUIRES: validate(request) found nothing.
    """
    stands: Ts | None = None
    ready: list[tuple[bytes, LockRecord]] = []
    for key in dict.fromkeys(request.keys):
        encoded = encode_key(key)
        raw = engine.get(ColumnFamily.LOCK, encoded)
        lock = None if raw is None else decode_lock(raw)
        if lock is not None and lock.start_ts == request.start_ts:
            if (low := too_low(key, lock, request.commit_ts)) is not None:
                return low
            ready.append((encoded, lock))
            continue
        fate = fate_of(engine, encoded, request.start_ts)
        if fate == NEVER:
            return RolledBack(key, request.start_ts)
        if fate is None:
            return LockNotFound(key, request.start_ts) if lock is None else locked(key, lock)
        stands = fate if stands is None else stands
    for encoded, lock in ready:
        commit_lock(engine, encoded, lock, request.commit_ts)
    return CommitReply(request.commit_ts if stands is None else stands)


def too_low(key: bytes, lock: LockRecord, commit_ts: Ts) -> CommitTsTooLow | None:
    """The refusal of a commit timestamp that readers were promised would not be used."""
    if commit_ts > lock.start_ts and commit_ts >= lock.min_commit_ts:
        return None
    return CommitTsTooLow(key, lock.start_ts, commit_ts, Ts(max(lock.min_commit_ts, lock.start_ts + 1)))


def commit_lock(engine: Engine, encoded: bytes, lock: LockRecord, commit_ts: Ts) -> None:
    """Replace the lock by its commit record. A long value is in its place since prewrite."""
    assert too_low(b"", lock, commit_ts) is None
    last_change = NO_TS
    if lock.kind is Kind.LOCK:
        newest = commit_at_most(engine, encoded, LATEST)
        if newest is not None:
            last_change = newest[1].last_change if newest[1].kind is Kind.LOCK else newest[0]
    record = CommitRecord(lock.kind, lock.start_ts, lock.value, last_change)
    engine.put(ColumnFamily.WRITE, encoded + encode_ts(commit_ts), encode_commit(record))
    held = engine.delete(ColumnFamily.LOCK, encoded)
    assert held
