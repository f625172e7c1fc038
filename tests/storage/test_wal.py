"""The log itself: flushing, syncing, segments, full disks, crashes."""

import random
import threading
from pathlib import Path

import pytest

from nokv.proto.ids import LogIndex, RegionId
from nokv.raft.sizes import entries_bytes
from nokv.storage.disk import Disk, MemoryDisk, RealDisk
from nokv.storage.engine import OutOfSpaceError, StorageError
from nokv.storage.memory_raft_log import MemoryRaftLog
from nokv.storage.raft_log import GroupLog, RaftLog
from nokv.storage.wal import Wal
from nokv.storage.wal_collector import Collector
from tests.storage.logs import (
    NO_LIMIT,
    State,
    conf_state,
    entries,
    entry,
    hard_state,
    metadata,
    payload,
    region,
    save,
    small_wal,
    state_of,
)


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path) if request.param == "real" else MemoryDisk()


def test_a_new_log_is_one_segment(disk: Disk) -> None:
    wal = small_wal(disk)
    assert disk.names() == ["wal-0000000000000001"]
    statistics = wal.statistics()
    assert (statistics.segments, statistics.groups, statistics.entries, statistics.position) == (1, 0, 0, 0)
    assert statistics.log_bytes == disk.size("wal-0000000000000001") == 32


def test_other_files_are_left_alone(disk: Disk) -> None:
    disk.create("README")
    disk.create("wal-1")
    small_wal(disk)
    assert disk.names() == ["README", "wal-0000000000000001", "wal-1"]


def test_appending_writes_nothing_until_flushed(disk: Disk) -> None:
    wal = small_wal(disk)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 10))
    log.set_hard_state(hard_state(1, 1, 0))
    assert disk.size("wal-0000000000000001") == 32
    assert wal.statistics().unflushed_bytes > 0
    assert log.entries(LogIndex(1), LogIndex(11), NO_LIMIT) == entries(1, 10)
    assert wal.flush() == wal.position == 11
    assert wal.statistics().unflushed_bytes == 0
    assert wal.durable_position == 0
    assert disk.size("wal-0000000000000001") == wal.statistics().log_bytes > 32
    assert wal.sync() == wal.durable_position == 11


def test_a_flush_is_one_write_and_an_empty_one_is_none() -> None:
    disk = MemoryDisk()
    wal = small_wal(disk)
    before = disk.appends
    for number in range(50):
        RaftLog(wal, region(number)).append(entries(1, 3))
    wal.flush()
    assert disk.appends == before + 1
    wal.flush()
    assert disk.appends == before + 1


def test_groups_do_not_mix(disk: Disk) -> None:
    wal = small_wal(disk)
    for round_ in range(3):
        for number in (0, 1, 5, 1 << 40):
            added = entries(round_ * 4 + 1, round_ * 4 + 4, term=number % 7 + 1)
            RaftLog(wal, region(number)).append(added)
    save(wal)
    wal.close()
    wal = small_wal(disk)
    assert list(wal.groups) == [0, 1, 5, 1 << 40]
    for number in wal.groups:
        log = RaftLog(wal, region(number))
        assert log.entries(LogIndex(1), LogIndex(13), NO_LIMIT) == entries(1, 12, term=number % 7 + 1)


def test_segments_rotate_and_are_read_across(disk: Disk) -> None:
    wal = small_wal(disk, cache_bytes=0)
    log = RaftLog(wal, region(1))
    for first in range(1, 200, 10):
        log.append(entries(first, first + 9, size=3000))
        wal.flush()
    assert wal.statistics().segments >= 8
    assert all(disk.size(name) <= 64 << 10 for name in disk.names())
    assert log.entries(LogIndex(1), LogIndex(201), NO_LIMIT) == entries(1, 200, size=3000)
    save(wal)
    wal.close()
    again = RaftLog(small_wal(disk, cache_bytes=0), region(1))
    assert again.entries(LogIndex(1), LogIndex(201), NO_LIMIT) == entries(1, 200, size=3000)


def test_many_segments_in_one_flush_and_unflushed_reads_across_them(disk: Disk) -> None:
    wal = small_wal(disk, cache_bytes=0)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 3, size=3000))
    wal.flush()
    log.append(entries(4, 100, size=3000))
    assert log.entries(LogIndex(1), LogIndex(101), NO_LIMIT) == entries(1, 100, size=3000)
    save(wal)
    assert log.entries(LogIndex(1), LogIndex(101), NO_LIMIT) == entries(1, 100, size=3000)
    wal.close()
    again = RaftLog(small_wal(disk), region(1))
    assert again.entries(LogIndex(1), LogIndex(101), NO_LIMIT) == entries(1, 100, size=3000)


