"""Engine calls are counted, so that a key's history never finds its way into the cost of a request."""

from collections import Counter
from collections.abc import Iterator

import pytest

from nokv.mvcc.evaluate import evaluate, evaluate_read
from nokv.mvcc.history import history
from nokv.proto.ids import LATEST
from nokv.proto.kv import AtomicOp, GetRequest, KvRequest, ReadRequest, ResolveLockReply
from nokv.proto.region import FIRST_EPOCH
from nokv.storage.engine import ColumnFamily
from nokv.storage.memory_engine import MemoryEngine
from tests.mvcc.ask import (
    Store,
    atomic,
    check,
    commit_keys,
    get,
    lock,
    ms,
    one_phase,
    prewrite,
    put,
    resolve,
    rollback,
    scan,
)


class CountingEngine(MemoryEngine):
    """Counts calls, and every record that a scan yields as one."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        self.calls["get"] += 1
        return super().get(cf, key)

    def seek(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        self.calls["seek"] += 1
        return super().seek(cf, key)

    def seek_back(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        self.calls["seek"] += 1
        return super().seek_back(cf, key)

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for pair in super().scan(cf, start, end, reverse=reverse):
            self.calls["step"] += 1
            yield pair

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        self.calls["put"] += 1
        super().put(cf, key, value)

    def delete(self, cf: ColumnFamily, key: bytes) -> bool:
        self.calls["delete"] += 1
        return super().delete(cf, key)


@pytest.fixture
def store() -> Store:
    store = Store()
    store.engine = store.leader.engine = CountingEngine()
    return store


def cost(store: Store, request: KvRequest, at: int = 0) -> dict[str, int]:
    """Engine calls of one request, without those of validating and answering."""
    engine = store.engine
    assert isinstance(engine, CountingEngine)
    engine.calls.clear()
    if isinstance(request, ReadRequest):
        evaluate_read(engine, request)
    else:
        evaluate(engine, request, commit_ts=ms(at), ts_limit=ms(at))
    return dict(engine.calls)


def test_hot_paths(store: Store) -> None:
    assert cost(store, one_phase(10, put(b"k"), blind=True), at=15) == {"get": 2, "seek": 1, "put": 1}
    assert cost(store, one_phase(20, put(b"k"), blind=True), at=25) == {"get": 2, "seek": 1, "put": 1}
    assert cost(store, get(b"k", 30)) == {"get": 1, "seek": 1}
    assert cost(store, prewrite(30, put(b"k"))) == {"get": 2, "seek": 1, "put": 1}
    assert cost(store, commit_keys(30, 40, b"k")) == {"get": 1, "put": 1, "delete": 1}
    assert cost(store, atomic(AtomicOp.APPEND, b"k", b"1", 50), at=55) == {"get": 2, "seek": 1, "put": 1}


def test_raised_writes_and_duplicates(store: Store) -> None:
    store.committed(b"k", b"v", 1, 12)
    request = one_phase(10, put(b"k"), blind=True)
    assert cost(store, request, at=20) == {"get": 2, "seek": 2, "put": 2}
    for start in range(20, 200, 2):
        store.ask(one_phase(start * 100, put(b"k")))
    assert cost(store, request, at=9000) == {"get": 2, "seek": 1}
    assert cost(store, commit_keys(10, 9000, b"k")) == {"get": 2}


def test_nothing_walks_over_a_run_of_marks_and_locks(store: Store) -> None:
    """M31 and M51: a key whose transactions keep failing, or only lock it, reads like any other."""
    store.committed(b"k", b"v", 1, 2)
    store.ask(one_phase(3, put(b"unrelated")))
    for number in range(300):
        store.ask(rollback(10 + 20 * number, b"k"))
        store.ask(prewrite(15 + 20 * number, lock(b"k")))
        store.ask(commit_keys(15 + 20 * number, 18 + 20 * number, b"k"))
    assert store.value(b"k", 90_000) == b"v"
    assert cost(store, get(b"k", 90_000)) == {"get": 2, "seek": 1}
    assert cost(store, GetRequest(FIRST_EPOCH, b"k", LATEST)) == {"get": 2, "seek": 1}
    assert cost(store, get(b"k", 3001)) == {"get": 2, "seek": 1}
    assert cost(store, check(b"k", 5, current=6)) == {"get": 2, "seek": 1}
    assert cost(store, one_phase(90_000, put(b"k")), at=90_001) == {"get": 2, "seek": 1, "put": 1}
    assert sum(cost(store, scan(90_000)).values()) < 30
    assert sum(cost(store, scan(3001, reverse=True)).values()) < 30


def test_resolve_looks_at_a_bounded_number_of_locks(store: Store) -> None:
    for number in range(50):
        store.ask(prewrite(10 + number % 2, put(b"%02d" % number), primary=b"00"))
    begin, resolved, pages = b"", 0, 0
    while True:
        limits = type(store.leader.apply_limits)(resolve_visited_max=8)
        reply = evaluate(store.engine, resolve(10, 0, begin=begin), limits=limits)
        assert isinstance(reply, ResolveLockReply)
        assert reply.resolved <= 8
        resolved += reply.resolved
        pages += 1
        assert reply.more == bool(reply.resume)
        if not reply.more:
            break
        begin = reply.resume
    assert resolved == 25
    # Foreign locks are looked at again by nobody: each page begins where the last one ended.
    assert 5 <= pages <= 8


def test_resolve_stays_in_its_region(store: Store) -> None:
    store.ask(prewrite(10, put(b"a"), put(b"b"), put(b"c")))
    assert evaluate(store.engine, resolve(10, 0), region_start=b"b", region_end=b"c") == ResolveLockReply(1)
    assert evaluate(store.engine, resolve(10, 0, begin=b"b"), region_start=b"a") == ResolveLockReply(1)
    assert store.history(b"a").lock is not None


# ---- for human eyes -------------------------------------------------------------------------------------------------


def test_history_describes_every_record(store: Store) -> None:
    long = b"x" * 300
    store.committed(b"k", b"12345", 10, 20)
    store.committed(b"k", long, 30, 40)
    store.ask(atomic(AtomicOp.COMPARE_AND_SET, b"k", b"", 41, b""))
    store.ask(rollback(42, b"k"))
    store.ask(one_phase(43, lock(b"k")))
    evaluate(store.engine, atomic(AtomicOp.COMPARE_AND_SET, b"k", None, 35, long), commit_ts=ms(50), ts_limit=ms(50))
    evaluate(store.engine, one_phase(36, put(b"k", long), blind=True), commit_ts=ms(60), ts_limit=ms(60))
    store.ask(prewrite(70, put(b"k", b"new"), primary=b"p", ttl=7, min_commit=71))
    assert store.history(b"k").describe() == [
        "lock 70.0 PUT primary b'p' ttl 7 ms min_commit 71.0, 3 bytes",
        "write 60.0 PUT by 36.0, long value, raised",
        "write 50.0 DELETE by 35.0, raised",
        "write 43.1 LOCK by 43.0 over 40.0",
        "write 40.0 PUT by 30.0, long value",
        "write 20.0 PUT by 10.0, 5 bytes",
        "trace 42.0 ROLLED_BACK",
        "trace 41.0 REFUSED 40.0",
        "trace 36.0 RAISED 60.0",
        "trace 35.0 RAISED 50.0",
        "trace 30.0 VALUE of 300 bytes",
    ]
    store.ask(rollback(70, b"k"))
    store.ask(prewrite(80, put(b"k", long)))
    assert store.history(b"k").describe()[0].endswith("long value")
    bounded = history(store.engine, b"k", records_max=2)
    assert (len(bounded.commits), len(bounded.traces)) == (2, 2)
    assert store.history(b"nothing").describe() == []
