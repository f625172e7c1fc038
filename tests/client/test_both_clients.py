"""Both clients over real sockets, on the same tests: what a program sees."""

import time
from pathlib import Path
from typing import Any

import pytest

import nokv
from nokv.proto.control import StoreInfo
from nokv.proto.errors import EpochNotMatch, KeyIsLocked, NotLeader, ServerIsBusy, SnapshotTooOld
from nokv.proto.frame import Kind
from nokv.proto.ids import RegionId, StoreId, Ts
from nokv.topology import Topology, encode
from tests.client.both import Db
from tests.client.fake_cluster import FakeCluster, Fault
from tests.client.fake_nodes import FakeNodes


def test_put_get_delete(db: Db) -> None:
    """S46."""
    assert db.get(b"k") is None
    assert db.get(b"k", b"none") == b"none"
    assert db.get(b"k", 7) == 7
    db.put(b"k", b"v")
    assert db.get(b"k") == b"v"
    assert db.get(b"k", b"none") == b"v"
    assert db.exists(b"k")
    db.put(bytearray(b"k"), memoryview(b""))
    assert db.get(b"k", b"none") == b""
    assert db.exists(b"k")
    db.delete(b"k")
    assert db.get(b"k") is None
    assert not db.exists(b"k")
    db.delete(b"k")


def test_many_keys_over_regions(db: Db) -> None:
    pairs = [(b"%c%d" % (97 + i % 26, i), b"%d" % i) for i in range(300)]
    for key, value in pairs[:60]:
        db.put(key, value)
    found = db.get_many([key for key, _ in reversed(pairs)])
    assert list(found.items()) == pairs[:60][::-1]
    db.put_many({b"a": b"1", b"b": bytearray(b"2")})
    db.put_many(iter([(b"q", b"3"), (b"r", b"4")]))
    db.delete_many([b"a", b"q"][:1])
    assert db.get_many([b"a", b"b", b"q", b"r"]) == {b"b": b"2", b"q": b"3", b"r": b"4"}
    with pytest.raises(nokv.CrossRegionError):
        db.put_many({b"a": b"1", b"z": b"1"})
    with pytest.raises(nokv.CrossRegionError):
        db.delete_many([b"b", b"r"])
    assert db.get_many([b"b", b"r"]) == {b"b": b"2", b"r": b"4"}


def test_scans(db: Db, cluster: FakeCluster) -> None:
    """S47: over borders, in exact order, both ways, with limits and pages of any size."""
    keys = sorted(
        {b"a", b"ab", b"ab\0", b"ab\0\0", b"ab\x01", b"gz", b"h", b"h\0", b"oo", b"p", b"zz", b"\xff", b"\xff\xff"}
    )
    cluster.put((key, b"v" + key) for key in keys)
    pairs = [(key, b"v" + key) for key in keys]
    for page in (1, 2, 1000):
        assert db.scan(page=page) == pairs
        assert db.scan(reverse=True, page=page) == pairs[::-1]
        assert db.scan(b"ab", b"h\0", page=page) == [p for p in pairs if b"ab" <= p[0] < b"h\0"]
        assert db.scan(b"ab", b"p", reverse=True, page=page) == [p for p in pairs if b"ab" <= p[0] < b"p"][::-1]
        assert db.scan(prefix=b"ab", page=page) == [p for p in pairs if p[0].startswith(b"ab")]
        assert db.scan(prefix=b"\xff", page=page) == pairs[-2:]
        assert db.scan(b"ab", limit=6, page=page) == pairs[1:7]
        assert db.scan(limit=6, reverse=True, page=page) == pairs[::-1][:6]
        assert db.scan(b"h", b"h", page=page) == db.scan(b"z", b"a", page=page) == []
    assert db.scan(keys_only=True, limit=3) == [(key, b"") for key in keys[:3]]
    first = db.scan(limit=1)[0]
    assert (first.key, first.value) == pairs[0]


