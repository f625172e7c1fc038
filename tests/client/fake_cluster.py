"""A cluster in one object: it answers frames as nodes would, over the real MVCC rules, and fails where it is told to.

Why: the client must meet wrong leaders, moved borders, lost replies and dead nodes at chosen moments.
Invariants: all stores answer from one engine under one lock, so results are linearizable by construction and whatever a
test finds is the client's doing; faults are rules that see each request before it is carried out.
Not here: sockets (fake_nodes.py), virtual time (virtual_net.py).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

import msgspec

from nokv.mvcc.evaluate import evaluate, evaluate_read, observed_ts
from nokv.proto import kv
from nokv.proto.control import (
    Hello,
    HelloReply,
    RegionRoute,
    RoutesReply,
    RoutesRequest,
    StatusReply,
    StoreInfo,
    TsoReply,
    TsoRequest,
    encode_body,
)
from nokv.proto.errors import ClusterMismatch, EpochNotMatch, ErrorDetail, NotLeader, UnknownKind, encode_error
from nokv.proto.frame import VERSION, Frame, Kind, encode, split
from nokv.proto.ids import LATEST, TS_STEP, ClusterId, PeerId, RegionId, StoreId, Ts
from nokv.proto.region import Peer, Region, RegionEpoch
from nokv.proto.stats import NodeStatus, RouterStats
from nokv.storage.memory_engine import MemoryEngine

CLUSTER_ID = ClusterId(77)


class Fault(Enum):
    """What may happen to a request besides a refusal."""

    LOSE_REQUEST = "it never arrives"
    LOSE_REPLY = "it is carried out, and nobody hears of it"


@dataclass(frozen=True)
class Asked:
    """One request as a rule sees it."""

    store_id: StoreId
    kind: Kind
    region_id: RegionId
    body: bytes
    deadline_ms: int

    def decoded(self) -> object:
        """The body's Struct; for requests of the data plane."""
        return kv.REQUEST_DECODERS[self.kind].decode(self.body)


Rule = Callable[[Asked], ErrorDetail | Fault | None]


