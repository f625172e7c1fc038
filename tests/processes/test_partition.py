"""A leader that the others have left, asked directly: it may refuse or be right, but never answer an old value.

The client would route around it, so these tests talk to the old leader's own port. Three nodes, one region each worker
and node serves; faults are injected where they say, or by SIGSTOP.
"""

import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

import nokv
from nokv.proto import errors
from nokv.proto.frame import Kind, encode
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import GetReply, GetRequest, Mutation, MutationOp, OnePhaseRequest, encode_body
from nokv.proto.region import FIRST_EPOCH
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import isolated, kill_everything, suspended
from nokv.testing.local_node import LocalNode
from tests.processes.raw import RawClient, detail_of
from tests.processes.waiting import insist, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.xdist_group("partition")]

KEY = b"watched"
REFUSES_S = 3.0
"""limits.read_timeout_ms and command_timeout_ms: nobody waits longer for an answer, whatever the partition."""
SLACK_S = 1.5
"""For machines that are busy with other things."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes with one worker each and one region."""
    with LocalCluster(nodes=3, workers=1, regions=1, settings={"chaos.enabled": True}) as made:
        yield made


@pytest.fixture
def leader(cluster: LocalCluster) -> LocalNode:
    """Who leads the region, once everybody is well."""
    cluster.wait_ready()
    return leader_of(cluster)


def leader_of(cluster: LocalCluster) -> LocalNode:
    """The node that answers reads of the region. The directory's hint may be that of the last test's leader."""
    found: list[LocalNode] = []

    def somebody_answers() -> bool:
        for node in cluster.nodes:
            with RawClient(node.client_addr) as raw:
                if raw.ask(Kind.KV_GET, cluster.topology.regions[0].id, get_body()).kind == Kind.OK:
                    found.append(node)
                    return True
        return False

    wait_until(somebody_answers, "a leader that serves")
    return found[0]


def survivors_url(cluster: LocalCluster, without: LocalNode) -> str:
    return "nokv://" + ",".join(node.client_addr for node in cluster.nodes if node is not without)


def get_body() -> bytes:
    return encode_body(GetRequest(FIRST_EPOCH, KEY, LATEST))


def get_frame(cluster: LocalCluster, request_id: int, deadline_ms: int = 5000) -> bytes:
    region_id = cluster.topology.regions[0].id
    return encode(Kind.KV_GET, request_id, region_id, get_body(), deadline_ms=deadline_ms)


class Watcher(threading.Thread):
    """Reads the key from one node, again and again, and writes down what it was told and when it had asked."""

    def __init__(self, cluster: LocalCluster, node: LocalNode) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._node = node
        self.ended = threading.Event()

        self.values: list[tuple[float, bytes | None]] = []
        self.refusals: list[tuple[float, float, errors.ErrorDetail]] = []

    def run(self) -> None:
        with RawClient(self._node.client_addr) as raw:
            request_id = 0
            while not self.ended.is_set():
                request_id += 1
                asked = time.monotonic()
                raw.send(get_frame(self._cluster, request_id))
                frame = raw.answer_to(request_id)
                if frame.kind == Kind.OK:
                    self.values.append((asked, msgspec.msgpack.decode(frame.body, type=GetReply).value))
                else:
                    self.refusals.append((asked, time.monotonic() - asked, detail_of(frame)))

    def __enter__(self) -> "Watcher":
        self.start()
        wait_until(lambda: self.values, "the first read")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.ended.set()
        self.join(20)
        assert not self.is_alive()

    def old_answers(self, since: float, new: bytes) -> list[tuple[float, bytes | None]]:
        """Answers other than `new` to reads that began after `since`."""
        return [(asked - since, value) for asked, value in self.values if asked > since and value != new]


# ---- cut off --------------------------------------------------------------------------------------------------------


def test_a_leader_cut_off_never_answers_an_old_value(cluster: LocalCluster, leader: LocalNode) -> None:
    """M1, S25: no read that begins after a newer write was acknowledged may show the older one."""
    with nokv.Client(survivors_url(cluster, leader), timeout=30.0) as db:
        insist(lambda: db.put(KEY, b"old"))
        with Watcher(cluster, leader) as watcher:
            with isolated(cluster, leader):
                cut = time.monotonic()
                db.put(KEY, b"new")
                acknowledged = time.monotonic()
                wait_until(lambda: len(watcher.refusals) >= 3, "the old leader to refuse")
            healed = time.monotonic()
            wait_until(lambda: cluster.status(leader).node.regions_without_leader == 0, "the old leader to follow")
        assert watcher.old_answers(acknowledged, b"new") == []
        assert any(asked < cut for asked, _value in watcher.values), "it answered before"
        refused = [(took, detail) for asked, took, detail in watcher.refusals if acknowledged < asked < healed]
        assert refused, "the cut was long enough to be refused in it"
        assert max(took for took, _detail in refused) < REFUSES_S + SLACK_S
        assert {type(detail) for _took, detail in refused} <= {errors.NotLeader, errors.DeadlineExceeded}


