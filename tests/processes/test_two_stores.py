"""Two stores with two regions, one leader each: what a user does with them, over everything a client must get right.

The topology is the smallest that makes a client route: each store leads one region and follows in the other.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import nokv
from nokv.proto.control import TransferLeaderRequest, encode_body
from nokv.proto.frame import Kind
from nokv.proto.ids import StoreId
from nokv.testing.cluster import LocalCluster
from nokv.testing.local_node import LocalNode
from nokv.testing.ports import PortLease
from tests.processes.raw import RawClient
from tests.processes.waiting import insist, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("two_stores")]


def two_regions(data_dir: Path, stores: list[dict[str, object]]) -> None:
    """(-inf, "m") and ["m", +inf), both on both stores."""

    def region(region_id: int, start: str, end: str, leader: int) -> dict[str, object]:
        peers = [{"store": store, "peer": store * 100 + region_id} for store in (1, 2)]
        return {"id": region_id, "start": start, "end": end, "peers": peers, "leader": leader}

    document = {
        "cluster_id": 4711,
        "stores": stores,
        "regions": [region(11, "", "m", 1), region(12, "m", "", 2)],
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "topology.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two stores, two regions, ready, each led by another store."""
    lease = PortLease(4)
    ports = list(zip(lease.ports[::2], lease.ports[1::2], strict=True))
    data_dir = tmp_path_factory.mktemp("two") / "d"
    stores: list[dict[str, object]] = [
        {"id": at, "client": f"127.0.0.1:{client}", "peer": f"127.0.0.1:{peer}"}
        for at, (client, peer) in enumerate(ports, start=1)
    ]
    two_regions(data_dir, stores)
    try:
        with LocalCluster(nodes=2, workers=2, ports=ports, data_dir=data_dir) as made:
            hand_over(made, 11, to=1)
            hand_over(made, 12, to=2)
            yield made
    finally:
        lease.close()


def hand_over(cluster: LocalCluster, region_id: int, *, to: int) -> None:
    """Make a store lead a region; nothing to do where it does already."""

    def leads() -> bool:
        leader = next(route.leader_store for route in cluster.routes() if route.region.id == region_id)
        if leader not in (0, to):
            with RawClient(cluster.node(leader).client_addr) as raw:
                raw.ask(Kind.TRANSFER_LEADER, region_id, encode_body(TransferLeaderRequest(StoreId(to))))
        return leader == to

    wait_until(leads, f"store {to} to lead region {region_id}")


def test_two_store_2pc_put_get_scan_delete_end_to_end(cluster: LocalCluster) -> None:
    """S49, S46, S47."""
    with nokv.Client(cluster.url, timeout=20.0) as db:
        db.put(b"alfa", b"1")
        db.put(b"zoo", b"2")
        assert db.get(b"alfa") == b"1"
        assert db.get(b"zoo") == b"2"
        assert list(db.scan(b"a", limit=4)) == [(b"alfa", b"1"), (b"zoo", b"2")]
        db.delete(b"alfa")
        db.delete(b"zoo")
        assert db.get(b"alfa") is None
        assert db.get(b"zoo") is None
        assert list(db.scan()) == []


async def test_the_same_with_the_asynchronous_client(cluster: LocalCluster) -> None:
    async with nokv.AsyncClient(cluster.url, timeout=20.0) as db:
        await db.put(b"alfa", b"1")
        await db.put(b"zoo", b"2")
        assert [pair async for pair in db.scan(b"a", limit=4)] == [(b"alfa", b"1"), (b"zoo", b"2")]
        await db.delete(b"alfa")
        await db.delete(b"zoo")
        assert await db.get(b"zoo") is None


def test_scans_cross_the_border_in_order_both_ways(cluster: LocalCluster) -> None:
    """S47."""
    with nokv.Client(cluster.url, timeout=20.0) as db:
        keys = sorted([b"l%03d" % at for at in range(60)] + [b"m%03d" % at for at in range(60)] + [b"m", b"m\x00"])
        for key in keys:
            db.put(key, b"v" + key)
        pairs = [(key, b"v" + key) for key in keys]
        assert list(db.scan(b"l", b"n", page=7)) == pairs
        assert list(db.scan(b"l", b"n", page=7, reverse=True)) == pairs[::-1]
        assert list(db.scan(b"l", b"n", limit=61)) == pairs[:61]
        assert list(db.scan(b"l059", b"m000")) == pairs[59:62]
        with pytest.raises(nokv.UsageError):
            db.scan(b"l", limit=-1)
        for key in keys:
            db.delete(key)


