"""What lies in the data of one Raft log entry.

Why: one entry carries the commands of many clients as the bytes they sent, so nothing is encoded twice, and a
replica can tell whether it proposed the entry itself.

Grammar (integers big-endian)::

    data     := b""                         the empty entry a new leader appends
              | COMMANDS origin command+    client writes of one turn
              | COMPACT origin index u64    every replica has applied this far: logs may begin behind it
              | CONTROL origin body         msgpack control.ControlCommand, group 0 only
    origin   := incarnation u64             of the proposing process
                sequence    u64             of the proposal within that process, from 1
                version     u64             region epoch the proposal was checked against
                conf_ver    u64
                ts_limit    u64             highest commit timestamp a blind write of this entry may be moved to
    command  := commit_ts u64               assigned by the leader, 0 where the kind needs none
                frame                       as in nokv.proto.frame

Invariants: (incarnation, sequence) never repeats, so an entry of another process or of an earlier run of this one is
never taken for ours; markers are frozen.
Not here: what a command does (nokv.mvcc), how waiters are kept (nokv.workers.pipeline).
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

import msgspec

from nokv.proto.frame import HEADER, HEADER_BYTES, Frame
from nokv.proto.ids import Incarnation, LogIndex, Ts

COMMANDS: Final = 0x01
COMPACT: Final = 0x02
CONTROL: Final = 0x03

ORIGIN: Final = Struct(">BQQQQQ")
COMMIT_TS: Final = Struct(">Q")
ORIGIN_BYTES: Final = ORIGIN.size
COMMAND_OVERHEAD_BYTES: Final = COMMIT_TS.size


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Who proposed an entry, under which epoch."""

    marker: int
    incarnation: Incarnation
    sequence: int
    version: int
    conf_ver: int
    ts_limit: Ts


class EntryError(ValueError):
    """The data of a committed entry is none of the grammar above: refused at apply, the group lives on."""


def encode_commands(origin: Origin, commands: Sequence[tuple[int, bytes]]) -> bytes:
    """An entry's data from (commit_ts, frame bytes) pairs."""
    pack = COMMIT_TS.pack
    parts = [encode_origin(origin)]
    for commit_ts, frame in commands:
        parts.append(pack(commit_ts))
        parts.append(frame)
    return b"".join(parts)


def encode_origin(origin: Origin) -> bytes:
    """The bytes in front of the commands or of a control command's body."""
    return ORIGIN.pack(
        origin.marker, origin.incarnation, origin.sequence, origin.version, origin.conf_ver, origin.ts_limit
    )


def encode_index(index: LogIndex) -> bytes:
    """The body of a COMPACT entry: logs may begin behind `index`."""
    return COMMIT_TS.pack(index)


def compact_index_of(data: bytes) -> LogIndex:
    """The index in a COMPACT entry.

    Raises:
        EntryError: cut short.
    """
    if len(data) != ORIGIN_BYTES + COMMIT_TS.size:
        raise EntryError("compact entry of a wrong length")
    return LogIndex(COMMIT_TS.unpack_from(data, ORIGIN_BYTES)[0])


def decode_origin(data: bytes) -> Origin:
    """The origin of a non-empty entry.

    Raises:
        EntryError: too short, or an unknown marker.
    """
    if len(data) < ORIGIN_BYTES:
        raise EntryError(f"{len(data)} bytes are no entry")
    marker, incarnation, sequence, version, conf_ver, ts_limit = ORIGIN.unpack_from(data)
    if marker not in (COMMANDS, COMPACT, CONTROL):
        raise EntryError(f"unknown marker {marker:#x}")
    return Origin(marker, incarnation, sequence, version, conf_ver, ts_limit)


def commands_of(data: bytes) -> Iterator[tuple[Ts, Frame]]:
    """The (commit_ts, frame) pairs behind the origin of a COMMANDS entry.

    Raises:
        EntryError: a command is cut short.
    """
    at, size = ORIGIN_BYTES, len(data)
    unpack = HEADER.unpack_from
    while at < size:
        start = at + COMMAND_OVERHEAD_BYTES
        if size - start < HEADER_BYTES:
            raise EntryError("command cut short")
        (commit_ts,) = COMMIT_TS.unpack_from(data, at)
        _magic, _version, kind, _flags, body_bytes, deadline_ms, request_id, region_id = unpack(data, start)
        at = start + HEADER_BYTES + body_bytes
        if at > size:
            raise EntryError("command body cut short")
        yield commit_ts, Frame(data, start, at, kind, deadline_ms, request_id, region_id)
