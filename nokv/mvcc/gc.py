"""Garbage collection: drop what no read at or above the safe point can see.

Why: every overwrite leaves a version, every rollback a mark; without collection scans slow down and disks fill (M51).
Invariants: every read at ts >= safe_point gives the same answer before and after; locks, commits at or above the safe
point and marks of transactions at or above it stay; one call removes a bounded number of records, may stop in the
middle of a key, and always makes progress.
Not here: choosing the safe point. REQUIRES of whoever does: no lock below it is left anywhere in the cluster, since the
record removed here may be the only evidence that such a lock's transaction has committed.
"""

from msgspec import Struct

from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.records import CommitRecord, Kind, TraceTag, decode_commit, decode_trace
from nokv.proto.ids import Ts
from nokv.proto.kv import GcReply, GcRequest
from nokv.storage.engine import ColumnFamily, Engine, Reader
from nokv.storage.keys import TS_BYTES, after_versions, decode_key, decode_ts, encode_bounds, encode_ts


class _Garbage(Struct):
    """What one call removes."""

    commits: list[bytes]
    traces: list[bytes]

    def __len__(self) -> int:
        return len(self.commits) + len(self.traces)


def gc(engine: Engine, request: GcRequest, *, region_start: bytes, region_end: bytes, limits: ApplyLimits) -> GcReply:
    """Collect up to `limit` keys from `start` on. `removed` counts commits and marks, not the values they own.

    REQUIRES: validate(request) found nothing.
    """
    low, high = encode_bounds(max(request.start, region_start), region_end)
    limit = min(request.limit, limits.gc_visited_max)
    removed = visited = 0
    resume = b""
    encoded = _next_key(engine, low, high)
    while encoded is not None:
        if visited >= limit or removed >= limits.gc_records_max:
            resume = decode_key(encoded)
            break
        visited += 1
        garbage, done = _garbage_of(engine, encoded, request.safe_point, limits.gc_records_max - removed)
        removed += len(garbage)
        _sweep(engine, encoded, garbage)
        if not done:
            resume = decode_key(encoded)
            break
        encoded = _next_key(engine, after_versions(encoded), high)
    return GcReply(removed, resume)


def _next_key(reader: Reader, low: bytes, high: bytes) -> bytes | None:
    """The first encoded key of the range that has a commit or a trace."""
    heads = [
        found[0][:-TS_BYTES]
        for cf in (ColumnFamily.WRITE, ColumnFamily.DEFAULT)
        if (found := reader.seek(cf, low)) is not None and (not high or found[0] < high)
    ]
    return min(heads) if heads else None


def _garbage_of(reader: Reader, encoded: bytes, safe_point: Ts, removed_max: int) -> tuple[_Garbage, bool]:
    """What goes of one key, at most `removed_max` records, and whether that is all of it.

    The newest PUT or DELETE at or below the safe point is what a read at the safe point sees; everything beneath it
    goes, and the committed LOCKs between the two. A DELETE beneath which nothing is left goes last of all.
    """
    garbage = _Garbage([], [])
    tombstone = b""
    pivot = False
    behind = after_versions(encoded)
    for stored, raw in reader.scan(ColumnFamily.WRITE, encoded + encode_ts(safe_point), behind):
        if len(garbage) >= removed_max:
            return garbage, False
        record = decode_commit(raw)
        if pivot or (record.kind is Kind.LOCK and decode_ts(stored) < safe_point):
            garbage.commits.append(stored)
        elif record.kind is not Kind.LOCK:
            pivot = True
            if record.kind is Kind.DELETE and decode_ts(stored) < safe_point:
                tombstone = stored
    if tombstone:
        if len(garbage) >= removed_max:
            return garbage, False
        garbage.commits.append(tombstone)
    for stored, raw in reader.scan(ColumnFamily.DEFAULT, encoded + encode_ts(safe_point), behind):
        if len(garbage) >= removed_max:
            return garbage, False
        decided_never = decode_trace(raw).tag in (TraceTag.ROLLED_BACK, TraceTag.REFUSED)
        if decided_never and decode_ts(stored) < safe_point:
            garbage.traces.append(stored)
    return garbage, True


def _sweep(engine: Engine, encoded: bytes, garbage: _Garbage) -> None:
    """Remove the records, and with each commit the trace it owns."""
    for stored in garbage.commits:
        raw = engine.get(ColumnFamily.WRITE, stored)
        assert raw is not None
        record: CommitRecord = decode_commit(raw)
        if record.has_trace:
            engine.delete(ColumnFamily.DEFAULT, encoded + encode_ts(record.start_ts))
        engine.delete(ColumnFamily.WRITE, stored)
    for stored in garbage.traces:
        engine.delete(ColumnFamily.DEFAULT, stored)
