"""Records of the log: their bytes, and nothing about where they lie.

Grammar (integers little-endian):

    record  = head payload check
    head    = u32(payload length) u8(kind) u64(region id) u64(sequence) u32(crc32c of the 21 bytes before)
    check   = u32(crc32c of the same 21 bytes and the payload)

    payload of
      ENTRY, MOVED  = u64(term) u64(index) u8(entry type) data
      HARD_STATE    = u64(term) u64(vote) u64(commit)
      CONF_STATE    = msgpack(proto.raft.ConfState)
      COMPACTED     = u64(index) u64(term)
      SNAPSHOT      = u64(index) u64(term) msgpack(proto.raft.ConfState)
      DESTROYED     = nothing
      COLLECTED     = u64(segment)          (the region id says nothing)

Why: an entry has a record of its own, so that it is checked when it alone is read back, and moved alone when its
segment is collected. The head has a checksum of its own, so that a length can be trusted before the payload is there:
that is what tells a torn tail from a damaged record (wal_segments.py).
Invariants: sequence numbers of a log rise by one from record to record and are never used twice, so a record that lies
where another one belongs is found out; kinds are frozen.
Not here: files (wal_segments.py), what records mean for a group (wal_groups.py).
"""

from enum import IntEnum
from struct import Struct as Layout
from struct import error as LayoutError
from typing import Final, NamedTuple

import msgspec
from google_crc32c import extend

from nokv.proto.ids import LogIndex, RegionId, Term
from nokv.proto.raft import ConfState, Entry, EntryType, HardState
from nokv.storage.engine import CorruptionError

HEAD_BYTES: Final = 25
CHECK_BYTES: Final = 4
RECORD_OVERHEAD_BYTES: Final = HEAD_BYTES + CHECK_BYTES
ENTRY_OVERHEAD_BYTES: Final = RECORD_OVERHEAD_BYTES + 17
"""Bytes of an entry's record beside its data."""
PAYLOAD_BYTES_MAX: Final = 1 << 30
"""Far above any entry, which the proposer bounds; keeps offsets within 32 bits."""

_HEAD: Final = Layout("<IBQQ")
_U32: Final = Layout("<I")
_U64: Final = Layout("<Q")
_ENTRY: Final = Layout("<QQB")
_HARD_STATE: Final = Layout("<QQQ")
_BASE: Final = Layout("<QQ")
_CONF_STATE_DECODER: Final = msgspec.msgpack.Decoder(ConfState)
_MALFORMED: Final = (LayoutError, ValueError, msgspec.DecodeError)

assert _HEAD.size + 4 == HEAD_BYTES
assert _ENTRY.size == ENTRY_OVERHEAD_BYTES - RECORD_OVERHEAD_BYTES


class RecordKind(IntEnum):
    """What a record says about its group. Frozen values; 0 is not one of them, so that zeros are no record."""

    ENTRY = 1
    """An entry; whatever the group had at its index and behind it is gone."""
    MOVED = 2
    """A copy of a live entry whose segment is about to be dropped; it truncates nothing."""
    HARD_STATE = 3
    """Term, vote and commit."""
    CONF_STATE = 4
    """Membership as of the last configuration entry applied."""
    COMPACTED = 5
    """Entries up to this index are gone; its term is kept."""
    SNAPSHOT = 6
    """All entries are gone; the log goes on behind this index, with this membership."""
    DESTROYED = 7
    """The group is gone with everything it had."""
    COLLECTED = 8
    """Nothing in this segment or an earlier one is needed any more."""


class Head(NamedTuple):
    """The checked fields of a record's head."""

    payload_bytes: int
    kind: int
    region_id: RegionId
    sequence: int


def encode_record(kind: RecordKind, region_id: RegionId, sequence: int, payload: bytes) -> bytes:
    """The whole record."""
    assert len(payload) <= PAYLOAD_BYTES_MAX
    head = _HEAD.pack(len(payload), kind, region_id, sequence)
    head_crc = extend(0, head)
    return b"".join((head, _U32.pack(head_crc), payload, _U32.pack(extend(head_crc, payload))))


