"""The node's picture of itself, put together from what its processes said last.

Why: status must be answerable when a worker hangs, so it is made of heartbeats and never asks anybody.
Invariants: every worker has a row, also one that was never heard of; a process silent for `down_after_ms` is "down"
with pid 0, and its replicas lead nothing; nothing here reads a clock, all times are monotonic milliseconds handed in.
Not here: the other stores' pictures (each node answers for itself), HTTP and tables (nokv.cli).
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from nokv.proto.control import RegionRoute, RegionStatus, RouterReport, StatusReply, WorkerHeartbeat
from nokv.proto.ids import ClusterId, Incarnation, PeerId, RegionId, StoreId, Term, WorkerId
from nokv.proto.region import Region
from nokv.proto.stats import NodeStatus, RouterStats, WorkerStats, WorkerStatus

DOWN_AFTER_MS: Final = 3_000
"""Silence after which a process is shown as down: two heartbeats lost and the third late."""

NEVER_MS: Final = -1
"""Age of something that was never heard of."""

STARTING: Final = "starting"
DOWN: Final = "down"
LEADER: Final = "leader"


class ControlView(Struct, frozen=True):
    """This node's replica of group 0: its role, the store that leads as far as known (0 = none), its term."""

    role: str
    leader_store: StoreId
    term: Term


class LeaderSeen(Struct, frozen=True):
    """Who leads a region, as a replica on this node knows it: what the directory's hints are made of. 0 = nobody."""

    region_id: RegionId
    leader_store: StoreId
    term: Term


class _Worker:
    """What is known of one worker."""

    __slots__ = ("heartbeat", "restarts", "seen_ms")

    def __init__(self) -> None:
        self.heartbeat: WorkerHeartbeat | None = None
        self.seen_ms = 0
        self.restarts = 0


