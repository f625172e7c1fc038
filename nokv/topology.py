"""The topology file: one JSON document that nodes, clients and scripts all read.

Why: a port or a store is edited once and everything follows, and a client can start from the file alone.

Grammar (JSON; unknown fields are refused)::

    topology := {"cluster_id": int > 0, "stores": [store+], "regions": [region+]}
              | {"cluster_id": int > 0, "stores": [store+], "presplit": {"regions": int > 0, "replicas": int?}}
    store    := {"id", "client": "host:port", "peer": "host:port", "http"?: "host:port", "server_key"?: Z85 text}
    region   := {"id", "start", "end", "epoch"?: {"version", "conf_ver"}, "peers": [peer+], "leader"?: store id}
    peer     := {"store": store id, "peer": peer id, "role"?: "voter" | "learner"}
    key      := plain text, or "hex:" and hexadecimal digits; "" = unbounded

Invariants: regions tile the key space; ids are unique and > 0; every peer's store is listed; a leader is one of its
region's voters. The file describes a new cluster: once a store has started, its own durable state decides about
regions and members, and only addresses are still taken from here.
Not here: reading the file from disk (callers do), applying it (nokv.manifest).
"""

from itertools import pairwise
from typing import Final

import msgspec
from msgspec import Struct

from nokv.proto.control import StoreInfo
from nokv.proto.ids import ClusterId, PeerId, RegionId, StoreId
from nokv.proto.region import FIRST_EPOCH, Peer, PeerRole, Region, RegionEpoch
from nokv.region.presplit import REGIONS_MAX as PRESPLIT_MAX
from nokv.region.presplit import split_ranges

REPLICAS_DEFAULT: Final = 3
"""Voters of a presplit region where there are stores enough: the smallest count that survives one loss."""
REGIONS_MAX: Final = 65_536
"""Far above what one store serves; bounds what a hostile or broken file can cost."""
KEY_BYTES_MAX: Final = 400
SERVER_KEY_CHARS: Final = 40
"""A CURVE public key in Z85."""


class TopologyError(ValueError):
    """The file is no topology. `where` names the place, e.g. "regions[2].peers[0]"; the text says what to change."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.where = where
        self.reason = reason


class Topology(Struct, frozen=True):
    """A checked topology in the vocabulary of `proto`; regions in key order."""

    cluster_id: ClusterId
    stores: tuple[StoreInfo, ...]
    regions: tuple[Region, ...]
    leaders: dict[RegionId, StoreId] = {}
    """First leaders: a hint for who campaigns at once. Regions without one elect by timeout."""

    def store(self, store_id: StoreId) -> StoreInfo | None:
        """The store with this id, if the cluster has it."""
        for store in self.stores:
            if store.id == store_id:
                return store
        return None

    def next_id(self) -> int:
        """The first id above every store, region and peer id: where group 0's allocator starts."""
        ids: list[int] = [store.id for store in self.stores]
        ids += [region.id for region in self.regions]
        ids += [peer.id for region in self.regions for peer in region.peers]
        return max(ids) + 1


# ---- the document ---------------------------------------------------------------------------------------------------


