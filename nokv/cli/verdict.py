"""How a cluster is, from what its nodes say: pure, so that every mixture of dead and living nodes can be tested.

Rules: a region has quorum while more than half of its voters are on nodes that answer; it is under-replicated while
any replica's node does not. HEALTHY: all nodes answer, all their workers are up, every region has a leader.
UNAVAILABLE: no node answers. Everything between is DEGRADED.
Not here: asking (nokv.node.admin), printing (status).
"""

from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct

from nokv.proto.control import RegionRoute, StatusReply, StoreInfo
from nokv.proto.region import PeerRole


class State(Enum):
    """The verdict's one word."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    UNAVAILABLE = "UNAVAILABLE"


class NodeRow(Struct, frozen=True):
    """One node in `status`: what it says, or why it says nothing. Every known node has a row."""

    store_id: int
    address: str
    state: str
    """up, starting, degraded (answers, but not all of its workers are up) or DOWN."""
    error: str = ""
    up_ms: int = 0
    workers_up: int = 0
    workers: int = 0
    regions: int = 0
    leaders: int = 0
    regions_without_leader: int = 0
    requests: int = 0
    control_role: str = ""
    worker_states: tuple[str, ...] = ()


class Verdict(Struct, frozen=True):
    """The whole answer of `status`."""

    state: State
    sentence: str
    nodes: tuple[NodeRow, ...]
    regions: int
    regions_without_quorum: int
    regions_without_leader: int
    under_replicated: int


def judge(
    stores: Sequence[StoreInfo], answers: Mapping[str, StatusReply | str], routes: Sequence[RegionRoute]
) -> Verdict:
    """The verdict over `stores`. `answers` holds each client address's status, or why there is none."""
    rows = tuple(_row(store, answers.get(store.client_addr, "not asked")) for store in stores)
    alive = {row.store_id for row in rows if row.state != "DOWN"}
    no_quorum = sum(not _has_quorum(route, alive) for route in routes)
    under = sum(any(peer.store_id not in alive for peer in route.region.peers) for route in routes)
    leaderless = max(sum(not route.leader_store for route in routes), no_quorum)
    down = len(rows) - len(alive)
    if not alive:
        sentence = f"none of {len(rows)} nodes answers" if rows else "no node is known"
        return Verdict(State.UNAVAILABLE, sentence, rows, len(routes), no_quorum, leaderless, under)
    limping = [row.store_id for row in rows if row.state in ("degraded", "starting")]
    faults = []
    if down:
        faults.append(f"{down} of {len(rows)} nodes down")
    if limping:
        faults.append(f"node {', '.join(map(str, limping))} without all of its workers")
    if no_quorum or down:
        faults.append(f"{no_quorum} regions without quorum, {under} under-replicated")
    if leaderless and not no_quorum:
        faults.append(f"{leaderless} regions without a leader")
    if not faults:
        sentence = f"{len(rows)} node{'s' if len(rows) != 1 else ''} up, {len(routes)} regions, all with a leader"
        return Verdict(State.HEALTHY, sentence, rows, len(routes), 0, 0, 0)
    faults.append("some writes fail" if no_quorum or leaderless else "writes OK")
    return Verdict(State.DEGRADED, "; ".join(faults), rows, len(routes), no_quorum, leaderless, under)


def _has_quorum(route: RegionRoute, alive: set[int]) -> bool:
    voters = [peer.store_id for peer in route.region.peers if peer.role is PeerRole.VOTER]
    return 2 * sum(store_id in alive for store_id in voters) > len(voters)


def _row(store: StoreInfo, answer: StatusReply | str) -> NodeRow:
    if isinstance(answer, str):
        return NodeRow(store.id, store.client_addr, "DOWN", error=answer)
    node = answer.node
    states = tuple(worker.state for worker in node.workers)
    if all(state == "up" for state in states):
        state = "up"
    else:
        state = "starting" if all(state in ("up", "starting") for state in states) else "degraded"
    return NodeRow(
        store.id,
        store.client_addr,
        state,
        up_ms=node.uptime_ms,
        workers_up=states.count("up"),
        workers=len(states),
        regions=node.regions,
        leaders=node.leaders,
        regions_without_leader=node.regions_without_leader,
        requests=sum(worker.stats.requests for worker in node.workers),
        control_role=node.control_role,
        worker_states=states,
    )