class StatusBoard:
    """The last report of each process of this node, and when other stores were last heard of."""

    def __init__(
        self,
        *,
        cluster_id: ClusterId,
        store_id: StoreId,
        version: str,
        manifest_pid: int,
        workers: int,
        started_ms: int,
        down_after_ms: int = DOWN_AFTER_MS,
    ) -> None:
        assert workers > 0
        assert down_after_ms > 0
        self._cluster_id: Final = cluster_id
        self._store_id: Final = store_id
        self._version: Final = version
        self._manifest_pid: Final = manifest_pid
        self._started_ms: Final = started_ms
        self._down_after_ms: Final = down_after_ms

        # Soft
        self._workers: Final = tuple(_Worker() for _ in range(workers))
        self._router: RouterReport | None = None
        self._router_seen_ms = 0
        self._stores_seen_ms: dict[StoreId, int] = {}

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def note_worker(self, heartbeat: WorkerHeartbeat, now_ms: int) -> bool:
        """Take in a worker's heartbeat; returns False if there is no such worker here (it is ignored)."""
        if not 0 <= heartbeat.worker_id < len(self._workers):
            return False
        worker = self._workers[heartbeat.worker_id]
        if worker.heartbeat is not None and worker.heartbeat.incarnation != heartbeat.incarnation:
            worker.restarts += 1
        worker.heartbeat = heartbeat
        worker.seen_ms = now_ms
        return True

    def note_router(self, report: RouterReport, now_ms: int) -> None:
        """Take in the router's counters."""
        self._router = report
        self._router_seen_ms = now_ms

    def note_store(self, store_id: StoreId, now_ms: int) -> None:
        """Another store's manifest was heard of."""
        self._stores_seen_ms[store_id] = now_ms

    # ---- questions --------------------------------------------------------------------------------------------------

    def incarnation(self, worker_id: WorkerId) -> Incarnation:
        """The worker's run that was last heard of, 0 if none was."""
        heartbeat = self._workers[worker_id].heartbeat
        return Incarnation(0) if heartbeat is None else heartbeat.incarnation

    def is_down(self, worker_id: WorkerId, now_ms: int) -> bool:
        """Whether a worker has been silent for too long, counted from the manifest's start if it never spoke."""
        worker = self._workers[worker_id]
        heard_ms = self._started_ms if worker.heartbeat is None else worker.seen_ms
        return now_ms - heard_ms >= self._down_after_ms

    def all_up(self, now_ms: int) -> bool:
        """Whether every worker has been heard of lately and has finished starting."""
        return all(self._worker_status(WorkerId(i), now_ms).state == "up" for i in range(len(self._workers)))

    def regions(self, now_ms: int) -> tuple[RegionStatus, ...]:
        """All replicas the workers told of, by region id. Those of a worker that is down have role "down"."""
        found: list[RegionStatus] = []
        for index, worker in enumerate(self._workers):
            if worker.heartbeat is not None:
                reported = worker.heartbeat.regions
                found += map(_without_worker, reported) if self.is_down(WorkerId(index), now_ms) else reported
        return tuple(sorted(found, key=lambda status: status.region.id))

    def leads(self, now_ms: int) -> tuple[RegionRoute, ...]:
        """The regions this store leads, by id: what a StoreHeartbeat tells group 0."""
        return tuple(
            RegionRoute(status.region, self._store_id) for status in self.regions(now_ms) if status.role == LEADER
        )

    def leaders_seen(self, now_ms: int) -> tuple[LeaderSeen, ...]:
        """Who leads each region with a live replica here, by region id."""
        return tuple(
            LeaderSeen(status.region.id, _store_of(status.region, status.leader_peer), status.term)
            for status in self.regions(now_ms)
            if status.role != DOWN
        )

    def node(self, now_ms: int, control: ControlView, peers: Iterable[StoreId] = ()) -> NodeStatus:
        """The node's status. `peers`: the other stores of the cluster."""
        regions = self.regions(now_ms)
        router = self._router
        router_down = router is None or now_ms - self._router_seen_ms >= self._down_after_ms
        return NodeStatus(
            cluster_id=self._cluster_id,
            store_id=self._store_id,
            version=self._version,
            uptime_ms=max(0, now_ms - self._started_ms),
            manifest_pid=self._manifest_pid,
            router_pid=0 if router is None or router_down else router.pid,
            workers=tuple(self._worker_status(WorkerId(i), now_ms) for i in range(len(self._workers))),
            router=RouterStats() if router is None else router.stats,
            control_role=control.role,
            control_leader=control.leader_store,
            control_term=control.term,
            regions=len(regions),
            leaders=sum(1 for status in regions if status.role == LEADER),
            regions_without_leader=sum(1 for status in regions if not status.leader_peer),
            peers_seen_ms=self._peers_seen(peers, now_ms),
        )

    def reply(
        self, now_ms: int, control: ControlView, peers: Iterable[StoreId] = (), *, regions: bool = False
    ) -> StatusReply:
        """The answer to a StatusRequest."""
        return StatusReply(self.node(now_ms, control, peers), self.regions(now_ms) if regions else ())

    def _worker_status(self, worker_id: WorkerId, now_ms: int) -> WorkerStatus:
        worker = self._workers[worker_id]
        down = self.is_down(worker_id, now_ms)
        heartbeat = worker.heartbeat
        if heartbeat is None:
            return WorkerStatus(worker_id, 0, DOWN if down else STARTING, NEVER_MS, 0, WorkerStats())
        return WorkerStatus(
            worker_id,
            0 if down else heartbeat.pid,
            DOWN if down else heartbeat.stats.state,
            max(0, now_ms - worker.seen_ms),
            worker.restarts,
            heartbeat.stats,
        )

    def _peers_seen(self, peers: Iterable[StoreId], now_ms: int) -> tuple[tuple[StoreId, int], ...]:
        ages = []
        for store_id in sorted(peers):
            seen_ms = self._stores_seen_ms.get(store_id)
            ages.append((store_id, NEVER_MS if seen_ms is None else max(0, now_ms - seen_ms)))
        return tuple(ages)


def _without_worker(status: RegionStatus) -> RegionStatus:
    """A replica whose worker is down: it leads nothing. A leader elsewhere is left standing as the last thing known."""
    leader = PeerId(0) if status.leader_peer == status.peer_id else status.leader_peer
    return msgspec.structs.replace(status, role=DOWN, leader_peer=leader)


def _store_of(region: Region, peer_id: PeerId) -> StoreId:
    """The store a peer is on, 0 if it is none of the region's."""
    peer = region.peer(peer_id)
    return StoreId(0) if peer is None else peer.store_id
