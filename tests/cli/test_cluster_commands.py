"""`status`, `wait-ready` and `regions` against nodes that say what the test wants, over real sockets."""

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest

from nokv.cli.entry import run
from nokv.cli.node import node
from nokv.cli.verdict import State, judge
from nokv.exitcodes import EXIT_DEGRADED, EXIT_UNREACHABLE
from nokv.node.admin import Address, Asker, AskError, Question, status_question
from nokv.proto.control import RegionRoute, RegionStatus, StatusReply, StoreInfo
from nokv.proto.frame import Kind
from nokv.proto.ids import ClusterId, LogIndex, PeerId, StoreId, Term, WorkerId
from nokv.proto.region import Peer, PeerRole, Region
from nokv.proto.stats import NodeStatus, RouterStats, WorkerStats, WorkerStatus
from nokv.topology import encode, presplit
from tests.cli.fake_node import BUSY, FakeNode


def status_of(
    store_id: int, *, states: tuple[str, ...] = ("up", "up"), regions: tuple[Region, ...] = ()
) -> StatusReply:
    workers = tuple(
        WorkerStatus(WorkerId(at), 10 + at, state, 0, 0, WorkerStats(requests=5)) for at, state in enumerate(states)
    )
    node_status = NodeStatus(
        ClusterId(1),
        StoreId(store_id),
        "0.1.0",
        61_000,
        1,
        2,
        workers,
        RouterStats(),
        "follower",
        StoreId(1),
        3,
        4,
        1,
        0,
    )
    reports = tuple(
        RegionStatus(region, PeerId(region.id * 10), WorkerId(0), "leader", PeerId(region.id * 10), Term(2), *indexes)
        for region in regions
        for indexes in [(LogIndex(9), LogIndex(8), LogIndex(1), LogIndex(9))]
    )
    return StatusReply(node_status, reports)


@pytest.fixture
def nodes() -> Iterator[list[FakeNode]]:
    """Three nodes of one cluster with five regions on all of them, all led by store 1."""
    made = [FakeNode() for _ in range(3)]
    stores = tuple(StoreInfo(StoreId(at), fake.address, f"127.0.0.1:{at}") for at, fake in enumerate(made, start=1))
    regions = presplit(ClusterId(1), stores, regions=5).regions
    for at, fake in enumerate(made, start=1):
        fake.stores = stores
        fake.routes = tuple(RegionRoute(region, StoreId(1)) for region in regions)
        fake.status = status_of(at, regions=regions)
    yield made
    for fake in made:
        fake.close()


def status_json(fake: FakeNode, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, object]]:
    code = run(node, "nokv-node", ["status", "--url", f"nokv://{fake.address}", "--timeout", "0.5", "--json", *more])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, found


