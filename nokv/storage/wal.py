"""The log: one append-only, segmented file sequence shared by all Raft groups of a worker.

Why: a worker serves hundreds of groups; one log makes one write and one sync of what a turn produced for all of them.
Invariants:
- `append` only collects; `flush` writes everything collected with one write; what `flush` returned is durable once a
  `sync` that began later has ended.
- A record's place is fixed when it is appended, so it can be read at once, from the buffer or the file.
- After OutOfSpaceError nothing is lost and nothing is half written: the buffer is kept and `flush` may be repeated.
  After any other failure the log refuses to go on, because what the disk has is no longer known.
- A segment is synced before the next one is begun, so that only the last one can be torn (wal_segments.py).
Not here: what a record means for its group (wal_groups.py), the Raft interface (raft_log.py), which segments may go
(wal_collector.py).

Threads: one owner calls everything; `sync` alone may run in a helper thread beside `append` and `flush`, once at a
time. It needs no lock: it reads the flushed position first and the newest segment's name second, and everything up to
that position is in this segment or in older ones, which were synced before it was begun.
"""

from itertools import pairwise
from typing import Final

from msgspec import Struct

from nokv.proto.ids import RegionId
from nokv.storage.disk import Disk
from nokv.storage.engine import CorruptionError, OutOfSpaceError, StorageError
from nokv.storage.entry_cache import EntryCache
from nokv.storage.wal_groups import GroupIndex, GroupReplay, Place, SegmentTable
from nokv.storage.wal_records import (
    RECORD_OVERHEAD_BYTES,
    Head,
    RecordKind,
    checked_payload,
    decode_base,
    decode_conf_state,
    decode_entry_id,
    decode_hard_state,
    decode_head,
    decode_segment_number,
    decode_snapshot,
    encode_record,
)
from nokv.storage.wal_segments import (
    SEGMENT_HEADER_BYTES,
    SegmentScan,
    damage,
    encode_header,
    segment_name,
    segment_number,
)

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SEGMENT_BYTES: Final = 64 * MIB
"""One segment: what collection frees at a time, and what replay holds in memory."""
SEGMENT_BYTES_MIN: Final = 64 * KIB
"""Smaller ones would spend their time on directory syncs."""
SEGMENT_BYTES_MAX: Final = 1 << 30
"""Offsets within a segment have 32 bits, and its last record may be as long as a payload may be."""
CACHE_BYTES: Final = 32 * MIB
"""Recent entries kept as objects."""


class LogStatistics(Struct, frozen=True):
    """Sizes in bytes. `position` and `durable_position` count records since the log was made."""

    segments: int
    log_bytes: int
    live_bytes: int
    unflushed_bytes: int
    cached_bytes: int
    groups: int
    entries: int
    position: int
    durable_position: int


class _Unflushed:
    """Records that wait for the next flush, all for one segment."""

    __slots__ = ("buffer", "first_offset", "first_sequence", "segment")

    def __init__(self, segment: int, first_offset: int, first_sequence: int) -> None:
        self.segment = segment
        self.first_offset = first_offset
        self.first_sequence = first_sequence
        self.buffer = bytearray()


