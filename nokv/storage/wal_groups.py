"""Groups of the log: where each Raft group's live records lie, and which segments they keep alive.

Why: one log holds the records of all groups in the order of time; a group needs them by index, and the collector needs
to know what in a segment is still needed. Both must come out the same from running and from replaying.
Invariants: a group's live entries are contiguous, base + 1 to last; for each live record its segment counts one pin of
the group and the record's bytes; the latest hard state, conf state and base (if any was ever written) are pinned too.
Not here: bytes of records (wal_records.py), files (wal_segments.py), the Raft interface (raft_log.py).

Replaying. Collecting drops segments from the old end only, so what is left is a suffix of the sequence. What made a
record void has a higher sequence number than the record, so it is in the suffix if the record is: nothing void comes
back. A live record that was moved may come before or without its original, so while replaying entries may have gaps;
when the log has been read to its end they must not.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from nokv.proto.ids import LogIndex, RegionId, Term
from nokv.proto.raft import ConfState, HardState
from nokv.storage.engine import CorruptionError
from nokv.storage.entry_cache import CachedEntries
from nokv.storage.wal_segments import REMEDY

NO_HARD_STATE: Final = HardState()
NO_CONF_STATE: Final = ConfState()


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    length: int


class SegmentUse:
    """One segment's size and what is live in it."""

    __slots__ = ("live_bytes", "pins", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.live_bytes = 0
        self.pins: dict[RegionId, int] = {}


class SegmentTable:
    """All segments of a log, by number."""

    __slots__ = ("uses",)

    def __init__(self) -> None:
        self.uses: dict[int, SegmentUse] = {}

    def add(self, segment: int) -> SegmentUse:
        """A new, empty segment."""
        assert segment not in self.uses
        use = self.uses[segment] = SegmentUse()
        return use

    def pin(self, region_id: RegionId, segment: int, length: int) -> None:
        """Count one live record."""
        use = self.uses[segment]
        use.live_bytes += length
        use.pins[region_id] = use.pins.get(region_id, 0) + 1

    def unpin(self, region_id: RegionId, segment: int, length: int) -> None:
        """Uncount a record that is no longer live."""
        use = self.uses[segment]
        use.live_bytes -= length
        left = use.pins[region_id] - 1
        assert left >= 0
        assert use.live_bytes >= 0
        if left:
            use.pins[region_id] = left
        else:
            del use.pins[region_id]


class GroupIndex:
    """One group's small state, and the places of its live entries in four flat arrays."""

    __slots__ = (
        "_table",
        "base_index",
        "base_place",
        "base_term",
        "cached",
        "conf_state",
        "conf_state_place",
        "hard_state",
        "hard_state_place",
        "lengths",
        "offsets",
        "region_id",
        "segments",
        "terms",
    )

    def __init__(self, region_id: RegionId, table: SegmentTable) -> None:
        # Constant.
        self.region_id = region_id
        self._table = table
        # Small state, and where its latest record lies (None: never written).
        self.hard_state = NO_HARD_STATE
        self.hard_state_place: Place | None = None
        self.conf_state = NO_CONF_STATE
        self.conf_state_place: Place | None = None
        self.base_index = LogIndex(0)
        self.base_term = Term(0)
        self.base_place: Place | None = None
        # Entry base_index + 1 + i is at position i of each.
        self.terms = array("Q")
        self.segments = array("I")
        self.offsets = array("I")
        self.lengths = array("I")
        # Volatile: the entry cache's part of this group.
        self.cached: CachedEntries = {}

    @property
    def last_index(self) -> LogIndex:
        """Index of the last entry, or of the base if there is none."""
        return LogIndex(self.base_index + len(self.terms))

    def place(self, index: LogIndex) -> Place:
        """Where a live entry lies."""
        at = index - self.base_index - 1
        assert 0 <= at < len(self.terms)
        return Place(self.segments[at], self.offsets[at], self.lengths[at])

    # ---- changes ----

    def set_hard_state(self, state: HardState, place: Place) -> None:
        """A later hard state."""
        self.hard_state = state
        self.hard_state_place = self._replace(self.hard_state_place, place)

    def set_conf_state(self, state: ConfState, place: Place) -> None:
        """A later membership."""
        self.conf_state = state
        self.conf_state_place = self._replace(self.conf_state_place, place)

    def add(self, term: Term, place: Place) -> None:
        """The entry behind the last one."""
        self.terms.append(term)
        self.segments.append(place.segment)
        self.offsets.append(place.offset)
        self.lengths.append(place.length)
        self._table.pin(self.region_id, place.segment, place.length)

    def move(self, index: LogIndex, place: Place) -> None:
        """A live entry has a copy elsewhere, which is the one that counts now."""
        old = self.place(index)
        at = index - self.base_index - 1
        self.segments[at], self.offsets[at], self.lengths[at] = place
        self._table.pin(self.region_id, place.segment, place.length)
        self._table.unpin(self.region_id, old.segment, old.length)

    def drop_from(self, index: LogIndex) -> None:
        """Forget entries at and behind `index`."""
        assert self.base_index < index <= self.last_index + 1
        self._drop(index - self.base_index - 1, len(self.terms))

    def drop_to(self, index: LogIndex, term: Term, place: Place) -> None:
        """Forget entries up to `index`, which becomes the base. It may lie behind the last one."""
        assert index >= self.base_index
        self._drop(0, min(index - self.base_index, len(self.terms)))
        self.base_index = index
        self.base_term = term
        self.base_place = self._replace(self.base_place, place)

    def restart(self, index: LogIndex, term: Term, state: ConfState, place: Place) -> None:
        """Forget all entries; go on behind `index` with a membership that the same record holds."""
        assert index >= self.base_index
        self._drop(0, len(self.terms))
        self.drop_to(index, term, place)
        self.set_conf_state(state, place)

    def drop_all(self) -> None:
        """Forget the group; this object is of no use any more."""
        self._drop(0, len(self.terms))
        for place in (self.hard_state_place, self.conf_state_place, self.base_place):
            self._replace(place, None)

    def _drop(self, start: int, end: int) -> None:
        unpin, region_id = self._table.unpin, self.region_id
        for segment, length in zip(self.segments[start:end], self.lengths[start:end], strict=True):
            unpin(region_id, segment, length)
        del self.terms[start:end], self.segments[start:end], self.offsets[start:end], self.lengths[start:end]

    def _replace(self, old: Place | None, new: Place | None) -> Place | None:
        if new is not None:
            self._table.pin(self.region_id, new.segment, new.length)
        if old is not None:
            self._table.unpin(self.region_id, old.segment, old.length)
        return new

    # ---- collecting ----

    def entries_in(self, segment: int) -> Iterator[LogIndex]:
        """Live entries that lie in a segment, in order. Moving the one just given is allowed."""
        first = self.base_index + 1
        for at, where in enumerate(self.segments):
            if where == segment:
                yield LogIndex(first + at)


class GroupReplay:
    """A group while the log is read: entries may have gaps, see the module's text."""

    __slots__ = ("_entries", "_high", "base", "conf_state", "hard_state", "region_id")

    def __init__(self, region_id: RegionId) -> None:
        self.region_id = region_id
        self.hard_state: tuple[HardState, Place] | None = None
        self.conf_state: tuple[ConfState, Place] | None = None
        self.base: tuple[LogIndex, Term, Place] | None = None
        self._entries: dict[LogIndex, tuple[Term, Place]] = {}
        self._high = LogIndex(0)

    def entry(self, index: LogIndex, term: Term, place: Place) -> None:
        """ENTRY: what was at its index and behind it is gone."""
        if index <= self._high:
            self._keep(lambda other: other < index)
        self._entries[index] = (term, place)
        self._high = index

    def moved(self, index: LogIndex, term: Term, place: Place) -> None:
        """MOVED: the same entry, elsewhere."""
        self._entries[index] = (term, place)
        self._high = max(self._high, index)

    def compacted(self, index: LogIndex, term: Term, place: Place) -> None:
        """COMPACTED."""
        self.base = (index, term, place)
        self._keep(lambda other: other > index)

    def snapshot(self, index: LogIndex, term: Term, state: ConfState, place: Place) -> None:
        """SNAPSHOT."""
        self.base = (index, term, place)
        self.conf_state = (state, place)
        self._entries.clear()
        self._high = index

    def _keep(self, wanted: Callable[[LogIndex], bool]) -> None:
        self._entries = {index: found for index, found in self._entries.items() if wanted(index)}

    def finish(self, table: SegmentTable) -> GroupIndex:
        """The group, which must be whole now. Raises CorruptionError."""
        group = GroupIndex(self.region_id, table)
        if self.base is not None:
            group.drop_to(*self.base)
        if self.hard_state is not None:
            group.set_hard_state(*self.hard_state)
        if self.conf_state is not None:
            group.set_conf_state(*self.conf_state)
        for index in sorted(self._entries):
            expected = group.last_index + 1
            if index != expected:
                lost = f"log of group {self.region_id}: entry {index} follows where entry {expected} belongs"
                raise CorruptionError(f"{lost}; {REMEDY}")
            group.add(*self._entries[index])
        return group
