"""Delete range: remove what a range showed at start_ts, a bounded number of keys at a time.

Why: clearing a range key by key costs a request each. One decision gives the rest: a key is deleted if it was visible
at start_ts and nobody has committed it since. So the delete is ordered before every concurrent write, it never
conflicts, and a repeated request can never take away what was written later.
Invariants: exactly once for each key; a lock that might still commit something visible at start_ts, or any lock on a
key to be deleted, refuses the whole request; one request looks at a bounded number of keys and locks.
Not here: gc.py, which removes the dead versions.
"""

from msgspec import Struct

from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.lookup import NEVER, fate_from_trace, fate_of, trace_of, version_under
from nokv.mvcc.reader import blocks
from nokv.mvcc.records import NO_TS, CommitRecord, Kind, decode_commit, decode_lock, encode_commit
from nokv.mvcc.site import locked
from nokv.proto.errors import KeyIsLocked, SnapshotTooOld, WriteConflict
from nokv.proto.ids import Ts
from nokv.proto.kv import DeleteRangeReply, DeleteRangeRequest
from nokv.storage.engine import ColumnFamily, Engine, Reader
from nokv.storage.keys import TS_BYTES, after_versions, decode_key, decode_ts, encode_bounds, encode_ts


class _Victims(Struct):
    """What one request deletes, and how far it looked."""

    keys: dict[bytes, Ts]
    """Encoded keys in order; the value says where an earlier execution of this request deleted it, 0 for not yet."""
    resume: bytes = b""
    """Encoded key at which the next request goes on, b"" at the end of the range."""


def delete_range(
    engine: Engine,
    request: DeleteRangeRequest,
    *,
    commit_ts: Ts,
    region_start: bytes,
    region_end: bytes,
    limits: ApplyLimits,
    safe_point: Ts = NO_TS,
) -> DeleteRangeReply | KeyIsLocked | WriteConflict | SnapshotTooOld:
    """Delete up to `limit` keys of start <= key < end that were visible at start_ts and not committed since.

    WriteConflict: this start_ts was rolled back on one of them.

    REQUIRES: validate(request) found nothing; commit_ts > start_ts and > every timestamp this region has read at. The
    leader counts start_ts as read at: a later write must not slip in below it.
    """
    assert commit_ts > request.start_ts
    if request.start_ts < safe_point:
        return SnapshotTooOld(request.start_ts, safe_point)
    end = min(request.end or region_end, region_end or request.end)
    low, high = encode_bounds(max(request.start, region_start), end)
    victims = _collect(engine, request, low, high, limits)
    stopped = _first_lock(engine, request, low, high, victims, limits) or _first_mark(engine, request, victims)
    if stopped is not None:
        return stopped
    deletion = encode_commit(CommitRecord(Kind.DELETE, request.start_ts))
    for encoded, deleted_ts in victims.keys.items():
        if not deleted_ts:
            engine.put(ColumnFamily.WRITE, encoded + encode_ts(commit_ts), deletion)
    return DeleteRangeReply(
        deleted=len(victims.keys),
        more=bool(victims.resume),
        resume=decode_key(victims.resume) if victims.resume else b"",
        commit_ts=Ts(max((deleted_ts or commit_ts for deleted_ts in victims.keys.values()), default=0)),
    )


def _collect(reader: Reader, request: DeleteRangeRequest, low: bytes, high: bytes, limits: ApplyLimits) -> _Victims:
    """Walk the keys that have commits, until a bound is reached."""
    limit = min(request.limit, limits.delete_range_keys_max)
    victims = _Victims({})
    visited = 0
    found = reader.seek(ColumnFamily.WRITE, low)
    while found is not None and (not high or found[0] < high):
        encoded = found[0][:-TS_BYTES]
        if len(victims.keys) >= limit or visited >= limits.delete_range_visited_max:
            victims.resume = encoded
            break
        visited += 1
        deleted_ts = _verdict(reader, request, encoded, found)
        if deleted_ts is not None:
            victims.keys[encoded] = deleted_ts
        found = reader.seek(ColumnFamily.WRITE, after_versions(encoded))
    return victims


def _verdict(reader: Reader, request: DeleteRangeRequest, encoded: bytes, newest: tuple[bytes, bytes]) -> Ts | None:
    """0 if the key is to be deleted, its commit_ts if this request has deleted it before, else None."""
    newest_ts = decode_ts(newest[0])
    if newest_ts > request.start_ts:
        return fate_of(reader, encoded, request.start_ts) or None
    version = version_under(reader, encoded, (newest_ts, decode_commit(newest[1])))
    return NO_TS if version is not None and version[1].kind is Kind.PUT else None


def _first_lock(
    reader: Reader, request: DeleteRangeRequest, low: bytes, high: bytes, victims: _Victims, limits: ApplyLimits
) -> KeyIsLocked | None:
    """The first lock in the way. Where there are too many locks to look at, the request ends before the next one."""
    bound = victims.resume or high
    for visited, (encoded, raw) in enumerate(reader.scan(ColumnFamily.LOCK, low, bound)):
        if visited >= limits.delete_range_visited_max:
            victims.keys = {key: ts for key, ts in victims.keys.items() if key < encoded}
            victims.resume = encoded
            return None
        key, lock = decode_key(encoded), decode_lock(raw)
        if victims.keys.get(encoded) == 0 or blocks(lock, key, request.start_ts):
            return locked(key, lock)
    return None


def _first_mark(reader: Reader, request: DeleteRangeRequest, victims: _Victims) -> WriteConflict | None:
    """The refusal if this start_ts was rolled back on a key to be deleted: what is rolled back never commits."""
    for encoded, deleted_ts in victims.keys.items():
        if not deleted_ts and fate_from_trace(trace_of(reader, encoded, request.start_ts)) == NEVER:
            return WriteConflict(decode_key(encoded), b"", request.start_ts, request.start_ts, NEVER)
    return None
