"""Log, its unstable part, and the storage in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import ConfState, Entry, HardState
from nokv.raft import Compacted, MemoryStorage, SnapshotOutOfDate, Unavailable
from nokv.raft.log import Log
from nokv.raft.sizes import entries_bytes, entry_bytes, limit_entries
from nokv.raft.unstable import Unstable
from tests.raft.rig import entries, ids, snapshot

LOTS = 1 << 30


def stored(terms: list[int], first: int = 1) -> MemoryStorage:
    """Storage with entries of these terms, behind a snapshot if they do not begin with 1."""
    storage = MemoryStorage()
    if first > 1:
        storage.apply_snapshot(snapshot(first - 1, 1, ConfState(voters=ids([1]))))
    storage.append(entries(terms, first))
    return storage


def split(terms: list[int], on_disk: int) -> Log:
    """A log of which the first entries are stored and the others are not."""
    log = Log(stored(terms[:on_disk]), LOTS, None)
    log.append(entries(terms[on_disk:], on_disk + 1))
    return log


term_lists = st.lists(st.integers(1, 4), min_size=1, max_size=12).map(sorted)


@given(term_lists, st.data())
def test_where_entries_lie_does_not_matter(terms: list[int], data: st.DataObject) -> None:
    """Reading crosses the border between storage and memory unseen, and limits cut at the same entry."""
    log = split(terms, data.draw(st.integers(0, len(terms))))
    whole = entries(terms)
    lo = data.draw(st.integers(1, len(terms)))
    hi = data.draw(st.integers(lo, len(terms) + 1))
    limit = data.draw(st.sampled_from([0, 9, 18, 30, LOTS]))
    assert log.slice(lo, hi, limit) == limit_entries(whole[lo - 1 : hi - 1], limit)
    assert [entry for page in log.pages(lo, hi, limit) for entry in page] == whole[lo - 1 : hi - 1]
    assert [log.term(index) for index in range(1, len(terms) + 1)] == terms
    assert log.term_or_zero(len(terms) + 1) == 0
    assert log.is_up_to_date(Term(terms[-1]), LogIndex(len(terms)))
    assert not log.is_up_to_date(Term(terms[-1]), LogIndex(len(terms) - 1))


@given(term_lists, st.integers(0, 5), st.integers(0, 14))
def test_conflicts_are_skipped_by_term(terms: list[int], term: int, index: int) -> None:
    """The last entry at or before an index with a term that is not higher."""
    log = split(terms, len(terms) // 2)
    below = [place for place, own in enumerate(terms, 1) if own <= term and place <= index]
    found, found_term = log.find_conflict_by_term(min(index, len(terms)), Term(term))
    assert (found, found_term) == ((below[-1], terms[below[-1] - 1]) if below else (0, 0))


def test_reading_what_is_not_there() -> None:
    """Compacted and unavailable are told apart."""
    log = Log(stored([1, 1], first=6), LOTS, None)
    assert log.first_index() == 6
    assert log.term(5) == 1
    for index in (4, 0):
        with pytest.raises(Compacted):
            log.term(index)
    with pytest.raises(Compacted):
        log.slice(5, 7, LOTS)
    with pytest.raises(Unavailable):
        log.term(8)
    assert log.slice(7, 7, LOTS) == []
    assert log.entries(8, LOTS) == []


def test_a_committed_entry_is_never_replaced() -> None:
    """That would be our own bug."""
    log = split([1, 1, 2], 1)
    assert log.commit_to(2)
    assert not log.commit_to(1)
    with pytest.raises(AssertionError, match="never replaced"):
        log.append(entries([3], 2))
    with pytest.raises(AssertionError, match="behind the end"):
        log.commit_to(4)
    assert log.append(entries([3], 3)) == 3


def test_applying_waits_for_storage_and_within_limits() -> None:
    """Committed entries are handed out once, in order, and no more than may be under way."""
    log = Log(stored([1, 1, 1, 1]), entries_bytes(entries([1, 1])), None)
    log.append(entries([1], 5))
    log.commit_to(5)
    first = log.next_committed(allow_unstable=False)
    assert [entry.index for entry in first] == [1, 2]
    log.accept_applying(first[-1].index, entries_bytes(first), allow_unstable=False)
    assert not log.has_next_committed(allow_unstable=False)
    log.applied_to(LogIndex(2), entries_bytes(first))
    second = log.next_committed(allow_unstable=False)
    assert [entry.index for entry in second] == [3, 4]
    log.accept_applying(second[-1].index, entries_bytes(second), allow_unstable=False)
    log.applied_to(LogIndex(4), entries_bytes(second))
    assert not log.has_next_committed(allow_unstable=False)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [5]


def test_unstable_entries_leave_when_this_very_entry_is_stored() -> None:
    """A report about entries that were replaced meanwhile is out of date."""
    unstable = Unstable(5, None)
    unstable.append(entries([1, 1, 1], 5))
    unstable.accept()
    assert unstable.next_entries() == []
    unstable.append(entries([2], 6))
    assert [entry.term for entry in unstable.next_entries()] == [2]
    unstable.stable_to(Term(1), LogIndex(7))
    unstable.stable_to(Term(1), LogIndex(6))
    assert len(unstable.entries) == 2
    unstable.stable_to(Term(1), LogIndex(5))
    assert (unstable.offset, [entry.term for entry in unstable.entries]) == (6, [2])
    unstable.append(entries([3], 4))
    assert (unstable.offset, unstable.in_progress, unstable.last_index()) == (4, 4, 4)
    with pytest.raises(AssertionError, match="gap"):
        unstable.append(entries([3], 9))


def test_an_unstable_snapshot_comes_first() -> None:
    """It replaces everything, and leaves when it is stored."""
    unstable = Unstable(2, None)
    unstable.append(entries([1], 2))
    unstable.restore(snapshot(8, 3, ConfState()))
    assert (unstable.last_index(), unstable.term(8), unstable.entries) == (8, 3, [])
    assert unstable.next_snapshot() is not None
    unstable.accept()
    assert unstable.next_snapshot() is None
    unstable.append(entries([3], 9))
    unstable.stable_to(Term(3), LogIndex(8))
    assert len(unstable.entries) == 1
    unstable.stable_snapshot_to(LogIndex(7))
    assert unstable.snapshot is not None
    unstable.stable_snapshot_to(LogIndex(8))
    assert unstable.snapshot is None


def test_storage_in_memory() -> None:
    """Compaction, snapshots and replacement."""
    storage = stored([1, 1, 2, 2])
    assert storage.entries(LogIndex(2), LogIndex(4), LOTS) == entries([1, 2], 2)
    with pytest.raises(SnapshotOutOfDate):
        storage.create_snapshot(LogIndex(0), None, b"")
    made = storage.create_snapshot(LogIndex(3), None, b"s")
    assert (made.metadata.index, made.metadata.term, storage.snapshot()) == (3, 2, made)
    storage.compact(LogIndex(3))
    for index in (LogIndex(2), LogIndex(3)):
        with pytest.raises(Compacted):
            storage.compact(index)
        with pytest.raises(Compacted):
            storage.entries(index, LogIndex(5), LOTS)
    assert storage.term(LogIndex(3)) == 2
    with pytest.raises(Compacted):
        storage.term(LogIndex(2))
    with pytest.raises(Unavailable):
        storage.term(LogIndex(5))
    storage.append(entries([2, 2, 3, 3], 2))
    assert (storage.first_index(), storage.last_index(), storage.term(LogIndex(4))) == (4, 5, 3)
    with pytest.raises(SnapshotOutOfDate):
        storage.apply_snapshot(snapshot(3, 2, ConfState()))
    storage.apply_snapshot(snapshot(9, 4, ConfState()))
    assert (storage.first_index(), storage.last_index()) == (10, 9)
    with pytest.raises(Unavailable):
        storage.entries(LogIndex(10), LogIndex(10), LOTS)
    storage.set_hard_state(HardState(Term(4)))
    assert storage.initial_state()[0].term == 4


@given(
    st.lists(st.tuples(st.sampled_from([1, 127, 128, 1 << 14]), st.sampled_from([0, 1, 127, 128, 20_000])), max_size=6)
)
def test_sizes_add_up(shapes: list[tuple[int, int]]) -> None:
    """The shortcut for many entries agrees with their sum."""
    made = [
        Entry(Term(term), LogIndex(126 + place), data=b"x" * size)
        for place, (term, size) in enumerate(sorted(shapes, key=lambda shape: shape[0]))
    ]
    assert entries_bytes(made) == sum(map(entry_bytes, made))


def test_errors_explain_themselves() -> None:
    """In the words of the field."""
    assert "compaction" in str(Compacted())
    assert "unavailable" in str(Unavailable())
    assert "older" in str(SnapshotOutOfDate())
