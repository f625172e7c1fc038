"""A site: everything at one key that decides whether a transaction may write it.

Why: prewrite, one-phase commit and atomic operations ask the same four questions (is it locked, what is the newest
commit, what did this transaction leave here, is there a value) and must get them from one place.
Invariants: looking costs three engine calls, one more where the key has a commit above start_ts.
Not here: which refusal wins when several apply to different keys (prewrite.py, one_phase.py).
"""

from typing import Final

from msgspec import Struct

from nokv.mvcc.lookup import NEVER, commit_at_most, fate_from_trace, fate_of, version_under
from nokv.mvcc.records import NO_TS, CommitRecord, Kind, LockRecord, decode_lock, decode_trace
from nokv.proto.errors import KeyIsLocked, WriteConflict
from nokv.proto.ids import LATEST, Ts
from nokv.storage.engine import ColumnFamily, Reader
from nokv.storage.keys import encode_key, encode_ts

_LOCK: Final = ColumnFamily.LOCK
_DEFAULT: Final = ColumnFamily.DEFAULT


class Site(Struct, frozen=True, gc=False):
    """One key as the transaction `start_ts` finds it.

    `newest`: the newest commit of any kind. `fate`: what became of the transaction itself on this key (see
    lookup.fate_of), None as long as it is undecided, which it is while its own lock is there.
    """

    key: bytes
    encoded: bytes
    start_ts: Ts
    lock: LockRecord | None
    newest: tuple[Ts, CommitRecord] | None
    fate: Ts | None

    @property
    def newest_ts(self) -> Ts:
        """The newest commit's timestamp, 0 if the key was never committed."""
        return NO_TS if self.newest is None else self.newest[0]

    @property
    def locked_by_self(self) -> bool:
        """Whether the lock is the transaction's own."""
        return self.lock is not None and self.lock.start_ts == self.start_ts

    @property
    def last_change(self) -> Ts:
        """What a LOCK committed on top must name: the newest PUT or DELETE, 0 for none."""
        if self.newest is None:
            return NO_TS
        return self.newest[1].last_change if self.newest[1].kind is Kind.LOCK else self.newest[0]

    def has_value(self, reader: Reader) -> bool:
        """Whether the newest version is a value."""
        version = version_under(reader, self.encoded, self.newest)
        return version is not None and version[1].kind is Kind.PUT

    def conflict(self, primary: bytes = b"") -> WriteConflict | None:
        """The refusal if the transaction was rolled back here, or if a commit lies above start_ts."""
        if self.fate == NEVER:
            return WriteConflict(self.key, primary, self.start_ts, self.start_ts, NO_TS)
        if self.newest is not None and self.newest[0] > self.start_ts:
            return WriteConflict(self.key, primary, self.start_ts, self.newest[1].start_ts, self.newest[0])
        return None


def look(reader: Reader, key: bytes, start_ts: Ts) -> Site:
    """The site of `key` for the transaction `start_ts`."""
    encoded = encode_key(key)
    raw_lock = reader.get(_LOCK, encoded)
    lock = None if raw_lock is None else decode_lock(raw_lock)
    newest = commit_at_most(reader, encoded, LATEST)
    if lock is not None and lock.start_ts == start_ts:
        fate = None
    elif newest is not None and newest[0] > start_ts:
        fate = fate_of(reader, encoded, start_ts)
    else:
        raw_trace = reader.get(_DEFAULT, encoded + encode_ts(start_ts))
        fate = None if raw_trace is None else fate_from_trace(decode_trace(raw_trace))
    return Site(key, encoded, start_ts, lock, newest, fate)


def locked(key: bytes, lock: LockRecord) -> KeyIsLocked:
    """The refusal that tells the caller whom to ask."""
    return KeyIsLocked(
        key=key,
        primary=lock.primary,
        start_ts=lock.start_ts,
        ttl_ms=lock.ttl_ms,
        kind=lock.kind,
        min_commit_ts=lock.min_commit_ts,
        txn_size=lock.txn_size,
    )
