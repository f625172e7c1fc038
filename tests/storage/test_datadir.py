"""Data directories: refused without a trace, or taken and stamped; at most one owner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nokv.proto.ids import ClusterId, StoreId, WorkerId
from nokv.storage.datadir import (
    FORMAT,
    DataDir,
    DataDirLockedError,
    DataDirRefusedError,
    ForeignDirectoryError,
    FormatTooNewError,
    FormatTooOldError,
    Holds,
    Stamp,
    format_stamp,
    inspect,
    parse_stamp,
)


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory, with modification times."""
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, b"" if file.is_dir() else file.read_bytes())
        for file in sorted(path.rglob("*"))
    }


def assert_refused(path: Path, error: type[DataDirRefusedError], *words: str, holds: Holds = Holds.NODE) -> None:
    before = contents(path)
    with pytest.raises(error) as caught:
        DataDir.open(path, holds)
    assert contents(path) == before
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    for word in words:
        assert word in text


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    directory = DataDir.open(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "VERSION").read_bytes() == b"nokv data directory\nformat 1\nholds node\n"
    assert directory.stamp == Stamp(FORMAT, Holds.NODE)
    directory.close()
    directory.close()


@pytest.mark.parametrize("left", [[], ["LOCK"], ["LOCK", "VERSION.new"], ["lost+found"]])
def test_empty_and_half_made_directories_are_finished(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_bytes(b"")
    DataDir.open(tmp_path).close()
    assert parse_stamp(tmp_path, (tmp_path / "VERSION").read_bytes()) == Stamp(FORMAT, Holds.NODE)


def test_reopening_keeps_the_stamp_and_finds_the_parts(tmp_path: Path) -> None:
    directory = DataDir.open(tmp_path)
    directory.claim(ClusterId(77), StoreId(3))
    for number in (10, 2, 0):
        assert directory.worker(WorkerId(number)).is_dir()
    assert directory.manifest() == tmp_path / "manifest"
    assert directory.manifest().is_dir()
    directory.close()
    again = DataDir.open(tmp_path)
    assert again.stamp == Stamp(FORMAT, Holds.NODE, ClusterId(77), StoreId(3))
    assert again.workers() == [0, 2, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "LOCK",
        "VERSION",
        "manifest",
        "worker-00",
        "worker-02",
        "worker-10",
    ]
    again.claim(ClusterId(77), StoreId(3))
    again.close()


@pytest.mark.parametrize(("cluster", "store"), [(78, 3), (77, 4)])
def test_another_cluster_or_store_is_refused(tmp_path: Path, cluster: int, store: int) -> None:
    directory = DataDir.open(tmp_path)
    directory.claim(ClusterId(77), StoreId(3))
    before = contents(tmp_path)
    with pytest.raises(ForeignDirectoryError, match="belongs to cluster 77 store 3"):
        directory.claim(ClusterId(cluster), StoreId(store))
    assert contents(tmp_path) == before
    directory.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_bytes(b"nokv data directory\nformat 2\nsomething else that only format 2 has\n")
    assert_refused(tmp_path, FormatTooNewError, "format 2", "install a newer nokv")


def test_an_older_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_bytes(b"nokv data directory\nformat 0\nholds node\n")
    assert_refused(tmp_path, FormatTooOldError, "format 0", "upgrade")


def test_files_without_a_stamp_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    assert_refused(tmp_path, ForeignDirectoryError, "letters.txt", "choose an empty directory")


def test_parts_without_a_stamp_are_damage(tmp_path: Path) -> None:
    DataDir.open(tmp_path).close()
    (tmp_path / "worker-00").mkdir()
    (tmp_path / "VERSION").unlink()
    assert_refused(tmp_path, ForeignDirectoryError, "worker-00", "damaged")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nokv data directory\n",
        b"nokv data directory\nformat one\nholds node\n",
        b"nokv data directory\nformat 1\nholds everything\n",
        b"nokv data directory\nformat 1\nholds node\nmore\n",
        b"nokv data directory\nformat 1\nholds node",
        b"nokv data directory\nformat 1\nholds node\ncluster x\nstore 1\n",
        b"nokv data directory\nformat 1\nholds node\nstore 1\n",
        b"another data directory\nformat 1\nholds node\n",
        b"\xff\xfe",
    ],
)
def test_a_stamp_nobody_of_us_wrote_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "VERSION").write_bytes(text)
    assert_refused(tmp_path, ForeignDirectoryError, "VERSION")


def test_a_directory_for_something_else_is_refused(tmp_path: Path) -> None:
    DataDir.open(tmp_path, Holds.WORKER).close()
    assert_refused(tmp_path, ForeignDirectoryError, "data of a worker", "not of a node")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(ForeignDirectoryError, match="is not a directory"):
        DataDir.open(path)


def test_stamps_round_trip(tmp_path: Path) -> None:
    for holds in Holds:
        for cluster, store in ((0, 0), (1, 1), ((1 << 63) - 1, 12)):
            stamp = Stamp(FORMAT, holds, ClusterId(cluster), StoreId(store))
            assert parse_stamp(tmp_path, format_stamp(stamp)) == stamp


def test_inspecting_touches_nothing(tmp_path: Path) -> None:
    assert inspect(tmp_path / "missing", Holds.NODE) is None
    assert inspect(tmp_path, Holds.NODE) is None
    assert list(tmp_path.iterdir()) == []


def test_a_second_owner_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path)
    assert_refused(tmp_path, DataDirLockedError, f"process {os.getpid()}")
    first.close()
    DataDir.open(tmp_path).close()


def test_the_lock_holds_across_processes_and_ends_with_them(tmp_path: Path) -> None:
    code = (
        "import sys; from nokv.storage.datadir import DataDir; d = DataDir.open(sys.argv[1]); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert_refused(tmp_path, DataDirLockedError, f"process {holder.pid}")
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    DataDir.open(tmp_path).close()