@dataclass
class FakeCluster:
    """Stores 1..n, each with a replica of every region."""

    store_count: int = 3
    cuts: tuple[bytes, ...] = ()
    cluster_id: ClusterId = CLUSTER_ID
    limits: dict[str, int] = field(default_factory=dict)
    first_ts: int = 1 << 40

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.engine = MemoryEngine()
        self.stores = {
            StoreId(i): StoreInfo(StoreId(i), f"store{i}:6658", f"store{i}:6659")
            for i in range(1, self.store_count + 1)
        }
        borders = (b"", *self.cuts, b"")
        self.next_id = 1
        self.regions: dict[RegionId, Region] = {}
        self.leaders: dict[RegionId, StoreId] = {RegionId(0): StoreId(1)}
        for at, (start, end) in enumerate(pairwise(borders)):
            self.add_region(start, end, RegionEpoch(1, 1), StoreId(at % self.store_count + 1))
        self.last_ts = self.first_ts
        self.max_read = 0
        self.rules: list[Rule] = []
        self.asked: list[Asked] = []
        self.messages: Counter[StoreId] = Counter()
        self.tso_batches: list[int] = []
        self.names: list[str] = []

    # ---- what tests change ------------------------------------------------------------------------------------------

    def add_region(self, start: bytes, end: bytes, epoch: RegionEpoch, leader: StoreId) -> Region:
        """A region with a replica on every store."""
        region_id = RegionId(self.next_id)
        peers = tuple(Peer(PeerId(region_id * 100 + store), store) for store in self.stores)
        self.next_id += 1
        self.regions[region_id] = Region(region_id, start, end, epoch, peers)
        self.leaders[region_id] = leader
        return self.regions[region_id]

    def region_of(self, key: bytes) -> Region:
        """The region that owns a key."""
        return next(region for region in self.regions.values() if region.covers(key))

    def split(self, key: bytes) -> Region:
        """Cut the region of `key` there; the right half is new and led by the next store."""
        with self.lock:
            old = self.region_of(key)
            epoch = RegionEpoch(old.epoch.version + 1, old.epoch.conf_ver)
            self.regions[old.id] = Region(old.id, old.start, key, epoch, old.peers)
            leader = StoreId(self.leaders[old.id] % self.store_count + 1)
            return self.add_region(key, old.end, epoch, leader)

    def lead(self, region_id: int, store_id: int) -> None:
        """Make a store the leader."""
        with self.lock:
            self.leaders[RegionId(region_id)] = StoreId(store_id)

    def rule(self, rule: Rule) -> Rule:
        """Add a rule; the first one that returns something decides."""
        self.rules.append(rule)
        return rule

    def fail_next(self, kind: Kind, *faults: ErrorDetail | Fault) -> None:
        """Each fault hits one of the next requests of this kind."""
        left = list(faults)

        def rule(asked: Asked) -> ErrorDetail | Fault | None:
            return left.pop(0) if asked.kind == kind and left else None

        self.rules.append(rule)

    def count(self, kind: Kind) -> int:
        """How many requests of a kind arrived."""
        return sum(asked.kind == kind for asked in self.asked)

    def requests(self, kind: Kind) -> list[object]:
        """Decoded requests of a kind, in the order they arrived."""
        return [asked.decoded() for asked in self.asked if asked.kind == kind]

    def apply(self, request: kv.WriteRequest) -> object:
        """Carry out a write behind the clients' backs."""
        with self.lock:
            ts = Ts(max(getattr(request, "start_ts", 0), self.max_read) + 1)
            return evaluate(self.engine, request, commit_ts=ts, ts_limit=self._ts_limit())

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Load pairs."""
        for key, value in pairs:
            mutation = kv.Mutation(kv.MutationOp.PUT, key, value)
            self.apply(kv.OnePhaseRequest(RegionEpoch(1, 1), (mutation,), self.fresh_ts(), True))

    def fresh_ts(self) -> Ts:
        """A timestamp of the oracle."""
        with self.lock:
            self.last_ts += TS_STEP
            return Ts(self.last_ts)

    # ---- what nodes do ----------------------------------------------------------------------------------------------

    def receive(self, store_id: StoreId, message: bytes) -> bytes:
        """Answer one message: all replies as one message, b"" if there are none."""
        with self.lock:
            self.messages[store_id] += 1
            return b"".join(self._answer(store_id, frame) for frame in split(message))

    def _answer(self, store_id: StoreId, frame: Frame) -> bytes:
        kind = Kind(frame.kind)
        asked = Asked(store_id, kind, RegionId(frame.region_id), frame.body, frame.deadline_ms)
        self.asked.append(asked)
        verdict = next((found for rule in self.rules if (found := rule(asked)) is not None), None)
        if verdict is Fault.LOSE_REQUEST:
            return b""
        if verdict is None or isinstance(verdict, Fault):
            result = self._serve(asked)
            if verdict is Fault.LOSE_REPLY:
                return b""
        else:
            result = verdict
        if type(result) in _REFUSALS:
            return encode(Kind.ERROR, frame.request_id, frame.region_id, encode_error(result))  # type: ignore[arg-type]
        return encode(Kind.OK, frame.request_id, frame.region_id, encode_body(result))

    def _serve(self, asked: Asked) -> object:
        match asked.kind:
            case Kind.HELLO:
                return self._hello(asked)
            case Kind.ROUTES:
                return self._routes(msgspec.msgpack.decode(asked.body, type=RoutesRequest))
            case Kind.STATUS:
                return StatusReply(self._status(asked.store_id))
            case Kind.TSO:
                if self.leaders[RegionId(0)] != asked.store_id:
                    return self._not_leader(RegionId(0))
                return self._tso(msgspec.msgpack.decode(asked.body, type=TsoRequest))
            case _ if asked.kind in kv.REQUEST_OF:
                return self._data(asked)
            case _:
                return UnknownKind(asked.kind)

    def _data(self, asked: Asked) -> object:
        region = self.regions.get(asked.region_id)
        if region is None:
            return EpochNotMatch(asked.region_id)
        if self.leaders[region.id] != asked.store_id:
            return self._not_leader(region.id)
        request = kv.REQUEST_DECODERS[asked.kind].decode(asked.body)
        if request.epoch != region.epoch:
            return EpochNotMatch(region.id, tuple(self.regions.values()))
        if isinstance(request, kv.GetRequest | kv.BatchGetRequest | kv.ScanRequest):
            if request.ts != LATEST:
                self.max_read = max(self.max_read, request.ts)
            return evaluate_read(self.engine, request, region_start=region.start, region_end=region.end)
        self.max_read = max(self.max_read, observed_ts(request))
        commit_ts = Ts(max(getattr(request, "start_ts", 0), self.max_read) + 1)
        return evaluate(
            self.engine,
            request,
            commit_ts=commit_ts,
            ts_limit=self._ts_limit(),
            region_start=region.start,
            region_end=region.end,
        )

    def _ts_limit(self) -> Ts:
        return Ts(self.last_ts + TS_STEP - 1)

    def _not_leader(self, region_id: RegionId) -> NotLeader:
        leader = self.leaders[region_id]
        return NotLeader(region_id, leader, PeerId(region_id * 100 + leader) if leader else PeerId(0))

    def _hello(self, asked: Asked) -> HelloReply | ClusterMismatch:
        hello = msgspec.msgpack.decode(asked.body, type=Hello)
        self.names.append(hello.client_name)
        if hello.cluster_id not in (0, self.cluster_id):
            return ClusterMismatch(self.cluster_id, hello.cluster_id)
        return HelloReply(VERSION, self.cluster_id, asked.store_id, "test", self.limits)

    def _routes(self, request: RoutesRequest) -> RoutesReply:
        ordered = sorted(self.regions.values(), key=lambda region: region.start)
        after = [region for region in ordered if not region.end or region.end > request.start]
        page = tuple(RegionRoute(region, self.leaders[region.id]) for region in after[: request.limit])
        return RoutesReply(self.cluster_id, tuple(self.stores.values()), page, more=len(after) > request.limit)

    def _tso(self, request: TsoRequest) -> TsoReply:
        self.tso_batches.append(request.count)
        first = Ts(self.last_ts + TS_STEP)
        self.last_ts += TS_STEP * request.count
        return TsoReply(first, request.count, TS_STEP)

    def _status(self, store_id: StoreId) -> NodeStatus:
        leads = sum(leader == store_id for leader in self.leaders.values())
        return NodeStatus(
            self.cluster_id, store_id, "test", 1000, 1, 2, (), RouterStats(), "leader", StoreId(1), 1,
            len(self.regions), leads, 0,
        )  # fmt: skip


_REFUSALS = frozenset(ErrorDetail.__args__)
