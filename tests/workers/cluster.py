"""A few worker cores on virtual time: real shards, Raft, logs and engines, with a network and disks in memory.

It is as small as it can be while running the very code of a worker: one worker per store, no router, a manifest that
is one counter. Time goes in milliseconds; the same seed gives the same run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import msgspec

from nokv.config import NodeConfig, NodeSection, RaftSection, StorageSection
from nokv.mvcc.limits import Limits
from nokv.proto import control, errors, kv
from nokv.proto.frame import Frame, Kind, encode, split
from nokv.proto.ids import LATEST, ClusterId, Incarnation, PeerId, RegionId, StoreId, Ts, WorkerId, ts_of
from nokv.proto.region import FIRST_EPOCH, Peer, Region, RegionEpoch
from nokv.storage.disk import MemoryDisk
from nokv.storage.engine import OutOfSpaceError
from nokv.storage.memory_engine import MemoryEngine
from nokv.storage.wal import Wal
from nokv.workers.turn import Turn
from nokv.workers.worker import WorkerCore

WALL_MS = 1_700_000_000_000
TICK_MS = 100
WORKER = WorkerId(0)


def region(region_id: int = 1, start: bytes = b"", end: bytes = b"", stores: int = 3) -> Region:
    """A region with one voter on each of stores 1..stores; peer ids are 100 * region + store."""
    peers = tuple(Peer(PeerId(100 * region_id + store), StoreId(store)) for store in range(1, stores + 1))
    return Region(RegionId(region_id), start, end, FIRST_EPOCH, peers)


@dataclass
class Store:
    """One store: its durable parts survive `crash`, its core does not."""

    store_id: StoreId
    engine: MemoryEngine
    disk: MemoryDisk
    core: WorkerCore | None = None
    inbox: list[tuple[bytes, bytes]] = field(default_factory=list)
    fresh: bool = True
    paused: bool = False
    next_tick_ms: int = 0
    sync_at_ms: int = -1
    flushed: int = 0


@dataclass
class Answer:
    """What a client got: a reply or a refusal."""

    frame: Frame

    @property
    def detail(self) -> errors.ErrorDetail:
        """The refusal; fails if it is none."""
        assert self.frame.kind == Kind.ERROR, f"not a refusal: {self.frame.kind}"
        return errors.decode_error(self.frame.body)

    @property
    def refused(self) -> bool:
        """Whether it is a refusal."""
        return self.frame.kind == Kind.ERROR


class Cluster:
    """Stores 1..n with the given regions, one worker each."""

    def __init__(self, *regions: Region, stores: int = 3, seed: int = 1, config: NodeConfig | None = None) -> None:
        self.regions = regions or (region(stores=stores),)
        self.rng = Random(seed)
        self.now_ms = 1000
        self.config = config
        self.oracle_ms = WALL_MS
        self.oracle_answers = True
        self.blocked: set[tuple[int, int]] = set()
        self.sync_delay_ms = 1
        self.delay_ms = 1
        self.flight: list[tuple[int, int, int, bytes]] = []
        self.answers: dict[tuple[bytes, int], list[Answer]] = {}
        self.next_request = 0
        self.sent_unsynced: list[str] = []
        self.stores = {StoreId(i): Store(StoreId(i), MemoryEngine(), MemoryDisk()) for i in range(1, stores + 1)}
        for store in self.stores.values():
            self.start(store)

    # ---- life ------------------------------------------------------------------------------------------------------

    def start(self, store: Store) -> None:
        """Start a store's worker on whatever its disk holds."""
        base = self.config or NodeConfig(raft=RaftSection(log_retain_entries=16), storage=StorageSection())
        config = msgspec.structs.replace(base, node=NodeSection(store_id=store.store_id, workers=1))
        store.core = WorkerCore(
            config=config,
            limits=Limits(),
            worker_id=WORKER,
            incarnation=Incarnation(self.rng.getrandbits(63)),
            pid=1,
            engine=store.engine,
            wal=Wal(store.disk),
            clock_ms=lambda: self.now_ms,
            rng=Random(self.rng.getrandbits(64)),
            claim=lambda cluster_id, store_id: None,
        )
        store.inbox.clear()
        store.next_tick_ms = self.now_ms
        store.sync_at_ms, store.flushed = -1, 0

    def crash(self, store_id: int, *, tear: bool = True) -> None:
        """Lose everything that was not synced."""
        store = self.stores[StoreId(store_id)]
        store.core = None
        store.disk.crash(self.rng, tear=tear)
        store.engine.crash()

    def restart(self, store_id: int) -> None:
        """Start a crashed store again."""
        self.start(self.stores[StoreId(store_id)])

    def cut(self, store_id: int) -> None:
        """Cut a store off from all others, both directions."""
        for other in self.stores:
            self.blocked |= {(store_id, other), (other, store_id)}

    def heal(self) -> None:
        """All stores reach each other again."""
        self.blocked.clear()

    def core(self, store_id: int) -> WorkerCore:
        """The core of a store that runs."""
        core = self.stores[StoreId(store_id)].core
        assert core is not None
        return core

    # ---- time ------------------------------------------------------------------------------------------------------

    def run(self, ms: int) -> None:
        """Let time pass."""
        for _ in range(ms):
            self.now_ms += 1
            self._deliver()
            for store_id in sorted(self.stores):
                store = self.stores[store_id]
                if store.core is not None and not store.paused:
                    self._turn(store)

    def until(self, condition: Callable[[], bool], *, within_ms: int = 10_000) -> None:
        """Let time pass until the condition holds."""
        for _ in range(within_ms):
            if condition():
                return
            self.run(1)
        raise AssertionError(f"not within {within_ms} virtual ms")

    def _deliver(self) -> None:
        due = [item for item in self.flight if item[0] <= self.now_ms]
        self.flight = [item for item in self.flight if item[0] > self.now_ms]
        for _at, source, target, message in due:
            store = self.stores[StoreId(target)]
            if (source, target) not in self.blocked and store.core is not None:
                store.inbox.append((b"P", message))

    def _turn(self, store: Store) -> None:
        core = store.core
        assert core is not None
        now_ms = self.now_ms
        if 0 <= store.sync_at_ms <= now_ms:
            store.sync_at_ms = -1
            core.synced(core.wal.sync())
        for address, message in store.inbox:
            core.receive(address, message, now_ms)
        store.inbox.clear()
        if now_ms >= store.next_tick_ms:
            store.next_tick_ms = now_ms + TICK_MS
            core.tick(now_ms, WALL_MS + now_ms)
        for half in (core.propose, core.apply):
            turn, logged = half(now_ms)
            if logged:
                self._flush(store)
            self._send(store, turn)
        if core.engine.dirty_bytes() > 1 << 16 and not core.shard.checkpointing:
            self.checkpoint(store.store_id)

    def _flush(self, store: Store) -> None:
        core = store.core
        assert core is not None
        try:
            position = core.wal.flush()
        except OutOfSpaceError:
            core.set_disk(free_bytes=0, full=True)
            return
        core.shard.stamp(position)
        if store.sync_at_ms < 0:
            store.sync_at_ms = self.now_ms + self.sync_delay_ms

    def checkpoint(self, store_id: int) -> None:
        """Take a checkpoint of a store now."""
        core = self.core(store_id)
        core.shard.begin_checkpoint()
        core.engine.checkpoint()
        core.end_checkpoint(committed=True)

    def _send(self, store: Store, turn: Turn) -> None:
        for target, frames in turn.peers.items():
            at = self.now_ms + self.delay_ms + self.rng.randrange(2)
            self.flight.append((at, store.store_id, target, b"".join(frames)))
        for address, frames in turn.replies.items():
            for frame in split(b"".join(frames)):
                self.answers.setdefault((address, frame.request_id), []).append(Answer(frame))
        for _address, message in turn.local:
            for frame in split(message):
                self._manifest(store, frame)

    def _manifest(self, store: Store, frame: Frame) -> None:
        """The manifest and group 0, as far as a worker sees them."""
        if frame.kind == Kind.REGISTER:
            seeds = tuple(
                control.RegionSeed(one, fresh=store.fresh, campaign=store.store_id == 1)
                for one in self.regions
                if one.peer_on(store.store_id)
            )
            stores = tuple(control.StoreInfo(store_id, f"c{store_id}", f"p{store_id}") for store_id in self.stores)
            assign = control.Assign(ClusterId(5), store.store_id, WORKER, seeds, stores)
            store.inbox.append((b"M", encode(Kind.ASSIGN, 0, 0, control.encode_body(assign))))
        elif frame.kind == Kind.WORKER_HEARTBEAT:
            store.fresh = False
        elif frame.kind == Kind.PEER_TSO and self.oracle_answers:
            request = msgspec.msgpack.decode(frame.body, type=control.PeerTsoRequest)
            grant = control.PeerTsoGrant(self.timestamp(), request.term)
            message = encode(Kind.PEER_TSO_GRANT, 0, request.region_id, control.encode_body(grant))
            store.inbox.append((b"P", message))

    # ---- clients ---------------------------------------------------------------------------------------------------

    def timestamp(self) -> Ts:
        """A fresh oracle timestamp."""
        self.oracle_ms = max(self.oracle_ms + 1, WALL_MS + self.now_ms)
        return ts_of(self.oracle_ms)

    def send(
        self,
        store_id: int,
        kind: Kind,
        body: msgspec.Struct,
        *,
        region_id: int = 1,
        deadline_ms: int = 5000,
        client: bytes = b"Cx",
        request_id: int = 0,
    ) -> tuple[bytes, int]:
        """Send a request to a store; the token finds its answers."""
        if not request_id:
            self.next_request += 1
            request_id = self.next_request
        frame = encode(kind, request_id, region_id, msgspec.msgpack.encode(body), deadline_ms=deadline_ms)
        self.stores[StoreId(store_id)].inbox.append((client, frame))
        return client, request_id

    def answer(self, token: tuple[bytes, int], *, within_ms: int = 10_000) -> Answer:
        """The one answer of a request."""
        self.until(lambda: token in self.answers, within_ms=within_ms)
        assert len(self.answers[token]) == 1, "exactly one answer"
        return self.answers[token][0]

    def leader(self, region_id: int = 1, *, among: Iterator[int] | None = None) -> int:
        """Wait for a region's leader that serves writes and reads; its store id."""
        stores = list(among) if among is not None else [int(store_id) for store_id in self.stores]
        found: list[int] = []

        def lead() -> bool:
            found[:] = [
                store_id
                for store_id in stores
                if (core := self.stores[StoreId(store_id)].core) is not None
                and (peer := core.shard.peers.get(RegionId(region_id))) is not None
                and peer.serves_reads
                and peer.lifted
            ]
            return bool(found)

        self.until(lead)
        return found[-1]

    def put(self, store_id: int, key: bytes, value: bytes, *, epoch: RegionEpoch = FIRST_EPOCH) -> tuple[bytes, int]:
        """Send a blind one-phase put."""
        mutation = kv.Mutation(kv.MutationOp.PUT, key, value)
        return self.send(store_id, Kind.KV_ONE_PHASE, kv.OnePhaseRequest(epoch, (mutation,), self.timestamp(), True))

    def get(self, store_id: int, key: bytes, *, ts: Ts = LATEST) -> tuple[bytes, int]:
        """Send a get."""
        return self.send(store_id, Kind.KV_GET, kv.GetRequest(FIRST_EPOCH, key, ts))

    def value(self, answer: Answer) -> bytes | None:
        """The value in a get's reply."""
        assert answer.frame.kind == Kind.OK, answer.detail
        reply = kv.REPLY_DECODERS[Kind.KV_GET].decode(answer.frame.body)
        assert isinstance(reply, kv.GetReply)
        return reply.value
