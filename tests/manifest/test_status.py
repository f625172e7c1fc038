"""Status from heartbeats: nobody is missing, whoever is silent is down."""

import msgspec
import pytest

from nokv.manifest.status import DOWN_AFTER_MS, NEVER_MS, ControlView, LeaderSeen, StatusBoard
from nokv.proto.control import RegionRoute, RegionStatus, RouterReport, WorkerHeartbeat
from nokv.proto.ids import ClusterId, Incarnation, LogIndex, PeerId, RegionId, StoreId, Term, WorkerId
from nokv.proto.stats import RouterStats, WorkerStats
from tests.control.builders import region

START_MS = 50_000
S1, S2, S3 = StoreId(1), StoreId(2), StoreId(3)
VIEW = ControlView("follower", S2, Term(4))


def board(workers: int = 2) -> StatusBoard:
    return StatusBoard(
        cluster_id=ClusterId(7),
        store_id=S1,
        version="0.1.0",
        manifest_pid=10,
        workers=workers,
        started_ms=START_MS,
    )


def replica(region_id: int, *, leader: int, worker: int = 0, term: int = 3) -> RegionStatus:
    """This store's replica; `leader`: the store that leads, 0 = nobody."""
    described = region(region_id)
    peer = described.peer_on(StoreId(leader))
    return RegionStatus(
        region=described,
        peer_id=PeerId(100 * region_id + 1),
        worker_id=WorkerId(worker),
        role="leader" if leader == 1 else "follower",
        leader_peer=PeerId(0) if peer is None else peer.id,
        term=Term(term),
        commit=LogIndex(9),
        applied=LogIndex(9),
        first_index=LogIndex(1),
        last_index=LogIndex(9),
    )


def beat(worker: int, *replicas: RegionStatus, incarnation: int = 1, state: str = "up") -> WorkerHeartbeat:
    stats = WorkerStats(regions=len(replicas), state=state)
    return WorkerHeartbeat(WorkerId(worker), Incarnation(incarnation), 100 + worker, replicas, stats)


def states(status: StatusBoard, now_ms: int) -> list[str]:
    return [worker.state for worker in status.node(now_ms, VIEW).workers]


# ---- workers --------------------------------------------------------------------------------------------------------


def test_a_worker_that_never_spoke_is_starting_and_then_down_but_never_missing() -> None:
    status = board()
    assert states(status, START_MS) == ["starting", "starting"]
    assert states(status, START_MS + DOWN_AFTER_MS - 1) == ["starting", "starting"]
    assert states(status, START_MS + DOWN_AFTER_MS) == ["down", "down"]
    row = status.node(START_MS + DOWN_AFTER_MS, VIEW).workers[1]
    assert (row.worker_id, row.pid, row.age_ms, row.restarts, row.stats) == (1, 0, NEVER_MS, 0, WorkerStats())


def test_a_silent_worker_is_down_with_its_last_counters_and_comes_back() -> None:
    status = board()
    assert status.note_worker(beat(0, replica(1, leader=1)), START_MS + 100)
    assert states(status, START_MS + 100) == ["up", "starting"]
    silent_ms = START_MS + 100 + DOWN_AFTER_MS
    assert status.node(silent_ms - 1, VIEW).workers[0].pid == 100
    row = status.node(silent_ms, VIEW).workers[0]
    assert (row.state, row.pid, row.age_ms, row.stats.regions) == ("down", 0, DOWN_AFTER_MS, 1)
    status.note_worker(beat(0), silent_ms + 5)
    assert states(status, silent_ms + 5)[0] == "up"


@pytest.mark.parametrize("state", ["starting", "disk_full", "poisoned"])
def test_a_worker_says_its_own_state(state: str) -> None:
    status = board(1)
    status.note_worker(beat(0, state=state), START_MS)
    assert states(status, START_MS) == [state]
    assert not status.all_up(START_MS)


def test_another_incarnation_is_a_restart() -> None:
    status = board(1)
    assert status.incarnation(WorkerId(0)) == 0
    for incarnation in (5, 5, 6, 6, 7):
        status.note_worker(beat(0, incarnation=incarnation), START_MS)
    assert status.node(START_MS, VIEW).workers[0].restarts == 2
    assert status.incarnation(WorkerId(0)) == 7


@pytest.mark.parametrize("worker", [-1, 2, 99])
def test_a_worker_that_this_node_does_not_have_is_ignored(worker: int) -> None:
    status = board()
    assert not status.note_worker(beat(worker, replica(1, leader=1)), START_MS)
    assert status.node(START_MS, VIEW).regions == 0