def test_a_record_longer_than_a_segment_gets_one_of_its_own(disk: Disk) -> None:
    wal = small_wal(disk, cache_bytes=0)
    log = RaftLog(wal, region(1))
    added = [entry(1), entry(2, data=b"x" * 200_000), entry(3), entry(4, data=b"y" * 200_000)]
    for one in added:
        log.append([one])
    save(wal)
    assert [disk.size(name) > 200_000 for name in disk.names()] == [False, True, False, True]
    wal.close()
    assert RaftLog(small_wal(disk), region(1)).entries(LogIndex(1), LogIndex(5), NO_LIMIT) == added


def test_the_cache_is_bounded_and_reads_are_right_without_it() -> None:
    wal = small_wal(MemoryDisk(), cache_bytes=10_000)
    logs = [RaftLog(wal, region(number)) for number in range(5)]
    for first in range(1, 100, 3):
        for log in logs:
            log.append(entries(first, first + 2, size=first))
            assert wal.statistics().cached_bytes <= 10_000
        if first % 2:
            logs[first % 5].compact(LogIndex(first))
            logs[(first + 1) % 5].append(entries(first, first, term=2))
            logs[(first + 1) % 5].append(entries(first + 1, first + 2, term=2))
    kept = sum(len(group.cached) for group in wal.groups.values())
    assert 0 < kept <= 50


def test_old_entries_near_each_other_are_read_at_once() -> None:
    class CountingDisk(MemoryDisk):
        reads = 0

        def read(self, name: str, offset: int, length: int) -> bytes:
            self.reads += 1
            return super().read(name, offset, length)

    disk = CountingDisk()
    wal = Wal(disk, cache_bytes=0)
    logs = [RaftLog(wal, region(number)) for number in range(4)]
    for index in range(1, 501):
        for log in logs:
            log.append(entries(index, index, size=100))
    wal.flush()
    before = disk.reads
    assert logs[2].entries(LogIndex(1), LogIndex(501), NO_LIMIT) == entries(1, 500, size=100)
    assert disk.reads == before + 1
    limit = entries_bytes(entries(100, 107, size=100))
    assert logs[2].entries(LogIndex(100), LogIndex(501), limit) == entries(100, 107, size=100)
    assert disk.reads == before + 2


def test_a_damaged_entry_is_not_served(disk: Disk) -> None:
    wal = small_wal(disk, cache_bytes=0)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 3))
    save(wal)
    group = wal.groups[region(1)]
    place = group.place(LogIndex(2))
    data = wal.read(*place)
    for at in (0, 4, 24, 30, place.length - 1):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises(StorageError, match=f"wal-0000000000000001 offset {place.offset}"):
            wal.payload(place, bytes(flipped), 0)
    with pytest.raises(StorageError):
        wal.payload(place, data[:-1], 0)
    with pytest.raises(StorageError):
        wal.payload(group.place(LogIndex(1)), wal.read(*group.place(LogIndex(1))) + data, place.length + 1)


def test_a_log_that_ends_below_the_applied_index_is_refused(disk: Disk) -> None:
    log = RaftLog(small_wal(disk), region(1))
    log.append(entries(1, 5))
    log.check_applied(LogIndex(5))
    with pytest.raises(StorageError, match="ends at entry 5, but the data has applied entry 6"):
        log.check_applied(LogIndex(6))


def test_only_one_view_may_disagree_with_nobody() -> None:
    wal = small_wal(MemoryDisk())
    one, other = RaftLog(wal, region(1)), RaftLog(wal, region(1))
    one.append(entries(1, 5))
    other.append(entries(3, 4, term=2))
    expected = entries(1, 2) + entries(3, 4, term=2)
    assert one.entries(LogIndex(1), LogIndex(5), NO_LIMIT) == expected
    assert other.entries(LogIndex(1), LogIndex(5), NO_LIMIT) == expected


# ---- full and failing disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 10, 40, 5_000, 60_000, 66_000])
def test_a_full_disk_loses_nothing_and_the_flush_may_be_repeated(room: int) -> None:
    disk = MemoryDisk()
    wal = small_wal(disk, cache_bytes=0)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 15, size=3000))
    save(wal)
    disk.capacity_bytes = sum(disk.size(name) for name in disk.names()) + room
    log.append(entries(16, 60, size=3000))
    for _ in range(3):
        with pytest.raises(OutOfSpaceError):
            wal.flush()
        assert log.entries(LogIndex(1), LogIndex(61), NO_LIMIT) == entries(1, 60, size=3000)
        position = wal.sync()
        assert position == wal.durable_position < wal.position
    log.append(entries(61, 62, size=3000))
    disk.capacity_bytes = None
    save(wal)
    assert wal.durable_position == wal.position == 62
    again = RaftLog(small_wal(disk), region(1))
    assert again.entries(LogIndex(1), LogIndex(63), NO_LIMIT) == entries(1, 62, size=3000)


