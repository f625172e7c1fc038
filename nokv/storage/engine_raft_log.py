"""Raft log inside an engine: the plain-directory backend, without a log file of its own.

Why: a store that is written rarely (the control plane of a small cluster, a tool, a test) needs no second kind of file
beside its engine; and a third implementation keeps the contract honest. It is slower: a sync is a checkpoint.
Invariants: a group's records are in META under its own prefix (keys.py), entries contiguous from base + 1; what the
engine's last checkpoint has is what a crash leaves.
Not here: which engine, when to checkpoint (the owner calls `checkpoint` on it, which is this log's flush and sync).
"""

from collections.abc import Sequence
from typing import Final

from nokv.proto.ids import LogIndex, RegionId, Term
from nokv.proto.raft import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, Unavailable
from nokv.raft.sizes import entry_bytes
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine
from nokv.storage.keys import (
    RAFT_LOG_PREFIX,
    decode_raft_region_id,
    raft_base_key,
    raft_conf_state_key,
    raft_entry_key,
    raft_hard_state_key,
    raft_log_bounds,
)
from nokv.storage.raft_log import SnapshotSource, no_snapshot
from nokv.storage.wal_records import (
    decode_base,
    decode_conf_state,
    decode_entry,
    decode_hard_state,
    encode_base,
    encode_conf_state,
    encode_entry,
    encode_hard_state,
)

_META: Final = ColumnFamily.META


class EngineRaftLog:
    """GroupLog in an engine.

    Raises (on opening):
        CorruptionError: the group's records do not fit together.
    """

    __slots__ = (
        "_base_index",
        "_base_term",
        "_conf_state",
        "_engine",
        "_hard_state",
        "_last_index",
        "region_id",
        "snapshot_source",
    )

    def __init__(self, engine: Engine, region_id: RegionId, snapshot_source: SnapshotSource = no_snapshot) -> None:
        self.region_id: Final = region_id
        self.snapshot_source = snapshot_source
        self._engine = engine
        hard_state = engine.get(_META, raft_hard_state_key(region_id))
        conf_state = engine.get(_META, raft_conf_state_key(region_id))
        base = engine.get(_META, raft_base_key(region_id))
        self._hard_state = HardState() if hard_state is None else decode_hard_state(hard_state)
        self._conf_state = ConfState() if conf_state is None else decode_conf_state(conf_state)
        self._base_index, self._base_term = (LogIndex(0), Term(0)) if base is None else decode_base(base)
        self._last_index = self._find_last_index()

    def _find_last_index(self) -> LogIndex:
        """Index of the last entry stored, found by its key alone."""
        _, end = raft_log_bounds(self.region_id)
        last = self._engine.seek_back(_META, end)
        first_key = raft_entry_key(self.region_id, LogIndex(0))
        if last is None or last[0] < first_key:
            return self._base_index
        index = decode_entry(last[1]).index
        if index <= self._base_index or last[0] != raft_entry_key(self.region_id, index):
            raise CorruptionError(f"log of group {self.region_id}: entry {index} lies where no entry may be")
        return index

    # ---- Raft's Storage ----

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The last hard state and membership set."""
        return self._hard_state, self._conf_state

    def first_index(self) -> LogIndex:
        """Index of the first entry that can be read."""
        return LogIndex(self._base_index + 1)

    def last_index(self) -> LogIndex:
        """Index of the last entry, or of the base if there is none."""
        return self._last_index

    def term(self, index: LogIndex) -> Term:
        """Term of an entry or of the base. Raises Compacted below the base, Unavailable behind the end."""
        if index < self._base_index:
            raise Compacted
        if index > self._last_index:
            raise Unavailable
        return self._base_term if index == self._base_index else self._entry(index).term

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit into max_bytes, but at least one.

        Raises:
            Compacted: `lo` is at or below the base.
            Unavailable: there are no entries.
            CorruptionError: a stored entry is damaged or missing.
        """
        if lo <= self._base_index:
            raise Compacted
        if self._last_index == self._base_index:
            raise Unavailable
        assert lo <= hi <= self._last_index + 1
        found: list[Entry] = []
        used_bytes = 0
        for index in range(lo, hi):
            entry = self._entry(LogIndex(index))
            used_bytes += entry_bytes(entry)
            if used_bytes > max_bytes and found:
                break
            found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        """What the owner's source makes."""
        return self.snapshot_source()

    def _entry(self, index: LogIndex) -> Entry:
        stored = self._engine.get(_META, raft_entry_key(self.region_id, index))
        if stored is None:
            raise CorruptionError(f"log of group {self.region_id}: entry {index} is missing")
        return decode_entry(stored)

    # ---- writes ----

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries; see GroupLog."""
        fresh = [entry for entry in entries if entry.index > self._base_index]
        if not fresh:
            return
        assert fresh[0].index <= self._last_index + 1
        for index, entry in enumerate(fresh, fresh[0].index):
            assert entry.index == index
            self._engine.put(_META, raft_entry_key(self.region_id, entry.index), encode_entry(entry))
        self._drop(LogIndex(fresh[-1].index + 1), self._last_index)
        self._last_index = fresh[-1].index

    def set_hard_state(self, state: HardState) -> None:
        """Term, vote and commit."""
        self._hard_state = state
        self._engine.put(_META, raft_hard_state_key(self.region_id), encode_hard_state(state))

    def set_conf_state(self, state: ConfState) -> None:
        """Membership as of the last configuration entry applied."""
        self._conf_state = state
        self._engine.put(_META, raft_conf_state_key(self.region_id), encode_conf_state(state))

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to `index`. Raises Compacted if they are gone already."""
        if index <= self._base_index:
            raise Compacted
        assert index <= self._last_index
        self._rebase(index, self.term(index), index)

    def apply_snapshot(self, metadata: SnapshotMetadata) -> None:
        """Forget all entries and go on behind a snapshot. Raises SnapshotOutOfDate if the base is not below it."""
        if metadata.index <= self._base_index:
            raise SnapshotOutOfDate
        self._rebase(metadata.index, metadata.term, self._last_index)
        self._last_index = metadata.index
        self.set_conf_state(metadata.conf_state)

    def destroy(self) -> None:
        """Forget everything about the group."""
        start, end = raft_log_bounds(self.region_id)
        for key in [key for key, _ in self._engine.scan(_META, start, end)]:
            self._engine.delete(_META, key)

    def _rebase(self, index: LogIndex, term: Term, last_dropped: LogIndex) -> None:
        self._drop(LogIndex(self._base_index + 1), last_dropped)
        self._base_index, self._base_term = index, term
        self._engine.put(_META, raft_base_key(self.region_id), encode_base(index, term))

    def _drop(self, first: LogIndex, last: LogIndex) -> None:
        for index in range(first, last + 1):
            self._engine.delete(_META, raft_entry_key(self.region_id, LogIndex(index)))


def stored_groups(engine: Engine) -> list[RegionId]:
    """Groups that have a log in an engine, in order."""
    found: list[RegionId] = []
    at = RAFT_LOG_PREFIX
    while (pair := engine.seek(_META, at)) is not None and pair[0].startswith(RAFT_LOG_PREFIX):
        found.append(decode_raft_region_id(pair[0]))
        _, at = raft_log_bounds(found[-1])
    return found
