"""Bytes of the records that transactions leave in the three column families.

Grammar (integers big-endian; keys are in nokv.storage.keys)::

    LOCK    key            lock   := kind u8  flags u8  start_ts u64  ttl_ms u32  min_commit_ts u64  txn_size u32
                                     primary_bytes u16  primary  [value]
                           kind   := PUT 0 | DELETE 1 | LOCK 2
                           flags  := 0 | INLINE 0x04            INLINE, kind PUT only: the value follows
    WRITE   key@commit_ts  commit := head u8  start_ts u64  tail
                           head   := kind | INLINE 0x04 | RAISED 0x08
                           tail   := value                      kind PUT with INLINE
                                   | last_change u64            kind LOCK
                                   | nothing
    DEFAULT key@start_ts   trace  := 0x01 value                 VALUE: the long value of this transaction
                                   | 0x02                       ROLLED_BACK: it never committed here and never will
                                   | 0x03 seen_ts u64           REFUSED: the same; what an atomic operation looked at
                                   | 0x04 commit_ts u64 [value] RAISED: it committed above other commits, there

A value of at most SHORT_VALUE_BYTES_MAX bytes lies in the lock and then in the commit (flag INLINE); a longer one lies
in the trace from prewrite on and is never moved.

Why: a put must cost few engine calls and few bytes, and every question about a transaction on a key must be answered
without walking its versions (see the package's docstring).
Invariants: kinds, flags and tags are frozen, they are on disks; decoding is strict and raises CorruptionError.
Not here: which record may follow which (lookup.py and the modules that write).
"""

import struct
from enum import IntEnum
from typing import Final

from msgspec import Struct

from nokv.proto.ids import Ts
from nokv.storage.engine import CorruptionError

NO_TS: Final = Ts(0)
"""No timestamp: below every one that the oracle issues."""
SHORT_VALUE_BYTES_MAX: Final = 255
"""Longest value that lies inside the lock and the commit record. Above it a second record costs less than copying the
value from the lock into the commit record."""
TTL_MS_MAX: Final = (1 << 32) - 1
"""What the record can hold: 49 days."""
TXN_SIZE_MAX: Final = (1 << 32) - 1


class Kind(IntEnum):
    """What a lock or a commit does to its key. Frozen values, equal to those of proto.kv.MutationOp."""

    PUT = 0
    DELETE = 1
    LOCK = 2
    """No change: the key was only locked. Not a version, but it conflicts like one."""


class TraceTag(IntEnum):
    """What a transaction left at (key, start_ts). Frozen values."""

    VALUE = 1
    ROLLED_BACK = 2
    REFUSED = 3
    RAISED = 4


_KIND_MASK: Final = 0x03
_INLINE: Final = 0x04
_RAISED: Final = 0x08
_HEAD_BITS: Final = _KIND_MASK | _INLINE | _RAISED

_LOCK: Final = struct.Struct(">BBQIQIH")
_COMMIT: Final = struct.Struct(">BQ")
_U64: Final = struct.Struct(">Q")
_KINDS: Final = tuple(Kind)
_VALUE: Final = bytes([TraceTag.VALUE])
ROLLED_BACK: Final = bytes([TraceTag.ROLLED_BACK])
"""The whole trace of a rolled-back transaction."""
_REFUSED: Final = bytes([TraceTag.REFUSED])
_RAISED_TRACE: Final = bytes([TraceTag.RAISED])
_RAISED_HEAD_BYTES: Final = 1 + _U64.size


class LockRecord(Struct, frozen=True, gc=False):
    """A prewritten, undecided change. `value` None for a PUT: it is long and lies in the trace."""

    kind: Kind
    primary: bytes
    start_ts: Ts
    ttl_ms: int
    min_commit_ts: Ts
    txn_size: int
    value: bytes | None = None


class CommitRecord(Struct, frozen=True, gc=False):
    """A committed change.

    Laws (`check`): 1. only a PUT has a value; without one its value lies in the trace. 2. only a LOCK has
    `last_change`, the commit timestamp of the newest PUT or DELETE beneath it, 0 for none. 3. `raised`: the key had a
    commit above start_ts already, so a trace RAISED points here.
    """

    kind: Kind
    start_ts: Ts
    value: bytes | None = None
    last_change: Ts = NO_TS
    raised: bool = False

    def check(self) -> None:
        """Assert the laws."""
        assert self.value is None or self.kind is Kind.PUT
        assert self.last_change == 0 or self.kind is Kind.LOCK
        assert self.value is None or len(self.value) <= SHORT_VALUE_BYTES_MAX

    @property
    def has_trace(self) -> bool:
        """Whether something lies at (key, start_ts) that must go when this record goes."""
        return self.raised or (self.kind is Kind.PUT and self.value is None)


class Trace(Struct, frozen=True, gc=False):
    """What a transaction left at (key, start_ts). `ts`: seen_ts of REFUSED, commit_ts of RAISED, else 0."""

    tag: TraceTag
    ts: Ts = NO_TS
    value: bytes | None = None


