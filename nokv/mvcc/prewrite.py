"""Prewrite: the first phase. Check every key, then lock every key.

Why: a lock says "this transaction may commit here"; nobody else writes the key until the primary's fate is known
(Percolator, figure 6).
Invariants: one refused key leaves all keys untouched; for each key a foreign lock is reported before a conflict, a
conflict before an existing value; a lock that is already there stays exactly as it is.
Not here: commit.py, limits (validate.py).
"""

from typing import Final

from nokv.mvcc.records import (
    NO_TS,
    SHORT_VALUE_BYTES_MAX,
    Kind,
    LockRecord,
    encode_lock,
    encode_value_trace,
)
from nokv.mvcc.site import Site, locked, look
from nokv.proto.errors import AlreadyExists, SnapshotTooOld
from nokv.proto.ids import Ts
from nokv.proto.kv import Mutation, MutationOp, PrewriteError, PrewriteReply, PrewriteRequest
from nokv.storage.engine import ColumnFamily, Engine, Reader
from nokv.storage.keys import encode_ts

KIND_OF: Final = {
    MutationOp.PUT: Kind.PUT,
    MutationOp.INSERT: Kind.PUT,
    MutationOp.DELETE: Kind.DELETE,
    MutationOp.LOCK: Kind.LOCK,
}
"""What a mutation leaves behind. CHECK_NOT_EXISTS leaves nothing."""
NEEDS_ABSENCE: Final = frozenset({MutationOp.INSERT, MutationOp.CHECK_NOT_EXISTS})
"""Mutations that are refused where the key has a value."""


def prewrite(engine: Engine, request: PrewriteRequest, *, safe_point: Ts = NO_TS) -> PrewriteReply | SnapshotTooOld:
    """Lock the keys of a transaction, or say for each refused key why not.

    REQUIRES: validate(request) found nothing. SnapshotTooOld: the collector may have taken what would refuse it.
    """
    sites = [look(engine, mutation.key, request.start_ts) for mutation in request.mutations]
    errors = [
        error
        for mutation, site in zip(request.mutations, sites, strict=True)
        if (error := _refusal(engine, request, mutation, site)) is not None
    ]
    if errors:
        return PrewriteReply(tuple(errors))
    missing = [pair for pair in zip(request.mutations, sites, strict=True) if not pair[1].locked_by_self]
    if missing and request.start_ts < safe_point:
        return SnapshotTooOld(request.start_ts, safe_point)
    for mutation, site in missing:
        if mutation.op is not MutationOp.CHECK_NOT_EXISTS:
            _lock(engine, request, mutation, site)
    return PrewriteReply()


def _refusal(reader: Reader, request: PrewriteRequest, mutation: Mutation, site: Site) -> PrewriteError | None:
    """Why this key cannot be locked, or None."""
    if site.lock is not None:
        # An own lock is a repeated request: whatever was checked then holds, since the lock kept everybody out.
        return None if site.locked_by_self else locked(site.key, site.lock)
    if (conflict := site.conflict(request.primary)) is not None:
        return conflict
    assert site.fate is None, "a committed transaction has a commit above its start_ts"
    if mutation.op in NEEDS_ABSENCE and site.has_value(reader):
        return AlreadyExists(site.key)
    return None


def _lock(engine: Engine, request: PrewriteRequest, mutation: Mutation, site: Site) -> None:
    kind = KIND_OF[mutation.op]
    value = mutation.value if kind is Kind.PUT else None
    if value is not None and len(value) > SHORT_VALUE_BYTES_MAX:
        engine.put(ColumnFamily.DEFAULT, site.encoded + encode_ts(request.start_ts), encode_value_trace(value))
        value = None
    lock = LockRecord(
        kind=kind,
        primary=request.primary,
        start_ts=request.start_ts,
        ttl_ms=request.lock_ttl_ms,
        min_commit_ts=request.min_commit_ts,
        txn_size=request.txn_size,
        value=value,
    )
    engine.put(ColumnFamily.LOCK, site.encoded, encode_lock(lock))
