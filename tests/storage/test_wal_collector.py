"""Collecting: what nobody needs goes, what somebody needs stays, in bounded steps."""

import pytest

from nokv.proto.ids import LogIndex
from nokv.storage.disk import MemoryDisk
from nokv.storage.engine import CorruptionError
from nokv.storage.raft_log import RaftLog
from nokv.storage.wal import Wal
from nokv.storage.wal_collector import Collector
from nokv.storage.wal_segments import segment_name
from tests.storage.logs import (
    NO_LIMIT,
    conf_state,
    contents,
    disk_with,
    entries,
    hard_state,
    metadata,
    region,
    save,
    small_wal,
    state_of,
)


def settle(wal: Wal, collector: Collector, rounds: int = 50) -> int:
    """Step and save until nothing is freed any more; bytes freed."""
    freed = 0
    for _ in range(rounds):
        freed += collector.step()
        save(wal)
    return freed


def busy_log(disk: MemoryDisk) -> tuple[Wal, RaftLog, RaftLog]:
    """Ten segments: a busy group's history and a few old records of a quiet one."""
    wal = small_wal(disk, cache_bytes=0)
    busy, quiet = RaftLog(wal, region(1)), RaftLog(wal, region(2))
    quiet.apply_snapshot(metadata(5, 5, 1, 2))
    quiet.append(entries(6, 9, term=6))
    quiet.set_hard_state(hard_state(6, 1, 8))
    for first in range(1, 200, 10):
        busy.append(entries(first, first + 9, size=3000))
        busy.set_hard_state(hard_state(1, 1, first))
        wal.flush()
    busy.set_conf_state(conf_state(1, 2, 3))
    save(wal)
    return wal, busy, quiet


def test_nothing_that_is_needed_goes() -> None:
    disk = MemoryDisk()
    wal, _, _ = busy_log(disk)
    before = contents(disk)
    assert settle(wal, Collector(wal)) == 0
    assert contents(disk) == before


def test_compacted_segments_go_and_old_records_of_quiet_groups_move() -> None:
    disk = MemoryDisk()
    wal, busy, quiet = busy_log(disk)
    busy.compact(LogIndex(190))
    states = state_of(busy), state_of(quiet)
    before = wal.statistics()
    freed = settle(wal, Collector(wal))
    after = wal.statistics()
    assert after.segments <= 2 < before.segments
    assert freed > 500_000
    assert after.log_bytes == sum(disk.size(name) for name in disk.names())
    assert (state_of(busy), state_of(quiet)) == states
    again = small_wal(disk)
    assert (state_of(RaftLog(again, region(1))), state_of(RaftLog(again, region(2)))) == states
    assert again.statistics().live_bytes == after.live_bytes


def test_one_step_copies_a_bounded_number_of_bytes() -> None:
    disk = MemoryDisk()
    wal, busy, quiet = busy_log(disk)
    busy.compact(LogIndex(190))
    quiet_entries = quiet.entries(LogIndex(6), LogIndex(10), NO_LIMIT)
    collector = Collector(wal)
    steps = 0
    while min(wal.table.uses) == 1:
        position = wal.position
        collector.step(copy_bytes=1)
        # All small state of a group, one entry, the note.
        assert wal.position - position <= 5
        save(wal)
        steps += 1
        assert steps < 100
    assert steps > 3
    assert quiet.entries(LogIndex(6), LogIndex(10), NO_LIMIT) == quiet_entries


def test_a_segment_stays_until_the_copies_are_durable() -> None:
    disk = MemoryDisk()
    wal, busy, _ = busy_log(disk)
    busy.compact(LogIndex(190))
    save(wal)
    collector = Collector(wal)
    for _ in range(5):
        assert collector.step() == 0
        assert segment_name(1) in disk.names()
    wal.flush()
    assert collector.step() == 0
    assert segment_name(1) in disk.names()
    wal.sync()
    assert collector.step() > 0
    assert segment_name(1) not in disk.names()


def test_a_destroyed_group_holds_nothing() -> None:
    disk = MemoryDisk()
    wal, busy, quiet = busy_log(disk)
    busy.destroy()
    quiet.destroy()
    assert wal.statistics().live_bytes == 0
    assert wal.statistics().groups == 0
    settle(wal, Collector(wal))
    assert len(disk.names()) == 1
    assert small_wal(disk).statistics().groups == 0