def test_batch_get_keeps_order_and_leaves_out_what_is_missing(cluster: LocalCluster) -> None:
    """N1."""
    with nokv.Client(cluster.url, timeout=20.0) as db:
        db.put(b"a", b"1")
        db.put(b"z", b"2")
        assert list(db.get_many([b"z", b"missing", b"a", b"z"]).items()) == [(b"z", b"2"), (b"a", b"1")]
        assert db.get_many([]) == {}


def test_a_client_with_wrong_leaders_finds_the_right_ones(cluster: LocalCluster, tmp_path: Path) -> None:
    """S44: a static map that names the followers as leaders costs a redirect each and nothing else."""
    document = json.loads(cluster.topology_path.read_text())
    for region in document["regions"]:
        region["leader"] = 3 - region["leader"]
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document))
    seen: list[str] = []

    class Retries:
        def start(self, operation: str) -> None: ...

        def retry(self, operation: str, attempt: int, cause: nokv.NokvError, delay_s: float) -> None:
            seen.append(cause.code)

        def end(self, operation: str, elapsed_s: float, error: BaseException | None) -> None: ...

    with nokv.Client(topology=str(wrong), timeout=20.0, hooks=[Retries()]) as db:
        db.put(b"alfa", b"1")
        db.put(b"zoo", b"2")
        assert (db.get(b"alfa"), db.get(b"zoo")) == (b"1", b"2")
        assert seen.count("routing") >= 2
        seen.clear()
        assert (db.get(b"alfa"), db.get(b"zoo")) == (b"1", b"2")
        assert seen == [], "what was learned stays learned"


def test_a_client_from_the_file_alone(cluster: LocalCluster) -> None:
    """S50, S51: the file the nodes started from is all a client needs."""
    with nokv.Client(topology=str(cluster.topology_path), timeout=20.0) as db:
        db.put(b"from-the-file", b"1")
        assert db.get(b"from-the-file") == b"1"


def test_a_client_needs_no_node_to_be_made_and_one_to_work(cluster: LocalCluster) -> None:
    """M37: seeds that are dead cost time at most."""
    lonely = nokv.Client("nokv://127.0.0.1:1", timeout=0.5, connect_timeout=0.3)
    with pytest.raises(nokv.ConnectError):
        lonely.get(b"k")
    lonely.close()
    url = f"nokv://127.0.0.1:1,{cluster.nodes[1].client_addr}"
    with nokv.Client(url, timeout=20.0, connect_timeout=5.0) as db:
        db.put(b"one-is-enough", b"1")
        assert db.get(b"one-is-enough") == b"1"


def test_a_leader_that_hands_over_costs_its_writers_nothing(cluster: LocalCluster) -> None:
    with nokv.Client(cluster.url, timeout=20.0) as db:
        for target in (2, 1):
            hand_over(cluster, 11, to=target)
            for number in range(50):
                db.put(b"k%d" % number, b"%d" % target)
            assert [db.get(b"k%d" % number) for number in range(50)] == [b"%d" % target] * 50


def test_a_store_that_is_down_stops_both_regions_and_its_return_heals_them(cluster: LocalCluster) -> None:
    """Two voters tolerate no loss: refused in bounded time, never answered wrongly. S27."""
    node: LocalNode = cluster.nodes[1]
    with nokv.Client(cluster.url, timeout=20.0) as db:
        db.put(b"alfa", b"kept")
        node.kill()
        with nokv.deadline(4.0), pytest.raises(nokv.NokvError) as caught:
            db.put(b"alfa", b"lost?")
        assert isinstance(caught.value, nokv.TimeoutError | nokv.TransientError | nokv.ConnectError)
        node.start()
        cluster.wait_ready()
        assert insist(lambda: db.get(b"alfa")) < 20
        assert db.get(b"alfa") in (b"kept", b"lost?")
        db.put(b"alfa", b"healed")
        assert db.get(b"alfa") == b"healed"
