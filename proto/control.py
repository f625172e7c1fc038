"""The control plane's vocabulary: stores, directory, timestamps, and how the processes of a node talk to each other.

Why: clients learn routes, workers learn what they own and routers learn where to send from the same few Structs.
Invariants: ControlCommand is what group 0's log holds, so its tags are frozen; everything else is soft state.
Not here: the rules of group 0 (nokv.control), the manifest process that hosts it (nokv.manifest).
"""

from typing import Final

import msgspec
from msgspec import Struct

from nokv.proto.ids import ClusterId, Incarnation, LogIndex, PeerId, RegionId, StoreId, Term, Ts, WorkerId
from nokv.proto.region import Region
from nokv.proto.stats import NodeStatus, RouterStats, WorkerStats

# ---- stores and routes ----------------------------------------------------------------------------------------------


class StoreInfo(Struct, array_like=True, frozen=True):
    """A node as others reach it.

    Addresses are "host:port"; `server_key` is its CURVE public key (Z85), "" without CURVE.
    """

    id: StoreId
    client_addr: str
    peer_addr: str
    http_addr: str = ""
    server_key: str = ""


class RegionRoute(Struct, array_like=True, frozen=True):
    """A region and who leads it as far as this node knows (0 = unknown)."""

    region: Region
    leader_store: StoreId = StoreId(0)


class Hello(Struct, array_like=True, frozen=True):
    """First frame of a client's connection; the reply is HelloReply, or a ProtocolMismatch or ClusterMismatch error.

    `cluster_id` 0: any. The header's version byte is checked before this body is looked at.
    """

    protocol: int
    cluster_id: ClusterId = ClusterId(0)
    client_name: str = ""


class HelloReply(Struct, array_like=True, frozen=True):
    """Who answered, and the limits it enforces (bytes and counts; names as in nokv.config)."""

    protocol: int
    cluster_id: ClusterId
    store_id: StoreId
    version: str
    limits: dict[str, int] = {}


class PeerHello(Struct, array_like=True, frozen=True):
    """First frame a worker or manifest sends to another store's peer plane, again after each reconnect."""

    protocol: int
    cluster_id: ClusterId
    store_id: StoreId
    to_store_id: StoreId


class RoutesRequest(Struct, array_like=True, frozen=True):
    """Ask any node for the directory: regions whose range ends after `start`, at most `limit`."""

    start: bytes = b""
    limit: int = 1024


class RoutesReply(Struct, array_like=True, frozen=True):
    """Stores and regions in key order. `more`: ask again from the last region's end."""

    cluster_id: ClusterId
    stores: tuple[StoreInfo, ...]
    regions: tuple[RegionRoute, ...]
    more: bool = False


class TsoRequest(Struct, array_like=True, frozen=True):
    """Ask group 0's leader for `count` timestamps."""

    count: int


class TsoReply(Struct, array_like=True, frozen=True):
    """Timestamps first, first + step, ..., `count` of them, all newer than any issued before."""

    first: Ts
    count: int
    step: int


class AllocIdsRequest(Struct, array_like=True, frozen=True):
    """Ask group 0's leader for `count` ids that were never given out."""

    count: int


class AllocIdsReply(Struct, array_like=True, frozen=True):
    """Ids first .. first + count - 1."""

    first: int
    count: int


class RegionStatus(Struct, array_like=True, frozen=True):
    """One replica as its worker sees it."""

    region: Region
    peer_id: PeerId
    worker_id: WorkerId
    role: str
    leader_peer: PeerId
    term: Term
    commit: LogIndex
    applied: LogIndex
    first_index: LogIndex
    last_index: LogIndex
    pending_proposals: int = 0


class StatusRequest(Struct, array_like=True, frozen=True):
    """Ask a node's manifest how the node is. Never passes through a worker."""

    regions: bool = False


class StatusReply(Struct, array_like=True, frozen=True):
    """The node's own view; `regions` only if asked for."""

    node: NodeStatus
    regions: tuple[RegionStatus, ...] = ()


class TransferLeaderRequest(Struct, array_like=True, frozen=True):
    """Ask the region's leader to hand over to the replica on `to_store`. The region id is in the frame header."""

    to_store: StoreId


class TransferLeaderReply(Struct, array_like=True, frozen=True):
    """The transfer has begun; watch the routes for its end."""


class ReplicaHashRequest(Struct, array_like=True, frozen=True):
    """Ask this very replica, leader or not, for a hash over a page of the region's data as applied so far.

    `cursor` b"" begins; after that it is the last reply's. The region id is in the frame header.
    """

    cursor: bytes = b""
    limit: int = 4096


