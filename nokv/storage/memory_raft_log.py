"""Raft log in memory: the naive twin of the one in files.

Why: tests and the simulator's smallest parts need a log without a disk, and the clever one needs something to be
compared with.
Invariants: same answers and same refusals as RaftLog for the same calls; nothing survives the object.
Not here: durability.
"""

from collections.abc import Sequence
from typing import Final

from nokv.proto.ids import LogIndex, RegionId, Term
from nokv.proto.raft import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, Unavailable
from nokv.raft.sizes import entry_bytes
from nokv.storage.raft_log import SnapshotSource, no_snapshot


class MemoryRaftLog:
    """GroupLog in memory."""

    __slots__ = ("_base_index", "_base_term", "_conf_state", "_entries", "_hard_state", "region_id", "snapshot_source")

    def __init__(self, region_id: RegionId, snapshot_source: SnapshotSource = no_snapshot) -> None:
        self.region_id: Final = region_id
        self.snapshot_source = snapshot_source
        self._forget()

    def _forget(self) -> None:
        self._hard_state = HardState()
        self._conf_state = ConfState()
        self._base_index = LogIndex(0)
        self._base_term = Term(0)
        self._entries: list[Entry] = []

    # ---- Raft's Storage ----

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The last hard state and membership set."""
        return self._hard_state, self._conf_state

    def first_index(self) -> LogIndex:
        """Index of the first entry that can be read."""
        return LogIndex(self._base_index + 1)

    def last_index(self) -> LogIndex:
        """Index of the last entry, or of the base if there is none."""
        return LogIndex(self._base_index + len(self._entries))

    def term(self, index: LogIndex) -> Term:
        """Term of an entry or of the base. Raises Compacted below the base, Unavailable behind the end."""
        if index < self._base_index:
            raise Compacted
        if index > self.last_index():
            raise Unavailable
        return self._base_term if index == self._base_index else self._entries[index - self._base_index - 1].term

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit into max_bytes, but at least one. Raises Compacted, Unavailable."""
        if lo <= self._base_index:
            raise Compacted
        if not self._entries:
            raise Unavailable
        assert lo <= hi <= self.last_index() + 1
        found: list[Entry] = []
        used_bytes = 0
        for entry in self._entries[lo - self._base_index - 1 : hi - self._base_index - 1]:
            used_bytes += entry_bytes(entry)
            if used_bytes > max_bytes and found:
                break
            found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        """What the owner's source makes."""
        return self.snapshot_source()

    # ---- writes ----

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries; see GroupLog."""
        fresh = [entry for entry in entries if entry.index > self._base_index]
        if fresh:
            assert fresh[0].index <= self.last_index() + 1
            self._entries[fresh[0].index - self._base_index - 1 :] = fresh

    def set_hard_state(self, state: HardState) -> None:
        """Term, vote and commit."""
        self._hard_state = state

    def set_conf_state(self, state: ConfState) -> None:
        """Membership as of the last configuration entry applied."""
        self._conf_state = state

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to `index`. Raises Compacted if they are gone already."""
        if index <= self._base_index:
            raise Compacted
        assert index <= self.last_index()
        term = self.term(index)
        del self._entries[: index - self._base_index]
        self._base_index, self._base_term = index, term

    def apply_snapshot(self, metadata: SnapshotMetadata) -> None:
        """Forget all entries and go on behind a snapshot. Raises SnapshotOutOfDate if the base is not below it."""
        if metadata.index <= self._base_index:
            raise SnapshotOutOfDate
        self._entries.clear()
        self._base_index, self._base_term = metadata.index, metadata.term
        self._conf_state = metadata.conf_state

    def destroy(self) -> None:
        """Forget everything about the group."""
        self._forget()
