"""The disk contract, run over both implementations; what a crash of the simulated one leaves; real faults."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nokv.storage.disk import Disk, MemoryDisk, RealDisk, free_bytes
from nokv.storage.engine import OutOfSpaceError, StorageError
from tests.storage.logs import contents


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path) if request.param == "real" else MemoryDisk()


def test_files_are_made_appended_to_and_read(disk: Disk) -> None:
    assert disk.names() == []
    disk.create("b")
    disk.create("a")
    disk.append("b", b"hello ")
    disk.append("b", bytearray(b"world"))
    disk.append("a", b"")
    assert disk.names() == ["a", "b"]
    assert (disk.size("a"), disk.size("b")) == (0, 11)
    assert disk.read("b", 0, 11) == b"hello world"
    assert disk.read("b", 6, 100) == b"world"
    assert disk.read("b", 6, 2) == b"wo"
    assert disk.read("b", 11, 5) == disk.read("b", 50, 5) == disk.read("a", 0, 5) == b""
    disk.sync("b")
    disk.sync_directory()
    assert disk.free_bytes() > 1 << 20
    disk.close()


def test_files_are_cut_renamed_and_removed(disk: Disk) -> None:
    for name in ("a", "b"):
        disk.create(name)
        disk.append(name, name.encode() * 10)
    disk.truncate("a", 4)
    disk.append("a", b"!")
    assert disk.read("a", 0, 100) == b"aaaa!"
    disk.rename("a", "b")
    assert disk.names() == ["b"]
    disk.append("b", b"?")
    assert disk.read("b", 0, 100) == b"aaaa!?"
    disk.remove("b")
    assert disk.names() == []
    disk.create("b")
    assert disk.size("b") == 0


def test_what_is_not_there_or_there_already_is_an_error(disk: Disk) -> None:
    disk.create("a")
    with pytest.raises(StorageError):
        disk.create("a")
    for call in (
        lambda: disk.size("x"),
        lambda: disk.read("x", 0, 1),
        lambda: disk.append("x", b"1"),
        lambda: disk.sync("x"),
        lambda: disk.truncate("x", 0),
        lambda: disk.rename("x", "y"),
        lambda: disk.remove("x"),
    ):
        with pytest.raises(StorageError):
            call()
    assert disk.names() == ["a"]


def test_a_closed_disk_opens_its_files_again(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.create("a")
    disk.append("a", b"1")
    disk.close()
    again = RealDisk(tmp_path)
    again.append("a", b"2")
    again.sync("a")
    assert again.read("a", 0, 9) == b"12"
    again.close()


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "missing")
    for call in (disk.names, disk.sync_directory, disk.free_bytes, lambda: disk.create("a")):
        with pytest.raises(StorageError):
            call()
    assert free_bytes(tmp_path) > 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_full_disk_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, taken: int) -> None:
    disk = RealDisk(tmp_path)
    disk.create("a")
    disk.append("a", b"before")
    write, calls = os.write, 0

    def nearly_full(handle: int, chunk: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1 and taken:
            return write(handle, bytes(chunk)[:taken])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("os.write", nearly_full)
        with pytest.raises(OutOfSpaceError):
            disk.append("a", b"0123456789")
    assert disk.read("a", 0, 100) == b"before"
    disk.append("a", b" and after")
    assert disk.read("a", 0, 100) == b"before and after"


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    disk.create("a")
    write, pread = os.write, os.pread
    monkeypatch.setattr("os.write", lambda handle, chunk: write(handle, bytes(chunk)[:3]))
    monkeypatch.setattr("os.pread", lambda handle, length, offset: pread(handle, min(length, 4), offset))
    disk.append("a", b"0123456789")
    assert disk.read("a", 0, 100) == b"0123456789"
    assert disk.read("a", 1, 7) == b"1234567"


def test_other_failures_are_not_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    disk.create("a")

    def fail(code: int) -> object:
        def call(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        return call

    with monkeypatch.context() as patch:
        patch.setattr("os.write", fail(errno.EIO))
        with pytest.raises(StorageError) as caught:
            disk.append("a", b"1")
        assert not isinstance(caught.value, OutOfSpaceError)
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail(errno.ENOSPC))
        with pytest.raises(StorageError) as caught:
            disk.sync("a")
        # What a sync could not write is lost, not refused.
        assert not isinstance(caught.value, OutOfSpaceError)


FULL_FILE = """
import resource, signal, sys
from nokv.storage.disk import RealDisk
from nokv.storage.engine import OutOfSpaceError, StorageError
from nokv.storage.raft_log import RaftLog
from nokv.storage.wal import Wal
from tests.storage.logs import entries, region

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wal = Wal(RealDisk(sys.argv[1]), segment_bytes=1 << 20)
log = RaftLog(wal, region(1))
log.append(entries(1, 10, size=1000))
wal.flush(); wal.sync()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
log.append(entries(11, 30, size=1000))
try:
    wal.flush()
