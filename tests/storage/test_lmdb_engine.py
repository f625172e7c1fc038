"""What only the LMDB engine does: threads, growth, full disks, checksums, one handle for each environment."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nokv.storage import lmdb_engine
from nokv.storage.engine import ColumnFamily, CorruptionError, OutOfSpaceError, SnapshotExpiredError, StorageError
from nokv.storage.lmdb_engine import LmdbEngine

CF = ColumnFamily
KIB = 1 << 10
MIB = 1 << 20


def small_engine(path: Path) -> LmdbEngine:
    """One whose map and file are so small that they must grow."""
    return LmdbEngine(
        path, map_bytes_initial=MIB, map_bytes_step=MIB, map_margin_bytes=256 * KIB, preallocate_bytes=64 * KIB
    )


def test_only_checkpoints_survive(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "db")
    engine.put(CF.WRITE, b"kept", b"1")
    engine.checkpoint()
    engine.put(CF.WRITE, b"lost", b"1")
    engine.delete(CF.WRITE, b"kept")
    engine.close()
    engine.close()
    again = LmdbEngine(tmp_path / "db")
    assert list(again.scan(CF.WRITE, b"", b"")) == [(b"kept", b"1")]
    again.close()


def test_a_checkpoint_runs_on_the_engines_thread_and_never_on_the_owners(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "db")
    threads: list[str] = []
    done = threading.Event()

    def on_done() -> None:
        threads.append(threading.current_thread().name)
        done.set()

    for number in range(20):
        for key in range(50):
            engine.put(CF.WRITE, b"%d-%d" % (number, key), b"v" * 100)
        done.clear()
        engine.begin_checkpoint(on_done)
        assert done.wait(30)
        engine.finish_checkpoint()
    # The callback of a checkpoint that ended before it could be registered is called at once, by the owner.
    assert all(name.startswith("checkpoint") or name == "MainThread" for name in threads)
    assert engine.statistics().entries == 1000
    engine.close()


def test_the_map_grows_before_a_bounded_transaction_can_fill_it(tmp_path: Path) -> None:
    engine = small_engine(tmp_path / "db")
    sizes = []
    for round_ in range(60):
        for key in range(40):
            engine.put(CF.WRITE, b"%d-%d" % (round_, key), b"v" * 2500)
        engine.checkpoint()
        statistics = engine.statistics()
        assert statistics.used_bytes + 256 * KIB <= statistics.map_bytes
        sizes.append(statistics.map_bytes)
    assert len(set(sizes)) >= 3
    assert engine.statistics().entries == 2400
    engine.close()
    again = small_engine(tmp_path / "db")
    assert again.get(CF.WRITE, b"59-39") == b"v" * 2500
    assert again.statistics().map_bytes >= again.statistics().used_bytes + 256 * KIB
    again.close()


def test_growing_the_map_expires_snapshots_by_name(tmp_path: Path) -> None:
    engine = small_engine(tmp_path / "db")
    engine.put(CF.WRITE, b"a", b"1")
    engine.checkpoint()
    snapshot = engine.snapshot()
    scan = snapshot.scan(CF.WRITE, b"", b"")
    assert next(scan) == (b"a", b"1")
    before = engine.statistics().map_bytes
    for key in range(400):
        engine.put(CF.WRITE, b"%d" % key, b"v" * 2500)
        if key % 40 == 39:
            engine.checkpoint()
    assert engine.statistics().map_bytes > before
    with pytest.raises(SnapshotExpiredError):
        snapshot.get(CF.WRITE, b"a")
    with pytest.raises(SnapshotExpiredError):
        snapshot.seek(CF.WRITE, b"a")
    with pytest.raises(SnapshotExpiredError):
        snapshot.seek_back(CF.WRITE, b"")
    with pytest.raises(SnapshotExpiredError):
        next(scan)
    with pytest.raises(SnapshotExpiredError):
        next(snapshot.scan(CF.WRITE, b"", b""))
    snapshot.close()
    fresh = engine.snapshot()
    assert fresh.get(CF.WRITE, b"a") == b"1"
    fresh.close()
    engine.close()


def test_snapshots_can_be_read_while_a_checkpoint_runs(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "db")
    for key in range(1000):
        engine.put(CF.WRITE, b"%04d" % key, b"old")
    engine.checkpoint()
    snapshot = engine.snapshot()
    for key in range(1000):
        engine.put(CF.WRITE, b"%04d" % key, b"new")
    engine.begin_checkpoint(lambda: None)
    assert {value for _, value in snapshot.scan(CF.WRITE, b"", b"")} == {b"old"}
    engine.finish_checkpoint()
    assert {value for _, value in snapshot.scan(CF.WRITE, b"", b"")} == {b"old"}
    snapshot.close()
    with pytest.raises(AssertionError):
        snapshot.get(CF.WRITE, b"0000")
    engine.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_refuses_the_checkpoint_and_keeps_the_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    engine = small_engine(tmp_path / "db")
    engine.put(CF.WRITE, b"before", b"1")
    engine.checkpoint()
    file_bytes = (tmp_path / "db" / "data.mdb").stat().st_size

    def full(handle: int, offset: int, length: int) -> None:
        os.ftruncate(handle, offset + length // 2)
        raise OSError(code, os.strerror(code))

    for key in range(100):
        engine.put(CF.WRITE, b"%d" % key, b"v" * 2500)
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        for _ in range(3):
            with pytest.raises(OutOfSpaceError):
                engine.checkpoint()
            assert engine.get(CF.WRITE, b"7") == b"v" * 2500
            assert engine.seek(CF.WRITE, b"before") == (b"before", b"1")
            engine.put(CF.WRITE, b"more", b"1")
            assert (tmp_path / "db" / "data.mdb").stat().st_size == file_bytes
    engine.checkpoint()
    engine.close()
    again = small_engine(tmp_path / "db")
    assert again.statistics().entries == 102
    again.close()


def test_commits_stay_within_the_allocated_file(tmp_path: Path) -> None:
    rng = random.Random(1)
    engine = LmdbEngine(
        tmp_path / "db",
        map_bytes_initial=32 * MIB,
        map_bytes_step=32 * MIB,
        map_margin_bytes=16 * MIB,
        preallocate_bytes=64 * KIB,
    )
    file = tmp_path / "db" / "data.mdb"
    for _ in range(80):
        for _ in range(rng.choice([1, 20, 200])):
            key = b"%06d" % rng.randrange(3000)
            if rng.random() < 0.3:
                engine.delete(rng.choice([CF.WRITE, CF.LOCK]), key)
            else:
                engine.put(
                    rng.choice([CF.WRITE, CF.LOCK]), key, rng.randbytes(rng.choice([5, 200, 1900, 2100, 30_000]))
                )
        bound = engine._bound.limit()
        before = engine.statistics().used_bytes
        engine.checkpoint()
        assert engine.statistics().used_bytes <= before + bound * 4096
        assert engine.statistics().used_bytes <= engine._file_bytes == file.stat().st_size
        assert file.stat().st_blocks * 512 >= file.stat().st_size
    engine.close()


def test_dirty_bytes_is_an_upper_estimate_of_what_is_written(tmp_path: Path) -> None:
    rng = random.Random(2)
    engine = LmdbEngine(tmp_path / "db")
    for key in range(20_000):
        engine.put(CF.WRITE, b"%06d" % key, b"v" * 128)
    engine.checkpoint()
    assert engine.dirty_bytes() < 100 * KIB
    for _ in range(500):
        engine.put(CF.WRITE, b"%06d" % rng.randrange(20_000), b"w" * 128)
    written_bytes = engine.dirty_bytes()
    used_bytes = engine.statistics().used_bytes
    engine.checkpoint()
    assert engine.statistics().used_bytes - used_bytes <= written_bytes <= 3 * MIB
    engine.close()


def test_a_failed_commit_closes_the_engine_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    engine = small_engine(tmp_path / "db")
    engine.put(CF.WRITE, b"a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", broken)
        for key in range(100):
            engine.put(CF.WRITE, b"%d" % key, b"v" * 2500)
        with pytest.raises(StorageError) as caught:
            engine.checkpoint()
    assert not isinstance(caught.value, OutOfSpaceError)
    calls: list[Callable[[], object]] = [engine.checkpoint, engine.snapshot, lambda: engine.get(CF.WRITE, b"a")]
    for call in calls:
        with pytest.raises(AssertionError):
            call()
    engine.close()
    again = small_engine(tmp_path / "db")
    assert again.statistics().entries == 0
    again.close()


def test_an_environment_is_open_once(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "db")
    (tmp_path / "link").symlink_to(tmp_path / "db")
    for path in (tmp_path / "db", tmp_path / "link"):
        with pytest.raises(AssertionError, match="already open"):
            LmdbEngine(path)
    engine.put(CF.WRITE, b"a", b"1")
    engine.checkpoint()
    engine.close()
    LmdbEngine(tmp_path / "link").close()


def test_a_failed_open_leaves_no_handle(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"not LMDB at all" * 1000)
    for _ in range(2):
        with pytest.raises(CorruptionError):
            LmdbEngine(tmp_path / "db")
    with pytest.raises(StorageError):
        LmdbEngine(tmp_path / "missing" / "db")


def test_a_forked_child_cannot_use_the_engine(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "db")
    engine.put(CF.WRITE, b"a", b"1")
    child = os.fork()
    if child == 0:
        refused = 0
        calls: list[Callable[[], object]] = [
            lambda: engine.get(CF.WRITE, b"a"),
            lambda: engine.put(CF.WRITE, b"a", b"2"),
            engine.checkpoint,
        ]
        for call in calls:
            try:
                call()
            except AssertionError as error:
                refused += "fork" in str(error)
        engine.close()
        os._exit(0 if refused == 3 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    engine.checkpoint()
    assert engine.get(CF.WRITE, b"a") == b"1"
    engine.close()


def test_every_flip_in_a_value_is_found_and_none_is_served(tmp_path: Path) -> None:
    rng = random.Random(3)
    engine = LmdbEngine(tmp_path / "db", preallocate_bytes=64 * KIB)
    pairs = {b"%04d" % key: rng.randbytes(rng.choice([40, 300, 3000])) for key in range(300)}
    for key, value in pairs.items():
        engine.put(CF.WRITE, key, value)
    engine.checkpoint()
    engine.close()
    clean = (tmp_path / "db" / "data.mdb").read_bytes()
    for _ in range(60):
        key = rng.choice(sorted(pairs))
        at, bit = rng.randrange(len(pairs[key])), 1 << rng.randrange(8)
        damaged = bytearray(pairs[key])
        damaged[at] ^= bit
        # Everywhere: a page that was split keeps a dead copy of what went to the other half.
        flipped = clean.replace(pairs[key], bytes(damaged))
        assert flipped != clean
        (tmp_path / "db" / "data.mdb").write_bytes(flipped)
        engine = LmdbEngine(tmp_path / "db", preallocate_bytes=64 * KIB)
        with pytest.raises(CorruptionError, match=key.hex()):
            engine.get(CF.WRITE, key)
        with pytest.raises(CorruptionError):
            list(engine.scan(CF.WRITE, b"", b""))
        with pytest.raises(CorruptionError):
            list(engine.scan(CF.WRITE, b"", b"", reverse=True))
        with pytest.raises(CorruptionError):
            engine.seek(CF.WRITE, key)
        with pytest.raises(CorruptionError):
            engine.seek_back(CF.WRITE, key + b"\0")
        engine.close()


def test_a_value_is_not_taken_for_another_keys_or_familys(tmp_path: Path) -> None:
    sealed = lmdb_engine._seal(CF.WRITE, b"key", b"value")
    assert lmdb_engine._unseal(CF.WRITE, b"key", sealed) == b"value"
    for cf, key, stored in [
        (CF.LOCK, b"key", sealed),
        (CF.WRITE, b"kez", sealed),
        (CF.WRITE, b"ke", b"y" + sealed),
        (CF.WRITE, b"key", sealed[1:]),
        (CF.WRITE, b"key", sealed + b"\0"),
        (CF.WRITE, b"key", b""),
        (CF.WRITE, b"key", b"abc"),
    ]:
        with pytest.raises(CorruptionError):
            lmdb_engine._unseal(cf, key, stored)


WRITER = """
import sys
from nokv.storage.engine import ColumnFamily as CF
from nokv.storage.lmdb_engine import LmdbEngine

engine = LmdbEngine(sys.argv[1])
stored = engine.get(CF.META, b"round")
number = 0 if stored is None else int(stored)
while True:
    number += 1
    for key in range(200):
        engine.put(CF.WRITE, b"%03d" % key, b"%d" % number * 50)
    engine.put(CF.META, b"round", b"%d" % number)
    engine.begin_checkpoint(lambda: None)
    engine.finish_checkpoint()
    print(number, flush=True)
"""


@pytest.mark.processes
def test_kill_9_leaves_exactly_one_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(4)
    acknowledged = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            for _ in range(rng.randint(1, 40)):
                acknowledged = int(writer.stdout.readline())
        finally:
            writer.send_signal(signal.SIGKILL)
            rest, _ = writer.communicate(timeout=30)
        acknowledged = max([acknowledged, *(int(line) for line in rest.splitlines() if line)])
        engine = LmdbEngine(tmp_path / "db")
        stored = engine.get(CF.META, b"round")
        assert stored is not None
        number = int(stored)
        assert acknowledged <= number <= acknowledged + 1
        assert [value for _, value in engine.scan(CF.WRITE, b"", b"")] == [b"%d" % number * 50] * 200
        engine.close()
