"""The worker's core: a shard plus its dealings with manifest, router and clients. Still sans-IO.

Why: what a worker owns is told to it, what it does is reported by it, and how it stops is asked of it; none of that
belongs into the heart that runs Raft.
Invariants: it serves nothing before it was assigned its regions; it confirms a region (by reporting it) only after the
replica is durable; a drain hands leaders over first and refuses new writes meanwhile.
Not here: sockets, files, threads (loop.py), the turn's order (shard.py).
"""

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from nokv.config import NodeConfig
from nokv.mvcc.limits import Limits
from nokv.proto.control import Assign, Drain, Drained, PeerHello, Register, Stores, WorkerHeartbeat, encode_body
from nokv.proto.errors import MalformedFrame, ProtocolMismatch, encode_error
from nokv.proto.frame import VERSION, Frame, FrameError, Kind, Plane, encode, plane_allows, split
from nokv.proto.ids import ClusterId, Incarnation, StoreId, WorkerId
from nokv.proto.region import Region
from nokv.proto.stats import WorkerStats
from nokv.storage.engine import CorruptionError, Engine
from nokv.storage.raft_log import RaftLog
from nokv.storage.wal import Wal
from nokv.workers.admission import Admission
from nokv.workers.figures import LoopFigures
from nokv.workers.hashing import answer_replica_hash
from nokv.workers.machine import RegionMachine
from nokv.workers.shard import Shard
from nokv.workers.starting import make_replica, start_peer, stored_region
from nokv.workers.turn import FROM_CLIENT, FROM_MANIFEST, FROM_PEER_PLANE, TO_MANIFEST, Turn

_assign_decoder: Final = msgspec.msgpack.Decoder(Assign)
_stores_decoder: Final = msgspec.msgpack.Decoder(Stores)
_drain_decoder: Final = msgspec.msgpack.Decoder(Drain)