except StorageError as error:
    print(type(error).__name__)
"""


def test_a_file_that_may_not_grow_is_cut_back_to_whole_records(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_FILE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "StorageError\n"
    (name,) = RealDisk(tmp_path).names()
    assert (tmp_path / name).stat().st_size == 32 + 10 * 1046


# ---- crashes of the simulated disk ----------------------------------------------------------------------------------


def crashed(seed: int, *, tear: bool = True) -> MemoryDisk:
    disk = MemoryDisk()
    disk.create("a")
    disk.append("a", b"s" * 1000)
    disk.sync("a")
    disk.sync_directory()
    disk.append("a", b"u" * 2000)
    disk.create("b")
    disk.append("b", b"x")
    disk.sync("b")
    disk.crash(random.Random(seed), tear=tear)
    return disk


def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() -> None:
    lengths, zeros, names = set(), 0, set()
    for seed in range(300):
        disk = crashed(seed)
        data = disk.read("a", 0, 1 << 20)
        assert data[:1000] == b"s" * 1000
        rest = data[1000:].rstrip(b"\0")
        assert rest == b"u" * len(rest)
        if len(rest) < len(data) - 1000:
            zeros += 1
            assert len(data) <= 3000
            assert len(rest) == 0 or (1000 + len(rest)) % 512 == 0
        lengths.add(len(rest))
        names.add(tuple(disk.names()))
        before = contents(disk)
        disk.crash(random.Random(seed))
        assert contents(disk) == before
    assert len(lengths) > 100
    assert zeros > 30
    assert names == {("a",), ("a", "b")}


def test_without_tearing_a_crash_keeps_only_what_was_synced() -> None:
    for seed in range(20):
        assert crashed(seed, tear=False).read("a", 0, 1 << 20) == b"s" * 1000


def test_an_unsynced_cut_may_come_undone() -> None:
    left = set()
    for seed in range(60):
        disk = MemoryDisk()
        disk.create("a")
        disk.append("a", b"0123456789")
        disk.sync("a")
        disk.sync_directory()
        disk.truncate("a", 6)
        disk.truncate("a", 4)
        disk.crash(random.Random(seed))
        left.add(disk.read("a", 0, 100))
    assert left == {b"0123", b"0123456789"}


def test_changes_of_names_happen_in_order_or_not_at_all() -> None:
    left = set()
    for seed in range(100):
        disk = MemoryDisk()
        disk.create("old")
        disk.append("old", b"1")
        disk.sync("old")
        disk.sync_directory()
        disk.rename("old", "new")
        disk.create("late")
        disk.remove("new")
        disk.crash(random.Random(seed))
        left.add(tuple(disk.names()))
    assert left == {("old",), ("new",), ("late", "new"), ("late",)}


def test_the_same_seed_crashes_alike() -> None:
    for seed in range(20):
        assert contents(crashed(seed)) == contents(crashed(seed))


def test_capacity_and_faults_are_simulated() -> None:
    disk = MemoryDisk(capacity_bytes=10)
    disk.create("a")
    disk.append("a", b"123456")
    with pytest.raises(OutOfSpaceError):
        disk.append("a", b"78901")
    assert disk.read("a", 0, 99) == b"123456"
    assert disk.free_bytes() == 4
    disk.append("a", b"7890")
    disk.fail_next("sync", StorageError("simulated"))
    with pytest.raises(StorageError, match="simulated"):
        disk.sync("a")
    disk.sync("a")
    disk.overwrite("a", 1, b"x")
    assert disk.read("a", 0, 3) == b"1x3"
