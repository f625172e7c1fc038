"""The manifest's core: this node's replica of group 0, and everything the node's processes need to be told.

Why: placement, routes, timestamps and status have one owner per node; this is it. Still sans-IO: it takes frames and
time and returns a `Turn`, like a worker's core, and runs in the same loop.
Invariants:
- Timestamps are granted only under group 0's leader lease, checked again after the grant, or behind a ReadIndex round
  that began after the request came: they are reads of a kind, and go through the replica's read queue.
- What only group 0's leader can answer is answered NotLeader elsewhere, so that the client learns the way; a region
  leader's request for a timestamp is forwarded, since it cannot learn it.
Not here: group 0's rules (nokv.control), what is durable of this store (catalog.py), pushes and drain (processes.py).
"""

from collections.abc import Callable
from struct import Struct as Layout
from typing import Final

import msgspec

from nokv import __version__
from nokv.config import NodeConfig
from nokv.control.heartbeats import Heartbeats
from nokv.manifest.bootstrap import Started
from nokv.manifest.machine import ControlMachine
from nokv.manifest.processes import Processes
from nokv.manifest.requests import Requests
from nokv.manifest.status import ControlView, StatusBoard
from nokv.proto import control, errors
from nokv.proto.frame import VERSION, Frame, FrameError, Kind, encode, split
from nokv.proto.ids import GROUP_ZERO, LATEST, Incarnation, PeerId, StoreId, Term
from nokv.proto.region import FIRST_EPOCH, Peer, Region
from nokv.storage.engine import Engine
from nokv.storage.wal import Wal
from nokv.workers.figures import LoopFigures
from nokv.workers.peer import Peer as Replica
from nokv.workers.pipeline import Waiter
from nokv.workers.shard import Shard
from nokv.workers.turn import (
    FROM_CLIENT,
    FROM_PEER_PLANE,
    FROM_ROUTER,
    FROM_WORKER,
    TO_PEER_PLANE,
    Turn,
)
from nokv.workers.worker import frame_refusal

GRANT_ADDRESS: Final = Layout(">cQQQ")
"""Pseudo client address of a region leader that waits for a timestamp: b"L", store, region, term."""
GRANT_BUDGET_MS: Final = 2000
"""How long such a request may wait here; the region's leader asks again every few ticks."""

_client_decoders: Final[dict[int, "msgspec.msgpack.Decoder[object]"]] = {
    Kind.TSO: msgspec.msgpack.Decoder(control.TsoRequest),
    Kind.ROUTES: msgspec.msgpack.Decoder(control.RoutesRequest),
    Kind.STATUS: msgspec.msgpack.Decoder(control.StatusRequest),
    Kind.ALLOC_IDS: msgspec.msgpack.Decoder(control.AllocIdsRequest),
    Kind.CHAOS: msgspec.msgpack.Decoder(control.ChaosRequest),
    Kind.TRANSFER_LEADER: msgspec.msgpack.Decoder(control.TransferLeaderRequest),
}
_register: Final = msgspec.msgpack.Decoder(control.Register)
_worker_heartbeat: Final = msgspec.msgpack.Decoder(control.WorkerHeartbeat)
_router_report: Final = msgspec.msgpack.Decoder(control.RouterReport)
_drained: Final = msgspec.msgpack.Decoder(control.Drained)
_peer_tso: Final = msgspec.msgpack.Decoder(control.PeerTsoRequest)
_store_heartbeat: Final = msgspec.msgpack.Decoder(control.StoreHeartbeat)


def group_zero(stores: tuple[control.StoreInfo, ...]) -> Region:
    """Group 0 as a region: every founding store is a voter, and its peer id is its store id."""
    peers = tuple(Peer(PeerId(store.id), store.id) for store in stores)
    return Region(GROUP_ZERO, b"", b"", FIRST_EPOCH, peers)


