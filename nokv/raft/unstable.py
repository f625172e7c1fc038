"""Unstable part of the log: what the storage does not hold yet.

Why: entries are sent to followers, and counted by none, while they are on their way to disk; and a later leader may
replace them meanwhile.
Invariants: entries are contiguous from `offset` on; those below `in_progress` were handed out to be stored; an entry
leaves only when the storage has reported this very (term, index) as durable, or when it is replaced; a snapshot comes
before the entries.
Not here: the stored part (log.py).
"""

from collections.abc import Sequence

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import Entry, Snapshot
from nokv.raft.config import Sink


class Unstable:
    """Entries and at most one snapshot that are not durable.

    Args:
        offset: index of the first entry that is not stored.
    """

    __slots__ = ("_sink", "entries", "in_progress", "offset", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int, sink: Sink | None) -> None:
        self._sink = sink

        self.offset = offset
        self.entries: list[Entry] = []
        self.in_progress = offset
        """First index that was not handed out to be stored."""
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False

    def last_index(self) -> int | None:
        """Index of the last entry, else of the snapshot, else None: the storage knows."""
        if self.entries:
            return self.offset + len(self.entries) - 1
        return self.snapshot.metadata.index if self.snapshot is not None else None

    def term(self, index: int) -> Term | None:
        """Term of an entry or of the snapshot, None if it is not here."""
        place = index - self.offset
        if 0 <= place < len(self.entries):
            return self.entries[place].term
        snapshot = self.snapshot
        if snapshot is not None and snapshot.metadata.index == index:
            return snapshot.metadata.term
        return None

    def next_entries(self) -> list[Entry]:
        """Entries to hand out."""
        return self.entries[self.in_progress - self.offset :]

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot to hand out."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept(self) -> None:
        """Everything was handed out."""
        if self.entries:
            self.in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, term: Term, index: LogIndex) -> None:
        """The storage has the entry (term, index) and all before it.

        A report that does not fit is out of date: it was on its way while a later leader's entries replaced these.
        """
        known = self.term(index)
        sink = self._sink
        if known is None:
            if sink is not None:
                sink.info(f"entry at index {index} missing from unstable log; ignoring")
        elif index < self.offset:
            if sink is not None:
                sink.info(f"entry at index {index} matched unstable snapshot; ignoring")
        elif known != term:
            if sink is not None:
                sink.info(
                    f"entry at (index,term)=({index},{term}) mismatched with entry at ({index},{known}) in unstable "
                    "log; ignoring"
                )
        else:
            del self.entries[: index + 1 - self.offset]
            self.offset = index + 1
            self.in_progress = max(self.in_progress, self.offset)

    def stable_snapshot_to(self, index: LogIndex) -> None:
        """The storage has the snapshot that ends at `index`."""
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind a snapshot."""
        self.offset = snapshot.metadata.index + 1
        self.in_progress = self.offset
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries; from the first one's index on, what was there goes."""
        first, sink = entries[0].index, self._sink
        end = self.offset + len(self.entries)
        assert first <= end, "a gap in the log"
        if first == end:
            self.entries.extend(entries)
        elif first <= self.offset:
            # What is stored from here on is out of date as well, and becomes so when these entries are stored.
            if sink is not None:
                sink.info(f"replace the unstable entries from index {first}")
            self.entries = list(entries)
            self.offset = first
            self.in_progress = first
        else:
            if sink is not None:
                sink.info(f"truncate the unstable entries before index {first}")
            self.entries[first - self.offset :] = entries
            self.in_progress = min(self.in_progress, first)

    def slice(self, lo: int, hi: int) -> list[Entry]:
        """Entries lo <= index < hi, all of which are here."""
        assert self.offset <= lo <= hi <= self.offset + len(self.entries)
        return self.entries[lo - self.offset : hi - self.offset]
