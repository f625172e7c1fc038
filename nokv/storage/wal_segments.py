"""Segments: the files of the log, and how a torn tail is told from damage.

Grammar (integers little-endian):

    file name = "wal-" 16 digits of the segment number, from 1
    file      = header record*
    header    = "NOKVWAL\\n" u32(format) u64(segment) u64(sequence of the first record) u32(crc32c of what precedes)

Why: after a crash the last segment may end in a record that was never written whole, and that is no damage. Anything
else that fails its checksum may have been acknowledged, and cutting it off would break a promise.
Invariants: a segment is synced whole before the next one gets its first record, so only the last one can be torn; the
header is synced before the first record is written.
Not here: what records mean (wal_groups.py), when segments are made and dropped (wal.py, wal_collector.py).

Torn or damaged? A crash leaves a prefix of what was written; where the file system had already recorded the new length,
zeros follow, from where the last synced write ended or from the border of a sector. So a bad record at the end is torn
exactly if

- fewer bytes follow than a head has, or
- its head is right and the file ends before the record does, or
- nothing but zeros follows, either from its first byte or from a sector border within it.

No flipped bit can make a whole record look like that: the head's checksum guards the length, the record ends with a
checksum that is not zero, and a head of zeros fails its checksum.
"""

from collections.abc import Iterator
from struct import Struct as Layout
from typing import Final

from google_crc32c import extend

from nokv.storage.disk import SECTOR_BYTES
from nokv.storage.engine import CorruptionError, StorageError
from nokv.storage.wal_records import CHECK_BYTES, HEAD_BYTES, Head, checked_payload, decode_head

LOG_FORMAT: Final = 1
MAGIC: Final = b"NOKVWAL\n"
SEGMENT_HEADER_BYTES: Final = 32
NAME_PREFIX: Final = "wal-"
FIND_BYTES_MAX: Final = 1 << 20
"""How far behind a bad record a good one is looked for. It only makes the refusal clearer."""

_HEADER: Final = Layout("<8sIQQ")
_U32: Final = Layout("<I")

assert _HEADER.size + 4 == SEGMENT_HEADER_BYTES

REMEDY: Final = (
    "acknowledged writes may be lost: do not edit the file; move this directory away and let the node rebuild its "
    "replicas from the other stores"
)


def segment_name(segment: int) -> str:
    """File name of a segment."""
    return f"{NAME_PREFIX}{segment:016d}"


def segment_number(name: str) -> int | None:
    """The segment a file name stands for, None if it is no segment's."""
    digits = name.removeprefix(NAME_PREFIX)
    if name.startswith(NAME_PREFIX) and len(digits) == 16 and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def encode_header(segment: int, sequence: int) -> bytes:
    """The header of a new segment whose first record will have this sequence number."""
    fields = _HEADER.pack(MAGIC, LOG_FORMAT, segment, sequence)
    return fields + _U32.pack(extend(0, fields))


def damage(segment: int, offset: int, what: str) -> CorruptionError:
    """The refusal to open: where, what and what to do."""
    return CorruptionError(f"log segment {segment_name(segment)} offset {offset}: {what}; {REMEDY}")


class SegmentScan:
    """Reads the records of one segment in order.

    Args:
        segment: its number.
        data: the whole file.
        last: whether it is the log's last segment, which alone may be torn.

    Raises (here and while iterating):
        CorruptionError: it is damaged.
        StorageError: another version of the program wrote it.
    """

    __slots__ = ("data", "end", "last", "segment", "sequence", "torn_bytes")

    def __init__(self, segment: int, data: bytes, *, last: bool) -> None:
        # Constant.
        self.segment = segment
        self.data = data
        self.last = last
        # Where the next record starts and which number it has. After the last one: where the whole records end.
        self.end = SEGMENT_HEADER_BYTES
        self.sequence = 0
        self.torn_bytes = 0
        self._read_header()

    @property
    def headless(self) -> bool:
        """Whether a crash left the file without a whole header, and so without any record."""
        return self.sequence == 0

    def _read_header(self) -> None:
        data = self.data
        if self.last and (len(data) < SEGMENT_HEADER_BYTES or not any(data)):
            self.end = 0
            self.torn_bytes = len(data)
            return
        if len(data) < SEGMENT_HEADER_BYTES:
            raise damage(self.segment, 0, "the file ends within its header, and later segments exist")
        magic, version, segment, sequence = _HEADER.unpack_from(data)
        if _U32.unpack_from(data, _HEADER.size)[0] != extend(0, data[: _HEADER.size]):
            raise damage(self.segment, 0, "the header fails its checksum")
        if magic != MAGIC or segment != self.segment or sequence == 0:
            raise damage(self.segment, 0, f"the header is that of {magic!r} segment {segment}")
        if version != LOG_FORMAT:
            name = segment_name(self.segment)
            raise StorageError(f"{name} has log format {version}, this program reads {LOG_FORMAT}; use a matching nokv")
        self.sequence = sequence

    def __iter__(self) -> Iterator[tuple[Head, bytes, int, int]]:
        """Head, payload, offset and length of each record. Afterwards `end` and `torn_bytes` hold."""
        if self.headless:
            return
        data = self.data
        size = len(data)
        at = self.end
        while at < size:
            head = decode_head(data, at) if at + HEAD_BYTES <= size else None
            if head is None:
                break
            end = at + HEAD_BYTES + head.payload_bytes + CHECK_BYTES
            payload = checked_payload(data, at, head) if end <= size else None
            if payload is None:
                break
            if head.sequence != self.sequence:
                raise damage(self.segment, at, f"record {head.sequence} lies where record {self.sequence} belongs")
            yield head, payload, at, end - at
            self.sequence += 1
            self.end = at = end
        if at < size:
            self._judge_tail()

    def _judge_tail(self) -> None:
        """Accept what starts at `end` as torn, or raise."""
        if not self.last:
            raise damage(self.segment, self.end, "a record fails its checksum, and later segments exist")
        if not is_torn(self.data, self.end):
            found = find_record(self.data, self.end + 1)
            behind = "no crash explains it" if found is None else f"a good one follows at offset {found}"
            raise damage(self.segment, self.end, f"a record fails its checksum, and {behind}")
        self.torn_bytes = len(self.data) - self.end


def is_torn(data: bytes, start: int) -> bool:
    """Whether a crash explains the bytes from `start`, where no whole record is, to the end of the file."""
    size = len(data)
    if size - start < HEAD_BYTES:
        return True
    head = decode_head(data, start)
    end = size + 1 if head is None else start + HEAD_BYTES + head.payload_bytes + CHECK_BYTES
    if head is not None and end > size:
        return True
    zeros_from = start + len(data[start:].rstrip(b"\0"))
    if zeros_from == start:
        return True
    border = -(-zeros_from // SECTOR_BYTES) * SECTOR_BYTES
    # The bytes before the border were written, so the first bad record must reach beyond it.
    reaches = start + HEAD_BYTES if head is None else end
    return border < size and border < reaches


def find_record(data: bytes, start: int) -> int | None:
    """Offset of the first record at or soon behind `start` that passes its checksums, None if there is none."""
    for at in range(start, min(len(data) - HEAD_BYTES - CHECK_BYTES + 1, start + FIND_BYTES_MAX)):
        head = decode_head(data, at)
        if head is None or at + HEAD_BYTES + head.payload_bytes + CHECK_BYTES > len(data):
            continue
        if checked_payload(data, at, head) is not None:
            return at
    return None
