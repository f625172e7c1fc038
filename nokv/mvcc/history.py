"""History: everything a store holds about one key, for human eyes.

Why: a lock that stays or a value that is missing is explained by the key's records, and by nothing else.
Invariants: bounded; reads only. Not here: how records are used (lookup.py).
"""

from itertools import islice

from msgspec import Struct

from nokv.mvcc.records import CommitRecord, Kind, LockRecord, Trace, TraceTag, decode_commit, decode_lock, decode_trace
from nokv.proto.ids import Ts, physical_ms
from nokv.storage.engine import ColumnFamily, Reader
from nokv.storage.keys import after_versions, decode_ts, encode_key


class History(Struct, frozen=True):
    """One key's lock, commits by commit_ts and traces by start_ts, both newest first."""

    lock: LockRecord | None
    commits: tuple[tuple[Ts, CommitRecord], ...]
    traces: tuple[tuple[Ts, Trace], ...]

    def describe(self) -> list[str]:
        """One line for each record: `write 20.0 PUT by 10.0, 5 bytes`."""
        lines = [] if self.lock is None else [_describe_lock(self.lock)]
        lines += [f"write {_ts(ts)} {_describe_commit(record)}" for ts, record in self.commits]
        lines += [f"trace {_ts(ts)} {_describe_trace(trace)}" for ts, trace in self.traces]
        return lines


def history(reader: Reader, key: bytes, *, records_max: int) -> History:
    """The records of `key`, of commits and of traces at most `records_max` each."""
    encoded = encode_key(key)
    raw_lock = reader.get(ColumnFamily.LOCK, encoded)
    behind = after_versions(encoded)
    commits = islice(reader.scan(ColumnFamily.WRITE, encoded, behind), records_max)
    traces = islice(reader.scan(ColumnFamily.DEFAULT, encoded, behind), records_max)
    return History(
        lock=None if raw_lock is None else decode_lock(raw_lock),
        commits=tuple((decode_ts(stored), decode_commit(raw)) for stored, raw in commits),
        traces=tuple((decode_ts(stored), decode_trace(raw)) for stored, raw in traces),
    )


def _ts(ts: Ts) -> str:
    return f"{physical_ms(ts)}.{ts & ((1 << 18) - 1)}"


def _describe_lock(lock: LockRecord) -> str:
    size = "long value" if lock.kind is Kind.PUT and lock.value is None else f"{len(lock.value or b'')} bytes"
    return (
        f"lock {_ts(lock.start_ts)} {lock.kind.name} primary {lock.primary!r} ttl {lock.ttl_ms} ms "
        f"min_commit {_ts(lock.min_commit_ts)}, {size}"
    )


def _describe_commit(record: CommitRecord) -> str:
    raised = ", raised" if record.raised else ""
    if record.kind is Kind.LOCK:
        return f"LOCK by {_ts(record.start_ts)} over {_ts(record.last_change)}{raised}"
    if record.kind is Kind.DELETE:
        return f"DELETE by {_ts(record.start_ts)}{raised}"
    size = "long value" if record.value is None else f"{len(record.value)} bytes"
    return f"PUT by {_ts(record.start_ts)}, {size}{raised}"


def _describe_trace(trace: Trace) -> str:
    if trace.tag is TraceTag.VALUE:
        return f"VALUE of {len(trace.value or b'')} bytes"
    if trace.tag is TraceTag.ROLLED_BACK:
        return "ROLLED_BACK"
    return f"{trace.tag.name} {_ts(trace.ts)}"
