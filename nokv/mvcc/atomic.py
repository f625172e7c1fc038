"""Atomic operations: read, modify and write one key inside one log entry, exactly once.

Why: a counter built from a read and a write loses updates (M38); evaluated at apply, in log order, it needs no lock and
no retry.
Invariants: a repeated request gets the first answer. It is rebuilt from what the first execution left: the version it
wrote, or, where it wrote none, a trace REFUSED that names the version it looked at, on which the operation is evaluated
again. If the collector has removed that version the answer is WriteConflict, which is equivalent: the operation never
had an effect and, being marked, never will, so the caller may begin anew with another start_ts.
Not here: one_phase.py, whose rules for timestamps these writes follow.
"""

import re
from typing import Final

from msgspec import Struct

from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.lookup import NEVER, commit_at_most, trace_of, value_of, version_under
from nokv.mvcc.one_phase import raised_above, write
from nokv.mvcc.records import NO_TS, Kind, TraceTag, decode_commit, encode_refused_trace
from nokv.mvcc.rollback import mark
from nokv.mvcc.site import Site, locked, look
from nokv.proto.errors import KeyIsLocked, LimitExceeded, SnapshotTooOld, TypeMismatch, WriteConflict
from nokv.proto.ids import Ts
from nokv.proto.kv import AtomicOp, AtomicReply, AtomicRequest
from nokv.storage.engine import ColumnFamily, Engine, Reader
from nokv.storage.keys import encode_ts

INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 63) - 1
INTEGER_OPS: Final = frozenset({AtomicOp.ADD, AtomicOp.MIN, AtomicOp.MAX})

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")

OperationRefusal = TypeMismatch | LimitExceeded
AtomicRefusal = KeyIsLocked | WriteConflict | SnapshotTooOld | OperationRefusal


class Swap(Struct, frozen=True, gc=False):
    """The operation takes place: the key's new value, None to delete it."""

    value: bytes | None


class NoSwap(Struct, frozen=True, gc=False):
    """The comparison failed: the key keeps its value."""


def atomic(
    engine: Engine,
    request: AtomicRequest,
    *,
    commit_ts: Ts,
    ts_limit: Ts,
    limits: ApplyLimits,
    safe_point: Ts = NO_TS,
) -> AtomicReply | AtomicRefusal:
    """Apply the operation to the newest committed value.

    KeyIsLocked leaves the question open, as in one_phase. Every other refusal is final for this start_ts.

    REQUIRES: validate(request) found nothing; commit_ts and ts_limit as for one_phase.
    """
    assert commit_ts > request.start_ts
    site = look(engine, request.key, request.start_ts)
    if site.fate is not None:
        return _repeated(engine, request, site, limits)
    if request.start_ts < safe_point:
        return SnapshotTooOld(request.start_ts, safe_point)
    if site.lock is not None:
        return locked(site.key, site.lock)
    seen_ts, current = _current(engine, site)
    outcome = operate(request, current, value_bytes_max=limits.append_bytes_max)
    if not isinstance(outcome, Swap):
        trace = encode_refused_trace(seen_ts)
        engine.put(ColumnFamily.DEFAULT, site.encoded + encode_ts(request.start_ts), trace)
        return AtomicReply(False, current) if isinstance(outcome, NoSwap) else outcome
    effective_ts = raised_above((site,), commit_ts)
    if effective_ts > max(commit_ts, ts_limit):
        mark(engine, site.encoded, request.start_ts)
        conflict = site.conflict()
        assert conflict is not None
        return conflict
    write(engine, site, Kind.DELETE if outcome.value is None else Kind.PUT, outcome.value, effective_ts)
    return AtomicReply(True, outcome.value, effective_ts)


def operate(request: AtomicRequest, current: bytes | None, *, value_bytes_max: int) -> Swap | NoSwap | OperationRefusal:
    """What the operation makes of the value `current` (None: absent). Pure."""
    if request.op is AtomicOp.COMPARE_AND_SET:
        return Swap(request.operand) if current == request.expect else NoSwap()
    assert request.operand is not None
    if request.op is AtomicOp.APPEND:
        size = len(current or b"") + len(request.operand)
        if size > value_bytes_max:
            return LimitExceeded("append_bytes_max", value_bytes_max, size)
        return Swap((current or b"") + request.operand)
    operand = integer_of(request.operand)
    assert operand is not None
    if current is None:
        return Swap(request.operand)
    number = integer_of(current)
    if number is None:
        return TypeMismatch(request.key, "value is not an integer or out of range")
    result = _combine(request.op, number, operand)
    if not INTEGER_MIN <= result <= INTEGER_MAX:
        return TypeMismatch(request.key, "increment or decrement would overflow")
    return Swap(b"%d" % result)


def integer_of(text: bytes) -> int | None:
    """The signed 64-bit integer that `text` spells in canonical decimal (no plus, blank or leading zero), or None."""
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else None


def _combine(op: AtomicOp, number: int, operand: int) -> int:
    assert op in INTEGER_OPS
    if op is AtomicOp.ADD:
        return number + operand
    return min(number, operand) if op is AtomicOp.MIN else max(number, operand)


def _current(reader: Reader, site: Site) -> tuple[Ts, bytes | None]:
    """The newest committed value and its commit_ts; (0, None) if there is none."""
    version = version_under(reader, site.encoded, site.newest)
    if version is None or version[1].kind is Kind.DELETE:
        return NO_TS, None
    return version[0], value_of(reader, site.encoded, version[1])


def _repeated(
    reader: Reader, request: AtomicRequest, site: Site, limits: ApplyLimits
) -> AtomicReply | WriteConflict | OperationRefusal:
    """The first answer to this request."""
    assert site.fate is not None
    if site.fate != NEVER:
        written = commit_at_most(reader, site.encoded, site.fate)
        assert written is not None and written[0] == site.fate
        value = value_of(reader, site.encoded, written[1]) if written[1].kind is not Kind.LOCK else None
        return AtomicReply(True, value, site.fate)
    refused = WriteConflict(site.key, b"", site.start_ts, site.start_ts, NO_TS)
    trace = trace_of(reader, site.encoded, site.start_ts)
    assert trace is not None
    if trace.tag is not TraceTag.REFUSED:
        return refused
    current: bytes | None = None
    if trace.ts:
        raw = reader.get(ColumnFamily.WRITE, site.encoded + encode_ts(trace.ts))
        if raw is None:
            return refused
        current = value_of(reader, site.encoded, decode_commit(raw))
    outcome = operate(request, current, value_bytes_max=limits.append_bytes_max)
    if isinstance(outcome, Swap):
        # Not a repetition: another request used the same start_ts.
        return refused
    return AtomicReply(False, current) if isinstance(outcome, NoSwap) else outcome
