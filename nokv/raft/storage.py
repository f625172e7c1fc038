"""Storage: the stable part of the log as the core reads it, and an implementation in memory.

Why: the core decides what must be written; its owner writes it, in its own way, and lets the core read it back.
Invariants: `first_index` is one above the index of the snapshot (or compaction mark) in front of the entries; `term`
answers for that index too; entries are contiguous.
Not here: what is not stable yet (unstable.py), durability (the owner's business).
"""

from collections.abc import Sequence
from typing import Protocol

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, Unavailable
from nokv.raft.sizes import limit_size


class Storage(Protocol):
    """What the core needs of a stable log."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The last hard state and membership."""
        ...

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit into `max_bytes` (see sizes.py) but at least one.

        Raises:
            Compacted: `lo` lies before the first entry.
            Unavailable: there are no entries in the range.
        """
        ...

    def term(self, index: LogIndex) -> Term:
        """Term of the entry at `index`, or of the mark in front of the first one.

        Raises:
            Compacted, Unavailable: it lies before or behind that.
        """
        ...

    def last_index(self) -> LogIndex:
        """Index of the last entry, or of the mark if there is none."""
        ...

    def first_index(self) -> LogIndex:
        """Index of the first entry that may be read."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot.

        Raises:
            SnapshotTemporarilyUnavailable: it is being made.
        """
        ...


class MemoryStorage:
    """A Storage in memory, with the writes that its owner needs."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self._snapshot = Snapshot()
        self._mark = Entry()  # stands for the snapshot or the compacted prefix: only term and index count
        self._entries: list[Entry] = []

    # ---- reads -----------------------------------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The last hard state, and the membership of the last snapshot."""
        return self.hard_state, self._snapshot.metadata.conf_state

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """See Storage."""
        if lo <= self._mark.index:
            raise Compacted
        assert hi <= self.last_index() + 1, f"entries up to {hi} of {self.last_index()}"
        if not self._entries:
            raise Unavailable
        at = lo - self._mark.index - 1
        return limit_size(self._entries[at : at + hi - lo], max_bytes)

    def term(self, index: LogIndex) -> Term:
        """See Storage."""
        at = index - self._mark.index - 1
        if at < -1:
            raise Compacted
        if at == -1:
            return self._mark.term
        if at >= len(self._entries):
            raise Unavailable
        return self._entries[at].term

    def last_index(self) -> LogIndex:
        """See Storage."""
        return LogIndex(self._mark.index + len(self._entries))

    def first_index(self) -> LogIndex:
        """See Storage."""
        return LogIndex(self._mark.index + 1)

    def snapshot(self) -> Snapshot:
        """See Storage."""
        return self._snapshot

    # ---- writes ----------------------------------------------------------------------------------------------------

    def set_hard_state(self, state: HardState) -> None:
        """Replace term, vote and commit."""
        self.hard_state = state

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries, overwriting from the first one's index on; what is compacted already is skipped."""
        if not entries:
            return
        first = self.first_index()
        if entries[-1].index < first:
            return
        if entries[0].index < first:
            entries = entries[first - entries[0].index :]
        at = entries[0].index - first
        assert at <= len(self._entries), f"gap: last {self.last_index()}, appending {entries[0].index}"
        self._entries[at:] = entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Forget all entries and go on behind the snapshot.

        Raises:
            SnapshotOutOfDate: the present one is as new.
        """
        if self._snapshot.metadata.index >= snapshot.metadata.index:
            raise SnapshotOutOfDate
        self._snapshot = snapshot
        self._mark = Entry(term=snapshot.metadata.term, index=snapshot.metadata.index)
        self._entries = []

    def create_snapshot(self, index: LogIndex, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Make `data` the snapshot at `index`, which must be in the log; `conf_state` None keeps the membership.

        Raises:
            SnapshotOutOfDate: the present one is as new.
        """
        if index <= self._snapshot.metadata.index:
            raise SnapshotOutOfDate
        assert index <= self.last_index(), f"snapshot at {index} behind the last entry {self.last_index()}"
        if conf_state is None:
            conf_state = self._snapshot.metadata.conf_state
        self._snapshot = Snapshot(data, SnapshotMetadata(conf_state, index, self.term(index)))
        return self._snapshot

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to `index`. The application must have applied them.

        Raises:
            Compacted: they are gone already.
        """
        if index <= self._mark.index:
            raise Compacted
        assert index <= self.last_index(), f"compact {index} behind the last entry {self.last_index()}"
        term = self.term(index)
        del self._entries[: index - self._mark.index]
        self._mark = Entry(term=term, index=index)
