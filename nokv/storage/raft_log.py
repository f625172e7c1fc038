"""Raft log: one group's view of the worker's log, with the interface that the Raft core reads through.

Why: the core knows terms and indexes and nothing of files; the worker writes for many groups at once and syncs once.
`GroupLog` is what lies between them, and this file has its default implementation, over the shared log of wal.py.
Invariants: reads see everything appended, flushed or not; an entry that was ever read back from a file has passed its
checksum; `entries` and `term` of recent entries touch neither file nor buffer.
Not here: the other implementations (memory_raft_log.py, engine_raft_log.py), when to compact: only up to the applied
index of the last checkpoint, for what lies above it is what a crash replays.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from nokv.proto.ids import LogIndex, RegionId, Term
from nokv.proto.raft import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, SnapshotTemporarilyUnavailable, Unavailable
from nokv.raft.sizes import entry_bytes
from nokv.raft.storage import Storage
from nokv.storage.engine import CorruptionError
from nokv.storage.wal import Wal
from nokv.storage.wal_records import (
    ENTRY_OVERHEAD_BYTES,
    RecordKind,
    decode_entry,
    encode_base,
    encode_conf_state,
    encode_entry,
    encode_hard_state,
    encode_snapshot,
)

READ_SPAN_BYTES: Final = 1 << 20
"""Longest piece of a segment read at once for old entries that lie near each other."""

SnapshotSource = Callable[[], Snapshot]
"""Makes the snapshot that a lagging follower needs: only the owner has the data. It may raise
SnapshotTemporarilyUnavailable, and the core asks again."""


def no_snapshot() -> Snapshot:
    """The source of a group whose owner has set none."""
    raise SnapshotTemporarilyUnavailable


class GroupLog(Storage, Protocol):
    """Raft's Storage, and the writes of its owner. Writes are durable when the owner's flush and sync have ended."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries, the first at most one behind the last one present; from it on, old ones go.

        Entries at or below the base are skipped, as they are committed and compacted already.
        """
        ...

    def set_hard_state(self, state: HardState) -> None:
        """Term, vote and commit."""
        ...

    def set_conf_state(self, state: ConfState) -> None:
        """Membership as of the last configuration entry applied."""
        ...

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to `index`, which must be present. Raises Compacted if they are gone already."""
        ...

    def apply_snapshot(self, metadata: SnapshotMetadata) -> None:
        """Forget all entries and go on behind a snapshot. Raises SnapshotOutOfDate if the base is not below it."""
        ...

    def destroy(self) -> None:
        """Forget everything about the group. The object is of no use afterwards."""
        ...