class WorkerCore:
    """Everything a worker process decides. Times are monotonic milliseconds, `wall_ms` milliseconds since the epoch."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        limits: Limits,
        worker_id: WorkerId,
        incarnation: Incarnation,
        pid: int,
        engine: Engine,
        wal: Wal,
        clock_ms: Callable[[], int],
        rng: Random,
        claim: Callable[[ClusterId, StoreId], None],
    ) -> None:
        """`claim` binds the data directory to its cluster and store; it refuses another's (DataDir.claim)."""
        self._config: Final = config
        self._limits: Final = limits
        self._worker_id: Final = worker_id
        self._incarnation: Final = incarnation
        self._pid: Final = pid
        self.engine: Final = engine
        self.wal: Final = wal
        self._rng: Final = rng
        self._claim: Final = claim
        self.store_id: Final = StoreId(config.node.store_id)
        self.shard: Final = Shard(engine, clock_ms)
        self.admission: Final = Admission(config, limits, self.store_id, self.shard.peers)

        self.cluster_id = ClusterId(0)
        self.assigned = False
        self.stopped = False
        self.stores: Stores = Stores(())
        self.stores_changed = False
        self._pending: set[tuple[bytes, int]] = set()
        self._turn = Turn(self._pending)
        self._next_register_ms = 0
        self._next_heartbeat_ms = 0
        self._drain_until_ms = 0
        self._drained = False

        self.figures = LoopFigures()

    # ---- what the loop asks ----------------------------------------------------------------------------------------

    def stop(self, now_ms: int) -> None:
        """SIGTERM: the manifest has drained this worker before, so it ends at once."""
        self.stopped = True

    def hello_to(self, store_id: StoreId) -> bytes:
        """The frame that says who we are, first in every message to another store's peer plane."""
        body = encode_body(PeerHello(VERSION, self.cluster_id, self.store_id, store_id))
        return encode(Kind.HELLO, 0, 0, body)

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a drain waits for a checkpoint, whatever the usual bounds say."""
        return bool(self._drain_until_ms) and not self._drained and not self._leads_elsewhere()

    def set_disk(self, *, free_bytes: int, full: bool) -> None:
        """The disk as last looked at: below its low mark, writes that need space are refused."""
        self.admission.free_bytes, self.admission.disk_full = free_bytes, full

    # ---- input -----------------------------------------------------------------------------------------------------

    def receive(self, address: bytes, message: bytes, now_ms: int) -> None:
        """One (address, frames) pair from the router's link."""
        origin = address[0] if address else 0
        try:
            if origin == FROM_CLIENT:
                for frame in split(message):
                    self._client_frame(address, frame, now_ms)
            elif origin == FROM_PEER_PLANE:
                for frame in split(message):
                    self.shard.peer_frame(frame, now_ms)
            elif origin == FROM_MANIFEST:
                for frame in split(message):
                    self._manifest_frame(frame, now_ms)
        except FrameError as error:
            self.admission.statistics.bad_input += 1
            if origin == FROM_CLIENT:
                self._turn.refuse(address, encode(Kind.ERROR, 0, 0, encode_error(frame_refusal(error))))

    def tick(self, now_ms: int, wall_ms: int) -> None:
        """Called once per raft.tick_ms: logical clocks, timeouts, registration, reports, drain."""
        self.admission.wall_ms = wall_ms
        self.shard.tick(self._turn, now_ms)
        if not self.assigned:
            self._register(now_ms)
            return
        if self._drain_until_ms:
            self._drain(now_ms)
        if now_ms >= self._next_heartbeat_ms or any(peer.changed for peer in self.shard.peers.values()):
            self._heartbeat(now_ms)

    def propose(self, now_ms: int) -> tuple[Turn, bool]:
        """First half of a turn: its effects so far, and whether the log's buffer has new records to flush."""
        return self._half(self.shard.propose(self._turn, now_ms))

    def apply(self, now_ms: int) -> tuple[Turn, bool]:
        """Second half, likewise."""
        return self._half(self.shard.apply(self._turn, now_ms))

    def _half(self, logged: bool) -> tuple[Turn, bool]:
        turn = self._turn
        self._turn = Turn(self._pending)
        return turn, logged

    def synced(self, position: int) -> None:
        """The log is durable up to `position`."""
        self.shard.synced(position, self._turn)

    def end_checkpoint(self, *, committed: bool) -> None:
        """See Shard.end_checkpoint; a drain that waited for it is done."""
        self.shard.end_checkpoint(committed=committed)
        if committed and self.wants_checkpoint:
            self._drained = True
            self._turn.local.append((TO_MANIFEST, encode(Kind.DRAINED, 0, 0, encode_body(Drained(self._worker_id)))))

    # ---- clients ---------------------------------------------------------------------------------------------------

    def _client_frame(self, address: bytes, frame: Frame, now_ms: int) -> None:
        assert plane_allows(Plane.CLIENT, frame.kind), "the router passes only what the plane may carry"
        if frame.kind == Kind.REPLICA_HASH:
            answer_replica_hash(self.shard, self.engine, address, frame, self._turn)
            return
        peer = self.admission.admit(address, frame, self._turn, now_ms)
        if peer is not None:
            self.shard.touch(peer)

    # ---- manifest --------------------------------------------------------------------------------------------------

    def _manifest_frame(self, frame: Frame, now_ms: int) -> None:
        if frame.kind == Kind.ASSIGN:
            self._assign(_assign_decoder.decode(frame.body), now_ms)
        elif frame.kind == Kind.STORES:
            self.stores, self.stores_changed = _stores_decoder.decode(frame.body), True
        elif frame.kind == Kind.DRAIN and not self._drain_until_ms:
            self._drain_until_ms = now_ms + _drain_decoder.decode(frame.body).budget_ms
            self.admission.draining = True

    def _register(self, now_ms: int) -> None:
        if now_ms < self._next_register_ms:
            return
        self._next_register_ms = now_ms + self._config.manifest.register_ms
        body = encode_body(Register(self._worker_id, self._incarnation, self._pid))
        self._turn.local.append((TO_MANIFEST, encode(Kind.REGISTER, 0, 0, body)))

    def _assign(self, assign: Assign, now_ms: int) -> None:
        """Open every region that is placed here. New replicas are durable, all by one checkpoint, before they start."""
        if self.assigned:
            return
        assert assign.store_id == self.store_id and assign.worker_id == self._worker_id
        self.cluster_id = assign.cluster_id
        self._claim(assign.cluster_id, assign.store_id)
        self.stores, self.stores_changed = Stores(assign.stores), True
        fresh = [seed.region for seed in assign.seeds if stored_region(self.engine, seed.region) is None]
        lost = [seed.region.id for seed in assign.seeds if seed.region in fresh and not seed.fresh]
        if lost:
            raise CorruptionError(
                f"regions {lost} were served here before, but this worker's data directory does not have them: "
                "restore it, or remove these replicas from the cluster; they must not start empty"
            )
        for region in fresh:
            make_replica(self.engine, RaftLog(self.wal, region.id), region)
        if fresh:
            self.wal.flush()
            self.wal.sync()
            self.engine.checkpoint()
        campaign = {seed.region.id for seed in assign.seeds if seed.campaign}
        new = {region.id for region in fresh}
        for seed in assign.seeds:
            self._start(seed.region, fresh=seed.region.id in new, campaign=seed.region.id in campaign, now_ms=now_ms)
        self.assigned = True

    def _start(self, seed: Region, *, fresh: bool, campaign: bool, now_ms: int) -> None:
        """Start this store's replica of a region that the engine has."""
        region = stored_region(self.engine, seed)
        assert region is not None
        peer = start_peer(
            config=self._config,
            engine=self.engine,
            log=RaftLog(self.wal, region.id),
            machine=RegionMachine(self.engine, region, self._limits),
            worker_id=self._worker_id,
            incarnation=self._incarnation,
            fresh=fresh,
            now_ms=now_ms,
            rng=Random(self._rng.getrandbits(64)),
            first_leader=campaign,
        )
        self.shard.add(peer)

    # ---- reports and drain -----------------------------------------------------------------------------------------

    def _heartbeat(self, now_ms: int) -> None:
        self._next_heartbeat_ms = now_ms + self._config.manifest.heartbeat_ms
        statuses = []
        for peer in self.shard.peers.values():
            peer.changed = False
            statuses.append(peer.status())
        body = encode_body(
            WorkerHeartbeat(self._worker_id, self._incarnation, self._pid, tuple(statuses), self.stats())
        )
        self._turn.local.append((TO_MANIFEST, encode(Kind.WORKER_HEARTBEAT, 0, 0, body)))

    def stats(self) -> WorkerStats:
        """Counters and gauges of this worker."""
        peers = self.shard.peers.values()
        admission, figures = self.admission.statistics, self.figures
        engine = self.engine.statistics() if not self.shard.checkpointing else figures.engine
        figures.engine = engine
        return WorkerStats(
            regions=len(self.shard.peers),
            leaders=sum(peer.leads for peer in peers),
            requests=admission.requests,
            reads=admission.reads,
            writes=admission.writes,
            refusals=admission.refusals,
            proposals=sum(peer.proposer.proposals for peer in peers),
            applied_entries=sum(peer.applied_entries for peer in peers),
            applied_commands=sum(peer.machine.commands for peer in peers),
            expired=admission.expired,
            bad_input=admission.bad_input + self.shard.statistics.peer_frames_refused,
            lease_reads=sum(peer.reads.by_lease for peer in peers),
            index_reads=sum(peer.reads.by_index for peer in peers),
            wal_syncs=figures.syncs,
            wal_sync_us_total=figures.sync_us_total,
            wal_sync_us_max=figures.take_max("sync_us_max"),
            checkpoints=figures.checkpoints,
            checkpoint_us_max=figures.take_max("checkpoint_us_max"),
            turns=self.shard.statistics.turns,
            loop_busy_us_total=figures.busy_us_total,
            loop_lag_us_max=figures.take_max("lag_us_max"),
            inbox_frames=self.shard.statistics.peer_frames + admission.requests,
            waiting_proposals=len(self._pending),
            peer_messages_sent=figures.peer_messages_sent,
            peer_messages_dropped=figures.peer_messages_dropped,
            map_bytes=engine.map_bytes,
            map_used_bytes=engine.used_bytes,
            wal_bytes=self.wal.statistics().log_bytes,
            free_bytes=self.admission.free_bytes,
            state="disk_full" if self.admission.disk_full else "up",
            cpu_us_total=figures.cpu_us_total,
            rss_bytes=figures.rss_bytes,
            apply_backlog=sum(peer.commit - peer.applied for peer in peers),
        )

    def _leads_elsewhere(self) -> bool:
        """Whether this worker still leads a region that another store could lead."""
        return any(peer.leads and len(peer.region.peers) > 1 for peer in self.shard.peers.values())

    def _drain(self, now_ms: int) -> None:
        """Hand leaders over to whoever has the most of the log; give up waiting when the budget ends."""
        if self._drained:
            return
        if now_ms >= self._drain_until_ms:
            self._drained = True
            self._turn.local.append((TO_MANIFEST, encode(Kind.DRAINED, 0, 0, encode_body(Drained(self._worker_id)))))
            return
        for peer in self.shard.peers.values():
            if peer.leads:
                target = peer.best_successor()
                if target is not None:
                    peer.transfer_leader(target)
                    self.shard.touch(peer)


def frame_refusal(error: FrameError) -> ProtocolMismatch | MalformedFrame:
    """What a client is told about bytes that are no frame of ours."""
    if error.theirs is not None:
        return ProtocolMismatch(VERSION, error.theirs)
    return MalformedFrame(error.reason)
