"""Torn tails are cut, damage is refused by name, and neither is ever taken for the other."""

import random
import struct
from pathlib import Path

import pytest
from google_crc32c import extend

from nokv.proto.ids import LogIndex
from nokv.storage.disk import SECTOR_BYTES, MemoryDisk, RealDisk
from nokv.storage.engine import CorruptionError, StorageError
from nokv.storage.raft_log import RaftLog
from nokv.storage.wal import Wal
from nokv.storage.wal_segments import SEGMENT_HEADER_BYTES, encode_header, segment_name, segment_number
from tests.storage.logs import (
    NO_LIMIT,
    State,
    conf_state,
    contents,
    disk_with,
    entry,
    hard_state,
    metadata,
    payload,
    region,
    save,
    small_wal,
    state_of,
)

GROUPS = [region(1), region(2)]
States = tuple[State, ...]


def states_of(wal: Wal) -> States:
    return tuple(state_of(RaftLog(wal, group)) for group in GROUPS)


def written_log(seed: int, records: int, size_max: int) -> tuple[dict[str, bytes], list[tuple[int, int]], list[States]]:
    """Files of a synced log; where each record ends (segment, offset); what the groups were after each record."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    wal = small_wal(disk)
    logs = [RaftLog(wal, group) for group in GROUPS]
    ends, states = [(1, SEGMENT_HEADER_BYTES)], [states_of(wal)]
    while wal.position < records:
        log = rng.choice(logs)
        draw = rng.random()
        before = wal.position
        if draw < 0.75:
            back = rng.choice([0, 0, 0, 1]) if log.last_index() >= log.first_index() else 0
            log.append([entry(log.last_index() + 1 - back, rng.randint(1, 9), payload(rng, size_max))])
        elif draw < 0.85:
            log.set_hard_state(hard_state(before, 1, 2))
        elif draw < 0.9:
            log.set_conf_state(conf_state(*range(before % 5)))
        elif draw < 0.97 and log.last_index() > log.first_index():
            log.compact(LogIndex(rng.randint(log.first_index(), log.last_index())))
        elif draw >= 0.97:
            log.apply_snapshot(metadata(log.last_index() + 3, 4, 1))
        assert wal.position <= before + 1
        if wal.position > before:
            save(wal)
            name = disk.names()[-1]
            ends.append((segment_number(name) or 0, disk.size(name)))
            states.append(states_of(wal))
    return contents(disk), ends, states


@pytest.fixture(scope="module")
def one_segment() -> tuple[bytes, list[int], list[States]]:
    """A segment of nearly 64 KiB, and as above."""
    files, ends, states = written_log(seed=1, records=70, size_max=3200)
    name = segment_name(1)
    count = sum(segment == 1 for segment, _ in ends)
    assert 55_000 < len(files[name]) <= 64 << 10
    return files[name], [offset for _, offset in ends[:count]], states[:count]


@pytest.mark.parametrize("quarter", range(4))
def test_wal_torn_at_every_byte(one_segment: tuple[bytes, list[int], list[States]], quarter: int) -> None:
    data, ends, states = one_segment
    for cut in range(len(data) * quarter // 4, len(data) * (quarter + 1) // 4):
        disk = disk_with({segment_name(1): data[:cut]})
        wal = small_wal(disk)
        whole = max((at for at, end in enumerate(ends) if end <= cut), default=0)
        assert wal.position == whole
        assert disk.size(segment_name(1)) == ends[whole]
        if cut in (ends[whole], ends[whole] + 1, ends[whole] + 28):
            assert states_of(wal) == states[whole]


def test_wal_torn_at_every_record_border_goes_on(one_segment: tuple[bytes, list[int], list[States]]) -> None:
    data, ends, states = one_segment
    for whole, border in enumerate(ends):
        for cut in (border - 1, border, border + 1):
            disk = disk_with({segment_name(1): data[:cut]})
            wal = small_wal(disk)
            expected = whole - (cut < border) if whole else 0
            assert states_of(wal) == states[expected]
            log = RaftLog(wal, GROUPS[0])
            log.append([entry(log.last_index() + 1, 77, b"new")])
            save(wal)
            after = states_of(wal)
            assert states_of(small_wal(disk)) == after != states[expected]


def test_wal_torn_with_zeros_behind(one_segment: tuple[bytes, list[int], list[States]]) -> None:
    data, ends, states = one_segment
    for whole, border in enumerate(ends):
        for zeros in (1, 7, 24, 25, 29, 600, 5000):
            wal = small_wal(disk_with({segment_name(1): data[:border] + bytes(zeros)}))
            assert states_of(wal) == states[whole]
    for sector in range(SECTOR_BYTES, len(data), SECTOR_BYTES):
        torn = data[:sector] + bytes(len(data) - sector)
        whole = max(at for at, end in enumerate(ends) if end <= sector or not any(data[sector:end]))
        assert states_of(small_wal(disk_with({segment_name(1): torn}))) == states[whole]


def assert_refused(files: dict[str, bytes], segment: int, offset: int | None = None) -> str:
    """Opening raises, names the place, says what to do, and changes nothing."""
    disk = disk_with(files)
    with pytest.raises(CorruptionError) as caught:
        small_wal(disk)
    assert contents(disk) == files
    text = str(caught.value)
    assert segment_name(segment) in text
    assert "rebuild" in text
    if offset is not None:
        assert f"offset {offset}:" in text
    return text


@pytest.mark.parametrize("part", range(4))
def test_wal_flip_is_refused_by_name(part: int) -> None:
    rng = random.Random(100 + part)
    files, ends, _ = written_log(seed=2, records=400, size_max=1100)
    assert len(files) >= 3
    for _ in range(500):
        name = rng.choice(sorted(files))
        segment = segment_number(name) or 0
        data = bytearray(files[name])
        at = rng.randrange(len(data))
        data[at] ^= rng.randrange(1, 256)
        starts = [SEGMENT_HEADER_BYTES] + [end for number, end in ends if number == segment]
        offset = max((start for start in starts if start <= at), default=0)
        assert_refused({**files, name: bytes(data)}, segment, offset)


def test_every_flip_in_the_last_record_is_refused() -> None:
    files, ends, _ = written_log(seed=3, records=9, size_max=40)
    name, data = segment_name(1), files[segment_name(1)]
    for at in range(ends[-2][1], len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            assert_refused({name: bytes(flipped)}, 1, ends[-2][1])


def test_a_cut_in_an_earlier_segment_is_refused() -> None:
    files, ends, _ = written_log(seed=4, records=150, size_max=2000)
    first = segment_name(1)
    assert len(files) >= 2
    borders = [offset for segment, offset in ends if segment == 1]
    for cut in [*borders[:-1], borders[-1] - 1, borders[3] + 5, 0, 5, 31]:
        disk = disk_with({**files, first: files[first][:cut]})
        with pytest.raises(CorruptionError, match="rebuild"):
            small_wal(disk)


def test_a_missing_segment_is_refused() -> None:
    files, _, _ = written_log(seed=5, records=300, size_max=2500)
    names = sorted(files)
    assert len(names) >= 4
    for missing in names[:-1]:
        text = assert_refused(
            {name: data for name, data in files.items() if name != missing}, segment_number(missing) or 0
        )
        assert "missing" in text


def test_exchanged_segments_are_refused() -> None:
    files, _, _ = written_log(seed=5, records=300, size_max=2500)
    names = sorted(files)
    exchanged = {**files, names[0]: files[names[1]], names[1]: files[names[0]]}
    assert "header" in assert_refused(exchanged, 1, 0)


def test_a_record_written_to_the_wrong_place_is_refused() -> None:
    files, ends, _ = written_log(seed=6, records=20, size_max=40)
    name, data = segment_name(1), files[segment_name(1)]
    offsets = [offset for _, offset in ends]
    doubled = data + data[offsets[-2] : offsets[-1]]
    assert "record 20 lies where record 21 belongs" in assert_refused({name: doubled}, 1, len(data))
    skipped = data[: offsets[4]] + data[offsets[5] :]
    assert "record 6 lies where record 5 belongs" in assert_refused({name: skipped}, 1, offsets[4])


def test_a_bad_record_with_good_ones_behind_says_so() -> None:
    files, ends, _ = written_log(seed=6, records=20, size_max=40)
    data = bytearray(files[segment_name(1)])
    data[ends[7][1] + 27] ^= 1
    text = assert_refused({segment_name(1): bytes(data)}, 1, ends[7][1])
    assert f"a good one follows at offset {ends[8][1]}" in text


def test_a_half_made_segment_is_forgotten() -> None:
    files, _, states = written_log(seed=7, records=60, size_max=40)
    header = encode_header(2, 61)
    for left in (b"", header[:1], header[:31], bytes(10), bytes(32), bytes(100)):
        disk = disk_with({**files, segment_name(2): left})
        wal = small_wal(disk)
        assert disk.names() == [segment_name(1)]
        assert states_of(wal) == states[-1]
    wal = small_wal(disk_with({**files, segment_name(2): header}))
    assert states_of(wal) == states[-1]
    assert wal.position == 60
    assert_refused({**files, segment_name(2): encode_header(2, 62)}, 2, 0)
    assert_refused({**files, segment_name(2): header[:31] + b"\xff"}, 2, 0)


def test_another_format_is_refused_as_such() -> None:
    files, _, _ = written_log(seed=7, records=5, size_max=40)
    header = struct.pack("<8sIQQ", b"NOKVWAL\n", 2, 1, 1)
    header += extend(0, header).to_bytes(4, "little")
    disk = disk_with({segment_name(1): header + files[segment_name(1)][32:]})
    with pytest.raises(StorageError, match="log format 2, this program reads 1") as caught:
        small_wal(disk)
    assert not isinstance(caught.value, CorruptionError)


def test_two_bytes_chopped_off_a_real_file_are_one_record_lost(tmp_path: Path) -> None:
    wal = small_wal(RealDisk(tmp_path))
    log = RaftLog(wal, region(1))
    log.append([entry(1), entry(2)])
    save(wal)
    wal.close()
    file = tmp_path / segment_name(1)
    file.write_bytes(file.read_bytes()[:-2])
    wal = small_wal(RealDisk(tmp_path))
    assert RaftLog(wal, region(1)).entries(LogIndex(1), LogIndex(2), NO_LIMIT) == [entry(1)]
    assert wal.position == 1
    wal.close()