class ManifestCore:
    """Everything the manifest process decides.

    Times are monotonic milliseconds, `wall_ms` milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        started: Started,
        replica: Replica,
        machine: ControlMachine,
        engine: Engine,
        wal: Wal,
        incarnation: Incarnation,
        pid: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._config: Final = config
        self._incarnation: Final = incarnation
        self.engine: Final = engine
        self.wal: Final = wal
        self.store_id: Final = StoreId(config.node.store_id)
        self.cluster_id: Final = started.identity.cluster_id
        self._machine: Final = machine
        self._oracle: Final = machine.oracle
        self._replica: Final = replica
        self.shard: Final = Shard(engine, clock_ms)
        self.shard.add(replica)
        self._board: Final = StatusBoard(
            cluster_id=self.cluster_id,
            store_id=self.store_id,
            version=__version__,
            manifest_pid=pid,
            workers=started.identity.workers,
            started_ms=clock_ms(),
            down_after_ms=config.manifest.down_after_ms,
        )
        self.processes: Final = Processes(
            config, self.cluster_id, started.catalog, started.stores, self._board, started.identity.workers
        )
        self._requests: Final = Requests(config, self.cluster_id, machine.state, self._board, self.processes)
        self._heartbeats: Final = Heartbeats()

        self.stores = control.Stores(started.stores)
        self.stores_changed = True
        self.stopped = False
        self._pending: set[tuple[bytes, int]] = set()
        self._turn = Turn(self._pending)
        self._oracle_term = Term(0)
        self._next_grant_id = 0
        self._next_heartbeat_ms = 0

        self.figures = LoopFigures()

    # ---- what the loop asks ----------------------------------------------------------------------------------------

    @property
    def wants_checkpoint(self) -> bool:
        """The manifest's own state is small: the usual bounds do."""
        return False

    def hello_to(self, store_id: StoreId) -> bytes:
        """The frame that says who we are, first in every message to another store's peer plane."""
        hello = control.PeerHello(VERSION, self.cluster_id, self.store_id, store_id)
        return encode(Kind.HELLO, 0, 0, control.encode_body(hello))

    def set_disk(self, *, free_bytes: int, full: bool) -> None:
        """The control plane's few records are always taken; its workers watch the same disk for data."""

    def stop(self, now_ms: int) -> None:
        """SIGTERM: drain the node, then end."""
        self.processes.begin_drain(self._turn, now_ms)
        target = self._replica.best_successor()
        if self._replica.leads and target is not None:
            self._replica.transfer_leader(target)
            self.shard.touch(self._replica)

    # ---- input -----------------------------------------------------------------------------------------------------

    def receive(self, address: bytes, message: bytes, now_ms: int) -> None:
        """One (address, frames) pair from the router's link."""
        origin = address[0] if address else 0
        try:
            for frame in split(message):
                if origin == FROM_CLIENT:
                    self._client_frame(address, frame, now_ms)
                elif origin == FROM_PEER_PLANE:
                    self._peer_frame(frame, now_ms)
                elif origin == FROM_WORKER:
                    self._worker_frame(frame, now_ms)
                elif origin == FROM_ROUTER and frame.kind == Kind.ROUTER_STATS:
                    self._board.note_router(_router_report.decode(frame.body), now_ms)
        except FrameError as error:
            if origin == FROM_CLIENT:
                self._turn.refuse(address, encode(Kind.ERROR, 0, 0, errors.encode_error(frame_refusal(error))))
        except msgspec.DecodeError:
            self.shard.statistics.peer_frames_refused += 1

    def tick(self, now_ms: int, wall_ms: int) -> None:
        """Called once per raft.tick_ms."""
        self.shard.tick(self._turn, now_ms)
        self._turn_oracle(wall_ms)
        self.processes.tick(self._turn, now_ms)
        if now_ms >= self._next_heartbeat_ms:
            self._next_heartbeat_ms = now_ms + self._config.manifest.heartbeat_ms
            self._tell_leader(now_ms)
        if self.processes.draining and self.processes.drain_over(now_ms):
            self.stopped = True

    def propose(self, now_ms: int) -> tuple[Turn, bool]:
        """First half of a turn: its effects so far, and whether the log's buffer has new records to flush."""
        return self._half(self.shard.propose(self._turn, now_ms))

    def apply(self, now_ms: int) -> tuple[Turn, bool]:
        """Second half, likewise."""
        return self._half(self.shard.apply(self._turn, now_ms))

    def _half(self, logged: bool) -> tuple[Turn, bool]:
        turn = self._turn
        self._send_grants(turn)
        self._turn = Turn(self._pending)
        return turn, logged

    def synced(self, position: int) -> None:
        """The log is durable up to `position`."""
        self.shard.synced(position, self._turn)

    def end_checkpoint(self, *, committed: bool) -> None:
        """See Shard.end_checkpoint."""
        self.shard.end_checkpoint(committed=committed)

    # ---- clients ---------------------------------------------------------------------------------------------------

    def _client_frame(self, address: bytes, frame: Frame, now_ms: int) -> None:
        decoder = _client_decoders.get(frame.kind)
        if decoder is None:
            self._answer(address, frame, errors.UnknownKind(frame.kind))
            return
        try:
            request = decoder.decode(frame.body)
        except msgspec.DecodeError as error:
            self._answer(address, frame, errors.MalformedFrame(str(error)))
            return
        match request:
            case control.TsoRequest():
                self._ask_oracle(address, frame, request, now_ms)
            case control.AllocIdsRequest():
                self._alloc_ids(address, frame, request, now_ms)
            case control.RoutesRequest():
                self._answer(address, frame, self._requests.routes(request))
            case control.StatusRequest():
                self._answer(address, frame, self._requests.status(request, self._view(), now_ms))
            case control.ChaosRequest():
                self._answer(address, frame, self._requests.chaos(request, self._turn))
                self.stores = control.Stores(self.processes.stores, self.processes.blocked)
                self.stores_changed = True
            case control.TransferLeaderRequest():
                detail = self._replica.transfer_leader(request.to_store)
                self.shard.touch(self._replica)
                self._answer(address, frame, detail or control.TransferLeaderReply())
            case _:
                raise AssertionError(f"no answer for {request!r}")

    def _answer(self, address: bytes, frame: Frame, outcome: msgspec.Struct) -> None:
        """Answer a request that was not admitted to a queue."""
        if type(outcome) in errors.REMEDY:
            kind, body = Kind.ERROR, control.encode_body(outcome)
        else:
            kind, body = Kind.OK, control.encode_body(outcome)
        self._turn.refuse(address, encode(kind, frame.request_id, frame.region_id, body))

    def _admit(self, address: bytes, frame: Frame) -> bool:
        """Whether a request may wait for its answer; if not it was refused."""
        waiting = (address, frame.request_id)
        if waiting in self._pending:
            self._answer(address, frame, errors.DuplicateRequest(frame.request_id))
        elif len(self._pending) >= self._config.limits.requests_waiting_max:
            self._answer(address, frame, errors.ServerIsBusy("requests_waiting_max"))
        elif not frame.deadline_ms:
            self._answer(address, frame, errors.DeadlineExceeded("arrival"))
        else:
            return True
        return False

    def _ask_oracle(self, address: bytes, frame: Frame, request: control.TsoRequest, now_ms: int) -> None:
        refusal = self._oracle.refusal(request.count)
        if refusal is not None:
            self._answer(address, frame, refusal)
        elif self._admit(address, frame):
            deadline_ms = now_ms + min(frame.deadline_ms, self._config.limits.read_timeout_ms)
            detail = self._replica.offer_read(address, frame.request_id, frame.kind, request, LATEST, deadline_ms)
            if detail is not None:
                self._answer(address, frame, detail)
                return
            self._pending.add((address, frame.request_id))
            self.shard.touch(self._replica)

    def _alloc_ids(self, address: bytes, frame: Frame, request: control.AllocIdsRequest, now_ms: int) -> None:
        if not self._replica.leads:
            self._answer(address, frame, self._replica.not_leader())
        elif not 0 < request.count <= self._config.manifest.ids_count_max:
            self._answer(address, frame, errors.InvalidArgument("count", "must be 1 to manifest.ids_count_max"))
        elif self._admit(address, frame):
            deadline_ms = now_ms + min(frame.deadline_ms, self._config.limits.command_timeout_ms)
            waiter = Waiter(address, frame.request_id, deadline_ms)
            command: control.ControlCommand = control.AllocIds(request.count)
            if not self._replica.propose_control(control.encode_body(command), waiter):
                self._answer(address, frame, errors.ServerIsBusy("group 0 takes no proposal now"))
                return
            self._pending.add((address, frame.request_id))
            self.shard.touch(self._replica)

    # ---- the oracle ------------------------------------------------------------------------------------------------

    def _turn_oracle(self, wall_ms: int) -> None:
        """Follow the leadership, and keep a window open while it lasts."""
        replica, oracle = self._replica, self._oracle
        self._machine.wall_ms = wall_ms
        if not replica.serves_reads:
            if oracle.leading:
                oracle.stop()
            return
        if not oracle.leading or self._oracle_term != replica.term:
            oracle.lead(self._machine.state.tso_ahead)
            self._oracle_term = replica.term
        until = oracle.wanted_window(wall_ms)
        if until is not None:
            command: control.ControlCommand = control.TsoAhead(until)
            if not replica.propose_control(control.encode_body(command), None):
                oracle.window_dropped()
            self.shard.touch(replica)

    def _peer_tso(self, request: control.PeerTsoRequest, now_ms: int) -> None:
        """A region leader wants a timestamp: queue it here if this replica leads, else pass it on."""
        replica = self._replica
        if not replica.leads:
            leader = replica.not_leader().leader_store
            if leader and leader != self.store_id:
                body = control.encode_body(request)
                self._turn.to_store(leader, encode(Kind.PEER_TSO, 0, GROUP_ZERO, body))
            return
        self._next_grant_id += 1
        address = GRANT_ADDRESS.pack(b"L", request.store_id, request.region_id, request.term)
        wanted = control.TsoRequest(1)
        deadline_ms = now_ms + GRANT_BUDGET_MS
        if replica.offer_read(address, self._next_grant_id, Kind.TSO, wanted, LATEST, deadline_ms) is None:
            self.shard.touch(replica)

    def _send_grants(self, turn: Turn) -> None:
        """Replies to pseudo addresses become grants on their way to the region leaders that asked."""
        for address in [address for address in turn.replies if address[:1] == b"L"]:
            _mark, store_id, region_id, term = GRANT_ADDRESS.unpack(address)
            for frame in split(b"".join(turn.replies.pop(address))):
                if frame.kind != Kind.OK:
                    continue
                reply = msgspec.msgpack.decode(frame.body, type=control.TsoReply)
                body = control.encode_body(control.PeerTsoGrant(reply.first, Term(term)))
                grant = encode(Kind.PEER_TSO_GRANT, 0, region_id, body)
                if store_id == self.store_id:
                    turn.local.append((TO_PEER_PLANE, grant))
                else:
                    turn.to_store(StoreId(store_id), grant)

    # ---- other stores ----------------------------------------------------------------------------------------------

    def _peer_frame(self, frame: Frame, now_ms: int) -> None:
        if frame.kind == Kind.PEER_TSO:
            self._peer_tso(_peer_tso.decode(frame.body), now_ms)
        elif frame.kind == Kind.STORE_HEARTBEAT:
            self._store_heartbeat(_store_heartbeat.decode(frame.body), now_ms)
        else:
            self.shard.peer_frame(frame, now_ms)

    def _tell_leader(self, now_ms: int) -> None:
        """Leader hints from this node's replicas; and the node's state for group 0, through its leader."""
        directory = self._machine.state.directory
        for seen in self._board.leaders_seen(now_ms):
            directory.note_leader(seen.region_id, seen.leader_store, seen.term)
        own = next((info for info in self.processes.stores if info.id == self.store_id), None)
        if own is None:
            return
        node = self._board.node(now_ms, self._view())
        beat = control.StoreHeartbeat(own, self._incarnation, self._board.leads(now_ms), node)
        frame = encode(Kind.STORE_HEARTBEAT, 0, GROUP_ZERO, control.encode_body(beat))
        for info in self.processes.stores:
            if info.id != self.store_id:
                self._turn.to_store(info.id, frame)
        self._note_store(beat, now_ms)

    def _store_heartbeat(self, beat: control.StoreHeartbeat, now_ms: int) -> None:
        self._board.note_store(beat.store.id, now_ms)
        self._note_store(beat, now_ms)

    def _note_store(self, beat: control.StoreHeartbeat, now_ms: int) -> None:
        """Every node keeps the hints; group 0's leader also records what is news."""
        self._heartbeats.note(beat, now_ms)
        state, replica = self._machine.state, self._replica
        if not replica.leads:
            return
        commands: list[control.ControlCommand] = []
        if state.store(beat.store.id) != beat.store:
            commands.append(control.PutStore(beat.store))
        commands += [control.PutRegion(region) for region in state.directory.news(r.region for r in beat.leads)]
        for command in commands:
            replica.propose_control(control.encode_body(command), None)
        if commands:
            self.shard.touch(replica)

    # ---- this node's processes -------------------------------------------------------------------------------------

    def _worker_frame(self, frame: Frame, now_ms: int) -> None:
        if frame.kind == Kind.WORKER_HEARTBEAT:
            heartbeat = _worker_heartbeat.decode(frame.body)
            self.processes.heartbeat(heartbeat, now_ms)
            directory = self._machine.state.directory
            for status in heartbeat.regions:
                leader = status.region.peer(status.leader_peer)
                if leader is not None:
                    directory.note_leader(status.region.id, leader.store_id, status.term)
        elif frame.kind == Kind.REGISTER:
            self.processes.register(_register.decode(frame.body), self._turn)
        elif frame.kind == Kind.PEER_TSO:
            self._peer_tso(_peer_tso.decode(frame.body), now_ms)
        elif frame.kind == Kind.DRAINED:
            self.processes.drained(_drained.decode(frame.body).worker_id)

    def _view(self) -> ControlView:
        replica = self._replica
        role = replica.node.basic_status().role.name.lower()
        return ControlView(role, replica.not_leader().leader_store, replica.term)