class Wal:
    """The log of one worker on one directory, which must be its own. Opening replays it.

    Args:
        disk: the directory.
        segment_bytes: a segment takes no further record beyond this; a longer record gets a segment of its own.
        cache_bytes: see CACHE_BYTES.

    Raises:
        CorruptionError: a record that may have been acknowledged is damaged or missing; nothing was changed.
        OutOfSpaceError, StorageError: the disk failed.
    """

    __slots__ = (
        "_disk",
        "_durable",
        "_failed",
        "_flushed",
        "_segment_bytes",
        "_sequence",
        "_tail_end",
        "_unflushed",
        "cache",
        "collected",
        "file_segment",
        "groups",
        "table",
    )

    def __init__(self, disk: Disk, *, segment_bytes: int = SEGMENT_BYTES, cache_bytes: int = CACHE_BYTES) -> None:
        assert SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX
        # Constant.
        self._disk = disk
        self._segment_bytes = segment_bytes
        # Durable mirrors, for the collector and the groups.
        self.groups: dict[RegionId, GroupIndex] = {}
        self.table = SegmentTable()
        self.collected = 0
        # Volatile. The first of _unflushed may be for the segment that is being written, all others need new files.
        self.cache = EntryCache(cache_bytes)
        self._unflushed: list[_Unflushed] = []
        self._tail_end = SEGMENT_HEADER_BYTES
        self.file_segment = 0
        self._sequence = 0
        self._flushed = 0
        self._durable = 0
        self._failed = False
        self._open()

    # ---- writing ----

    def append(self, kind: RecordKind, region_id: RegionId, payload: bytes) -> Place:
        """Collect a record for the next flush; where it will lie."""
        length = len(payload) + RECORD_OVERHEAD_BYTES
        waiting = self._unflushed[-1]
        if self._tail_end + length > self._segment_bytes and self._tail_end > SEGMENT_HEADER_BYTES:
            waiting = self._begin_segment(waiting.segment + 1)
        offset = self._tail_end
        self._sequence += 1
        waiting.buffer += encode_record(kind, region_id, self._sequence, payload)
        self._tail_end = offset + length
        return Place(waiting.segment, offset, length)

    def _begin_segment(self, segment: int) -> _Unflushed:
        """Further records go to a new segment; `flush` makes its file."""
        waiting = _Unflushed(segment, SEGMENT_HEADER_BYTES, self._sequence + 1)
        self._unflushed.append(waiting)
        self._tail_end = SEGMENT_HEADER_BYTES
        self.table.add(segment)
        return waiting

    @property
    def position(self) -> int:
        """Sequence number of the last record appended."""
        return self._sequence

    @property
    def durable_position(self) -> int:
        """Sequence number up to which records survive a power cut."""
        return self._durable

    def flush(self) -> int:
        """Write what was appended; the position to wait for.

        Raises:
            OutOfSpaceError: the disk is full. Everything is kept; flush again when there is room.
            StorageError: the disk failed; the log is closed for good.
        """
        self._assert_usable()
        try:
            self._write()
        except OutOfSpaceError:
            raise
        except StorageError:
            self._failed = True
            raise
        self._flushed = self._sequence
        return self._flushed

    def _write(self) -> None:
        waiting = self._unflushed
        while True:
            first = waiting[0]
            if first.segment != self.file_segment:
                self._rotate(first)
            if first.buffer:
                self._disk.append(segment_name(first.segment), first.buffer)
                self.table.uses[first.segment].size_bytes += len(first.buffer)
                first.first_offset += len(first.buffer)
                first.buffer = bytearray()
            if len(waiting) == 1:
                return
            del waiting[0]

    def _rotate(self, first: _Unflushed) -> None:
        """Make the next segment's file, durably, after everything in the present one is durable."""
        if self.file_segment:
            self._disk.sync(segment_name(self.file_segment))
        name = segment_name(first.segment)
        self._disk.create(name)
        try:
            self._disk.append(name, encode_header(first.segment, first.first_sequence))
        except OutOfSpaceError:
            self._disk.remove(name)
            raise
        self._disk.sync(name)
        self._disk.sync_directory()
        self.table.uses[first.segment].size_bytes = SEGMENT_HEADER_BYTES
        self.file_segment = first.segment

    def sync(self) -> int:
        """Make durable what was flushed before this call; the position that is durable now. Blocks.

        Raises:
            StorageError: the disk failed. What was flushed since the last sync may be lost; the log is closed for good.
        """
        self._assert_usable()
        position = self._flushed
        try:
            self._disk.sync(segment_name(self.file_segment))
        except StorageError:
            self._failed = True
            raise
        self._durable = position
        return position

    def drop_segment(self, segment: int) -> int:
        """Remove a segment that nothing needs, durably; its size in bytes. Raises StorageError."""
        use = self.table.uses[segment]
        assert not use.pins
        assert segment != self.file_segment
        self._disk.remove(segment_name(segment))
        # Each by itself: a gap in the numbers always means that something was lost.
        self._disk.sync_directory()
        del self.table.uses[segment]
        return use.size_bytes

    def statistics(self) -> LogStatistics:
        """Sizes now."""
        uses = self.table.uses.values()
        return LogStatistics(
            segments=len(uses),
            log_bytes=sum(use.size_bytes for use in uses),
            live_bytes=sum(use.live_bytes for use in uses),
            unflushed_bytes=sum(len(waiting.buffer) for waiting in self._unflushed),
            cached_bytes=self.cache.held_bytes,
            groups=len(self.groups),
            entries=sum(len(group.terms) for group in self.groups.values()),
            position=self._sequence,
            durable_position=self._durable,
        )

    def free_bytes(self) -> int:
        """What the file system has left for the log. Raises StorageError."""
        return self._disk.free_bytes()

    def close(self) -> None:
        """Release the files. Flushes and syncs nothing: what was acknowledged is durable already."""
        self._failed = True
        self._disk.close()

    def _assert_usable(self) -> None:
        if self._failed:
            raise StorageError("the log failed before; restart and recover from what is durable")

    # ---- groups ----

    def group(self, region_id: RegionId) -> GroupIndex:
        """A group of this log; an empty one if nothing was ever written for it."""
        group = self.groups.get(region_id)
        if group is None:
            group = self.groups[region_id] = GroupIndex(region_id, self.table)
        return group

    def forget(self, region_id: RegionId) -> None:
        """Drop a group whose end was appended."""
        self.groups.pop(region_id).drop_all()

    # ---- reading ----

    def read(self, segment: int, offset: int, length: int) -> bytes:
        """Bytes of records that were appended, flushed or not. Raises StorageError."""
        for waiting in self._unflushed:
            if waiting.segment == segment and offset + length > waiting.first_offset:
                start = offset - waiting.first_offset
                if start >= 0:
                    return bytes(waiting.buffer[start : start + length])
                return self._disk.read(segment_name(segment), offset, -start) + waiting.buffer[: start + length]
        return self._disk.read(segment_name(segment), offset, length)

    def payload(self, place: Place, data: bytes, at: int) -> bytes:
        """The payload of the record of a place, out of data that has it at offset `at`. Raises CorruptionError."""
        if at + place.length <= len(data):
            head = decode_head(data, at)
            if head is not None and head.payload_bytes + RECORD_OVERHEAD_BYTES == place.length:
                payload = checked_payload(data, at, head)
                if payload is not None:
                    return payload
        raise damage(place.segment, place.offset, "a record that was good when it was written fails its checksum")

    # ---- opening ----

    def _open(self) -> None:
        segments = sorted(number for number in map(segment_number, self._disk.names()) if number is not None)
        for before, after in pairwise(segments):
            if after != before + 1:
                raise damage(before + 1, 0, f"the file is missing between segments {before} and {after}")
        replays: dict[RegionId, GroupReplay] = {}
        scan = self._replay(segments, replays)
        if segments and segments[0] > self.collected + 1:
            raise damage(self.collected + 1, 0, "the file is missing, and nothing says that it was not needed")
        self.groups = {region_id: replays[region_id].finish(self.table) for region_id in sorted(replays)}
        self._repair(scan)
        self._flushed = self._durable = self._sequence

    def _replay(self, segments: list[int], replays: dict[RegionId, GroupReplay]) -> SegmentScan | None:
        """Read all segments; the scan of the last one. Changes no file."""
        scan = None
        for segment in segments:
            name = segment_name(segment)
            data = self._disk.read(name, 0, self._disk.size(name))
            scan = SegmentScan(segment, data, last=segment == segments[-1])
            use = self.table.add(segment)
            if not scan.headless and segment != segments[0] and scan.sequence != self._sequence + 1:
                reason = f"it begins with record {scan.sequence} where {self._sequence + 1} belongs"
                raise damage(segment, 0, f"records are missing before it: {reason}")
            for head, payload, offset, length in scan:
                self._replay_record(replays, head, payload, Place(segment, offset, length))
            use.size_bytes = scan.end
            if not scan.headless:
                self._sequence = scan.sequence - 1
        return scan

    def _replay_record(self, replays: dict[RegionId, GroupReplay], head: Head, payload: bytes, place: Place) -> None:
        kind = head.kind
        if kind == RecordKind.COLLECTED:
            self.collected = decode_segment_number(payload)
            return
        if kind == RecordKind.DESTROYED:
            replays.pop(head.region_id, None)
            return
        group = replays.get(head.region_id)
        if group is None:
            group = replays[head.region_id] = GroupReplay(head.region_id)
        if kind == RecordKind.ENTRY:
            term, index = decode_entry_id(payload)
            group.entry(index, term, place)
        elif kind == RecordKind.MOVED:
            term, index = decode_entry_id(payload)
            group.moved(index, term, place)
        elif kind == RecordKind.HARD_STATE:
            group.hard_state = (decode_hard_state(payload), place)
        elif kind == RecordKind.CONF_STATE:
            group.conf_state = (decode_conf_state(payload), place)
        elif kind == RecordKind.COMPACTED:
            group.compacted(*decode_base(payload), place)
        elif kind == RecordKind.SNAPSHOT:
            group.snapshot(*decode_snapshot(payload), place)
        else:
            raise CorruptionError(
                f"log segment {segment_name(place.segment)} offset {place.offset}: record of kind {kind}, which this "
                "program does not know; use the nokv that wrote it"
            )

    def _repair(self, scan: SegmentScan | None) -> None:
        """Cut a torn tail off, finish a collection that a crash interrupted, and place the end of the log."""
        disk = self._disk
        if scan is not None and scan.headless:
            disk.remove(segment_name(scan.segment))
            disk.sync_directory()
            del self.table.uses[scan.segment]
        elif scan is not None and scan.torn_bytes:
            disk.truncate(segment_name(scan.segment), scan.end)
        for segment in sorted(self.table.uses):
            if segment <= self.collected:
                self.drop_segment(segment)
        last = max(self.table.uses, default=0)
        if last == 0:
            self._begin_segment(self.collected + 1)
            self._write()
            return
        # What was read may never have been synced by the run that wrote it, and is about to be relied on.
        disk.sync(segment_name(last))
        disk.sync_directory()
        self.file_segment = last
        self._tail_end = self.table.uses[last].size_bytes
        self._unflushed = [_Unflushed(last, self._tail_end, self._sequence + 1)]
