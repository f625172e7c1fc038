"""Log of one node: the stored part and the unstable one as a whole, and how far it is committed and applied.

Why: replication asks for terms and entries without caring where they lie.
Invariants: applied <= applying <= committed <= last_index; a committed entry is never replaced; entries are handed out
to be applied once, in order, and never while a snapshot is waiting to be applied.
Not here: who may append (replication.py), what is durable (storage.py).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import Entry, Snapshot
from nokv.raft.config import Sink
from nokv.raft.errors import Compacted, StorageReadError, Unavailable
from nokv.raft.sizes import entries_bytes, limit_entries
from nokv.raft.storage import Storage
from nokv.raft.unstable import Unstable

NO_TERM: Final = Term(0)
"""Term of an entry that cannot be read; no entry has it."""


class Log:
    """The log and its marks.

    Args:
        storage: the stored part.
        max_applying_bytes: bytes of entries handed out to be applied and not reported as applied.
    """

    __slots__ = (
        "_applying_bytes",
        "_applying_paused",
        "_max_applying_bytes",
        "_sink",
        "_storage",
        "applied",
        "applying",
        "committed",
        "unstable",
    )

    def __init__(self, storage: Storage, max_applying_bytes: int, sink: Sink | None) -> None:
        self._storage: Final = storage
        self._max_applying_bytes: Final = max_applying_bytes
        self._sink: Final = sink

        self.unstable: Final = Unstable(storage.last_index() + 1, sink)
        before_first = LogIndex(storage.first_index() - 1)
        self.committed = before_first
        self.applying = before_first
        """Last index handed out to be applied."""
        self.applied = before_first
        self._applying_bytes = 0
        self._applying_paused = False

    # ---- reading ---------------------------------------------------------------------------------------------------

    def first_index(self) -> int:
        """Index of the first entry that can be read."""
        snapshot = self.unstable.snapshot
        return snapshot.metadata.index + 1 if snapshot is not None else self._storage.first_index()

    def last_index(self) -> LogIndex:
        """Index of the last entry."""
        last = self.unstable.last_index()
        return self._storage.last_index() if last is None else LogIndex(last)

    def last_id(self) -> tuple[Term, LogIndex]:
        """Term and index of the last entry."""
        last = self.last_index()
        return self.term(last), last

    def term(self, index: int) -> Term:
        """Term of an entry or of the one before the first. Raises Compacted, Unavailable."""
        known = self.unstable.term(index)
        if known is not None:
            return known
        if index + 1 < self.first_index():
            raise Compacted
        if index > self.last_index():
            raise Unavailable
        return self._storage.term(LogIndex(index))

    def term_or_zero(self, index: int) -> Term:
        """Term of an entry, 0 if it cannot be read."""
        try:
            return self.term(index)
        except StorageReadError:
            return NO_TERM

    def matches(self, term: Term, index: int) -> bool:
        """Whether the entry (term, index) is in the log."""
        return self.term_or_zero(index) == term and (term != NO_TERM or index == 0)

    def is_up_to_date(self, term: Term, index: LogIndex) -> bool:
        """Whether a log that ends with (term, index) has at least what this one has (paper 5.4.1)."""
        return (term, index) >= self.last_id()

    def entries(self, lo: int, max_bytes: int) -> list[Entry]:
        """Entries from `lo` up to `max_bytes`, at least one if there is any. Raises Compacted."""
        last = self.last_index()
        return self.slice(lo, last + 1, max_bytes) if lo <= last else []

    def slice(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi up to `max_bytes`, at least one if there is any. Raises Compacted."""
        if lo >= hi:
            return []
        unstable = self.unstable
        if lo >= unstable.offset:
            return limit_entries(unstable.slice(lo, hi), max_bytes)
        if lo < self.first_index():
            raise Compacted
        cut = min(hi, unstable.offset)
        stored = self._storage.entries(LogIndex(lo), LogIndex(cut), max_bytes)
        assert stored, "a stored entry is missing"
        if hi <= unstable.offset or len(stored) < cut - lo:
            return stored
        room = max_bytes - entries_bytes(stored)
        if room <= 0:
            return stored
        rest = limit_entries(unstable.slice(unstable.offset, hi), room)
        if len(rest) == 1 and entries_bytes(rest) > room:
            return stored
        return stored + rest

    def pages(self, lo: int, hi: int, page_bytes: int) -> Iterator[list[Entry]]:
        """Entries lo <= index < hi, piece by piece. Raises Compacted."""
        while lo < hi:
            page = self.slice(lo, hi, page_bytes)
            yield page
            lo += len(page)

    def find_conflict_by_term(self, index: int, term: Term) -> tuple[LogIndex, Term]:
        """The last entry at or before `index` with a term of at most `term`; term 0 if it cannot be read.

        Both sides of a rejected append skip whole terms this way (the optimization of paper 5.3).
        """
        while index > 0:
            try:
                own = self.term(index)
            except StorageReadError:
                return LogIndex(index), NO_TERM
            if own <= term:
                return LogIndex(index), own
            index -= 1
        return LogIndex(0), NO_TERM

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises SnapshotTemporarilyUnavailable."""
        return self.unstable.snapshot or self._storage.snapshot()

    # ---- growing ---------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> LogIndex:
        """Add entries behind the committed ones, replacing what is there; the last index."""
        if entries:
            assert entries[0].index > self.committed, "a committed entry is never replaced"
            self.unstable.append(entries)
        return self.last_index()

    def find_conflict(self, entries: Sequence[Entry]) -> int | None:
        """Position of the first entry that is not in the log, None if all are."""
        for position, entry in enumerate(entries):
            if not self.matches(entry.term, entry.index):
                if self._sink is not None and entry.index <= self.last_index():
                    self._sink.info(
                        f"found conflict at index {entry.index} [existing term: {self.term_or_zero(entry.index)}, "
                        f"conflicting term: {entry.term}]"
                    )
                return position
        return None

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind a snapshot, everything in which is committed."""
        if self._sink is not None:
            metadata = snapshot.metadata
            self._sink.info(
                f"log [{self.describe()}] starts to restore snapshot [index: {metadata.index}, term: {metadata.term}]"
            )
        assert snapshot.metadata.index > self.committed
        self.committed = snapshot.metadata.index
        self.unstable.restore(snapshot)

    # ---- committing and applying -----------------------------------------------------------------------------------

    def commit_to(self, index: int) -> bool:
        """Everything up to an entry in the log is committed. True if that is news."""
        if index <= self.committed:
            return False
        assert index <= self.last_index(), "committed behind the end of the log"
        self.committed = LogIndex(index)
        return True

    def has_snapshot(self) -> bool:
        """Whether a snapshot is waiting to be applied."""
        return self.unstable.snapshot is not None

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """Whether next_committed has anything."""
        if self._applying_paused or self.unstable.snapshot is not None:
            return False
        return self.applying < self._appliable(allow_unstable)

    def next_committed(self, allow_unstable: bool) -> list[Entry]:
        """Entries to hand out to be applied, within the limit of bytes, but at least one if none are handed out."""
        if not self.has_next_committed(allow_unstable):
            return []
        room = self._max_applying_bytes - self._applying_bytes
        assert room > 0 or self._max_applying_bytes == 0
        return self.slice(self.applying + 1, self._appliable(allow_unstable) + 1, room)

    def accept_applying(self, last: LogIndex, size_bytes: int, allow_unstable: bool) -> None:
        """Entries up to `last` were handed out. If the limit cut them short, no more until some are applied."""
        assert self.applying < last <= self.committed
        self.applying = last
        self._applying_bytes += size_bytes
        full = self._applying_bytes >= self._max_applying_bytes
        self._applying_paused = full or last < self._appliable(allow_unstable)

    def applied_to(self, index: LogIndex, size_bytes: int) -> None:
        """The owner has applied everything up to `index`, the last `size_bytes` of it just now."""
        assert self.applied <= index <= self.committed
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(self._applying_bytes - size_bytes, 0)
        self._applying_paused = self._applying_bytes > 0 and self._applying_bytes >= self._max_applying_bytes

    def _appliable(self, allow_unstable: bool) -> int:
        """Last index that may be applied: a local storage that lags behind may have to be waited for."""
        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)

    def describe(self) -> str:
        """The marks."""
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, unstable.offsetInProgress={unstable.in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )
