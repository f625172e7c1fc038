"""Collector: drops segments from the old end of the log.

Why: compaction only makes records void; disk is freed a segment at a time, and one lagging or idle group must not keep
everybody's history on disk. So the little that is still live in the oldest segment is copied to the end of the log.
Invariants: a segment goes only after the copies of everything live in it, and the note that it is not needed, are
durable; segments go in order, each by itself; one call copies a bounded number of bytes and waits for no disk but the
removal of one name.
Not here: what may be compacted (the owner: nothing above the applied index of the last checkpoint).

Each step may be the last one before a crash. Copies without the note: the log has some records twice, the later counts.
The note without the removal: opening removes the file. Nothing else is written.
"""

from typing import Final

from nokv.proto.ids import RegionId
from nokv.storage.wal import Wal
from nokv.storage.wal_groups import GroupIndex
from nokv.storage.wal_records import (
    RecordKind,
    encode_base,
    encode_conf_state,
    encode_hard_state,
    encode_segment_number,
)

COPY_BYTES: Final = 4 << 20
"""Bytes one call copies at most (but at least one record): a few milliseconds."""
LIVE_SHARE_MAX: Final = 4
"""The oldest segment is emptied once less than one part in this many of it is live: copying then costs little of what
it frees."""
GARBAGE_SHARE_MIN: Final = 2
"""However much of it is live, it is emptied once less than one part in this many of the whole log is: otherwise one
group that is compacted late could hold an unbounded log."""


class Collector:
    """Collects one log. Call `step` every now and then, between flushes."""

    __slots__ = ("_noted", "_wal")

    def __init__(self, wal: Wal) -> None:
        self._wal = wal
        # The oldest segment, once it is noted as not needed, and the position at which that note is durable.
        self._noted: tuple[int, int] | None = None

    def step(self, *, copy_bytes: int = COPY_BYTES) -> int:
        """Do a bounded part of the work; bytes of disk that were freed. What it appends goes with the next flush.

        Raises:
            CorruptionError: a live record in the oldest segment can no longer be read.
            StorageError: the disk failed.
        """
        freed = self._drop_noted()
        oldest = self._oldest()
        if self._noted is None and oldest is not None and self._worth_emptying(oldest):
            self._copy_out(oldest, copy_bytes)
            if not self._wal.table.uses[oldest].pins:
                self._wal.append(RecordKind.COLLECTED, RegionId(0), encode_segment_number(oldest))
                self._wal.collected = oldest
                self._noted = (oldest, self._wal.position)
        return freed

    def _drop_noted(self) -> int:
        if self._noted is None or self._wal.durable_position < self._noted[1]:
            return 0
        segment, _ = self._noted
        self._noted = None
        return self._wal.drop_segment(segment)

    def _oldest(self) -> int | None:
        """The oldest segment, unless it is the one being written."""
        oldest = min(self._wal.table.uses)
        return oldest if oldest < self._wal.file_segment else None

    def _worth_emptying(self, segment: int) -> bool:
        uses = self._wal.table.uses
        use = uses[segment]
        if use.live_bytes * LIVE_SHARE_MAX < use.size_bytes:
            return True
        live_bytes = sum(use.live_bytes for use in uses.values())
        return live_bytes * GARBAGE_SHARE_MIN < sum(use.size_bytes for use in uses.values())

    def _copy_out(self, segment: int, copy_bytes: int) -> None:
        """Copy live records of a segment to the end of the log until all are, or the bytes are used up."""
        for region_id in sorted(self._wal.table.uses[segment].pins):
            group = self._wal.groups[region_id]
            copy_bytes -= self._copy_small_state(group, segment)
            for index in group.entries_in(segment):
                if copy_bytes <= 0:
                    return
                old = group.place(index)
                payload = self._wal.payload(old, self._wal.read(*old), 0)
                group.move(index, self._wal.append(RecordKind.MOVED, region_id, payload))
                copy_bytes -= old.length

    def _copy_small_state(self, group: GroupIndex, segment: int) -> int:
        """Write what lies in the segment of hard state, conf state and base again; bytes written."""
        append, region_id, written = self._wal.append, group.region_id, 0
        place = group.hard_state_place
        if place is not None and place.segment == segment:
            place = append(RecordKind.HARD_STATE, region_id, encode_hard_state(group.hard_state))
            group.set_hard_state(group.hard_state, place)
            written += place.length
        place = group.conf_state_place
        if place is not None and place.segment == segment:
            place = append(RecordKind.CONF_STATE, region_id, encode_conf_state(group.conf_state))
            group.set_conf_state(group.conf_state, place)
            written += place.length
        place = group.base_place
        if place is not None and place.segment == segment:
            place = append(RecordKind.COMPACTED, region_id, encode_base(group.base_index, group.base_term))
            group.drop_to(group.base_index, group.base_term, place)
            written += place.length
        return written
