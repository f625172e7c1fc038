"""The contract of a group's log, run over every implementation, and over the Raft core's own MemoryStorage."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nokv.proto.ids import LogIndex
from nokv.proto.raft import ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata
from nokv.raft.errors import Compacted, SnapshotOutOfDate, SnapshotTemporarilyUnavailable, StorageReadError, Unavailable
from nokv.raft.sizes import entry_bytes
from nokv.raft.storage import MemoryStorage
from nokv.storage.disk import MemoryDisk, RealDisk
from nokv.storage.engine_raft_log import EngineRaftLog, stored_groups
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.memory_engine import MemoryEngine
from nokv.storage.memory_raft_log import MemoryRaftLog
from nokv.storage.raft_log import GroupLog, RaftLog
from tests.storage.logs import (
    NO_LIMIT,
    conf_state,
    entries,
    entry,
    hard_state,
    metadata,
    region,
    save,
    small_wal,
    state_of,
)

REGION = region(7)
BEHIND_THE_END = (AssertionError, Unavailable)
"""Reading or compacting there is a bug of the caller's; the core's own storage may say it in its own words."""


class CoreMemoryStorage(MemoryStorage):
    """The core's own storage with the writes of this contract; its membership is its snapshot's."""

    def set_conf_state(self, state: ConfState) -> None:
        present = self._snapshot.metadata
        self._snapshot = Snapshot(self._snapshot.data, SnapshotMetadata(state, present.index, present.term))

    def apply_snapshot(self, metadata: SnapshotMetadata | Snapshot) -> None:
        assert isinstance(metadata, SnapshotMetadata)
        if metadata.index < self.first_index():
            raise SnapshotOutOfDate
        super().apply_snapshot(Snapshot(b"", metadata))

    def destroy(self) -> None:
        self.__init__()  # type: ignore[misc]


Reopen = Callable[[], GroupLog]


def log_in_files(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    wal = small_wal(RealDisk(path))

    def reopen() -> GroupLog:
        nonlocal wal
        save(wal)
        wal.close()
        wal = small_wal(RealDisk(path))
        return RaftLog(wal, REGION)

    yield RaftLog(wal, REGION), reopen
    wal.close()


def log_in_memory_disk(path: Path, cache_bytes: int = 1 << 20) -> Iterator[tuple[GroupLog, Reopen]]:
    disk = MemoryDisk()
    wal = small_wal(disk, cache_bytes=cache_bytes)

    def reopen() -> GroupLog:
        nonlocal wal
        save(wal)
        wal = small_wal(disk, cache_bytes=cache_bytes)
        return RaftLog(wal, REGION)

    yield RaftLog(wal, REGION), reopen


def log_without_cache(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    yield from log_in_memory_disk(path, cache_bytes=0)


def log_in_lmdb(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    engine = LmdbEngine(path / "db")

    def reopen() -> GroupLog:
        nonlocal engine
        engine.checkpoint()
        engine.close()
        engine = LmdbEngine(path / "db")
        return EngineRaftLog(engine, REGION)

    yield EngineRaftLog(engine, REGION), reopen
    engine.close()


def log_in_memory_engine(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    engine = MemoryEngine()

    def reopen() -> GroupLog:
        engine.checkpoint()
        engine.crash()
        return EngineRaftLog(engine, REGION)

    yield EngineRaftLog(engine, REGION), reopen


def log_in_memory(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    log = MemoryRaftLog(REGION)
    yield log, lambda: log


def log_of_the_core(path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    log = CoreMemoryStorage()
    yield log, lambda: log


BACKENDS = {
    "files": log_in_files,
    "memory_disk": log_in_memory_disk,
    "no_cache": log_without_cache,
    "lmdb": log_in_lmdb,
    "memory_engine": log_in_memory_engine,
    "memory": log_in_memory,
    "core": log_of_the_core,
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[GroupLog, Reopen]]:
    yield from BACKENDS[request.param](tmp_path)


@pytest.fixture
def log(backend: tuple[GroupLog, Reopen]) -> GroupLog:
    return backend[0]


def read(log: GroupLog, lo: int, hi: int, max_bytes: int = NO_LIMIT) -> list[Entry]:
    return log.entries(LogIndex(lo), LogIndex(hi), max_bytes)


def bounds(log: GroupLog) -> tuple[int, int]:
    return log.first_index(), log.last_index()


def test_a_new_log_is_empty(log: GroupLog) -> None:
    assert log.initial_state() == (HardState(), ConfState())
    assert bounds(log) == (1, 0)
    assert log.term(LogIndex(0)) == 0
    with pytest.raises(Unavailable):
        log.term(LogIndex(1))
    with pytest.raises(Unavailable):
        read(log, 1, 1)
    with pytest.raises(Compacted):
        read(log, 0, 1)


def test_appended_entries_are_read_back(log: GroupLog) -> None:
    added = [
        *entries(1, 3),
        entry(4, 2, b"", EntryType.CONF_CHANGE),
        entry(5, 2, b"\0" * 300, EntryType.CONF_CHANGE_V2),
    ]
    log.append(added)
    assert read(log, 1, 6) == added
    assert read(log, 2, 4) == added[1:3]
    assert read(log, 3, 3) == []
    assert [log.term(LogIndex(index)) for index in range(6)] == [0, 1, 1, 1, 2, 2]
    assert bounds(log) == (1, 5)
    log.append([])
    assert bounds(log) == (1, 5)


def test_reads_are_limited_by_size_but_return_one_entry(log: GroupLog) -> None:
    added = entries(1, 5, size=100)
    log.append(added)
    one = entry_bytes(added[0])
    assert read(log, 1, 6, 0) == added[:1]
    assert read(log, 1, 6, one) == added[:1]
    assert read(log, 1, 6, 2 * one - 1) == added[:1]
    assert read(log, 1, 6, 2 * one) == added[:2]
    assert read(log, 2, 6, 3 * one + 5) == added[1:4]
    assert read(log, 1, 6, 5 * one) == added


@pytest.mark.parametrize("from_index", [1, 2, 3, 4])
def test_an_append_replaces_what_was_there_and_behind(log: GroupLog, from_index: int) -> None:
    old, new = entries(1, 3, term=1), entries(from_index, from_index + 1, term=2)
    log.append(old)
    log.append(new)
    assert read(log, 1, from_index + 2) == old[: from_index - 1] + new
    assert log.last_index() == from_index + 1


def test_an_append_may_shorten_the_log(log: GroupLog) -> None:
    log.append(entries(1, 9))
    log.append(entries(4, 4, term=2))
    assert bounds(log) == (1, 4)
    with pytest.raises(Unavailable):
        log.term(LogIndex(5))


def test_a_gap_is_our_own_bug(log: GroupLog) -> None:
    log.append(entries(1, 3))
    with pytest.raises(AssertionError):
        log.append(entries(5, 5))
    with pytest.raises(BEHIND_THE_END):
        read(log, 1, 5)


def test_compaction_keeps_the_term_of_its_index(log: GroupLog) -> None:
    log.append([*entries(1, 3, term=1), *entries(4, 6, term=2)])
    log.compact(LogIndex(4))
    assert bounds(log) == (5, 6)
    assert log.term(LogIndex(4)) == 2
    for call in (lambda: log.term(LogIndex(3)), lambda: read(log, 4, 6), lambda: log.compact(LogIndex(4))):
        with pytest.raises(Compacted):
            call()
    assert read(log, 5, 7) == entries(5, 6, term=2)
    log.compact(LogIndex(6))
    assert bounds(log) == (7, 6)
    assert log.term(LogIndex(6)) == 2
    with pytest.raises(BEHIND_THE_END):
        log.compact(LogIndex(7))
    log.append(entries(7, 7, term=3))
    assert read(log, 7, 8) == entries(7, 7, term=3)


@pytest.mark.parametrize("first", [1, 3, 4])
def test_appending_skips_what_is_compacted(log: GroupLog, first: int) -> None:
    log.append(entries(1, 4))
    log.compact(LogIndex(3))
    log.append(entries(first, 5, term=1))
    assert read(log, 4, 6) == entries(4, 5)
    log.append(entries(1, 2, term=1))
    assert bounds(log) == (4, 5)


def test_a_snapshot_replaces_the_log(log: GroupLog) -> None:
    log.append(entries(1, 5))
    log.set_hard_state(hard_state(3, 1, 2))
    log.apply_snapshot(metadata(9, 3, 1, 2, 3))
    assert bounds(log) == (10, 9)
    assert log.term(LogIndex(9)) == 3
    assert log.initial_state() == (hard_state(3, 1, 2), conf_state(1, 2, 3))
    log.append(entries(10, 11, term=3))
    assert read(log, 10, 12) == entries(10, 11, term=3)
    for index in (8, 9):
        with pytest.raises(SnapshotOutOfDate):
            log.apply_snapshot(metadata(index, 3, 9))
    assert log.initial_state()[1] == conf_state(1, 2, 3)


def test_a_snapshot_within_the_log_still_replaces_all_of_it(log: GroupLog) -> None:
    log.append(entries(1, 9))
    log.apply_snapshot(metadata(5, 1, 1))
    assert bounds(log) == (6, 5)
    log.append(entries(6, 6, term=4))
    assert read(log, 6, 7) == entries(6, 6, term=4)


def test_states_are_kept(log: GroupLog) -> None:
    log.set_hard_state(hard_state(1, 2, 0))
    log.set_hard_state(hard_state(2, 0, 0))
    log.set_conf_state(conf_state(1, 2, 3))
    assert log.initial_state() == (hard_state(2, 0, 0), conf_state(1, 2, 3))


def test_everything_survives_reopening(backend: tuple[GroupLog, Reopen]) -> None:
    log, reopen = backend
    log.append(entries(1, 20, size=3000))
    log.append(entries(15, 40, term=2, size=3000))
    log.set_hard_state(hard_state(2, 3, 30))
    log.set_conf_state(ConfState((1, 2), (3,), (1, 4), (4,), auto_leave=True))  # type: ignore[arg-type]
    log.compact(LogIndex(12))
    before = state_of(log)
    again = reopen()
    assert state_of(again) == before
    again.append(entries(41, 45, term=3))
    again.apply_snapshot(metadata(60, 3, 1))
    again.append(entries(61, 62, term=3))
    before = state_of(again)
    assert state_of(reopen()) == before


def test_destroyed_groups_begin_anew(backend: tuple[GroupLog, Reopen]) -> None:
    log, reopen = backend
    log.append(entries(1, 5))
    log.set_hard_state(hard_state(2, 3, 4))
    log.set_conf_state(conf_state(1))
    log.destroy()
    again = reopen()
    assert bounds(again) == (1, 0)
    assert again.initial_state() == (HardState(), ConfState())
    again.apply_snapshot(metadata(5, 5, 1))
    assert state_of(reopen()) == state_of(again)


def test_without_a_source_there_is_no_snapshot_and_with_one_there_is(tmp_path: Path) -> None:
    snapshot = Snapshot(b"data", metadata(5, 1, 1))
    for log in (
        RaftLog(small_wal(MemoryDisk()), REGION),
        MemoryRaftLog(REGION),
        EngineRaftLog(MemoryEngine(), REGION),
    ):
        with pytest.raises(SnapshotTemporarilyUnavailable):
            log.snapshot()
        log.snapshot_source = lambda: snapshot
        assert log.snapshot() is snapshot


def test_groups_in_an_engine_are_listed_and_apart() -> None:
    engine = MemoryEngine()
    numbers = (0, 1, 2, 300, 1 << 40)
    for number in numbers:
        log = EngineRaftLog(engine, region(number))
        log.append(entries(1, number % 7 + 1))
        log.set_hard_state(hard_state(number + 1))
    assert stored_groups(engine) == list(numbers)
    EngineRaftLog(engine, region(1)).destroy()
    assert stored_groups(engine) == [0, 2, 300, 1 << 40]
    assert EngineRaftLog(engine, region(2)).last_index() == 3
    assert EngineRaftLog(engine, region(2)).initial_state()[0] == hard_state(3)


class Twins(RuleBasedStateMachine):
    """All implementations answer alike, whatever is done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.disk, self.engine = MemoryDisk(), MemoryEngine()
        self.naive: MemoryRaftLog = MemoryRaftLog(REGION)
        self.logs: list[GroupLog] = []
        self.open()

    def open(self) -> None:
        self.wal = small_wal(self.disk, cache_bytes=2000)
        self.logs = [self.naive, RaftLog(self.wal, REGION), EngineRaftLog(self.engine, REGION)]

    def each(self, call: Callable[[GroupLog], object]) -> None:
        """Do it to all; all must end alike."""
        answers = []
        for log in self.logs:
            try:
                answers.append(call(log))
            except (StorageReadError, AssertionError) as error:
                answers.append(type(error))
        assert all(answer == answers[0] for answer in answers)

    @rule(back=st.integers(-1, 6), count=st.integers(0, 8), term=st.integers(1, 5), size=st.sampled_from([0, 9, 9000]))
    def append(self, back: int, count: int, term: int, size: int) -> None:
        first = max(1, self.naive.last_index() + 1 - back)
        added: Sequence[Entry] = entries(first, first + count - 1, term, size)
        self.each(lambda log: log.append(added))

    @rule(term=st.integers(0, 3), vote=st.integers(0, 3), commit=st.integers(0, 9))
    def set_hard_state(self, term: int, vote: int, commit: int) -> None:
        self.each(lambda log: log.set_hard_state(hard_state(term, vote, commit)))

    @rule(voters=st.lists(st.integers(1, 5), max_size=3))
    def set_conf_state(self, voters: list[int]) -> None:
        self.each(lambda log: log.set_conf_state(conf_state(*voters)))

    @rule(back=st.integers(-1, 8))
    def compact(self, back: int) -> None:
        index = max(0, self.naive.last_index() - back)
        self.each(lambda log: log.compact(LogIndex(index)))

    @rule(ahead=st.integers(-6, 6), term=st.integers(1, 5))
    def apply_snapshot(self, ahead: int, term: int) -> None:
        index = max(0, self.naive.last_index() + ahead)
        self.each(lambda log: log.apply_snapshot(metadata(index, term, 1, 2)))

    @rule(lo=st.integers(-2, 9), count=st.integers(-1, 9), max_bytes=st.integers(0, 30_000))
    def read(self, lo: int, count: int, max_bytes: int) -> None:
        first = max(0, self.naive.last_index() - lo)
        self.each(lambda log: read(log, first, first + count, max_bytes))

    @rule()
    def flush(self) -> None:
        self.wal.flush()

    @rule()
    def reopen(self) -> None:
        save(self.wal)
        self.engine.checkpoint()
        self.engine.crash()
        self.open()

    @rule()
    def destroy(self) -> None:
        for log in self.logs:
            log.destroy()
        self.logs = [self.naive, RaftLog(self.wal, REGION), EngineRaftLog(self.engine, REGION)]

    @invariant()
    def alike(self) -> None:
        first, *others = [state_of(log) for log in self.logs]
        assert all(other == first for other in others)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