def decode_head(data: bytes, at: int) -> Head | None:
    """The head at an offset where HEAD_BYTES bytes are, None if it fails its checksum."""
    end = at + _HEAD.size
    if _U32.unpack_from(data, end)[0] != extend(0, data[at:end]):
        return None
    return Head._make(_HEAD.unpack_from(data, at))


def checked_payload(data: bytes, at: int, head: Head) -> bytes | None:
    """The payload of the whole record at an offset, None if it fails its checksum."""
    start = at + HEAD_BYTES
    end = start + head.payload_bytes
    payload = data[start:end]
    head_crc = _U32.unpack_from(data, at + _HEAD.size)[0]
    return payload if _U32.unpack_from(data, end)[0] == extend(head_crc, payload) else None


# ---- payloads -------------------------------------------------------------------------------------------------------


def encode_entry(entry: Entry) -> bytes:
    """Payload of ENTRY and MOVED."""
    return _ENTRY.pack(entry.term, entry.index, entry.type) + entry.data


def decode_entry(payload: bytes) -> Entry:
    """The entry of a payload that passed its checksum. Raises CorruptionError."""
    try:
        term, index, kind = _ENTRY.unpack_from(payload)
        return Entry(term=term, index=index, type=EntryType(kind), data=payload[_ENTRY.size :])
    except _MALFORMED as error:
        raise _malformed("ENTRY", payload) from error


def decode_entry_id(payload: bytes) -> tuple[Term, LogIndex]:
    """Term and index of an entry's payload. Raises CorruptionError."""
    try:
        term, index, _ = _ENTRY.unpack_from(payload)
    except _MALFORMED as error:
        raise _malformed("ENTRY", payload) from error
    return term, index


def encode_hard_state(state: HardState) -> bytes:
    """Payload of HARD_STATE."""
    return _HARD_STATE.pack(state.term, state.vote, state.commit)


def decode_hard_state(payload: bytes) -> HardState:
    """Raises CorruptionError."""
    try:
        term, vote, commit = _HARD_STATE.unpack(payload)
    except _MALFORMED as error:
        raise _malformed("HARD_STATE", payload) from error
    return HardState(term=term, vote=vote, commit=commit)


def encode_conf_state(state: ConfState) -> bytes:
    """Payload of CONF_STATE."""
    return msgspec.msgpack.encode(state)


def decode_conf_state(payload: bytes) -> ConfState:
    """Raises CorruptionError."""
    try:
        return _CONF_STATE_DECODER.decode(payload)
    except _MALFORMED as error:
        raise _malformed("CONF_STATE", payload) from error


def encode_base(index: LogIndex, term: Term) -> bytes:
    """Payload of COMPACTED."""
    return _BASE.pack(index, term)


def decode_base(payload: bytes) -> tuple[LogIndex, Term]:
    """Raises CorruptionError."""
    try:
        index, term = _BASE.unpack(payload)
    except _MALFORMED as error:
        raise _malformed("COMPACTED", payload) from error
    return index, term


def encode_snapshot(index: LogIndex, term: Term, state: ConfState) -> bytes:
    """Payload of SNAPSHOT."""
    return _BASE.pack(index, term) + msgspec.msgpack.encode(state)


def decode_snapshot(payload: bytes) -> tuple[LogIndex, Term, ConfState]:
    """Raises CorruptionError."""
    index, term = decode_base(payload[: _BASE.size])
    return index, term, decode_conf_state(payload[_BASE.size :])


def encode_segment_number(segment: int) -> bytes:
    """Payload of COLLECTED."""
    return _U64.pack(segment)


def decode_segment_number(payload: bytes) -> int:
    """Raises CorruptionError."""
    try:
        (segment,) = _U64.unpack(payload)
    except _MALFORMED as error:
        raise _malformed("COLLECTED", payload) from error
    return int(segment)


def _malformed(kind: str, payload: bytes) -> CorruptionError:
    return CorruptionError(f"log record {kind} passes its checksum and makes no sense: {payload[:64].hex()}")
