"""RaftLog: stable and unstable entries as one log, with the committed, applying and applied borders.

Invariants: applied <= applying <= committed <= last_index; entries at or below committed never change (Raft 5.4);
entries handed out to be applied are bounded in bytes until they are reported applied.
Not here: who may append (the roles), durability.
"""

from collections.abc import Sequence
from typing import Final

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import Entry, Snapshot
from nokv.raft.errors import Compacted, Unavailable
from nokv.raft.sizes import NO_LIMIT, entries_bytes, entry_bytes, limit_size
from nokv.raft.storage import Storage
from nokv.raft.tracing import Trace
from nokv.raft.unstable import Unstable


class RaftLog:
    """The log of one node."""

    def __init__(self, storage: Storage, trace: Trace, max_applying_bytes: int) -> None:
        self.storage: Final = storage
        self._trace: Final = trace
        self._max_applying_bytes: Final = max_applying_bytes

        first, last = storage.first_index(), storage.last_index()
        self.unstable = Unstable(LogIndex(last + 1), trace)
        self.committed = LogIndex(first - 1)
        self.applying = LogIndex(first - 1)
        self.applied = LogIndex(first - 1)
        self.applying_bytes = 0
        self.applying_paused = False

    def describe(self) -> str:
        """One line with all borders."""
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, unstable.offsetInProgress={unstable.offset_in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )

    # ---- reading ---------------------------------------------------------------------------------------------------

    def first_index(self) -> LogIndex:
        """Index of the first entry that may be read."""
        pending = self.unstable.maybe_first_index()
        return self.storage.first_index() if pending is None else pending

    def last_index(self) -> LogIndex:
        """Index of the last entry."""
        last = self.unstable.maybe_last_index()
        return self.storage.last_index() if last is None else last

    def term(self, index: LogIndex) -> Term:
        """Term of the entry at `index`, or of what precedes the first one.

        Raises:
            Compacted, Unavailable: it lies before or behind the log.
        """
        known = self.unstable.maybe_term(index)
        if known is not None:
            return known
        if index + 1 < self.first_index():
            raise Compacted
        if index > self.last_index():
            raise Unavailable
        return self.storage.term(index)

    def term_or_zero(self, index: LogIndex) -> Term:
        """Term at `index`, 0 where it is compacted or behind the end."""
        try:
            return self.term(index)
        except (Compacted, Unavailable):
            return Term(0)

    def last_term(self) -> Term:
        """Term of the last entry."""
        return self.term(self.last_index())

    def match_term(self, index: LogIndex, term: Term) -> bool:
        """Whether the log has an entry (term, index)."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def entries(self, first: LogIndex, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries from `first` on, as many as fit. Raises Compacted."""
        last = self.last_index()
        return [] if first > last else self.slice(first, LogIndex(last + 1), max_bytes)

    def all_entries(self) -> list[Entry]:
        """The whole log."""
        return self.entries(self.first_index())

    def slice(self, lo: LogIndex, hi: LogIndex, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries lo <= index < hi, as many as fit, but at least one. Raises Compacted."""
        assert lo <= hi <= self.last_index() + 1
        if lo < self.first_index():
            raise Compacted
        if lo == hi:
            return []
        offset = self.unstable.offset
        if lo >= offset:
            return limit_size(self.unstable.slice(lo, hi), max_bytes)
        cut = LogIndex(min(hi, offset))
        entries = self.storage.entries(lo, cut, max_bytes)
        if hi <= offset or len(entries) < cut - lo:
            return entries
        size = entries_bytes(entries)
        if size >= max_bytes:
            return entries
        more = limit_size(self.unstable.slice(offset, hi), max_bytes - size)
        if len(more) == 1 and size + entry_bytes(more[0]) > max_bytes:
            return entries
        return entries + more

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises SnapshotTemporarilyUnavailable."""
        return self.storage.snapshot() if self.unstable.snapshot is None else self.unstable.snapshot

    def is_up_to_date(self, term: Term, index: LogIndex) -> bool:
        """Whether a log that ends with (term, index) is at least as up to date as this one (Raft 5.4.1)."""
        last_term = self.last_term()
        return term > last_term or (term == last_term and index >= self.last_index())

    def find_conflict_by_term(self, index: LogIndex, term: Term) -> tuple[LogIndex, Term]:
        """The highest entry at or below `index` whose term is at most `term`, or as far as the log reaches down.

        It lets a leader skip a whole term of conflicting entries at a time.
        """
        while index > 0:
            try:
                ours = self.term(index)
            except (Compacted, Unavailable):
                return index, Term(0)
            if ours <= term:
                return index, ours
            index = LogIndex(index - 1)
        return LogIndex(0), Term(0)

    # ---- appending -------------------------------------------------------------------------------------------------

    def maybe_append(
        self, prev_index: LogIndex, prev_term: Term, entries: Sequence[Entry], committed: LogIndex
    ) -> LogIndex | None:
        """Append what a leader sent; the index of its last entry. None: the entry before them is not ours."""
        if not self.match_term(prev_index, prev_term):
            return None
        last_new = LogIndex(prev_index + len(entries))
        conflict = self._find_conflict(entries)
        if conflict:
            assert conflict > self.committed, f"entry {conflict} conflicts with committed {self.committed}"
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(committed, last_new))
        return last_new

    def append(self, entries: Sequence[Entry]) -> LogIndex:
        """Append, overwriting from the first entry's index on. Returns the last index."""
        if entries:
            assert entries[0].index > self.committed, f"{entries[0].index} is at or below committed {self.committed}"
            self.unstable.truncate_and_append(entries)
        return self.last_index()

    def _find_conflict(self, entries: Sequence[Entry]) -> LogIndex:
        """Index of the first entry that is not in the log with the same term, 0 if all are."""
        for entry in entries:
            if not self.match_term(entry.index, entry.term):
                if entry.index <= self.last_index():
                    existing = self.term_or_zero(entry.index)
                    self._trace.info(
                        lambda entry=entry, existing=existing: (
                            f"found conflict at index {entry.index} "  # type: ignore[misc]
                            f"[existing term: {existing}, conflicting term: {entry.term}]"
                        )
                    )
                return entry.index
        return LogIndex(0)

    # ---- borders ---------------------------------------------------------------------------------------------------

    def commit_to(self, index: LogIndex) -> None:
        """Entries up to `index` are committed; never lowers."""
        if self.committed < index:
            assert index <= self.last_index(), f"commit {index} is out of range [last {self.last_index()}]"
            self.committed = index

    def maybe_commit(self, term: Term, index: LogIndex) -> bool:
        """Commit up to (term, index) if that is ahead and really ours (Raft 5.4.2: own term only, and never term 0)."""
        if term != 0 and index > self.committed and self.match_term(index, term):
            self.commit_to(index)
            return True
        return False

    def applied_to(self, index: LogIndex, size_bytes: int) -> None:
        """Entries up to `index`, `size_bytes` of those handed out, were applied."""
        assert self.applied <= index <= self.committed, f"applied {index} of [{self.applied}, {self.committed}]"
        self.applied = index
        self.applying = max(self.applying, index)
        self.applying_bytes = max(0, self.applying_bytes - size_bytes)
        self.applying_paused = self.applying_bytes >= self._max_applying_bytes

    def accept_applying(self, index: LogIndex, size_bytes: int, *, allow_unstable: bool) -> None:
        """Entries up to `index`, of `size_bytes`, were handed out to be applied."""
        assert index <= self.committed
        self.applying = index
        self.applying_bytes += size_bytes
        # Paused also when the next entry alone did not fit: otherwise a small one behind it would slip through.
        self.applying_paused = self.applying_bytes >= self._max_applying_bytes or index < self.max_appliable_index(
            allow_unstable
        )

    def max_appliable_index(self, allow_unstable: bool) -> LogIndex:
        """The last entry that may be applied: committed, and stable unless unstable ones are allowed."""
        if allow_unstable:
            return self.committed
        return min(self.committed, LogIndex(self.unstable.offset - 1))

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """Whether there are entries to be applied."""
        if self.applying_paused or self.unstable.snapshot is not None:
            return False
        return self.applying + 1 < self.max_appliable_index(allow_unstable) + 1

    def next_committed(self, allow_unstable: bool) -> list[Entry]:
        """Entries to be applied next, within the byte bound."""
        if self.applying_paused or self.unstable.snapshot is not None:
            return []
        lo, hi = LogIndex(self.applying + 1), LogIndex(self.max_appliable_index(allow_unstable) + 1)
        if lo >= hi:
            return []
        max_bytes = self._max_applying_bytes - self.applying_bytes
        assert max_bytes > 0
        return self.slice(lo, hi, max_bytes)

    def stable_to(self, index: LogIndex, term: Term) -> None:
        """The entry (term, index) is stable."""
        self.unstable.stable_to(index, term)

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the log by a snapshot."""
        metadata = snapshot.metadata
        self._trace.info(
            lambda: (
                f"log [{self.describe()}] starts to restore snapshot [index: {metadata.index}, term: {metadata.term}]"
            )
        )
        self.committed = metadata.index
        self.unstable.restore(snapshot)