def test_a_whole_cluster_is_healthy(nodes: list[FakeNode], capsys: pytest.CaptureFixture[str]) -> None:
    code, found = status_json(nodes[1], capsys)
    assert (code, found["state"], found["regions"]) == (0, "HEALTHY", 5)
    assert run(node, "nokv-node", ["wait-ready", "--url", f"nokv://{nodes[0].address}", "--timeout", "2"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].startswith("HEALTHY  3 nodes up, 5 regions")
    assert text.splitlines()[2].split()[:5] == ["1", nodes[0].address, "up", "1m01s", "2/2"]


def test_one_node_down_is_degraded_but_writes_go_on(nodes: list[FakeNode], capsys: pytest.CaptureFixture[str]) -> None:
    nodes[2].status = None
    code, found = status_json(nodes[0], capsys)
    assert (code, found["state"]) == (EXIT_DEGRADED, "DEGRADED")
    assert (found["under_replicated"], found["regions_without_quorum"]) == (5, 0)
    assert str(found["sentence"]).endswith("writes OK")


def test_two_nodes_down_leave_no_quorum(nodes: list[FakeNode], capsys: pytest.CaptureFixture[str]) -> None:
    nodes[1].status = nodes[2].status = None
    code, found = status_json(nodes[0], capsys)
    assert (code, found["regions_without_quorum"]) == (EXIT_DEGRADED, 5)
    assert str(found["sentence"]).endswith("some writes fail")


def test_a_dead_worker_is_not_a_healthy_node(nodes: list[FakeNode], capsys: pytest.CaptureFixture[str]) -> None:
    nodes[1].status = status_of(2, states=("up", "down"))
    code, found = status_json(nodes[0], capsys)
    assert code == EXIT_DEGRADED
    assert "node 2 without all of its workers" in str(found["sentence"])
    code, found = status_json(nodes[0], capsys, "--node")
    assert (code, found["state"]) == (0, "HEALTHY"), "asked for one node only"


def test_every_known_node_has_a_row_also_when_none_answers(
    nodes: list[FakeNode], capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.json"
    path.write_bytes(encode(presplit(ClusterId(1), nodes[0].stores, regions=1)))
    for fake in nodes:
        fake.status = None
        fake.routes = None
    code = run(node, "nokv-node", ["status", "--topology", str(path), "--timeout", "0.2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["state"]) == (EXIT_UNREACHABLE, "UNAVAILABLE")
    assert [(row["store_id"], row["state"]) for row in found["nodes"]] == [(1, "DOWN"), (2, "DOWN"), (3, "DOWN")]


def test_regions_page_through_the_directory(nodes: list[FakeNode], capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--url", f"nokv://{nodes[0].address}"]
    assert run(node, "nokv-node", ["regions", *url, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["regions"]
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0]["start"], rows[-1]["end"]) == ("-inf", "+inf")
    assert all(left["end"] == right["start"] for left, right in pairwise(rows))
    assert run(node, "nokv-node", ["regions", *url, "ls"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert run(node, "nokv-node", ["regions", *url, "show", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("region 3  running")
    assert len(text.splitlines()) == 5, "a line for the region, a header, three replicas"
    assert run(node, "nokv-node", ["regions", *url, "show", "99"]) == EXIT_DEGRADED


def test_a_refusal_is_an_answer_with_its_detail(nodes: list[FakeNode]) -> None:
    nodes[0].refusal = BUSY
    with Asker() as asker, pytest.raises(AskError) as caught:
        asker.status(Address(nodes[0].address))
    assert caught.value.detail == BUSY


def test_bytes_that_are_no_frames_are_an_error_not_a_crash(nodes: list[FakeNode]) -> None:
    with Asker() as asker:
        for raw in (b"garbage" * 10, b"NK\x09" + bytes(29), b"NK"):
            nodes[0].raw = raw
            with pytest.raises(AskError, match="not our protocol"):
                asker.status(Address(nodes[0].address))


def test_many_are_asked_at_once_and_the_dead_cost_one_timeout(nodes: list[FakeNode]) -> None:
    nodes[1].status = None
    with Asker() as asker:
        questions: dict[int, Question] = {at: status_question(Address(fake.address)) for at, fake in enumerate(nodes)}
        answers = asker.ask_all(questions, StatusReply, timeout_ms=300)
    assert isinstance(answers[1], AskError)
    assert "within 300 ms" in answers[1].reason
    assert [answers[at].node.store_id for at in (0, 2)] == [1, 3]  # type: ignore[union-attr]


def test_answers_to_other_requests_are_left_alone(nodes: list[FakeNode]) -> None:
    def stray(request: object) -> None:
        del request

    nodes[0].other = stray
    with Asker() as asker, pytest.raises(AskError, match="no answer"):
        asker.ask(Question(Address(nodes[0].address), Kind.TSO, b""), StatusReply, timeout_ms=100)


# ---- the verdict's rules --------------------------------------------------------------------------------------------


def region(region_id: int, *stores: int, learners: tuple[int, ...] = ()) -> Region:
    peers = [Peer(PeerId(region_id * 100 + at), StoreId(at)) for at in stores]
    peers += [Peer(PeerId(region_id * 100 + at), StoreId(at), PeerRole.LEARNER) for at in learners]
    base = presplit(ClusterId(1), (StoreInfo(StoreId(1), "a:1", "a:2"),), regions=1).regions[0]
    return Region(base.id, b"", b"", base.epoch, tuple(peers))


STORES = tuple(StoreInfo(StoreId(at), f"h{at}:1", f"h{at}:2") for at in range(1, 6))


@pytest.mark.parametrize(
    ("where", "dead", "quorum"),
    [((1, 2, 3), (1,), True), ((1, 2, 3), (1, 2), False), ((1, 2), (1,), False), ((1, 2, 3, 4), (1, 2), False),
     ((1, 2, 3, 4, 5), (1, 2), True), ((1, 2, 3), (4, 5), True)],
)  # fmt: skip
def test_quorum_is_more_than_half_of_the_voters(where: tuple[int, ...], dead: tuple[int, ...], quorum: bool) -> None:
    answers = {store.client_addr: "silent" if store.id in dead else status_of(store.id) for store in STORES}
    verdict = judge(STORES, answers, [RegionRoute(region(1, *where), StoreId(3))])
    assert (verdict.regions_without_quorum == 0) is quorum
    assert verdict.under_replicated == any(store in where for store in dead)


def test_learners_do_not_count_for_a_quorum() -> None:
    answers = {store.client_addr: "silent" if store.id in (1, 2) else status_of(store.id) for store in STORES}
    routes = [RegionRoute(region(1, 1, 2, 3, learners=(4, 5)), StoreId(3))]
    assert judge(STORES, answers, routes).regions_without_quorum == 1


def test_a_region_without_a_leader_degrades() -> None:
    answers = {store.client_addr: status_of(store.id) for store in STORES}
    verdict = judge(STORES, answers, [RegionRoute(region(1, 1, 2, 3))])
    assert (verdict.state, verdict.regions_without_leader) == (State.DEGRADED, 1)
    assert "1 regions without a leader; some writes fail" in verdict.sentence


def test_workers_that_still_start_are_said_to() -> None:
    answers = {STORES[0].client_addr: status_of(1, states=("up", "starting"))}
    verdict = judge(STORES[:1], answers, [])
    assert (verdict.state, verdict.nodes[0].state) == (State.DEGRADED, "starting")


def test_no_node_at_all_is_unavailable() -> None:
    assert judge((), {}, []).state is State.UNAVAILABLE
