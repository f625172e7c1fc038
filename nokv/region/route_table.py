"""Which region owns a key: an ordered table from start key to route, kept up by what nodes answer.

Why: a client that knows the owner asks it at once; one that guesses wrong is told better and must not unlearn it from
an answer that was older and merely slower.
Invariants: routes never overlap and are sorted by start; each region id occurs once; knowledge is replaced by newer
knowledge only (epoch version first, then conf_ver). Gaps are legal: they mean "ask".
Not here: asking (nokv.client), the authoritative directory (nokv.control.directory).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from nokv.proto.control import RegionRoute
from nokv.proto.errors import EpochNotMatch, NotLeader
from nokv.proto.ids import RegionId, StoreId
from nokv.proto.region import Region, RegionEpoch, printable


class RouteTable:
    """An ordered map of disjoint key ranges to `RegionRoute`s. Lookups cost one bisection, changes a list insertion."""

    __slots__ = ("_by_id", "_routes", "_starts")

    def __init__(self, routes: Iterable[RegionRoute] = ()) -> None:
        """Start from `routes`, in any order; where two of them overlap the one with the newer epoch stays."""
        # Parallel lists: bisect needs the bare start keys, and comparing bytes is much faster than a key function.
        self._starts: list[bytes] = []
        self._routes: list[RegionRoute] = []

        # Derived
        self._by_id: dict[RegionId, RegionRoute] = {}
        self.learn(routes)

    # ---- questions --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many regions are known."""
        return len(self._routes)

    def __iter__(self) -> Iterator[RegionRoute]:
        """All routes in key order, as they are now: changes during the iteration are not seen."""
        return iter(tuple(self._routes))

    def __contains__(self, region_id: object) -> bool:
        """Whether the region is known."""
        return region_id in self._by_id

    def lookup(self, key: bytes) -> RegionRoute | None:
        """The region that owns `key`, None where the table has a gap."""
        at = bisect_right(self._starts, key) - 1
        if at < 0:
            return None
        route = self._routes[at]
        end = route.region.end
        return route if not end or key < end else None

    def lookup_below(self, key: bytes) -> RegionRoute | None:
        """The region that owns the keys just below `key`, where a reverse scan goes on; b"" means +infinity."""
        at = (bisect_left(self._starts, key) if key else len(self._starts)) - 1
        if at < 0:
            return None
        route = self._routes[at]
        end = route.region.end
        return route if not end or (key and key <= end) else None

    def get(self, region_id: RegionId) -> RegionRoute | None:
        """The route of a region by its id, None if it is not known."""
        return self._by_id.get(region_id)

    def forward(self, start: bytes = b"", end: bytes = b"") -> Iterator[RegionRoute]:
        """Known routes that overlap `start <= key < end` (end b"" = +infinity), lowest first. Gaps are passed over.

        The routes are those known when the iteration began.
        """
        return iter(self._slice(start, end))

    def reverse(self, start: bytes = b"", end: bytes = b"") -> Iterator[RegionRoute]:
        """The same routes as `forward`, highest first."""
        return reversed(self._slice(start, end))

    def gaps(self, start: bytes = b"", end: bytes = b"") -> tuple[tuple[bytes, bytes], ...]:
        """The parts of `start <= key < end` that no known region covers, as (start, end) pairs in key order."""
        found: list[tuple[bytes, bytes]] = []
        covered = start
        for route in self._slice(start, end):
            if covered < route.region.start:
                found.append((covered, route.region.start))
            if not route.region.end:
                return tuple(found)
            covered = max(covered, route.region.end)
        if not end or covered < end:
            found.append((covered, end))
        return tuple(found)

    def is_complete(self) -> bool:
        """Whether the known regions tile the whole key space."""
        return not self.gaps()

    # ---- what answers teach -----------------------------------------------------------------------------------------

    def learn(self, routes: Iterable[RegionRoute]) -> int:
        """Apply a page of the directory; returns how many routes changed the table."""
        return sum(self.put(route) for route in routes)

    def put(self, route: RegionRoute) -> bool:
        """Take in a route unless something newer is known; returns whether the table changed.

        Against the same region: a newer epoch replaces it, an equal epoch only changes the leader (0 never erases a
        known one), an older one is ignored. Against other regions in the same range: every change of range raises
        the version of all regions it leaves behind, so a lower or equal version is the past; regions that a newer one
        overlaps are dropped whole, since what remains of them is not known.
        """
        region = route.region
        assert not region.end or region.start < region.end, "an empty range owns nothing"
        known = self._by_id.get(region.id)
        if known is not None:
            if region.epoch < known.region.epoch:
                return False
            if region.epoch == known.region.epoch:
                return self._put_leader(known, route.leader_store)
        rivals = [other for other in self._slice(region.start, region.end) if other.region.id != region.id]
        if any(other.region.epoch.version >= region.epoch.version for other in rivals):
            return False
        for other in rivals:
            self._remove(other)
        if known is not None:
            self._remove(known)
            if not route.leader_store and region.peer_on(known.leader_store) is not None:
                route = RegionRoute(region, known.leader_store)
        self._insert(route)
        return True

    def apply_epoch_not_match(self, detail: EpochNotMatch) -> bool:
        """Learn from a refused epoch; returns whether the table changed.

        An answer without regions teaches nothing here: the node has no such region, which says something about the
        node and not about the range. The caller tries another peer, or calls `forget` and asks the directory.
        """
        return self.learn(RegionRoute(region) for region in detail.regions) > 0

    def apply_not_leader(self, detail: NotLeader, *, asked_store: StoreId, asked_epoch: RegionEpoch) -> bool:
        """Learn who leads from a refusal by `asked_store`; returns whether the table changed.

        The answer disproves only what the question assumed. So it is ignored if the table has meanwhile learned a
        newer epoch than the request carried, or another leader than the store that was asked, or if the named leader
        is not a member of the region as known.
        """
        known = self._by_id.get(detail.region_id)
        if known is None or asked_epoch < known.region.epoch or known.leader_store not in (0, asked_store):
            return False
        leader = detail.leader_store
        if leader and known.region.peer_on(leader) is None:
            leader = StoreId(0)
        if leader == known.leader_store:
            return False
        self._replace(known, RegionRoute(known.region, leader))
        return True

    def set_leader(self, region_id: RegionId, store_id: StoreId) -> bool:
        """Note that a store has just answered as the leader; returns whether the table changed."""
        known = self._by_id.get(region_id)
        return known is not None and self._put_leader(known, store_id)

    def forget_leader(self, region_id: RegionId, store_id: StoreId) -> bool:
        """Note that `store_id`, thought to lead the region, does not answer; returns whether the table changed."""
        known = self._by_id.get(region_id)
        if known is None or known.leader_store != store_id or not store_id:
            return False
        self._replace(known, RegionRoute(known.region))
        return True

    def forget(self, region_id: RegionId) -> bool:
        """Drop what is known about a region, so that the next lookup there asks; returns whether it was known."""
        known = self._by_id.get(region_id)
        if known is None:
            return False
        self._remove(known)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._routes.clear()
        self._by_id.clear()

    def check(self) -> None:
        """Assert the invariants; for tests and for tables that came from outside."""
        assert len(self._starts) == len(self._routes) == len(self._by_id)
        for start, route in zip(self._starts, self._routes, strict=True):
            assert start == route.region.start
            assert self._by_id[route.region.id] is route
        for left, right in pairwise(self._routes):
            assert left.region.start < right.region.start
            assert left.region.end and left.region.end <= right.region.start, "routes never overlap"

    def describe(self) -> str:
        """One line per region, for logs and golden files."""
        return "\n".join(f"{route.region.describe()} leader {route.leader_store or '?'}" for route in self._routes)

    # ---- the lists --------------------------------------------------------------------------------------------------

    def _slice(self, start: bytes, end: bytes) -> list[RegionRoute]:
        """Routes that overlap start <= key < end, as a list of their own."""
        if end and start >= end:
            return []
        low = bisect_right(self._starts, start) - 1
        if low < 0 or (self._routes[low].region.end and self._routes[low].region.end <= start):
            low += 1
        high = bisect_left(self._starts, end) if end else len(self._starts)
        return self._routes[low:high]

    def _put_leader(self, known: RegionRoute, store_id: StoreId) -> bool:
        if not store_id or store_id == known.leader_store or known.region.peer_on(store_id) is None:
            return False
        self._replace(known, RegionRoute(known.region, store_id))
        return True

    def _insert(self, route: RegionRoute) -> None:
        at = bisect_left(self._starts, route.region.start)
        self._starts.insert(at, route.region.start)
        self._routes.insert(at, route)
        self._by_id[route.region.id] = route

    def _replace(self, old: RegionRoute, new: RegionRoute) -> None:
        at = bisect_left(self._starts, old.region.start)
        assert self._routes[at] is old
        self._routes[at] = new
        self._by_id[new.region.id] = new

    def _remove(self, route: RegionRoute) -> None:
        at = bisect_left(self._starts, route.region.start)
        assert self._routes[at] is route
        del self._starts[at]
        del self._routes[at]
        del self._by_id[route.region.id]


def tiling_fault(regions: Sequence[Region]) -> str | None:
    """Why these regions do not tile the key space, None if they do. Order does not matter; for topology files.

    Finds: no region at all, an id twice, an empty or backward range, a gap, an overlap.
    """
    if not regions:
        return "there is no region"
    if len({region.id for region in regions}) != len(regions):
        return "a region id occurs twice"
    for region in regions:
        if region.end and region.end <= region.start:
            return f"region {region.id} has no keys: {printable(region.start)} is not below {printable(region.end)}"
    expected = b""
    ordered = sorted(regions, key=lambda region: (region.start, region.id))
    for at, region in enumerate(ordered):
        if region.start != expected:
            word = "gap" if expected < region.start else "overlap"
            return f"{word} between {printable(expected)} and {printable(region.start)}, before region {region.id}"
        if not region.end and at + 1 < len(ordered):
            return f"overlap: region {region.id} has no upper bound, region {ordered[at + 1].id} begins inside it"
        expected = region.end
    return f"gap: no region from {printable(expected)} on" if expected else None