# ---- locks ----------------------------------------------------------------------------------------------------------


def encode_lock(lock: LockRecord) -> bytes:
    """The bytes of a lock."""
    flags = 0 if lock.value is None else _INLINE
    head = _LOCK.pack(
        lock.kind, flags, lock.start_ts, lock.ttl_ms, lock.min_commit_ts, lock.txn_size, len(lock.primary)
    )
    return head + lock.primary + (lock.value or b"")


def decode_lock(raw: bytes) -> LockRecord:
    """The lock in `raw`.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if len(raw) < _LOCK.size:
        raise CorruptionError(f"lock record {raw.hex()} is cut short")
    kind, flags, start_ts, ttl_ms, min_commit_ts, txn_size, primary_bytes = _LOCK.unpack_from(raw)
    value_at = _LOCK.size + primary_bytes
    inline = flags == _INLINE
    known = kind < len(_KINDS) and not flags & ~_INLINE and not (inline and kind != Kind.PUT)
    if not known or len(raw) < value_at or (not inline and len(raw) > value_at):
        raise CorruptionError(f"lock record {raw[:64].hex()} has an unknown shape")
    return LockRecord(
        kind=_KINDS[kind],
        primary=raw[_LOCK.size : value_at],
        start_ts=Ts(start_ts),
        ttl_ms=ttl_ms,
        min_commit_ts=Ts(min_commit_ts),
        txn_size=txn_size,
        value=raw[value_at:] if inline else None,
    )


# ---- commits --------------------------------------------------------------------------------------------------------


def encode_put(start_ts: Ts, value: bytes | None, *, raised: bool = False) -> bytes:
    """The commit record of a PUT; `value` None: it lies in the trace. The hot path's encoder."""
    head = Kind.PUT | (_RAISED if raised else 0)
    if value is None:
        return _COMMIT.pack(head, start_ts)
    return _COMMIT.pack(head | _INLINE, start_ts) + value


def encode_commit(record: CommitRecord) -> bytes:
    """The bytes of a commit record."""
    record.check()
    if record.kind is Kind.PUT:
        return encode_put(record.start_ts, record.value, raised=record.raised)
    head = _COMMIT.pack(record.kind | (_RAISED if record.raised else 0), record.start_ts)
    return head + _U64.pack(record.last_change) if record.kind is Kind.LOCK else head


def decode_commit(raw: bytes) -> CommitRecord:
    """The commit record in `raw`.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if len(raw) < _COMMIT.size:
        raise CorruptionError(f"commit record {raw.hex()} is cut short")
    head, start_ts = _COMMIT.unpack_from(raw)
    kind, inline, raised = head & _KIND_MASK, head & _INLINE, bool(head & _RAISED)
    tail = raw[_COMMIT.size :]
    if head & ~_HEAD_BITS or kind >= len(_KINDS) or (inline and kind != Kind.PUT):
        raise CorruptionError(f"commit record {raw[:64].hex()} has an unknown head")
    if inline:
        return CommitRecord(Kind.PUT, Ts(start_ts), tail, raised=raised)
    if len(tail) != (_U64.size if kind == Kind.LOCK else 0):
        raise CorruptionError(f"commit record {raw[:64].hex()} has a wrong length")
    last_change = _U64.unpack(tail)[0] if tail else 0
    return CommitRecord(_KINDS[kind], Ts(start_ts), None, Ts(last_change), raised)


# ---- traces ---------------------------------------------------------------------------------------------------------


def encode_value_trace(value: bytes) -> bytes:
    """The trace of a transaction whose value is long."""
    return _VALUE + value


def encode_refused_trace(seen_ts: Ts) -> bytes:
    """The trace of an atomic operation that did nothing after looking at the version `seen_ts` (0: no value)."""
    return _REFUSED + _U64.pack(seen_ts)


def encode_raised_trace(commit_ts: Ts, value: bytes | None) -> bytes:
    """The trace of a transaction that committed above another commit; with its value if that is long."""
    return _RAISED_TRACE + _U64.pack(commit_ts) + (value or b"")


def decode_trace(raw: bytes) -> Trace:
    """The trace in `raw`. A RAISED trace of a short value has value b"": the commit record has it.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    tag, size = (raw[0] if raw else 0), len(raw)
    if tag == TraceTag.VALUE:
        return Trace(TraceTag.VALUE, NO_TS, raw[1:])
    if tag == TraceTag.ROLLED_BACK and size == 1:
        return Trace(TraceTag.ROLLED_BACK)
    if tag == TraceTag.REFUSED and size == _RAISED_HEAD_BYTES:
        return Trace(TraceTag.REFUSED, Ts(_U64.unpack_from(raw, 1)[0]))
    if tag == TraceTag.RAISED and size >= _RAISED_HEAD_BYTES:
        return Trace(TraceTag.RAISED, Ts(_U64.unpack_from(raw, 1)[0]), raw[_RAISED_HEAD_BYTES:])
    raise CorruptionError(f"trace record {raw[:64].hex()} has an unknown shape")
