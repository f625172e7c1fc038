"""One process of a node dies or hangs: what it served stops, everything else goes on, and the supervisor repairs it.

"Meanwhile" is made certain, not likely: the supervisor is suspended while a dead child must stay dead.
"""

import time
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest

import nokv
from nokv.proto import errors
from nokv.proto.control import AllocIdsReply, AllocIdsRequest, encode_body
from nokv.proto.frame import Kind, encode
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import GetRequest, Mutation, MutationOp, OnePhaseRequest
from nokv.proto.region import FIRST_EPOCH, Region
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import is_whole, kill_processes, supervisor_of, suspended
from nokv.testing.local_node import LocalNode
from tests.processes.raw import NoAnswer, RawClient, detail_of
from tests.processes.waiting import insist, wait_until

REQUESTS = 120
"""Of 1 MiB each: more than router.link_send_hwm messages and router.worker_queue_bytes_max hold together."""

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("isolation")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One node, two workers, four regions: nobody else can step in for what is killed here."""
    with LocalCluster(nodes=1, workers=2, regions=4) as made:
        yield made


@pytest.fixture
def node(cluster: LocalCluster) -> LocalNode:
    """The node, with all of its processes up and all regions led."""
    wait_until(lambda: is_whole(cluster, cluster.nodes[0]), "all processes to be up")
    cluster.wait_ready()
    return cluster.nodes[0]


def placement(cluster: LocalCluster) -> dict[int, int]:
    """Region -> worker."""
    return {status.region.id: status.worker_id for status in cluster.status(cluster.nodes[0]).regions}


def keys_of(cluster: LocalCluster, worker: int) -> list[bytes]:
    """A key of each region that a worker serves."""
    placed = placement(cluster)
    return [region.start + b"\x01k" for region in cluster.topology.regions if placed[region.id] == worker]


def test_every_region_is_on_one_worker_and_stays_there(cluster: LocalCluster, node: LocalNode) -> None:
    """S3: also after a restart."""
    before = placement(cluster)
    assert sorted(before) == [region.id for region in cluster.topology.regions]
    assert sorted(set(before.values())) == [0, 1]
    assert node.stop() == 0
    node.start()
    cluster.wait_ready()
    assert placement(cluster) == before


def test_a_dead_worker_takes_only_its_own_regions_with_it(cluster: LocalCluster, node: LocalNode) -> None:
    """S4."""
    theirs, ours = keys_of(cluster, 0), keys_of(cluster, 1)
    with nokv.Client(cluster.url, timeout=20.0) as db:
        for key in (*theirs, *ours):
            db.put(key, b"before")
        (dead, alive) = node.children("worker")
        with suspended(supervisor_of(node)):
            kill_processes([dead])
            for number in range(50):
                for key in ours:
                    db.put(key, b"%d" % number)
                    assert db.get(key) == b"%d" % number
            for key in theirs:
                with nokv.deadline(0.3), pytest.raises(nokv.NokvError):
                    db.get(key)
        assert insist(lambda: [db.get(key) for key in theirs]) < 20
        assert [db.get(key) for key in theirs] == [b"before"] * len(theirs)
        assert alive.is_running()
    cluster.wait_ready()
    assert node.children("worker")[0].pid != dead.pid
    assert node.children("worker")[1].pid == alive.pid


def test_requests_for_a_dead_worker_are_refused_at_once(cluster: LocalCluster, node: LocalNode) -> None:
    """M17: its pipe is gone, so the router says busy; nobody waits for a reply that cannot come.

    A request that reached the pipe before the router noticed the death is lost with it; the sender's timeout finds out.
    """
    placed = placement(cluster)
    region = next(one for one in cluster.topology.regions if placed[one.id] == 0)
    body = encode_body(GetRequest(FIRST_EPOCH, region.start + b"\x01k", LATEST))
    with suspended(supervisor_of(node)), RawClient(node.client_addr) as raw:
        kill_processes([node.children("worker")[0]])

        def refused() -> bool:
            began = time.monotonic()
            try:
                detail = detail_of(raw.ask(Kind.KV_GET, region.id, body, timeout_s=1.0))
            except NoAnswer:
                return False
            return isinstance(detail, errors.ServerIsBusy) and time.monotonic() - began < 0.5

        wait_until(refused, "the refusal of requests for a dead worker", timeout_s=10.0)


def test_a_worker_that_hangs_fills_its_own_queue_only(cluster: LocalCluster, node: LocalNode) -> None:
    """M17: what a stopped worker's pipe and queue do not hold is refused; the other worker's regions never notice."""
    placed = placement(cluster)
    stuck: Region = next(one for one in cluster.topology.regions if placed[one.id] == 0)
    ours = keys_of(cluster, 1)
    (worker, _other) = node.children("worker")
    router = node.children("router")[0]
    with nokv.Client(cluster.url, timeout=20.0) as db, RawClient(node.client_addr) as raw:
        ts = db.now()
        with suspended(worker):
            for number in range(REQUESTS):
                mutation = Mutation(MutationOp.PUT, stuck.start + b"\x01%d" % number, b"x" * (1 << 20))
                body = encode_body(OnePhaseRequest(FIRST_EPOCH, (mutation,), Ts(ts), blind=True))
                raw.send(encode(Kind.KV_ONE_PHASE, number + 1, stuck.id, body, deadline_ms=60_000))
            refused = raw.answers(20, timeout_s=20.0)
            assert all(isinstance(detail_of(frame), errors.ServerIsBusy) for frame in refused)
            for number in range(30):
                for key in ours:
                    db.put(key, b"%d" % number)
            assert router.memory_info().rss < 300 << 20
        answered = {frame.request_id for frame in refused}
        answered |= {frame.request_id for frame in raw.answers(REQUESTS - len(refused), timeout_s=60.0)}
        assert answered == set(range(1, REQUESTS + 1)), "every request got one answer"
    cluster.wait_ready()


def test_without_the_manifest_reads_go_on_and_nothing_is_forgotten(cluster: LocalCluster, node: LocalNode) -> None:
    """S5: it owns routes, ids and timestamps; killed, it loses none and gives none out twice."""
    keys = [*keys_of(cluster, 0), *keys_of(cluster, 1)]
    with nokv.Client(cluster.url, timeout=20.0) as db:
        for key in keys:
            db.put(key, b"kept")
        routes, placed = cluster.routes(), placement(cluster)
        ids, stamps = [], []
        for _ in range(3):
            with RawClient(node.client_addr) as raw:
                reply = raw.ask(Kind.ALLOC_IDS, 0, encode_body(AllocIdsRequest(10)))
                ids.append(msgspec.msgpack.decode(reply.body, type=AllocIdsReply).first)
                stamps.append(raw.timestamp())
            with suspended(supervisor_of(node)):
                kill_processes(node.children("manifest"))
                for _again in range(5):
                    assert [db.get(key) for key in keys] == [b"kept"] * len(keys)
                with nokv.deadline(0.3), pytest.raises(nokv.NokvError):
                    db.now()
            insist(db.now)
            cluster.wait_ready()
        assert [route.region for route in cluster.routes()] == [route.region for route in routes]
        assert placement(cluster) == placed
        assert all(later - earlier >= 10 for earlier, later in pairwise(ids)), ids
        assert stamps == sorted(set(stamps))
        for key in keys:
            db.put(key, b"after")


def test_a_dead_router_is_replaced_and_clients_come_back_by_themselves(cluster: LocalCluster, node: LocalNode) -> None:
    keys = [*keys_of(cluster, 0), *keys_of(cluster, 1)]
    with nokv.Client(cluster.url, timeout=20.0) as db:
        for round_number in range(3):
            workers = [child.pid for child in node.children("worker")]
            kill_processes(node.children("router"))
            for key in keys:
                db.put(key, b"%d" % round_number)
            assert [db.get(key) for key in keys] == [b"%d" % round_number] * len(keys)
            assert [child.pid for child in node.children("worker")] == workers
        cluster.wait_ready()


def test_the_nodes_own_counts_are_those_of_its_clients(cluster: LocalCluster, node: LocalNode) -> None:
    """S7: what `status` shows is what was done."""

    def totals() -> tuple[int, int]:
        workers = cluster.status(node).node.workers
        return sum(one.stats.writes for one in workers), sum(one.stats.reads for one in workers)

    before = totals()
    with nokv.Client(cluster.url, timeout=20.0) as db:
        for number in range(300):
            db.put(b"%03d-counted" % number, b"x")
        for number in range(200):
            db.get(b"%03d-counted" % number)
    wait_until(lambda: totals()[1] - before[1] >= 200, "the next heartbeats")
    writes, reads = (now - then for now, then in zip(totals(), before, strict=True))
    assert 300 <= writes <= 315
    assert 200 <= reads <= 210
