"""Client requests to the control plane, answered by any node from what it knows, or by group 0's leader alone.

Invariants: routes and status are answered at once from memory, also when no worker lives; bad input gets a typed
refusal.
Not here: timestamps and ids, which need group 0's leader (host.py).
"""

from typing import Final

from nokv.config import NodeConfig
from nokv.control.cluster import ControlState
from nokv.manifest.processes import Processes
from nokv.manifest.status import ControlView, StatusBoard
from nokv.proto import control, errors
from nokv.proto.ids import ClusterId, StoreId
from nokv.workers.turn import Turn


class Requests:
    """Answers that need no agreement."""

    def __init__(
        self,
        config: NodeConfig,
        cluster_id: ClusterId,
        state: ControlState,
        board: StatusBoard,
        processes: Processes,
    ) -> None:
        self._config: Final = config
        self._cluster_id: Final = cluster_id
        self._store_id: Final = StoreId(config.node.store_id)
        self._state: Final = state
        self._board: Final = board
        self._processes: Final = processes

    def routes(self, request: control.RoutesRequest) -> control.RoutesReply | errors.ErrorDetail:
        """The directory from `start` on, with the leaders this node knows of."""
        if request.limit < 1:
            return errors.InvalidArgument("limit", "must be at least 1")
        limit = min(request.limit, self._config.limits.routes_page_max)
        routes, more = self._state.directory.routes(request.start, limit)
        return control.RoutesReply(self._cluster_id, self._processes.stores, routes, more)

    def status(self, request: control.StatusRequest, view: ControlView, now_ms: int) -> control.StatusReply:
        """The node's own picture of itself."""
        peers = [info.id for info in self._processes.stores if info.id != self._store_id]
        return self._board.reply(now_ms, view, peers, regions=request.regions)

    def chaos(self, request: control.ChaosRequest, turn: Turn) -> control.ChaosReply | errors.ErrorDetail:
        """Cut stores off, if this node was started to obey."""
        if not self._config.chaos.enabled:
            return errors.InvalidArgument("chaos", "this node was not started with chaos.enabled")
        known = {info.id for info in self._processes.stores}
        if not set(request.blocked_stores) <= known:
            return errors.InvalidArgument("blocked_stores", f"the cluster has stores {sorted(known)}")
        self._processes.block(tuple(sorted(set(request.blocked_stores))), turn)
        return control.ChaosReply(self._processes.blocked)
