"""Lookups: what lies at a key, answered with a constant number of engine calls.

Why: the work of an applied command must not grow with a key's history. Three facts make that possible:

1. A key's commit records are only ever added at the top. While a lock is held nobody else commits the key; a prewrite
   needs the newest commit to be at or below its start_ts and commits above it; a one-phase write goes above the newest.
   So a transaction that found no commit above its start_ts is, for ever, the *first* commit above its start_ts.
2. The only exception are writes that were raised over newer commits; they leave a RAISED trace at (key, start_ts).
3. Rollback marks lie among the traces, not among the commits, so no reader ever steps over them; a committed LOCK
   names the newest change beneath it (`last_change`), so a reader jumps over a run of them.

Invariants: nothing here writes.
Not here: whether a lock blocks a read (reader.py) or a write (site.py).
"""

from typing import Final

from nokv.mvcc.records import CommitRecord, Kind, Trace, TraceTag, decode_commit, decode_trace
from nokv.proto.ids import LATEST, Ts
from nokv.storage.engine import ColumnFamily, CorruptionError, Reader
from nokv.storage.keys import TS_BYTES, decode_ts, encode_ts

NEVER: Final = Ts(0)
"""The fate of a transaction that is rolled back here: it commits never."""

_WRITE: Final = ColumnFamily.WRITE
_DEFAULT: Final = ColumnFamily.DEFAULT


def commit_at_most(reader: Reader, encoded: bytes, ts: Ts) -> tuple[Ts, CommitRecord] | None:
    """The newest commit of the key at or below `ts`, of any kind: (commit_ts, record), or None."""
    found = reader.seek(_WRITE, encoded if ts == LATEST else encoded + encode_ts(ts))
    if found is None or not found[0].startswith(encoded):
        return None
    return decode_ts(found[0]), decode_commit(found[1])


def version_under(
    reader: Reader, encoded: bytes, commit: tuple[Ts, CommitRecord] | None
) -> tuple[Ts, CommitRecord] | None:
    """The newest PUT or DELETE at or below `commit`, one of the key's own: at most one step."""
    if commit is None or commit[1].kind is not Kind.LOCK:
        return commit
    last_change = commit[1].last_change
    raw = reader.get(_WRITE, encoded + encode_ts(last_change)) if last_change else None
    # No record: the collector removed a DELETE that nothing lay under.
    return None if raw is None else (last_change, decode_commit(raw))


def value_of(reader: Reader, encoded: bytes, record: CommitRecord) -> bytes | None:
    """The value a PUT or DELETE gives its key.

    Raises:
        CorruptionError: a long value is not where it must be.
    """
    assert record.kind is not Kind.LOCK
    if record.kind is Kind.DELETE:
        return None
    if record.value is not None:
        return record.value
    trace = trace_of(reader, encoded, record.start_ts)
    if trace is None or trace.value is None:
        raise CorruptionError(f"value of {encoded.hex()} written by {record.start_ts} is missing")
    return trace.value


def trace_of(reader: Reader, encoded: bytes, start_ts: Ts) -> Trace | None:
    """What the transaction left at (key, start_ts), or None."""
    raw = reader.get(_DEFAULT, encoded + encode_ts(start_ts))
    return None if raw is None else decode_trace(raw)


def fate_of(reader: Reader, encoded: bytes, start_ts: Ts) -> Ts | None:
    """What became of the transaction on this key: its commit_ts, NEVER (rolled back), or None (undecided or unknown).

    REQUIRES: the transaction's own lock, if it could be there, was looked for already: a locked key is undecided.
    """
    fate = fate_from_trace(trace_of(reader, encoded, start_ts))
    return fate if fate is not None else _first_commit_above(reader, encoded, start_ts)


def fate_from_trace(trace: Trace | None) -> Ts | None:
    """What the trace alone says, in the terms of `fate_of`."""
    if trace is None or trace.tag is TraceTag.VALUE:
        return None
    return trace.ts if trace.tag is TraceTag.RAISED else NEVER


def _first_commit_above(reader: Reader, encoded: bytes, start_ts: Ts) -> Ts | None:
    """The commit_ts of the transaction, if it is the first commit above its own start_ts."""
    found = reader.seek_back(_WRITE, encoded + encode_ts(start_ts))
    if found is None or not found[0].startswith(encoded):
        return None
    assert len(found[0]) == len(encoded) + TS_BYTES
    return decode_ts(found[0]) if decode_commit(found[1]).start_ts == start_ts else None