@pytest.mark.parametrize("missing", [1, 31, 32])
def test_a_disk_that_is_full_just_when_a_segment_is_begun(missing: int) -> None:
    disk = MemoryDisk()
    wal = small_wal(disk)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 30, size=3000))
    first_segment = 32 + 21 * (3000 + 46)
    disk.capacity_bytes = first_segment + 32 - missing
    for _ in range(2):
        with pytest.raises(OutOfSpaceError):
            wal.flush()
        assert disk.names() == ["wal-0000000000000001"]
        assert disk.size("wal-0000000000000001") == first_segment
    disk.capacity_bytes = None
    save(wal)
    assert RaftLog(small_wal(disk), region(1)).last_index() == 30


@pytest.mark.parametrize("operation", ["append", "sync", "create", "sync_directory"])
def test_any_other_failure_closes_the_log(operation: str) -> None:
    disk = MemoryDisk()
    wal = small_wal(disk)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 60, size=3000))
    disk.fail_next(operation, StorageError("simulated"))
    with pytest.raises(StorageError, match="simulated"):
        wal.flush()
        wal.sync()
    for call in (wal.flush, wal.sync):
        with pytest.raises(StorageError, match="failed before"):
            call()


def test_a_failed_sync_is_not_retried() -> None:
    disk = MemoryDisk()
    wal = small_wal(disk)
    RaftLog(wal, region(1)).append(entries(1, 1))
    wal.flush()
    disk.fail_next("sync", OutOfSpaceError("simulated"))
    with pytest.raises(StorageError):
        wal.sync()
    with pytest.raises(StorageError, match="failed before"):
        wal.sync()
    assert wal.durable_position == 0


@pytest.mark.parametrize("capacity", [0, 31])
def test_no_room_for_the_first_segment_is_told_at_opening(capacity: int) -> None:
    disk = MemoryDisk(capacity_bytes=capacity)
    with pytest.raises(OutOfSpaceError):
        small_wal(disk)
    disk.capacity_bytes = None
    assert small_wal(disk).position == 0


# ---- threads --------------------------------------------------------------------------------------------------------


def test_syncs_beside_flushes_and_rotations(tmp_path: Path) -> None:
    wal = small_wal(RealDisk(tmp_path))
    log = RaftLog(wal, region(1))
    collector = Collector(wal)
    flushed, stop = threading.Event(), threading.Event()
    promised: list[int] = []

    def sync_for_ever() -> None:
        while not stop.is_set():
            before = wal.statistics().position if not promised else promised[-1]
            position = wal.sync()
            assert position >= before - wal.position
            promised.append(position)
            flushed.set()

    helper = threading.Thread(target=sync_for_ever)
    helper.start()
    try:
        for index in range(1, 1500):
            log.append(entries(index, index, size=500))
            position = wal.flush()
            if index % 50 == 0:
                log.compact(LogIndex(index - 20))
                collector.step()
            if index % 100 == 0:
                flushed.clear()
                assert flushed.wait(10)
            assert wal.durable_position <= position
    finally:
        stop.set()
        helper.join(10)
    assert not helper.is_alive()
    assert promised == sorted(promised)
    save(wal)
    before = state_of(log)
    wal.close()
    assert state_of(RaftLog(small_wal(RealDisk(tmp_path)), region(1))) == before


# ---- crashes --------------------------------------------------------------------------------------------------------