class RaftLog:
    """GroupLog over the shared log.

    Args:
        wal: the worker's log.
        region_id: the group. It need not exist yet: it is empty then, and begins at index 1 or with a snapshot.
        snapshot_source: see SnapshotSource; may be set later.
    """

    __slots__ = ("_append_record", "_group", "_wal", "region_id", "snapshot_source")

    def __init__(self, wal: Wal, region_id: RegionId, snapshot_source: SnapshotSource = no_snapshot) -> None:
        self.region_id: Final = region_id
        self.snapshot_source = snapshot_source
        self._wal: Final = wal
        self._append_record: Final = wal.append
        self._group: Final = wal.group(region_id)

    # ---- Raft's Storage ----

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The last hard state and membership set."""
        return self._group.hard_state, self._group.conf_state

    def first_index(self) -> LogIndex:
        """Index of the first entry that can be read."""
        return LogIndex(self._group.base_index + 1)

    def last_index(self) -> LogIndex:
        """Index of the last entry, or of the base if there is none."""
        return self._group.last_index

    def term(self, index: LogIndex) -> Term:
        """Term of an entry or of the base. Raises Compacted below the base, Unavailable behind the end."""
        group = self._group
        at = index - group.base_index - 1
        if at >= 0:
            if at < len(group.terms):
                return Term(group.terms[at])
            raise Unavailable
        if at == -1:
            return group.base_term
        raise Compacted

    def entries(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit into max_bytes, but at least one.

        Raises:
            Compacted: `lo` is at or below the base.
            Unavailable: there are no entries.
            CorruptionError: an entry in the file is no longer what was written.
            StorageError: the disk failed.
        """
        group = self._group
        if lo <= group.base_index:
            raise Compacted
        if not group.terms:
            raise Unavailable
        assert lo <= hi <= group.last_index + 1
        found: list[Entry] = []
        cached = self._group.cached.get
        used_bytes = 0
        index = lo
        while index < hi:
            entry = cached(index)
            if entry is not None:
                run = [entry]
            elif found and used_bytes + group.place(index).length - ENTRY_OVERHEAD_BYTES >= max_bytes:
                return found  # its data alone would not fit, so it is not worth a read
            else:
                run = self._read_run(index, hi, max_bytes - used_bytes)
            for entry in run:
                used_bytes += entry_bytes(entry)
                if used_bytes > max_bytes and found:
                    return found
                found.append(entry)
            index = LogIndex(index + len(run))
        return found

    def snapshot(self) -> Snapshot:
        """What the owner's source makes."""
        return self.snapshot_source()

    # ---- writes ----

    def append(self, entries: Sequence[Entry]) -> None:
        """Add contiguous entries; see GroupLog."""
        group, add = self._group, self._wal.cache.add
        cached = group.cached
        skipped = group.base_index + 1 - entries[0].index if entries else 0
        fresh = entries[skipped:] if skipped > 0 else entries
        if not fresh:
            return
        first, last = fresh[0].index, group.last_index
        assert first <= last + 1
        if first <= last:
            group.drop_from(first)
        for index, entry in enumerate(fresh, first):
            assert entry.index == index
            group.add(entry.term, self._append_record(RecordKind.ENTRY, self.region_id, encode_entry(entry)))
            add(cached, entry)

    def set_hard_state(self, state: HardState) -> None:
        """Term, vote and commit; no record if nothing changes."""
        group = self._group
        if state != group.hard_state:
            place = self._append_record(RecordKind.HARD_STATE, self.region_id, encode_hard_state(state))
            group.set_hard_state(state, place)

    def set_conf_state(self, state: ConfState) -> None:
        """Membership; no record if nothing changes."""
        group = self._group
        if state != group.conf_state:
            place = self._append_record(RecordKind.CONF_STATE, self.region_id, encode_conf_state(state))
            group.set_conf_state(state, place)

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to `index`. Raises Compacted if they are gone already."""
        group = self._group
        if index <= group.base_index:
            raise Compacted
        assert index <= group.last_index
        term = self.term(index)
        group.drop_to(index, term, self._append_record(RecordKind.COMPACTED, self.region_id, encode_base(index, term)))

    def apply_snapshot(self, metadata: SnapshotMetadata) -> None:
        """Forget all entries and go on behind a snapshot. Raises SnapshotOutOfDate if the base is not below it."""
        group = self._group
        index, term, state = metadata.index, metadata.term, metadata.conf_state
        if index <= group.base_index:
            raise SnapshotOutOfDate
        record = encode_snapshot(index, term, state)
        group.restart(index, term, state, self._append_record(RecordKind.SNAPSHOT, self.region_id, record))

    def destroy(self) -> None:
        """Forget everything about the group."""
        self._append_record(RecordKind.DESTROYED, self.region_id, b"")
        self._wal.forget(self.region_id)

    # ---- the rest ----

    def check_applied(self, index: LogIndex) -> None:
        """Assure that the log reaches as far as the data was applied, at opening.

        Applied entries were durable before they were applied, so a log that ends below has lost some: its newest file
        was cut or removed by hand, which looks like a crash to the log itself.

        Raises:
            CorruptionError: it does not.
        """
        last = self._group.last_index
        if last < index:
            raise CorruptionError(
                f"log of group {self.region_id} ends at entry {last}, but the data has applied entry {index}: the log "
                "was cut; move this directory away and let the node rebuild its replicas from the other stores"
            )

    def log_bytes(self) -> int:
        """Bytes of the group's live entries in the log."""
        return sum(self._group.lengths)

    def _read_run(self, lo: LogIndex, hi: LogIndex, max_bytes: int) -> list[Entry]:
        """Entries from `lo` on that lie near each other in one segment and are not cached: at least one."""
        group = self._group
        first = group.place(lo)
        end = first.offset + first.length
        places = [first]
        data_bytes = first.length - ENTRY_OVERHEAD_BYTES
        for index in range(lo + 1, hi):
            place = group.place(LogIndex(index))
            data_bytes += place.length - ENTRY_OVERHEAD_BYTES
            near = place.segment == first.segment and end <= place.offset
            if not near or place.offset + place.length - first.offset > READ_SPAN_BYTES:
                break
            if data_bytes > max_bytes or index in self._group.cached:
                break
            places.append(place)
            end = place.offset + place.length
        data = self._wal.read(first.segment, first.offset, end - first.offset)
        return [decode_entry(self._wal.payload(place, data, place.offset - first.offset)) for place in places]
