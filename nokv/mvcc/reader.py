"""Point reads at a timestamp.

Why: snapshot isolation is decided here: a read sees the newest committed change at or below its timestamp, and stops
at a lock whose transaction might still commit there (Percolator, section 2.2).
Invariants: nothing is written; get costs one lock lookup, one seek and at most two more calls, however long the key's
history is; a lock blocks exactly when `blocks` says so, in scans too.
Not here: ranges (scan.py), whether this replica may answer (nokv.workers), what to do about a lock (nokv.client).
"""

from collections.abc import Sequence
from typing import Final

from nokv.mvcc.lookup import commit_at_most, value_of, version_under
from nokv.mvcc.records import Kind, LockRecord, decode_lock
from nokv.mvcc.site import locked
from nokv.proto.errors import KeyIsLocked, LimitExceeded
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import BatchGetReply, GetReply
from nokv.storage.engine import ColumnFamily, Reader
from nokv.storage.keys import encode_key

_LOCK: Final = ColumnFamily.LOCK


def get(reader: Reader, key: bytes, ts: Ts) -> GetReply | KeyIsLocked:
    """The value of `key` at `ts` (LATEST: the newest committed one)."""
    encoded = encode_key(key)
    raw_lock = reader.get(_LOCK, encoded)
    if raw_lock is not None:
        lock = decode_lock(raw_lock)
        if blocks(lock, key, ts):
            return locked(key, lock)
    version = version_under(reader, encoded, commit_at_most(reader, encoded, ts))
    if version is None or version[1].kind is Kind.DELETE:
        return GetReply(None)
    return GetReply(value_of(reader, encoded, version[1]), version[0])


def batch_get(
    reader: Reader, keys: Sequence[bytes], ts: Ts, *, bytes_max: int
) -> BatchGetReply | KeyIsLocked | LimitExceeded:
    """Values of `keys` at `ts` in their order; the first blocked key refuses the whole.

    LimitExceeded if the values are longer than `bytes_max` together.
    """
    values: list[bytes | None] = []
    size = 0
    for key in keys:
        answer = get(reader, key, ts)
        if isinstance(answer, KeyIsLocked):
            return answer
        values.append(answer.value)
        size += len(answer.value or b"")
        if size > bytes_max:
            return LimitExceeded("batch_get_bytes_max", bytes_max, size)
    return BatchGetReply(tuple(values))


def blocks(lock: LockRecord, key: bytes, ts: Ts) -> bool:
    """Whether a read of `key` at `ts` must wait for the lock's transaction to be decided.

    A LOCK changes nothing, so it never blocks. A lock above `ts`, or one that can only commit above `ts`, does not
    matter to it. At LATEST a lock on its own primary does not block either: the primary's commit *is* the commit, so
    that transaction has not committed yet. A lock on a secondary may belong to a transaction that has.
    """
    if lock.kind is Kind.LOCK or lock.start_ts > ts or lock.min_commit_ts > ts:
        return False
    return not (ts == LATEST and lock.primary == key)