class CrashModel:
    """A log with its naive twins, and what every group looked like after each record.

    One record is one step of the log, so after a crash the log must be what the twins were after some record: none
    that was durable is lost, none is invented, and none is there without those before it.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = MemoryDisk()
        self.groups = [region(number) for number in (0, 3, 4, 900)]
        self.states: dict[int, dict[RegionId, State]] = {}
        self.crashes = 0
        self.flushed = 0
        self.wal = small_wal(self.disk, cache_bytes=3000)
        self.twins: dict[RegionId, GroupLog] = {group: MemoryRaftLog(group) for group in self.groups}
        self._attach()
        self._note(0)

    def _attach(self) -> None:
        self.logs = {group: RaftLog(self.wal, group) for group in self.groups}
        self.collector = Collector(self.wal)

    def _note(self, position: int) -> None:
        self.states[position] = {group: state_of(twin) for group, twin in self.twins.items()}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            group = self.rng.choice(self.groups)
            action = self.rng.choices(
                [self.append, self.set_states, self.compact, self.snapshot, self.destroy, self.persist, self.stop],
                [40, 15, 8, 2, 1, 30, 3],
            )[0]
            action(group)
        self.persist(self.groups[0])
        assert {group: state_of(log) for group, log in self.logs.items()} == self.states[self.wal.position]

    def append(self, group: RegionId) -> None:
        last = self.twins[group].last_index()
        first = max(self.twins[group].first_index(), last + 1 - self.rng.choice([0, 0, 0, 0, 1, 3]))
        term = self.rng.randint(1, 9)
        added = [
            entry(index, term, payload(self.rng, self.rng.choice([10, 100, 9000])))
            for index in range(first, first + self.rng.randint(1, 5))
        ]
        start = self.wal.position
        self.logs[group].append(added)
        assert self.wal.position == start + len(added)
        for at, one in enumerate(added, start + 1):
            self.twins[group].append([one])
            self._note(at)

    def set_states(self, group: RegionId) -> None:
        state = hard_state(self.rng.randint(1, 3), self.rng.randint(0, 2), self.rng.randint(0, 5))
        self._both(group, lambda log: log.set_hard_state(state))
        members = conf_state(*range(1, self.rng.randint(1, 4)))
        self._both(group, lambda log: log.set_conf_state(members))

    def compact(self, group: RegionId) -> None:
        first, last = self.twins[group].first_index(), self.twins[group].last_index()
        if first <= last:
            index = LogIndex(self.rng.randint(first, last))
            self._both(group, lambda log: log.compact(index))

    def snapshot(self, group: RegionId) -> None:
        index = max(1, self.twins[group].last_index() + self.rng.randint(-2, 5))
        if index >= self.twins[group].first_index():
            mark = metadata(index, self.rng.randint(1, 9), 1, 2)
            self._both(group, lambda log: log.apply_snapshot(mark))

    def destroy(self, group: RegionId) -> None:
        self._both(group, lambda log: log.destroy())
        self.logs[group] = RaftLog(self.wal, group)

    def _both(self, group: RegionId, call: object) -> None:
        assert callable(call)
        call(self.logs[group])
        call(self.twins[group])
        self._note(self.wal.position)

    def persist(self, group: RegionId) -> None:
        """Flush, perhaps on a full disk; perhaps sync; perhaps collect."""
        if self.rng.random() < 0.1:
            used = sum(self.disk.size(name) for name in self.disk.names())
            self.disk.capacity_bytes = used + self.rng.randint(0, 3000)
        try:
            self.wal.flush()
        except OutOfSpaceError:
            self.disk.capacity_bytes = None
            self.wal.flush()
        self.disk.capacity_bytes = None
        self.flushed = self.wal.position
        if self.rng.random() < 0.6:
            self.wal.sync()
        if self.rng.random() < 0.5:
            before = self.wal.position
            self.collector.step(copy_bytes=self.rng.choice([1, 2000, 1 << 20]))
            for position in range(before, self.wal.position + 1):
                self._note(position)

    def stop(self, group: RegionId) -> None:
        """The power fails, or only the process dies; sometimes both, one soon after the other."""
        certain = self.wal.durable_position
        if self.rng.random() < 0.4:
            certain = self.flushed
        else:
            self.disk.crash(self.rng, tear=self.rng.random() < 0.8)
        self.crashes += 1
        self.wal = small_wal(self.disk, cache_bytes=3000)
        if self.rng.random() < 0.3:
            # Opening promises what it has read, synced by its predecessor or not.
            certain = self.wal.durable_position
            self.disk.crash(self.rng)
            self.wal = small_wal(self.disk, cache_bytes=3000)
        self._attach()
        survived = self.flushed = self.wal.position
        assert survived >= certain
        assert {group: state_of(log) for group, log in self.logs.items()} == self.states[survived]
        self.states = {survived: self.states[survived]}
        self.twins = {group: _twin_of(group, self.states[survived][group]) for group in self.groups}


def _twin_of(group: RegionId, state: State) -> MemoryRaftLog:
    hard, conf, first, base_term, found = state
    twin = MemoryRaftLog(group)
    if first > 1:
        assert base_term is not None
        twin.apply_snapshot(metadata(first - 1, base_term))
    twin.set_hard_state(hard)
    twin.set_conf_state(conf)
    twin.append(found)
    assert state_of(twin) == state
    return twin


@pytest.mark.parametrize("seed", range(30))
def test_a_crash_leaves_a_prefix_of_the_records_with_all_durable_ones(seed: int) -> None:
    model = CrashModel(seed)
    model.run(400)
    assert model.crashes > 0