def test_the_segment_being_written_is_never_collected() -> None:
    disk = MemoryDisk()
    wal = small_wal(disk)
    log = RaftLog(wal, region(1))
    log.append(entries(1, 10, size=3000))
    log.compact(LogIndex(10))
    assert settle(wal, Collector(wal)) == 0
    assert disk.names() == [segment_name(1)]


def test_a_group_that_is_compacted_late_does_not_hold_an_unbounded_log() -> None:
    disk = MemoryDisk()
    wal = small_wal(disk, cache_bytes=0)
    late, busy = RaftLog(wal, region(1)), RaftLog(wal, region(2))
    late.append(entries(1, 20, size=3000))
    collector = Collector(wal)
    largest = 0
    for index in range(1, 600):
        busy.append(entries(index, index, size=3000))
        if index % 5 == 0:
            busy.compact(LogIndex(index - 2))
        collector.step(copy_bytes=5000)
        save(wal)
        largest = max(largest, wal.statistics().log_bytes)
    assert largest < 5 * (64 << 10)
    assert late.entries(LogIndex(1), LogIndex(21), NO_LIMIT) == entries(1, 20, size=3000)
    again = RaftLog(small_wal(disk), region(1))
    assert again.entries(LogIndex(1), LogIndex(21), NO_LIMIT) == entries(1, 20, size=3000)


def test_moved_entries_can_be_overwritten_compacted_and_moved_again() -> None:
    disk = MemoryDisk()
    wal = small_wal(disk, cache_bytes=0)
    lagging, busy = RaftLog(wal, region(1)), RaftLog(wal, region(2))
    lagging.append(entries(1, 8, size=100))
    collector = Collector(wal)
    at = 1

    def churn() -> None:
        nonlocal at
        busy.append(entries(at, at + 40, size=3000))
        busy.compact(LogIndex(at + 39))
        at += 41
        save(wal)
        settle(wal, collector, rounds=6)

    churn()
    lagging.append(entries(9, 12, size=100))
    churn()
    lagging.append(entries(6, 7, term=2, size=100))
    churn()
    lagging.compact(LogIndex(3))
    churn()
    expected = entries(4, 5, size=100) + entries(6, 7, term=2, size=100)
    assert lagging.entries(LogIndex(4), LogIndex(8), NO_LIMIT) == expected
    assert min(wal.table.uses) > 4
    again = RaftLog(small_wal(disk), region(1))
    assert again.entries(LogIndex(4), LogIndex(8), NO_LIMIT) == expected
    assert again.term(LogIndex(3)) == 1


def test_a_collection_that_a_crash_interrupted_is_finished_by_opening() -> None:
    disk = MemoryDisk()
    wal, busy, quiet = busy_log(disk)
    busy.compact(LogIndex(190))
    collector = Collector(wal)
    collector.step()
    save(wal)
    states = state_of(busy), state_of(quiet)
    assert segment_name(1) in disk.names()
    again = small_wal(disk)
    assert segment_name(1) not in disk.names()
    assert (state_of(RaftLog(again, region(1))), state_of(RaftLog(again, region(2)))) == states


def test_an_oldest_segment_that_was_not_collected_is_missed() -> None:
    disk = MemoryDisk()
    wal, busy, _ = busy_log(disk)
    busy.compact(LogIndex(190))
    collector = Collector(wal)
    while segment_name(2) in disk.names():
        collector.step()
        save(wal)
    files = contents(disk)
    noted = segment_name(wal.collected)
    assert noted == min(files)
    small_wal(disk_with({name: data for name, data in files.items() if name > noted}))
    needed = segment_name(wal.collected + 1)
    with pytest.raises(CorruptionError, match=f"{needed} offset 0: the file is missing"):
        small_wal(disk_with({name: data for name, data in files.items() if name > needed}))


def test_a_live_record_that_cannot_be_read_stops_the_collector_by_name() -> None:
    disk = MemoryDisk()
    wal, busy, _ = busy_log(disk)
    busy.compact(LogIndex(190))
    place = wal.groups[region(2)].place(LogIndex(7))
    disk.overwrite(segment_name(place.segment), place.offset + 30, b"!")
    with pytest.raises(CorruptionError, match=f"{segment_name(place.segment)} offset {place.offset}"):
        Collector(wal).step()
    save(wal)
    assert segment_name(1) in disk.names()
