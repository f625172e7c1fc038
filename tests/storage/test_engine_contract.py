"""The engine contract, run over every implementation: LMDB and its twin in memory."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import ENGINE_KEY_BYTES_MAX
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.memory_engine import MemoryEngine

CF = ColumnFamily


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine = LmdbEngine(tmp_path / "db") if request.param == "lmdb" else MemoryEngine()
    yield made
    made.close()


def fill(engine: Engine, cf: ColumnFamily, *keys: bytes) -> None:
    for key in keys:
        engine.put(cf, key, b"value of " + key)


def test_get_sees_open_writes_and_nothing_else(engine: Engine) -> None:
    assert engine.get(CF.WRITE, b"a") is None
    engine.put(CF.WRITE, b"a", b"1")
    assert engine.get(CF.WRITE, b"a") == b"1"
    assert engine.get(CF.LOCK, b"a") is None
    engine.put(CF.WRITE, b"a", b"")
    assert engine.get(CF.WRITE, b"a") == b""


def test_delete_tells_whether_it_was_there(engine: Engine) -> None:
    assert not engine.delete(CF.LOCK, b"a")
    engine.put(CF.LOCK, b"a", b"1")
    assert engine.delete(CF.LOCK, b"a")
    assert not engine.delete(CF.LOCK, b"a")
    assert engine.get(CF.LOCK, b"a") is None


def test_seek_finds_the_first_key_at_or_above(engine: Engine) -> None:
    assert engine.seek(CF.WRITE, b"") is None
    fill(engine, CF.WRITE, b"b", b"d")
    assert engine.seek(CF.WRITE, b"") == (b"b", b"value of b")
    assert engine.seek(CF.WRITE, b"b") == (b"b", b"value of b")
    assert engine.seek(CF.WRITE, b"c") == (b"d", b"value of d")
    assert engine.seek(CF.WRITE, b"e") is None
    assert engine.seek(CF.DEFAULT, b"a") is None


def test_seek_back_finds_the_last_key_below(engine: Engine) -> None:
    assert engine.seek_back(CF.WRITE, b"") is None
    assert engine.seek_back(CF.WRITE, b"x") is None
    fill(engine, CF.WRITE, b"b", b"d")
    assert engine.seek_back(CF.WRITE, b"b") is None
    assert engine.seek_back(CF.WRITE, b"c") == (b"b", b"value of b")
    assert engine.seek_back(CF.WRITE, b"d") == (b"b", b"value of b")
    assert engine.seek_back(CF.WRITE, b"e") == (b"d", b"value of d")
    assert engine.seek_back(CF.WRITE, b"") == (b"d", b"value of d")


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (b"", b"", "abcd"),
        (b"b", b"", "bcd"),
        (b"", b"c", "ab"),
        (b"b", b"d", "bc"),
        (b"bb", b"cc", "c"),
        (b"c", b"c", ""),
        (b"d", b"b", ""),
        (b"x", b"", ""),
        (b"", b"a", ""),
    ],
)
def test_scan_keeps_bounds_in_both_directions(engine: Engine, start: bytes, end: bytes, found: str) -> None:
    fill(engine, CF.WRITE, b"a", b"b", b"c", b"d")
    expected = [(letter.encode(), b"value of " + letter.encode()) for letter in found]
    assert list(engine.scan(CF.WRITE, start, end)) == expected
    assert list(engine.scan(CF.WRITE, start, end, reverse=True)) == expected[::-1]


def test_writes_to_another_column_family_do_not_disturb_a_scan(engine: Engine) -> None:
    fill(engine, CF.WRITE, b"a", b"b", b"c")
    seen = []
    for key, _ in engine.scan(CF.WRITE, b"", b""):
        engine.put(CF.LOCK, key, b"lock")
        seen.append(key)
    assert seen == [b"a", b"b", b"c"]


def test_seeks_stay_right_between_writes(engine: Engine) -> None:
    for number in range(500):
        engine.put(CF.WRITE, b"%04d" % number, b"x" * 100)
        assert engine.seek_back(CF.WRITE, b"") == (b"%04d" % number, b"x" * 100)
    for number in range(0, 500, 2):
        assert engine.delete(CF.WRITE, b"%04d" % number)
        assert engine.seek(CF.WRITE, b"%04d" % number) == (b"%04d" % (number + 1), b"x" * 100)


def test_checkpoint_keeps_what_reads_see(engine: Engine) -> None:
    fill(engine, CF.META, b"a", b"b")
    engine.checkpoint()
    engine.delete(CF.META, b"a")
    engine.checkpoint()
    assert list(engine.scan(CF.META, b"", b"")) == [(b"b", b"value of b")]
    assert engine.statistics().checkpoints == 2
    assert engine.statistics().entries == 1


def test_dirty_bytes_rise_with_writes_and_end_with_a_checkpoint(engine: Engine) -> None:
    engine.checkpoint()
    clean = engine.dirty_bytes()
    for number in range(200):
        engine.put(CF.WRITE, b"%d" % number, b"x" * 1000)
    assert engine.dirty_bytes() >= clean + 200 * 1000
    engine.checkpoint()
    assert engine.dirty_bytes() == clean


def test_a_snapshot_is_the_last_checkpoint(engine: Engine) -> None:
    fill(engine, CF.WRITE, b"a", b"b")
    before = engine.snapshot()
    engine.checkpoint()
    engine.put(CF.WRITE, b"a", b"new")
    engine.delete(CF.WRITE, b"b")
    engine.put(CF.WRITE, b"c", b"new")
    after = engine.snapshot()
    engine.checkpoint()
    assert list(before.scan(CF.WRITE, b"", b"")) == []
    assert list(after.scan(CF.WRITE, b"", b"")) == [(b"a", b"value of a"), (b"b", b"value of b")]
    assert after.get(CF.WRITE, b"a") == b"value of a"
    assert after.seek(CF.WRITE, b"b") == (b"b", b"value of b")
    assert after.seek_back(CF.WRITE, b"") == (b"b", b"value of b")
    before.close()
    after.close()
    after.close()


def test_begun_checkpoints_call_back_once_and_then_finish(engine: Engine) -> None:
    calls = []
    done = threading.Event()

    def on_done() -> None:
        calls.append(threading.get_ident())
        done.set()

    for round_ in range(3):
        engine.put(CF.WRITE, b"%d" % round_, b"v")
        done.clear()
        engine.begin_checkpoint(on_done)
        assert done.wait(10)
        engine.finish_checkpoint()
        assert len(calls) == round_ + 1
        assert engine.get(CF.WRITE, b"%d" % round_) == b"v"
    assert engine.statistics().checkpoints == 3


def test_finish_waits_for_the_checkpoint(engine: Engine) -> None:
    for number in range(1000):
        engine.put(CF.WRITE, b"%d" % number, b"v" * 100)
    engine.begin_checkpoint(lambda: None)
    engine.finish_checkpoint()
    assert engine.statistics().entries == 1000


def test_nothing_may_be_called_while_a_checkpoint_runs(engine: Engine) -> None:
    engine.put(CF.WRITE, b"a", b"1")
    engine.begin_checkpoint(lambda: None)
    calls: list[Callable[[], object]] = [
        lambda: engine.put(CF.WRITE, b"b", b"1"),
        lambda: engine.delete(CF.WRITE, b"a"),
        lambda: engine.begin_checkpoint(lambda: None),
        engine.checkpoint,
        engine.snapshot,
    ]
    for call in calls:
        with pytest.raises(AssertionError):
            call()
    engine.finish_checkpoint()
    engine.put(CF.WRITE, b"b", b"1")
    assert engine.statistics().entries == 2


@pytest.mark.parametrize("key", [b"", b"x" * (ENGINE_KEY_BYTES_MAX + 1)])
def test_impossible_keys_are_our_own_bug(engine: Engine, key: bytes) -> None:
    with pytest.raises(AssertionError):
        engine.put(CF.WRITE, key, b"")
    with pytest.raises(AssertionError):
        engine.delete(CF.WRITE, key)


def test_the_longest_key_is_stored(engine: Engine) -> None:
    key = b"\xff" * ENGINE_KEY_BYTES_MAX
    engine.put(CF.WRITE, key, b"v")
    assert engine.seek_back(CF.WRITE, b"") == (key, b"v")


@pytest.mark.parametrize("seed", range(8))
def test_the_twins_agree_under_random_operations(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    clever: Engine = LmdbEngine(
        tmp_path / "db", map_bytes_initial=1 << 20, map_bytes_step=1 << 20, map_margin_bytes=1 << 19
    )
    naive: Engine = MemoryEngine()
    keys = [rng.randbytes(rng.choice([1, 2, 8, 40, 511])) for _ in range(300)]
    for _ in range(4000):
        cf, key, other = rng.choice(list(CF)), rng.choice(keys), rng.choice(keys)
        draw = rng.random()
        if draw < 0.45:
            value = rng.randbytes(rng.choice([0, 1, 100, 255, 2000, 9000]))
            clever.put(cf, key, value)
            naive.put(cf, key, value)
        elif draw < 0.65:
            assert clever.delete(cf, key) == naive.delete(cf, key)
        elif draw < 0.75:
            assert clever.get(cf, key) == naive.get(cf, key)
        elif draw < 0.85:
            assert clever.seek(cf, key) == naive.seek(cf, key)
            assert clever.seek_back(cf, key) == naive.seek_back(cf, key)
        elif draw < 0.98:
            reverse = rng.random() < 0.5
            end = rng.choice([b"", other])
            assert list(clever.scan(cf, key, end, reverse=reverse)) == list(naive.scan(cf, key, end, reverse=reverse))
        else:
            clever.checkpoint()
            naive.checkpoint()
    assert clever.statistics().entries == naive.statistics().entries
    clever.close()
    naive.close()
