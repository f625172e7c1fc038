"""The other processes of the node: who has registered, what each was told, and how they are stopped.

Why: workers and router restart at any time and must find their way back within one push, without asking the cluster.
Invariants: what is pushed is always whole, never a difference; a worker is assigned as often as it registers; a
replica is confirmed by the heartbeat of the worker that serves it, and not before.
Not here: what the catalog decides (catalog.py), group 0 (host.py).
"""

from typing import Final

from nokv.config import NodeConfig, advertised_limits
from nokv.manifest.catalog import Catalog, CatalogError
from nokv.manifest.status import StatusBoard
from nokv.proto import control
from nokv.proto.frame import Kind, encode
from nokv.proto.ids import ClusterId, StoreId, WorkerId
from nokv.workers.turn import TO_ROUTER, Turn, worker_address

DRAIN_SHARE: Final = 0.6
"""Part of the drain timeout that workers get to hand leaders over; the rest is for checkpoints and exits."""


class Processes:
    """Pushes to router and workers, and what they report. Times are monotonic milliseconds."""

    def __init__(
        self,
        config: NodeConfig,
        cluster_id: ClusterId,
        catalog: Catalog,
        stores: tuple[control.StoreInfo, ...],
        board: StatusBoard,
        workers: int,
    ) -> None:
        self._config: Final = config
        self._cluster_id: Final = cluster_id
        self._store_id: Final = StoreId(config.node.store_id)
        self._catalog: Final = catalog
        self._board: Final = board
        self._workers: Final = workers

        self.stores = stores
        self.blocked: tuple[StoreId, ...] = ()
        self._next_push_ms = 0
        self._drain_until_ms = 0
        self._drained: set[WorkerId] = set()

    # ---- pushes ----------------------------------------------------------------------------------------------------

    def tick(self, turn: Turn, now_ms: int) -> None:
        """Repeat the router's table, which a restarted router waits for."""
        if now_ms >= self._next_push_ms:
            self.push_routing(turn)
            self._next_push_ms = now_ms + self._config.manifest.routing_push_ms

    def push_routing(self, turn: Turn) -> None:
        """Tell the router which worker serves which region."""
        routing = control.Routing(
            self._cluster_id,
            self._store_id,
            self._catalog.placement(),
            self.blocked,
            limits=advertised_limits(self._config),
        )
        turn.local.append((TO_ROUTER, encode(Kind.ROUTING, 0, 0, control.encode_body(routing))))

    def block(self, stores: tuple[StoreId, ...], turn: Turn) -> None:
        """Cut stores off on purpose, or none:

        router, workers and this process drop what comes from and goes to them.
        """
        self.blocked = stores
        self.push_routing(turn)
        body = control.encode_body(control.Stores(self.stores, stores))
        for worker in range(self._workers):
            turn.local.append((worker_address(worker), encode(Kind.STORES, 0, 0, body)))

    # ---- reports ---------------------------------------------------------------------------------------------------

    def register(self, register: control.Register, turn: Turn) -> None:
        """A worker has started: tell it what it serves."""
        if not 0 <= register.worker_id < self._workers:
            return
        assign = control.Assign(
            self._cluster_id,
            self._store_id,
            register.worker_id,
            self._catalog.seeds_for(register.worker_id),
            self.stores,
        )
        turn.local.append((worker_address(register.worker_id), encode(Kind.ASSIGN, 0, 0, control.encode_body(assign))))
        if self.blocked:
            self.block(self.blocked, turn)

    def heartbeat(self, heartbeat: control.WorkerHeartbeat, now_ms: int) -> None:
        """A worker's replicas as they are: confirmed from now on, and newer descriptions kept."""
        if not self._board.note_worker(heartbeat, now_ms):
            return
        for status in heartbeat.regions:
            try:
                self._catalog.confirm(status.region.id)
                self._catalog.update(status.region)
            except CatalogError:
                continue  # a worker that serves what is not placed on it is found by the status page, not by a crash

    # ---- drain -----------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether a drain was begun."""
        return bool(self._drain_until_ms)

    def begin_drain(self, turn: Turn, now_ms: int) -> None:
        """Ask every worker to hand its leaders over and to take a checkpoint."""
        if self.draining:
            return
        budget_ms = int(self._config.node.drain_timeout_s * 1000 * DRAIN_SHARE)
        self._drain_until_ms = now_ms + budget_ms
        body = control.encode_body(control.Drain(budget_ms))
        for worker in range(self._workers):
            turn.local.append((worker_address(worker), encode(Kind.DRAIN, 0, 0, body)))

    def drained(self, worker_id: WorkerId) -> None:
        """A worker is done."""
        self._drained.add(worker_id)

    def drain_over(self, now_ms: int) -> bool:
        """Whether nothing is left to wait for: all workers that live are done, or the time is over."""
        if now_ms >= self._drain_until_ms:
            return True
        waiting = (WorkerId(index) for index in range(self._workers) if WorkerId(index) not in self._drained)
        return all(self._board.is_down(worker_id, now_ms) for worker_id in waiting)