def test_all_up_needs_every_worker_lately() -> None:
    status = board()
    status.note_worker(beat(0), START_MS)
    assert not status.all_up(START_MS)
    status.note_worker(beat(1), START_MS + 1_000)
    assert status.all_up(START_MS + 1_000)
    assert not status.all_up(START_MS + DOWN_AFTER_MS)


# ---- regions --------------------------------------------------------------------------------------------------------


def two_workers() -> StatusBoard:
    """Worker 0 leads region 1 and follows store 2 in region 3; worker 1 leads region 2 and knows no leader of 4."""
    status = board()
    status.note_worker(beat(0, replica(3, leader=2), replica(1, leader=1)), START_MS)
    status.note_worker(beat(1, replica(2, leader=1, worker=1), replica(4, leader=0, worker=1)), START_MS + 2_000)
    return status


def test_regions_and_leaders_are_counted_over_all_workers() -> None:
    node = two_workers().node(START_MS + 2_000, VIEW)
    assert (node.regions, node.leaders, node.regions_without_leader) == (4, 2, 1)


def test_a_down_workers_replicas_are_shown_and_lead_nothing() -> None:
    status, now_ms = two_workers(), START_MS + DOWN_AFTER_MS
    node = status.node(now_ms, VIEW)
    assert [worker.state for worker in node.workers] == ["down", "up"]
    assert (node.regions, node.leaders, node.regions_without_leader) == (4, 1, 2)
    roles = {r.region.id: (r.role, r.leader_peer) for r in status.regions(now_ms)}
    assert roles == {1: ("down", 0), 2: ("leader", 201), 3: ("down", 302), 4: ("follower", 0)}
    assert status.leads(now_ms) == (RegionRoute(region(2), S1),)
    assert status.leaders_seen(now_ms) == (
        LeaderSeen(RegionId(2), S1, Term(3)),
        LeaderSeen(RegionId(4), StoreId(0), Term(3)),
    )


def test_what_is_led_and_who_leads_the_rest() -> None:
    status = two_workers()
    assert [route.region.id for route in status.leads(START_MS + 2_000)] == [1, 2]
    seen = status.leaders_seen(START_MS + 2_000)
    assert [(hint.region_id, hint.leader_store) for hint in seen] == [(1, 1), (2, 1), (3, 2), (4, 0)]


def test_a_leader_that_is_no_peer_of_the_region_is_nobody() -> None:
    status = board(1)
    strange = msgspec.structs.replace(replica(1, leader=2), leader_peer=PeerId(999))
    status.note_worker(beat(0, strange), START_MS)
    assert status.leaders_seen(START_MS) == (LeaderSeen(RegionId(1), StoreId(0), Term(3)),)


def test_a_reply_lists_regions_only_if_asked() -> None:
    status = two_workers()
    now_ms = START_MS + 2_000
    assert status.reply(now_ms, VIEW).regions == ()
    full = status.reply(now_ms, VIEW, regions=True)
    assert [r.region.id for r in full.regions] == [1, 2, 3, 4]
    assert full.node == status.node(now_ms, VIEW)


# ---- the rest of the node -------------------------------------------------------------------------------------------


def test_the_node_shows_itself_its_router_and_group_0() -> None:
    status = board()
    status.note_router(RouterReport(20, RouterStats(client_frames=5)), START_MS + 500)
    node = status.node(START_MS + 700, VIEW)
    assert (node.cluster_id, node.store_id, node.version) == (7, 1, "0.1.0")
    assert (node.manifest_pid, node.router_pid, node.uptime_ms) == (10, 20, 700)
    assert node.router.client_frames == 5
    assert (node.control_role, node.control_leader, node.control_term) == ("follower", S2, 4)
    silent = status.node(START_MS + 500 + DOWN_AFTER_MS, VIEW)
    assert silent.router_pid == 0
    assert silent.router.client_frames == 5


def test_a_router_that_never_spoke_has_pid_0() -> None:
    node = board().node(START_MS, VIEW)
    assert node.router_pid == 0
    assert node.router == RouterStats()


def test_peers_are_listed_with_their_age_or_never() -> None:
    status = board()
    status.note_store(S3, START_MS + 100)
    status.note_store(S3, START_MS + 300)
    node = status.node(START_MS + 1_000, VIEW, [S3, S2])
    assert node.peers_seen_ms == ((S2, NEVER_MS), (S3, 700))
