"""What the storage layer costs here and now: `python -m tests.storage.bench [directory]`.

Not a test: figures depend on the machine. CPU costs are per operation on one core, syncs are wall time.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median

from nokv.proto.ids import LogIndex, Ts
from nokv.storage.disk import RealDisk
from nokv.storage.engine import ColumnFamily
from nokv.storage.keys import decode_versioned_key, versioned_key
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.raft_log import RaftLog
from nokv.storage.wal import Wal
from tests.storage.logs import NO_LIMIT, entry, hard_state, region

VALUE = b"v" * 128


def cpu_us(count: int, call: Callable[[], object]) -> float:
    """CPU microseconds for each of `count` operations that one call does."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / count * 1e6


def wall_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def each(call: Callable[[bytes], object], keys: Iterable[bytes]) -> None:
    for key in keys:
        call(key)


def encode(key: bytes) -> bytes:
    return versioned_key(key, Ts(5))


def report(name: str, figure: float, unit: str) -> None:
    print(f"{name:<58} {figure:9.2f} {unit}")


def bench_keys() -> None:
    count = 200_000
    for size in (7, 16, 100):
        keys = [b"k" * size] * count
        report(f"versioned_key, {size}-byte key", cpu_us(count, partial(each, encode, keys)), "us")
    stored = versioned_key(b"k" * 16, Ts(5))
    report(
        "decode_versioned_key, 16-byte key",
        cpu_us(count, lambda: [decode_versioned_key(stored) for _ in range(count)]),
        "us",
    )


def bench_engine(path: Path) -> None:
    rng = random.Random(1)
    engine = LmdbEngine(path / "db")
    keys = [versioned_key(rng.randbytes(16), Ts(5)) for _ in range(200_000)]
    write = ColumnFamily.WRITE
    for at in range(0, len(keys), 10_000):
        for key in keys[at : at + 10_000]:
            engine.put(write, key, VALUE)
        engine.checkpoint()
    some = rng.sample(keys, 20_000)

    def put(key: bytes) -> None:
        engine.put(write, key, VALUE)

    report(
        "engine put into the open transaction, 200k keys",
        cpu_us(20_000, lambda: each(put, some)),
        "us",
    )
    engine.checkpoint()
    report("engine get", cpu_us(20_000, lambda: [engine.get(write, key) for key in some]), "us")
    report("engine seek", cpu_us(20_000, lambda: [engine.seek(write, key) for key in some]), "us")
    report("engine seek_back", cpu_us(20_000, lambda: [engine.seek_back(write, key) for key in some]), "us")
    report("engine scan, per pair", cpu_us(200_000, lambda: sum(1 for _ in engine.scan(write, b"", b""))), "us")
    report("engine dirty_bytes", cpu_us(20_000, lambda: [engine.dirty_bytes() for _ in range(20_000)]), "us")
    for count in (0, 100, 1000, 5000):
        costs, begins, estimates = [], [], []
        for _ in range(9):
            for key in rng.sample(keys, count):
                engine.put(write, key, VALUE)
            estimates.append(engine.dirty_bytes() / (1 << 20))
            begins.append(wall_ms(lambda: engine.begin_checkpoint(lambda: None)))
            costs.append(begins[-1] + wall_ms(engine.finish_checkpoint))
        report(f"checkpoint of {count} random puts, median of 9", median(costs), "ms")
        report("  of that in the owner's begin_checkpoint", median(begins), "ms")
        report("  dirty_bytes before it", median(estimates), "MiB")
    engine.close()


def bench_log(path: Path) -> None:
    directory = path / "wal"
    directory.mkdir()
    wal = Wal(RealDisk(directory))
    log = RaftLog(wal, region(1))
    count = 100_000
    added = [entry(index, data=VALUE) for index in range(1, count + 1)]

    def append_all() -> None:
        for one in added:
            log.append([one])

    report("log append of one entry", cpu_us(count, append_all), "us")
    report("log flush, per entry", cpu_us(count, wal.flush), "us")
    wal.sync()
    costs = []
    for index in range(count + 1, count + 400):
        log.append([entry(index, data=VALUE)])
        log.set_hard_state(hard_state(1, 1, index))
        costs.append(wall_ms(lambda: (wal.flush(), wal.sync())))
    report("log flush and sync of one entry, median", median(costs), "ms")
    report("log flush and sync of one entry, 99th percentile", sorted(costs)[-4], "ms")
    last = log.last_index()
    report(
        "log entries(), newest 10",
        cpu_us(1000, lambda: [log.entries(LogIndex(last - 9), LogIndex(last + 1), NO_LIMIT) for _ in range(1000)]),
        "us",
    )
    report(
        "log term() of a recent entry",
        cpu_us(count, lambda: [log.term(LogIndex(last - 3)) for _ in range(count)]),
        "us",
    )
    wal.close()
    report("log replay, per record", cpu_us(count, lambda: Wal(RealDisk(directory), cache_bytes=0)), "us")
    cold = RaftLog(Wal(RealDisk(directory), cache_bytes=0), region(1))
    report(
        "log entries() read back from the file, per entry",
        cpu_us(5000, lambda: cold.entries(LogIndex(1), LogIndex(5001), NO_LIMIT)),
        "us",
    )
    report("log compaction of 4,096 entries", wall_ms(lambda: cold.compact(LogIndex(4096))), "ms")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        bench_keys()
        bench_engine(Path(directory))
        bench_log(Path(directory))


if __name__ == "__main__":
    main()
