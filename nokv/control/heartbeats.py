"""Who was heard of when: the last heartbeat of each store and region, kept by group 0's leader.

Why: "no news" must be told from "all well" before anybody acts on what a store said last.
Invariants: soft state: a new leader begins empty and knows the cluster after one heartbeat interval; incarnations have
no order, so the heartbeat that arrives last counts; all ages are of one clock, the caller's monotonic milliseconds.
Not here: what a heartbeat changes for good (cluster.py: PutStore and PutRegion), who leads (directory.py).
"""

from collections.abc import Iterable

from msgspec import Struct

from nokv.proto.control import StoreHeartbeat
from nokv.proto.ids import Incarnation, RegionId, StoreId

NEVER_MS = -1
"""Age of something that was never heard of."""


class RegionSeen(Struct, frozen=True):
    """Which store last reported a region as its leader, and when (monotonic milliseconds)."""

    store_id: StoreId
    seen_ms: int


class StoreSeen(Struct, frozen=True):
    """A store's last heartbeat, when it came, and how often the store was seen to have restarted."""

    heartbeat: StoreHeartbeat
    seen_ms: int
    restarts: int


class Heartbeats:
    """Last heartbeats of stores, and of the regions whose leaders they reported."""

    def __init__(self) -> None:
        # Soft
        self._stores: dict[StoreId, StoreSeen] = {}
        self._regions: dict[RegionId, RegionSeen] = {}

    def note(self, heartbeat: StoreHeartbeat, now_ms: int) -> bool:
        """Take in a heartbeat; returns whether the store is new here or has restarted since its last one."""
        store_id = heartbeat.store.id
        known = self._stores.get(store_id)
        restarted = known is not None and known.heartbeat.incarnation != heartbeat.incarnation
        restarts = (known.restarts if known is not None else 0) + restarted
        self._stores[store_id] = StoreSeen(heartbeat, now_ms, restarts)
        for route in heartbeat.leads:
            self._regions[route.region.id] = RegionSeen(store_id, now_ms)
        return known is None or restarted

    def store(self, store_id: StoreId) -> StoreSeen | None:
        """A store's last heartbeat, None if there was none or it was removed."""
        return self._stores.get(store_id)

    def region(self, region_id: RegionId) -> RegionSeen | None:
        """Who last reported a region, None if nobody did or it was removed."""
        return self._regions.get(region_id)

    def incarnation(self, store_id: StoreId) -> Incarnation:
        """The run of the store's manifest that was last heard of, 0 if none was."""
        seen = self._stores.get(store_id)
        return Incarnation(0) if seen is None else seen.heartbeat.incarnation

    def seen_ms_ago(self, stores: Iterable[StoreId], now_ms: int) -> tuple[tuple[StoreId, int], ...]:
        """(store, age in milliseconds) for each of `stores`, by id; NEVER_MS where none was heard."""
        ages = []
        for store_id in sorted(stores):
            seen = self._stores.get(store_id)
            ages.append((store_id, NEVER_MS if seen is None else max(0, now_ms - seen.seen_ms)))
        return tuple(ages)

    def stale_stores(self, stores: Iterable[StoreId], now_ms: int, *, after_ms: int) -> tuple[StoreId, ...]:
        """Those of `stores` that were not heard of for longer than `after_ms`, or never; by id."""
        ages = self.seen_ms_ago(stores, now_ms)
        return tuple(store_id for store_id, age_ms in ages if age_ms == NEVER_MS or age_ms > after_ms)

    def stale_regions(self, regions: Iterable[RegionId], now_ms: int, *, after_ms: int) -> tuple[RegionId, ...]:
        """Those of `regions` that no leader reported for longer than `after_ms`, or ever; by id."""
        seen = self._regions
        return tuple(
            region_id
            for region_id in sorted(regions)
            if region_id not in seen or now_ms - seen[region_id].seen_ms > after_ms
        )

    def remove_store(self, store_id: StoreId) -> bool:
        """Forget a store and what it reported; returns whether it was known. Its next heartbeat brings it back."""
        self._regions = {region_id: seen for region_id, seen in self._regions.items() if seen.store_id != store_id}
        return self._stores.pop(store_id, None) is not None

    def remove_region(self, region_id: RegionId) -> bool:
        """Forget a region's last report; returns whether there was one."""
        return self._regions.pop(region_id, None) is not None
