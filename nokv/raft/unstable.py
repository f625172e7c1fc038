"""Unstable: entries and a snapshot that were not yet written to stable storage, or whose writing was not yet reported.

Why: with asynchronous storage writes the core runs ahead of the disk, and must know three borders: what is stable,
what is being written, and what was not handed out yet.
Invariants: `entries[i]` has index `offset + i`; offset <= offset_in_progress <= offset + len(entries); an entry that
is being written may still be overwritten by a newer term, and then its report is ignored (the ABA race).
Not here: the stable part (storage.py), the border between committed and not (log.py).
"""

from collections.abc import Sequence

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import Entry, Snapshot
from nokv.raft.tracing import Trace


class Unstable:
    """The tail of the log that Storage does not have for certain."""

    __slots__ = ("_trace", "entries", "offset", "offset_in_progress", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: LogIndex, trace: Trace) -> None:
        self.snapshot: Snapshot | None = None
        self.entries: list[Entry] = []
        self.offset = offset
        self.snapshot_in_progress = False
        self.offset_in_progress = offset
        self._trace = trace

    # ---- questions -------------------------------------------------------------------------------------------------

    def maybe_first_index(self) -> LogIndex | None:
        """First index after the snapshot, if one is pending."""
        return None if self.snapshot is None else LogIndex(self.snapshot.metadata.index + 1)

    def maybe_last_index(self) -> LogIndex | None:
        """Index of the last entry, or of the snapshot; None if there is neither."""
        if self.entries:
            return LogIndex(self.offset + len(self.entries) - 1)
        return None if self.snapshot is None else self.snapshot.metadata.index

    def maybe_term(self, index: LogIndex) -> Term | None:
        """Term at `index` if it is known here."""
        if index < self.offset:
            if self.snapshot is not None and self.snapshot.metadata.index == index:
                return self.snapshot.metadata.term
            return None
        at = index - self.offset
        return self.entries[at].term if at < len(self.entries) else None

    def next_entries(self) -> list[Entry]:
        """Entries that were not handed out for writing yet."""
        return self.entries[self.offset_in_progress - self.offset :]

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, if it was not handed out for writing yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def slice(self, lo: LogIndex, hi: LogIndex) -> list[Entry]:
        """Entries lo <= index < hi, which must all be here."""
        assert self.offset <= lo <= hi <= self.offset + len(self.entries)
        return self.entries[lo - self.offset : hi - self.offset]

    # ---- events ----------------------------------------------------------------------------------------------------

    def accept_in_progress(self) -> None:
        """Everything here was handed out for writing."""
        if self.entries:
            self.offset_in_progress = LogIndex(self.offset + len(self.entries))
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, index: LogIndex, term: Term) -> None:
        """The entry (term, index) and all before it are stable. Ignored if that entry is no longer ours."""
        known = self.maybe_term(index)
        if known is None:
            self._trace.info(lambda: f"entry at index {index} missing from unstable log; ignoring")
            return
        if index < self.offset:
            self._trace.info(lambda: f"entry at index {index} matched unstable snapshot; ignoring")
            return
        if known != term:
            self._trace.info(
                lambda: (
                    f"entry at (index,term)=({index},{term}) mismatched with "
                    f"entry at ({index},{known}) in unstable log; ignoring"
                )
            )
            return
        del self.entries[: index + 1 - self.offset]
        self.offset = LogIndex(index + 1)
        self.offset_in_progress = max(self.offset_in_progress, self.offset)

    def stable_snapshot_to(self, index: LogIndex) -> None:
        """The snapshot at `index` is stable."""
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot."""
        self.offset = LogIndex(snapshot.metadata.index + 1)
        self.offset_in_progress = self.offset
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: Sequence[Entry]) -> None:
        """Add entries, overwriting from the first one's index on."""
        first = entries[0].index
        end = self.offset + len(self.entries)
        if first == end:
            self.entries.extend(entries)
        elif first <= self.offset:
            self._trace.info(lambda: f"replace the unstable entries from index {first}")
            self.entries = list(entries)
            self.offset = first
            self.offset_in_progress = first
        else:
            assert first < end, f"gap: unstable ends at {end}, appending {first}"
            self._trace.info(lambda: f"truncate the unstable entries before index {first}")
            del self.entries[first - self.offset :]
            self.entries.extend(entries)
            self.offset_in_progress = min(self.offset_in_progress, first)
