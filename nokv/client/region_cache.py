"""What a client believes about the cluster: addresses, who owns a key, who leads it.

Why: a call goes straight to the leader in the usual case; every refusal makes the belief better, so that the next
attempt is not a guess.
Invariants: beliefs are hints, a wrong one costs a round trip; group 0 is treated as one more region whose members are
all stores; whoever failed in this call is asked again only after everybody else was.
Not here: how routes are compared by age (nokv.region.route_table), asking for them (caller.py), sharing beliefs between
threads (shared_region_cache.py).
"""

from collections.abc import Iterable
from typing import Final

from nokv.client.endpoint import Endpoint
from nokv.client.op import Trail
from nokv.proto.control import RegionRoute, RoutesReply, StoreInfo
from nokv.proto.errors import EpochNotMatch, NotLeader
from nokv.proto.ids import GROUP_ZERO, PeerId, StoreId
from nokv.proto.region import Peer, PeerRole, Region, RegionEpoch
from nokv.region.route_table import RouteTable

NO_STORE: Final = StoreId(0)
EPOCH_ZERO: Final = RegionEpoch(0, 0)


class RegionCache:
    """Beliefs of one client, for one thread."""

    def __init__(self, seeds: Iterable[Endpoint] = ()) -> None:
        # Constant
        self._seeds = tuple(seeds)

        # Learned
        self._stores: dict[StoreId, StoreInfo] = {}
        self._table = RouteTable()
        self._control: RegionRoute | None = None

        # Derived
        self._endpoints: dict[StoreId, Endpoint] = {}
        self.lookup = self._table.lookup
        """The route that owns a key, None: ask."""
        self.lookup_below = self._table.lookup_below
        """The route that owns the keys just below a border (b"": the highest keys), None: ask."""

    # ---- questions --------------------------------------------------------------------------------------------------

    @property
    def knows_stores(self) -> bool:
        """Whether any node's address has been learned beyond the seeds."""
        return bool(self._stores)

    def control(self, _key: bytes = b"") -> RegionRoute | None:
        """Group 0 as a route; None while no store is known. Takes a key to be usable in place of `lookup`."""
        return self._control

    def current(self, route: RegionRoute) -> RegionRoute | None:
        """What is believed now about the region of an earlier route, None if it was dropped since."""
        return self._control if route.region.id == GROUP_ZERO else self._table.get(route.region.id)

    def endpoint(self, store_id: StoreId) -> Endpoint | None:
        """Where a store listens, None if that is not known."""
        return self._endpoints.get(store_id)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Everybody who could be asked for routes: stores in id order, then seeds that are none of them."""
        found = {endpoint.address: endpoint for endpoint in self._endpoints.values()}
        for seed in self._seeds:
            found.setdefault(seed.address, seed)
        return tuple(found.values())

    def stores(self) -> tuple[StoreInfo, ...]:
        """All known stores in id order."""
        return tuple(self._stores.values())

    def routes(self) -> tuple[RegionRoute, ...]:
        """All known regions in key order."""
        return tuple(self._table)

    def pick(self, route: RegionRoute, trail: Trail) -> StoreId:
        """Whom to ask next: the leader, else the voters in turn; 0 when everybody has failed in this call."""
        leader = route.leader_store
        if leader and leader not in trail.avoid:
            return leader
        for peer in route.region.peers:
            if peer.role is PeerRole.VOTER and peer.store_id not in trail.avoid:
                return peer.store_id
        return NO_STORE

    # ---- what answers teach -----------------------------------------------------------------------------------------

    def learn_stores(self, stores: Iterable[StoreInfo]) -> None:
        """Take in addresses; a store keeps its last known one."""
        merged = {**self._stores, **{store.id: store for store in stores}}
        self._stores = dict(sorted(merged.items()))
        self._endpoints = {
            store.id: Endpoint(store.client_addr, store.server_key)
            for store in self._stores.values()
            if store.client_addr
        }
        peers = tuple(Peer(PeerId(store_id), store_id) for store_id in self._endpoints)
        leader = self._control.leader_store if self._control is not None else NO_STORE
        if peers:
            self._control = RegionRoute(Region(GROUP_ZERO, b"", b"", EPOCH_ZERO, peers), leader)

    def learn_routes(self, reply: RoutesReply) -> None:
        """Take in one page of the directory."""
        self.learn_stores(reply.stores)
        self._table.learn(reply.regions)

    def learn_regions(self, routes: Iterable[RegionRoute]) -> None:
        """Take in routes from a topology file."""
        self._table.learn(routes)

    def answered(self, route: RegionRoute, store_id: StoreId) -> None:
        """The store answered as the leader."""
        if route.region.id == GROUP_ZERO:
            self._set_control_leader(store_id)
        else:
            self._table.set_leader(route.region.id, store_id)

    def silent(self, route: RegionRoute, store_id: StoreId) -> None:
        """The store, asked as the leader, did not answer or is leaving."""
        if route.region.id == GROUP_ZERO:
            if self._control is not None and self._control.leader_store == store_id:
                self._set_control_leader(NO_STORE)
        else:
            self._table.forget_leader(route.region.id, store_id)

    def not_leader(self, route: RegionRoute, asked: StoreId, detail: NotLeader) -> None:
        """The store said who leads instead, or that it does not know."""
        if route.region.id == GROUP_ZERO:
            if self._control is not None and self._control.leader_store in (NO_STORE, asked):
                self._set_control_leader(detail.leader_store if detail.leader_store in self._endpoints else NO_STORE)
        else:
            self._table.apply_not_leader(detail, asked_store=asked, asked_epoch=route.region.epoch)

    def epoch_not_match(self, detail: EpochNotMatch) -> bool:
        """The store said how the range is cut now; returns whether that was news."""
        return self._table.apply_epoch_not_match(detail)

    def forget(self, route: RegionRoute) -> None:
        """Nobody who should serve the region has it: the next lookup there asks the directory."""
        self._table.forget(route.region.id)

    def _set_control_leader(self, store_id: StoreId) -> None:
        if self._control is not None:
            self._control = RegionRoute(self._control.region, store_id)