def test_writes_to_a_leader_cut_off_are_never_acknowledged(cluster: LocalCluster, leader: LocalNode) -> None:
    """S27, M9: it says "outcome unknown" in bounded time, not only when the caller's own clock runs out."""
    region = cluster.topology.regions[0]
    with nokv.Client(survivors_url(cluster, leader), timeout=30.0) as db:
        ts = Ts(db.now())
        with isolated(cluster, leader), RawClient(leader.client_addr) as raw:
            mutation = Mutation(MutationOp.PUT, b"into-the-void", b"x")
            body = encode_body(OnePhaseRequest(FIRST_EPOCH, (mutation,), ts, blind=True))
            began = time.monotonic()
            detail = raw.refusal(Kind.KV_ONE_PHASE, region.id, body, deadline_ms=20_000)
            assert time.monotonic() - began < REFUSES_S + SLACK_S
            assert isinstance(detail, errors.OutcomeUnknown | errors.NotLeader)
            db.put(b"through-the-others", b"y")
        insist(lambda: db.get(KEY))
        assert db.get(b"through-the-others") == b"y"
        assert db.get(b"into-the-void") in (None, b"x"), "unknown means either"


def test_many_reads_during_a_change_of_leaders_all_end(cluster: LocalCluster, leader: LocalNode) -> None:
    """N2: none hangs longer than its timeout."""
    with RawClient(leader.client_addr) as raw, isolated(cluster, leader):
        began = time.monotonic()
        raw.send(b"".join(get_frame(cluster, at + 1, deadline_ms=30_000) for at in range(300)))
        answers = raw.answers(300)
        assert time.monotonic() - began < REFUSES_S + SLACK_S
        raw.send(b"".join(get_frame(cluster, at + 1001, deadline_ms=30_000) for at in range(300)))
        later = time.monotonic()
        answers += raw.answers(300)
        assert time.monotonic() - later < REFUSES_S + SLACK_S
    assert {frame.request_id for frame in answers} == {*range(1, 301), *range(1001, 1301)}


# ---- stopped and continued ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["worker", "node"])
def test_a_leader_that_was_stopped_answers_nothing_old(cluster: LocalCluster, leader: LocalNode, what: str) -> None:
    """M2: reads already lie in its sockets when it goes on, five seconds and one election later; its lease is over."""
    processes = leader.children("worker")
    if what == "node":
        processes = [child for kind in ("worker", "router", "manifest") for child in leader.children(kind)]
    with nokv.Client(survivors_url(cluster, leader), timeout=30.0) as db, RawClient(leader.client_addr) as raw:
        insist(lambda: db.put(KEY, b"old"))
        raw.send(get_frame(cluster, 1))
        assert raw.answer_to(1).kind == Kind.OK
        with suspended(*processes):
            stopped = time.monotonic()
            insist(lambda: db.put(KEY, b"new"))
            raw.send(b"".join(get_frame(cluster, at, deadline_ms=20_000) for at in range(100, 200)))
            time.sleep(max(0.0, stopped + 5.0 - time.monotonic()))  # the length of the stall is the fault itself
        answers = raw.answers(100)
        values = {msgspec.msgpack.decode(frame.body, type=GetReply).value for frame in answers if frame.kind == Kind.OK}
        assert values <= {b"new"}
        assert len(answers) == 100
        insist(lambda: db.put(KEY, b"after"))
        assert db.get(KEY) == b"after"


# ---- a majority gone, one gone --------------------------------------------------------------------------------------


def test_without_a_majority_everything_is_refused_and_nothing_is_wrong(cluster: LocalCluster) -> None:
    """S27: two of three nodes die; writes and reads end in about three seconds; the return of one heals."""
    survivor = leader_of(cluster)
    dead = [node for node in cluster.nodes if node is not survivor]
    with nokv.Client(cluster.url, timeout=30.0) as db:
        insist(lambda: db.put(KEY, b"kept"))
        kill_everything(dead)
        died = time.monotonic()
        with RawClient(survivor.client_addr) as raw:
            while True:  # for the rest of its lease the survivor answers alone, and rightly so
                began = time.monotonic()
                answer = raw.ask(Kind.KV_GET, cluster.topology.regions[0].id, get_body(), deadline_ms=30_000)
                assert time.monotonic() - began < REFUSES_S + SLACK_S
                if answer.kind != Kind.OK:
                    break
                assert msgspec.msgpack.decode(answer.body, type=GetReply).value == b"kept"
                assert began - died < 2.0, "no lease is that long"
            assert isinstance(detail_of(answer), errors.NotLeader | errors.DeadlineExceeded)
        with nokv.deadline(4.0), pytest.raises(nokv.NokvError):
            db.put(KEY, b"lost?")
        dead[0].start()
        insist(lambda: db.put(KEY, b"back"))
        assert db.get(KEY) == b"back"
        dead[1].start()
        cluster.wait_ready()


def test_a_dead_follower_costs_the_others_nothing(cluster: LocalCluster, leader: LocalNode) -> None:
    """M15: the leader's loop never waits for a node that is gone; no term moves, no write takes long."""
    follower = next(node for node in cluster.nodes if node is not leader)
    with nokv.Client(cluster.url, timeout=30.0) as db:
        insist(lambda: db.put(KEY, b"0"))
        control = cluster.status(leader).node.control_leader
        if control == follower.store_id:  # then timestamps would pause for their own election, which is no stall
            follower = next(node for node in cluster.nodes if node not in (leader, follower))
        term = cluster.status(leader).regions[0].term
        follower.kill()
        slowest = 0.0
        for number in range(150):
            began = time.monotonic()
            db.put(KEY, b"%d" % number)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.9, "an election timeout passed somewhere"
        assert cluster.status(leader).regions[0].term == term
        follower.start()
        cluster.wait_ready()
        assert db.get(KEY) == b"149"