class _Store(Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    client: str
    peer: str
    http: str = ""
    server_key: str = ""


class _Epoch(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    conf_ver: int


class _Peer(Struct, frozen=True, forbid_unknown_fields=True):
    store: int
    peer: int
    role: str = "voter"


class _Region(Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    start: str
    end: str
    peers: list[_Peer]
    epoch: _Epoch = _Epoch(FIRST_EPOCH.version, FIRST_EPOCH.conf_ver)
    leader: int = 0


class _Presplit(Struct, frozen=True, forbid_unknown_fields=True):
    regions: int
    replicas: int = 0


class _Document(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    cluster_id: int
    stores: list[_Store]
    regions: list[_Region] | None = None
    presplit: _Presplit | None = None


def parse(data: bytes | str) -> Topology:
    """The topology in a file's contents.

    Raises:
        TopologyError: at the first violation of the grammar or of an invariant.
    """
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.ValidationError as error:
        text = str(error)
        reason, _, where = text.rpartition(" - at `$")
        raise TopologyError(where.rstrip("`").lstrip("."), reason or text) from error
    except msgspec.DecodeError as error:
        raise TopologyError("", f"not JSON: {error}") from error
    _require(0 < document.cluster_id < 1 << 63, "cluster_id", "must be above 0 and below 2**63")
    stores = _stores(document.stores)
    if document.presplit is not None:
        _require(document.regions is None, "presplit", "give either regions or presplit, not both")
        return _from_presplit(ClusterId(document.cluster_id), stores, document.presplit)
    _require(document.regions is not None, "regions", "missing; give regions or presplit")
    return _from_regions(ClusterId(document.cluster_id), stores, document.regions or [])


def encode(topology: Topology) -> bytes:
    """The topology as a readable file, regions written out. `parse` of it gives `topology` back."""
    document = {
        "cluster_id": topology.cluster_id,
        "stores": [_store_fields(store) for store in topology.stores],
        "regions": [_region_fields(region, topology.leaders.get(region.id)) for region in topology.regions],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def presplit(
    cluster_id: ClusterId, stores: tuple[StoreInfo, ...], *, regions: int, replicas: int = REPLICAS_DEFAULT
) -> Topology:
    """A new cluster of `regions` regions with `replicas` voters each (fewer where there are fewer stores).

    Replicas and first leaders go round the stores in id order, so each store gets its share of both. Region ids are
    1 to `regions`; peer ids follow them.
    """
    assert 0 < regions <= PRESPLIT_MAX
    assert replicas > 0
    store_ids = sorted(store.id for store in stores)
    replicas = min(replicas, len(store_ids))
    made: list[Region] = []
    leaders: dict[RegionId, StoreId] = {}
    peer_id = regions + 1
    for at, (start, end) in enumerate(split_ranges(regions)):
        chosen = [store_ids[(at + offset) % len(store_ids)] for offset in range(replicas)]
        leaders[RegionId(at + 1)] = chosen[0]
        peers = []
        for store_id in sorted(chosen):
            peers.append(Peer(PeerId(peer_id), store_id))
            peer_id += 1
        made.append(Region(RegionId(at + 1), start, end, FIRST_EPOCH, tuple(peers)))
    return Topology(cluster_id, tuple(sorted(stores, key=lambda store: store.id)), tuple(made), leaders)


def parse_key(where: str, text: str) -> bytes:
    """A region border as bytes.

    Raises:
        TopologyError: bad hexadecimal digits, or longer than a key may be.
    """
    if text.startswith("hex:"):
        try:
            key = bytes.fromhex(text[4:])
        except ValueError:
            raise TopologyError(where, f"{text!r} is not hex: and an even number of hexadecimal digits") from None
    else:
        key = text.encode()
    _require(len(key) <= KEY_BYTES_MAX, where, f"{len(key)} bytes, a key has at most {KEY_BYTES_MAX}")
    return key


def key_text(key: bytes) -> str:
    """The inverse of `parse_key`: plain where it is printable ASCII and cannot be mistaken, else hex."""
    if all(0x20 <= byte < 0x7F for byte in key) and not key.startswith(b"hex:"):
        return key.decode()
    return f"hex:{key.hex()}"


# ---- checks ---------------------------------------------------------------------------------------------------------


def _require(holds: bool, where: str, reason: str) -> None:
    if not holds:
        raise TopologyError(where, reason)


def _stores(listed: list[_Store]) -> tuple[StoreInfo, ...]:
    _require(bool(listed), "stores", "at least one store is needed")
    ids: dict[int, str] = {}
    addresses: dict[str, str] = {}
    stores = []
    for at, store in enumerate(listed):
        where = f"stores[{at}]"
        _require(store.id > 0, f"{where}.id", f"must be above 0, not {store.id}")
        _require(store.id not in ids, f"{where}.id", f"store {store.id} is already {ids.get(store.id)}")
        ids[store.id] = where
        for name, address in (("client", store.client), ("peer", store.peer), ("http", store.http)):
            place = f"{where}.{name}"
            if not address and name == "http":
                continue
            _check_address(place, address)
            _require(address not in addresses, place, f"{address} is already {addresses.get(address)}")
            addresses[address] = place
        _require(
            len(store.server_key) in (0, SERVER_KEY_CHARS),
            f"{where}.server_key",
            f"a public key has {SERVER_KEY_CHARS} characters, not {len(store.server_key)}",
        )
        stores.append(StoreInfo(StoreId(store.id), store.client, store.peer, store.http, store.server_key))
    return tuple(sorted(stores, key=lambda store: store.id))


def _check_address(where: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    _require(bool(host) and ":" not in host, where, f"{address!r} is not host:port")
    valid = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    _require(valid, where, f"{address!r}: the port must be 1 to 65535")


def _from_presplit(cluster_id: ClusterId, stores: tuple[StoreInfo, ...], wanted: _Presplit) -> Topology:
    _require(0 < wanted.regions <= PRESPLIT_MAX, "presplit.regions", f"must be 1 to {PRESPLIT_MAX}")
    _require(wanted.replicas >= 0, "presplit.replicas", "must not be negative")
    _require(
        wanted.replicas <= len(stores),
        "presplit.replicas",
        f"{wanted.replicas} replicas need as many stores, there are {len(stores)}",
    )
    return presplit(cluster_id, stores, regions=wanted.regions, replicas=wanted.replicas or REPLICAS_DEFAULT)


def _from_regions(cluster_id: ClusterId, stores: tuple[StoreInfo, ...], listed: list[_Region]) -> Topology:
    _require(bool(listed), "regions", "at least one region is needed")
    _require(len(listed) <= REGIONS_MAX, "regions", f"more than {REGIONS_MAX}")
    store_ids = {store.id for store in stores}
    region_ids: dict[int, str] = {}
    peer_ids: dict[int, str] = {}
    regions: list[tuple[Region, str]] = []
    leaders: dict[RegionId, StoreId] = {}
    for at, entry in enumerate(listed):
        where = f"regions[{at}]"
        _require(entry.id > 0, f"{where}.id", f"must be above 0, not {entry.id}")
        _require(entry.id not in region_ids, f"{where}.id", f"region {entry.id} is already {region_ids.get(entry.id)}")
        region_ids[entry.id] = where
        region = Region(
            RegionId(entry.id),
            parse_key(f"{where}.start", entry.start),
            parse_key(f"{where}.end", entry.end),
            _epoch(f"{where}.epoch", entry.epoch),
            _peers(where, entry.peers, store_ids, peer_ids),
        )
        empty = bool(region.end) and region.end <= region.start
        _require(not empty, f"{where}.end", 'the range is empty: end must be above start, or "" for no bound')
        if entry.leader:
            leaders[region.id] = _leader(f"{where}.leader", StoreId(entry.leader), region, store_ids)
        regions.append((region, where))
    return Topology(cluster_id, stores, _tiling(regions), leaders)


def _epoch(where: str, epoch: _Epoch) -> RegionEpoch:
    _require(epoch.version > 0 and epoch.conf_ver > 0, where, "version and conf_ver must be above 0")
    return RegionEpoch(epoch.version, epoch.conf_ver)


def _peers(where: str, listed: list[_Peer], store_ids: set[StoreId], peer_ids: dict[int, str]) -> tuple[Peer, ...]:
    _require(bool(listed), f"{where}.peers", "at least one peer is needed")
    peers: list[Peer] = []
    for at, entry in enumerate(listed):
        place = f"{where}.peers[{at}]"
        _require(entry.store > 0 and entry.peer > 0, place, "store and peer must both be above 0")
        _require(entry.store in store_ids, f"{place}.store", f"store {entry.store} is not listed under stores")
        _require(
            entry.peer not in peer_ids, f"{place}.peer", f"peer {entry.peer} is already {peer_ids.get(entry.peer)}"
        )
        twice = any(entry.store == peer.store_id for peer in peers)
        _require(not twice, f"{place}.store", f"store {entry.store} has a replica of this region already")
        _require(entry.role in ("voter", "learner"), f"{place}.role", f"{entry.role!r} is neither voter nor learner")
        peer_ids[entry.peer] = place
        role = PeerRole.VOTER if entry.role == "voter" else PeerRole.LEARNER
        peers.append(Peer(PeerId(entry.peer), StoreId(entry.store), role))
    _require(any(peer.role is PeerRole.VOTER for peer in peers), f"{where}.peers", "no voter among them")
    return tuple(peers)


def _leader(where: str, store_id: StoreId, region: Region, store_ids: set[StoreId]) -> StoreId:
    _require(store_id in store_ids, where, f"store {store_id} is not listed under stores")
    peer = region.peer_on(store_id)
    if peer is None or peer.role is not PeerRole.VOTER:
        raise TopologyError(where, f"store {store_id} has no voter of region {region.id}")
    return store_id


def _tiling(regions: list[tuple[Region, str]]) -> tuple[Region, ...]:
    """Regions in key order, each beginning where the one before ends."""
    ordered = sorted(regions, key=lambda pair: pair[0].start)
    first, first_where = ordered[0]
    _require(not first.start, f"{first_where}.start", f"nothing covers the keys below {key_text(first.start)!r}")
    for (left, left_where), (right, right_where) in pairwise(ordered):
        overlaps = not left.end or left.end > right.start
        _require(not overlaps, f"{right_where}.start", f"region {right.id} overlaps region {left.id} ({left_where})")
        gap = f"no region between {key_text(left.end)!r} and {key_text(right.start)!r}"
        _require(left.end == right.start, f"{right_where}.start", gap)
    last, last_where = ordered[-1]
    _require(not last.end, f"{last_where}.end", f"nothing covers the keys from {key_text(last.end)!r} on")
    return tuple(region for region, _ in ordered)


def _store_fields(store: StoreInfo) -> dict[str, object]:
    fields: dict[str, object] = {"id": store.id, "client": store.client_addr, "peer": store.peer_addr}
    if store.http_addr:
        fields["http"] = store.http_addr
    if store.server_key:
        fields["server_key"] = store.server_key
    return fields


def _region_fields(region: Region, leader: StoreId | None) -> dict[str, object]:
    peers: list[dict[str, object]] = []
    for peer in region.peers:
        entry: dict[str, object] = {"store": peer.store_id, "peer": peer.id}
        if peer.role is PeerRole.LEARNER:
            entry["role"] = "learner"
        peers.append(entry)
    fields: dict[str, object] = {
        "id": region.id,
        "start": key_text(region.start),
        "end": key_text(region.end),
        "epoch": {"version": region.epoch.version, "conf_ver": region.epoch.conf_ver},
        "peers": peers,
    }
    if leader is not None:
        fields["leader"] = leader
    return fields
