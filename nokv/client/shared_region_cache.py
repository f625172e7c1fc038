"""A region cache that many threads use at once.

Why: threads of one client learn from each other's refusals.
Invariants: whatever touches the table holds the lock; everything else in the cache is replaced whole, never changed.
Not here: what the beliefs are (region_cache.py).
"""

from collections.abc import Iterable
from threading import Lock

from nokv.client.endpoint import Endpoint
from nokv.client.region_cache import RegionCache
from nokv.proto.control import RegionRoute, RoutesReply, StoreInfo
from nokv.proto.errors import EpochNotMatch, NotLeader
from nokv.proto.ids import StoreId


class SharedRegionCache(RegionCache):
    """RegionCache with a lock around the table."""

    def __init__(self, seeds: Iterable[Endpoint] = ()) -> None:
        super().__init__(seeds)
        self._lock = Lock()
        self.lookup = self._locked_lookup
        self.lookup_below = self._locked_lookup_below

    def _locked_lookup(self, key: bytes) -> RegionRoute | None:
        with self._lock:
            return self._table.lookup(key)

    def _locked_lookup_below(self, key: bytes) -> RegionRoute | None:
        with self._lock:
            return self._table.lookup_below(key)

    def routes(self) -> tuple[RegionRoute, ...]:
        with self._lock:
            return super().routes()

    def learn_stores(self, stores: Iterable[StoreInfo]) -> None:
        with self._lock:
            super().learn_stores(stores)

    def learn_routes(self, reply: RoutesReply) -> None:
        self.learn_stores(reply.stores)
        self.learn_regions(reply.regions)

    def learn_regions(self, routes: Iterable[RegionRoute]) -> None:
        with self._lock:
            super().learn_regions(routes)

    def answered(self, route: RegionRoute, store_id: StoreId) -> None:
        with self._lock:
            super().answered(route, store_id)

    def silent(self, route: RegionRoute, store_id: StoreId) -> None:
        with self._lock:
            super().silent(route, store_id)

    def not_leader(self, route: RegionRoute, asked: StoreId, detail: NotLeader) -> None:
        with self._lock:
            super().not_leader(route, asked, detail)

    def epoch_not_match(self, detail: EpochNotMatch) -> bool:
        with self._lock:
            return super().epoch_not_match(detail)

    def forget(self, route: RegionRoute) -> None:
        with self._lock:
            super().forget(route)