def test_limited_scan_asks_for_no_more_than_it_needs(db: Db, cluster: FakeCluster) -> None:
    cluster.put((b"a%03d" % i, b"v") for i in range(100))
    assert len(db.scan(limit=4)) == 4
    assert [request.limit for request in cluster.requests(Kind.KV_SCAN)] == [4]  # type: ignore[attr-defined]


def test_scan_is_one_snapshot(db: Db, cluster: FakeCluster) -> None:
    """Keys written while it runs are not seen, and splits under way change nothing."""
    cluster.put((b"%c%d" % (97 + i, i), b"old") for i in range(20))
    scanned = []

    def disturb(asked: Any) -> None:
        if asked.kind == Kind.KV_SCAN:
            scanned.append(asked)
            if len(scanned) in (2, 4):
                cluster.put((b"%c%d" % (97 + i, i), b"new") for i in range(26))
                cluster.split((b"d", b"r")[len(scanned) // 4])

    cluster.rule(disturb)
    pairs = db.scan(page=3)
    assert len(pairs) == 20
    assert {pair.value for pair in pairs} == {b"old"}
    assert len({request.ts for request in cluster.requests(Kind.KV_SCAN)}) == 1  # type: ignore[attr-defined]
    assert len(db.scan()) == 26


def test_snapshots(db: Db) -> None:
    db.put(b"a", b"1")
    db.put(b"z", b"1")
    before = db.now()
    db.put(b"a", b"2")
    db.delete(b"z")
    reads = (lambda s: s.get(b"a"), lambda s: s.get_many([b"a", b"z"]), lambda s: s.scan(), lambda s: s.get(b"q", b"-"))
    assert db.snapshot_reads(before, *reads) == [
        before,
        b"1",
        {b"a": b"1", b"z": b"1"},
        [(b"a", b"1"), (b"z", b"1")],
        b"-",
    ]
    ts, *found = db.snapshot_reads(None, *reads)
    assert ts > before
    assert found == [b"2", {b"a": b"2"}, [(b"a", b"2")], b"-"]
    with pytest.raises(nokv.UsageError, match="entered"):
        db.client.snapshot().ts  # noqa: B018
    for wrong in (0, -5, 1 << 64):
        with pytest.raises(nokv.UsageError):
            db.client.snapshot(wrong)


def test_snapshot_that_is_too_old(db: Db, cluster: FakeCluster) -> None:
    cluster.rule(lambda asked: SnapshotTooOld(Ts(5), Ts(9)) if asked.kind == Kind.KV_GET else None)
    with pytest.raises(nokv.SnapshotTooOldError) as caught:
        db.snapshot_reads(5, lambda s: s.get(b"k"))
    assert (caught.value.ts, caught.value.safepoint) == (5, 9)


def test_operations_at_the_store(db: Db) -> None:
    assert db.cas(b"k", None, b"1") == nokv.CasResult(True, b"1")
    assert db.cas(b"k", None, b"2") == (False, b"1")
    assert db.cas(b"k", b"1", b"2").swapped
    assert db.cas(b"k", b"2", None) == (True, None)
    assert db.get(b"k") is None
    assert [db.incr(b"n"), db.incr(b"n", 41), db.incr(b"n", -2)] == [1, 42, 40]
    assert [db.lower(b"n", 50), db.lower(b"n", 7), db.lift(b"n", 3), db.lift(b"n", 9)] == [40, 7, 7, 9]
    assert [db.append(b"s", b"ab"), db.append(b"s", b"c")] == [2, 3]
    assert db.get(b"s") == b"abc"
    with pytest.raises(nokv.WrongTypeError) as caught:
        db.incr(b"s")
    assert caught.value.key == b"s"
    assert caught.value.outcome == "not_applied"


@pytest.mark.parametrize("method", ["get", "exists", "delete", "put", "cas", "incr", "append"])
def test_wrong_keys_are_refused_before_anything_is_sent(db: Db, cluster: FakeCluster, method: str) -> None:
    more: tuple[Any, ...] = {"put": (b"v",), "cas": (None, b"v"), "append": (b"x",)}.get(method, ())
    call = getattr(db, method)
    with pytest.raises(TypeError, match="encode"):
        call("text", *more)
    with pytest.raises(TypeError, match="int"):
        call(5, *more)
    with pytest.raises(nokv.UsageError, match="at least one byte"):
        call(b"", *more)
    with pytest.raises(nokv.LimitError) as caught:
        call(b"k" * 401, *more)
    assert (caught.value.what, caught.value.limit, caught.value.actual) == ("key_bytes_max", 400, 401)
    assert cluster.asked == []


def test_wrong_values_and_numbers(db: Db, cluster: FakeCluster) -> None:
    with pytest.raises(TypeError, match="value is a str"):
        db.put(b"k", "text")
    with pytest.raises(nokv.LimitError, match="value_bytes_max"):
        db.put(b"k", b"x" * ((1 << 20) + 1))
    with pytest.raises(nokv.LimitError, match="txn_keys_max"):
        db.put_many((b"%d" % i, b"") for i in range(10_001))
    with pytest.raises(nokv.LimitError, match="txn_bytes_max"):
        db.put_many((b"%d" % i, b"x" * (1 << 20)) for i in range(17))
    for wrong in ({"limit": 0}, {"limit": -1}, {"page": 0}, {"end": b""}, {"prefix": b"a", "start": b"b"}):
        with pytest.raises(nokv.UsageError):
            db.client.scan(**wrong)
    assert cluster.asked == []


def test_limits_are_the_nodes(kind: str) -> None:
    with FakeNodes(FakeCluster(limits={"key_bytes_max": 10, "value_bytes_max": 5})) as nodes:
        db = Db(kind, nodes.url)
        db.put(b"k", b"v")
        with pytest.raises(nokv.LimitError, match="key_bytes_max"):
            db.put(b"k" * 11, b"v")
        with pytest.raises(nokv.LimitError, match="value_bytes_max"):
            db.put(b"k", b"vvvvvv")
        db.end()


def test_wrong_leaders_then_success(db: Db, cluster: FakeCluster) -> None:
    """S44: at least two refusals, and the write succeeds all the same."""
    wrong = NotLeader(RegionId(1), StoreId(2)), NotLeader(RegionId(1)), EpochNotMatch(RegionId(1))
    cluster.fail_next(Kind.KV_ONE_PHASE, *wrong, ServerIsBusy("x", 5))
    db.put(b"a", b"v")
    assert db.get(b"a") == b"v"
    assert cluster.count(Kind.KV_ONE_PHASE) == 5


def test_split_and_moved_leaders(db: Db, cluster: FakeCluster) -> None:
    db.put(b"a", b"1")
    cluster.split(b"b")
    for region_id in cluster.regions:
        cluster.lead(region_id, 2)
    cluster.lead(0, 3)
    db.put(b"c", b"2")
    assert db.get_many([b"a", b"c"]) == {b"a": b"1", b"c": b"2"}


def test_lost_replies_count_once(db: Db, cluster: FakeCluster) -> None:
    cluster.fail_next(Kind.KV_ATOMIC, Fault.LOSE_REPLY)
    assert db.incr(b"n", 5) == 5
    assert db.incr(b"n", 5) == 10
    stamps = [request.start_ts for request in cluster.requests(Kind.KV_ATOMIC)]  # type: ignore[attr-defined]
    assert len(stamps) > 2
    assert len(set(stamps)) == 2


def test_deadline_and_unknown_outcome(db: Db, cluster: FakeCluster) -> None:
    db.put(b"k", b"v")
    cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind in (Kind.KV_GET, Kind.KV_ONE_PHASE) else None)
    began = time.monotonic()
    with nokv.deadline(0.3), pytest.raises(nokv.TimeoutError) as caught:
        db.put(b"k", b"w")
    assert 0.29 < time.monotonic() - began < 3.0
    assert caught.value.outcome == "unknown"
    assert caught.value.attempts >= 2
    assert 0.29 < caught.value.elapsed < 3.0
    with nokv.deadline(0.2), pytest.raises(nokv.TimeoutError) as caught:
        db.get(b"k")
    assert caught.value.outcome == "not_applied"


def test_live_lock_is_reported_dead_one_is_cleared(db: Db, cluster: FakeCluster) -> None:
    lock = KeyIsLocked(b"k", b"k", Ts(5), 50, 0, Ts(0))
    cluster.fail_next(Kind.KV_GET, lock)
    assert db.get(b"k") is None
    assert cluster.count(Kind.KV_CHECK_TXN_STATUS) == 1
    assert cluster.count(Kind.KV_RESOLVE_LOCK) == 1


def test_node_that_dies_and_comes_back(kind: str, cluster: FakeCluster, nodes: FakeNodes) -> None:
    causes: list[str] = []

    class Log:
        def start(self, operation: str) -> None: ...

        def retry(self, operation: str, attempt: int, cause: nokv.NokvError, delay_s: float) -> None:
            causes.append(str(cause))

        def end(self, operation: str, elapsed_s: float, error: BaseException | None) -> None: ...

    db = Db(kind, nodes.url, hooks=[Log()])
    db.put(b"a", b"1")
    nodes.kill(1)
    cluster.lead(1, 2)
    cluster.lead(0, 2)
    db.put(b"a", b"2")
    assert db.get(b"a") == b"2"
    nodes.revive(1)
    cluster.lead(1, 1)
    assert db.get(b"a") == b"2"
    db.end()
    assert any("closed by the node" in cause for cause in causes), "a broken connection is seen"
    assert not any("in time" in cause for cause in causes), "and nobody waited for a silent one"


def test_first_seed_is_dead(kind: str, cluster: FakeCluster, nodes: FakeNodes) -> None:
    """P52, M37."""
    nodes.kill(1)
    cluster.lead(0, 2)
    cluster.lead(1, 2)
    db = Db(kind, nodes.url)
    db.put(b"a", b"1")
    assert db.get(b"a") == b"1"
    db.end()


def test_cluster_view(db: Db, cluster: FakeCluster, nodes: FakeNodes) -> None:
    stores = db.wait(db.client.cluster.nodes())
    assert [store.id for store in stores] == [1, 2, 3]
    routes = db.wait(db.client.cluster.regions())
    assert [(r.region.start, r.region.end, r.leader_store) for r in routes] == [
        (b"", b"h", 1),
        (b"h", b"p", 2),
        (b"p", b"", 3),
    ]
    assert db.wait(db.client.cluster.status()).state == "healthy"
    cluster.leaders[RegionId(2)] = StoreId(0)
    nodes.kill(3)
    status = db.wait(db.client.cluster.status())
    assert (status.state, status.regions, status.regions_without_leader) == ("degraded", 3, 1)
    assert [node.status is not None for node in status.nodes] == [True, True, False]
    assert (
        "refused" in status.nodes[2].error
        or "no connection" in status.nodes[2].error
        or "closed" in status.nodes[2].error
    )


def test_long_directories_come_in_pages(kind: str) -> None:
    cuts = tuple(b"%05d" % i for i in range(1, 2500))
    with FakeNodes(FakeCluster(cuts=cuts)) as nodes:
        db = Db(kind, nodes.url)
        db.connect()
        assert nodes.cluster.count(Kind.ROUTES) == 3
        db.put(b"01234x", b"v")
        assert db.get(b"01234x") == b"v"
        assert nodes.cluster.count(Kind.ROUTES) == 3
        assert len(db.wait(db.client.cluster.regions())) == 2500
        db.end()


def test_topology_file_needs_no_control_plane(
    kind: str, cluster: FakeCluster, nodes: FakeNodes, tmp_path: Path
) -> None:
    """S51: regions, leaders and addresses come from the file; nobody is asked for routes."""
    stores = tuple(StoreInfo(s.id, s.client_addr, f"127.0.0.1:{40000 + s.id}") for s in cluster.stores.values())
    leaders = {RegionId(region_id): StoreId(region_id) for region_id in cluster.regions}
    path = tmp_path / "topology.json"
    path.write_bytes(encode(Topology(cluster.cluster_id, stores, tuple(cluster.regions.values()), leaders)))
    cluster.put([(b"a", b"1"), (b"k", b"2"), (b"z", b"3")])
    db = Db(kind, None, topology=str(path))
    assert [db.get(key) for key in (b"a", b"k", b"z")] == [b"1", b"2", b"3"]
    assert cluster.count(Kind.ROUTES) == 0
    assert {asked.store_id for asked in cluster.asked} == {1, 2, 3}
    assert cluster.count(Kind.KV_GET) == 3, "every one went straight to its leader"
    db.put(b"z", b"4")
    assert db.get(b"z") == b"4"
    db.end()


def test_client_name_is_told(kind: str, cluster: FakeCluster, nodes: FakeNodes) -> None:
    db = Db(kind, nodes.url, client_name="reporter")
    db.connect()
    db.end()
    assert set(cluster.names) == {"reporter"}


def test_use_after_close(db: Db) -> None:
    db.put(b"k", b"v")
    db.wait(db.client.close())
    for name, *arguments in (("get", b"k"), ("put", b"k", b"v"), ("scan",), ("now",)):
        with pytest.raises(nokv.ClientClosedError):
            getattr(db, str(name))(*arguments)


def test_hooks_see_calls_and_retries(kind: str, cluster: FakeCluster, nodes: FakeNodes) -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[Any, ...]] = []

        def start(self, operation: str) -> None:
            self.lines.append(("start", operation))

        def retry(self, operation: str, attempt: int, cause: nokv.NokvError, delay_s: float) -> None:
            assert delay_s >= 0
            self.lines.append(("retry", operation, attempt, cause.code))

        def end(self, operation: str, elapsed_s: float, error: BaseException | None) -> None:
            assert elapsed_s >= 0
            self.lines.append(("end", operation, type(error).__name__))

    hooks = Log()
    db = Db(kind, nodes.url, hooks=[hooks])
    db.connect()
    hooks.lines.clear()
    cluster.fail_next(Kind.KV_GET, ServerIsBusy("x", 1), ServerIsBusy("x", 1))
    db.get(b"k")
    db.put(b"s", b"x")
    with pytest.raises(nokv.WrongTypeError):
        db.incr(b"s")
    db.end()
    assert hooks.lines == [
        ("start", "get"), ("retry", "get", 1, "busy"), ("retry", "get", 2, "busy"), ("end", "get", "NoneType"),
        ("start", "put"), ("end", "put", "NoneType"),
        ("start", "incr"), ("end", "incr", "WrongTypeError"),
    ]  # fmt: skip


def test_logs_never_hold_keys_or_values_above_debug(
    kind: str, cluster: FakeCluster, nodes: FakeNodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "nokv")
    cluster.fail_next(Kind.KV_ONE_PHASE, ServerIsBusy("x", 1))
    cluster.fail_next(Kind.KV_GET, KeyIsLocked(b"secret-key", b"secret-key", Ts(5), 1, 0, Ts(0)))
    db = Db(kind, nodes.url)
    db.put(b"secret-key", b"secret-value")
    assert db.get(b"secret-key") == b"secret-value"
    nodes.kill(3)
    with nokv.deadline(0.3), pytest.raises(nokv.NokvError):
        db.get(b"secret-key")
    db.end()
    assert {record.name for record in caplog.records} >= {"nokv.net", "nokv.txn"}
    assert any("attempt 1" in record.getMessage() for record in caplog.records)
    assert not any("secret" in record.getMessage() for record in caplog.records if record.levelname != "DEBUG")