class ReplicaHashReply(Struct, array_like=True, frozen=True):
    """SHA-256 over (column family, key, value) of the page's records, and the applied index it belongs to.

    `cursor` b"": the region is done. Replicas are equal if all pages are equal at an equal applied index.
    """

    applied: LogIndex
    records: int
    digest: bytes
    cursor: bytes


class ChaosRequest(Struct, array_like=True, frozen=True):
    """Fault injection, refused unless the node was started with it enabled: cut these stores off, both directions."""

    blocked_stores: tuple[StoreId, ...]


class ChaosReply(Struct, array_like=True, frozen=True):
    """What is blocked now."""

    blocked_stores: tuple[StoreId, ...]


# ---- group 0's log --------------------------------------------------------------------------------------------------


class TsoAhead(Struct, array_like=True, frozen=True, tag=1):
    """Timestamps below `until` may be issued by the leader that proposed this, and by nobody after it."""

    until: Ts


class AllocIds(Struct, array_like=True, frozen=True, tag=2):
    """Take `count` ids."""

    count: int


class PutStore(Struct, array_like=True, frozen=True, tag=3):
    """A store's addresses, newly registered or changed."""

    store: StoreInfo


class PutRegion(Struct, array_like=True, frozen=True, tag=4):
    """A region as its leader reports it; ignored unless its epoch is newer than the directory's."""

    region: Region


ControlCommand = TsoAhead | AllocIds | PutStore | PutRegion

# ---- between stores, one-way ----------------------------------------------------------------------------------------


class PeerTsoRequest(Struct, array_like=True, frozen=True):
    """A region leader asks group 0 for one fresh timestamp; the grant goes to `store_id`, region id as below."""

    store_id: StoreId
    region_id: RegionId
    term: Term


class PeerTsoGrant(Struct, array_like=True, frozen=True):
    """Every timestamp issued before this one was asked for is below `ts`."""

    ts: Ts
    term: Term


class StoreHeartbeat(Struct, array_like=True, frozen=True):
    """A manifest tells group 0's leader about its node: addresses and the regions it leads."""

    store: StoreInfo
    incarnation: Incarnation
    leads: tuple[RegionRoute, ...]
    node: NodeStatus


# ---- between the processes of one node ------------------------------------------------------------------------------


class Register(Struct, array_like=True, frozen=True):
    """A worker has started and asks its manifest what it owns."""

    worker_id: WorkerId
    incarnation: Incarnation
    pid: int


class RegionSeed(Struct, array_like=True, frozen=True):
    """A region for a worker to serve. `fresh`: no replica was ever confirmed here, so an empty one may be made."""

    region: Region
    fresh: bool
    campaign: bool = False
    """Hint: start an election at once, since the topology names this store as the first leader."""


class Assign(Struct, array_like=True, frozen=True):
    """The manifest's answer to Register."""

    cluster_id: ClusterId
    store_id: StoreId
    worker_id: WorkerId
    seeds: tuple[RegionSeed, ...]
    stores: tuple[StoreInfo, ...]


class Stores(Struct, array_like=True, frozen=True):
    """Addresses of all stores, and which of them are cut off on purpose; pushed when either changes."""

    stores: tuple[StoreInfo, ...]
    blocked: tuple[StoreId, ...] = ()


class Routing(Struct, array_like=True, frozen=True):
    """The router's table: which worker serves a region. Pushed by the manifest, whole, when it changes."""

    cluster_id: ClusterId
    store_id: StoreId
    placement: tuple[tuple[RegionId, WorkerId], ...]
    blocked: tuple[StoreId, ...] = ()
    client_keys: tuple[str, ...] = ()
    peer_keys: tuple[str, ...] = ()
    limits: dict[str, int] = {}


class WorkerHeartbeat(Struct, array_like=True, frozen=True):
    """A worker tells its manifest about itself, every second and when a leader or a region changes."""

    worker_id: WorkerId
    incarnation: Incarnation
    pid: int
    regions: tuple[RegionStatus, ...]
    stats: WorkerStats


class RouterReport(Struct, array_like=True, frozen=True):
    """The router tells the manifest its counters, every second."""

    pid: int
    stats: RouterStats


class Drain(Struct, array_like=True, frozen=True):
    """Stop: hand leaders over, refuse new work, take a checkpoint, answer Drained."""

    budget_ms: int


class Drained(Struct, array_like=True, frozen=True):
    """A worker is done; it exits after this."""

    worker_id: WorkerId


encode_body: Final = msgspec.msgpack.Encoder().encode
