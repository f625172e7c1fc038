"""Storage: where the core reads what is durable, and an implementation in memory.

Why: the core never writes; it hands out what to write and reads back through this interface, so that files, a shared
log of many groups or a list serve equally well.
Invariants: indexes are contiguous from first_index() to last_index(); the term of first_index() - 1 is known, as the
consistency check of the first entry needs it; a Storage may run behind the core, never ahead of it.
Not here: entries that were not handed out to be stored yet (unstable.py).
"""

from collections.abc import Sequence
from typing import Protocol

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, Unavailable
from nokv.raft.sizes import limit_entries


class Storage(Protocol):
    """What the core reads. Errors that are not StorageErrors pass through the core to its caller."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Hard state and configuration at start. A new group has the configuration of its first members."""
        ...

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi up to `max_bytes`, but at least one. Raises Compacted, Unavailable."""
        ...

    def term(self, index: LogIndex) -> Term:
        """Term of an entry in first_index() - 1 .. last_index(). Raises Compacted, Unavailable."""
        ...

    def last_index(self) -> LogIndex:
        """Index of the last entry; of the snapshot if there is none behind it."""
        ...

    def first_index(self) -> LogIndex:
        """Index of the first entry that may be there."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot, not empty. Raises SnapshotTemporarilyUnavailable."""
        ...


class MemoryStorage:
    """Storage in memory, with the writes that its owner needs.

    Args:
        conf_state: members of a new group; a peer that joins a group starts without any.
    """

    __slots__ = ("_base", "_entries", "_hard_state", "_snapshot")

    def __init__(self, conf_state: ConfState | None = None) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot(metadata=SnapshotMetadata(conf_state or ConfState()))
        self._base = Entry(Term(0), LogIndex(0))
        """Stands for everything up to its index: only its term is known."""
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state set last, the configuration of the snapshot."""
        return self._hard_state, self._snapshot.metadata.conf_state

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi up to `max_bytes`, but at least one. Raises Compacted, Unavailable."""
        base = self._base.index
        if lo <= base:
            raise Compacted
        assert hi <= base + len(self._entries) + 1, f"entries up to {hi} of {base + len(self._entries)}"
        if not self._entries:
            raise Unavailable
        return limit_entries(self._entries[lo - base - 1 : hi - base - 1], max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Term of an entry or of the last one compacted. Raises Compacted, Unavailable."""
        offset = index - self._base.index
        if offset < 0:
            raise Compacted
        if offset > len(self._entries):
            raise Unavailable
        return self._entries[offset - 1].term if offset else self._base.term

    def last_index(self) -> LogIndex:
        """Index of the last entry."""
        return LogIndex(self._base.index + len(self._entries))

    def first_index(self) -> LogIndex:
        """Index of the first entry that was not compacted."""
        return LogIndex(self._base.index + 1)

    def snapshot(self) -> Snapshot:
        """The snapshot made or applied last."""
        return self._snapshot

    def set_hard_state(self, state: HardState) -> None:
        """Save term, vote and commit."""
        self._hard_state = state

    def append(self, entries: Sequence[Entry]) -> None:
        """Save contiguous entries; those present from the first one on are replaced, compacted ones stay away."""
        base = self._base.index
        fresh = [entry for entry in entries if entry.index > base]
        if fresh:
            assert fresh[0].index <= base + len(self._entries) + 1, "a gap in the log"
            self._entries[fresh[0].index - base - 1 :] = fresh

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace everything with a snapshot. Raises SnapshotOutOfDate if it is not newer than the last one."""
        if snapshot.metadata.index <= self._snapshot.metadata.index:
            raise SnapshotOutOfDate
        self._snapshot = snapshot
        self._base = Entry(snapshot.metadata.term, snapshot.metadata.index)
        self._entries.clear()

    def create_snapshot(self, index: LogIndex, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Make the snapshot of an applied entry; None keeps the configuration. Raises SnapshotOutOfDate."""
        if index <= self._snapshot.metadata.index:
            raise SnapshotOutOfDate
        if conf_state is None:
            conf_state = self._snapshot.metadata.conf_state
        self._snapshot = Snapshot(data, SnapshotMetadata(conf_state, index, self.term(index)))
        return self._snapshot

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to an applied one. Raises Compacted if they are gone already."""
        if index <= self._base.index:
            raise Compacted
        assert index <= self.last_index(), f"compacting {index} of {self.last_index()}"
        base = Entry(self.term(index), index)
        del self._entries[: index - self._base.index]
        self._base = base
