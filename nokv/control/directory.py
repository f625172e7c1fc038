"""The directory: every region of the cluster, by id and by key.

Why: clients and nodes that know nothing learn here which region owns a key, whom to ask, and what changed.
Invariants: regions are disjoint; a description is replaced only by a newer epoch (version first), or swallowed whole by
a newer version that overlaps it; a leader is a hint, comes from the highest term heard of, and is never replicated.
Not here: durability (cluster.py), what clients make of it (nokv.region.route_table, whose rules for overlapping ranges
are used here too, so that directory and clients can never disagree about which of two regions is the newer one).
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from nokv.control.allocator import ID_MAX
from nokv.proto.control import RegionRoute
from nokv.proto.ids import RegionId, StoreId, Term
from nokv.proto.region import Region, RegionState
from nokv.region.route_table import RouteTable, tiling_fault

ROUTES_PAGE_MAX: Final = 4_096
"""Regions in one page of routes: about 1 MiB with three peers and long keys, small against a frame's limit."""


def region_fault(region: Region) -> str | None:
    """What makes a description unfit for the directory, None if it is fit. A gateway check for what others report."""
    if not 0 < region.id < ID_MAX:
        return f"region id {region.id} is out of range"
    if region.state is not RegionState.RUNNING:
        return f"a region in state {region.state.name} is one store's business"
    if region.end and region.end <= region.start:
        return "the range is empty"
    if region.epoch.version < 1 or region.epoch.conf_ver < 1:
        return "epochs begin at 1"
    if not region.peers:
        return "there is no peer"
    if any(not 0 < peer.id < ID_MAX or peer.store_id < 1 for peer in region.peers):
        return "a peer's ids are out of range"
    if len({peer.id for peer in region.peers}) < len(region.peers):
        return "a peer id occurs twice"
    if len({peer.store_id for peer in region.peers}) < len(region.peers):
        return "a store has two peers"
    return None


class Directory:
    """Regions by id and in key order, with leader hints beside them."""

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        """Start from disjoint `regions`, in any order, without leaders."""
        # Mirrors what cluster.py keeps durable
        self._table: Final = RouteTable()

        # Soft: where the leader in the table came from
        self._leader_terms: dict[RegionId, Term] = {}
        for region in regions:
            swallowed = self.put(region)
            assert swallowed == (), "regions of a directory are disjoint"

    # ---- questions --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many regions there are."""
        return len(self._table)

    def __iter__(self) -> Iterator[Region]:
        """All regions in key order, as they are now."""
        return (route.region for route in self._table)

    def __contains__(self, region_id: object) -> bool:
        """Whether the region is listed."""
        return region_id in self._table

    def get(self, region_id: RegionId) -> Region | None:
        """The newest description of a region, None if it is not listed."""
        route = self._table.get(region_id)
        return None if route is None else route.region

    def at(self, key: bytes) -> Region | None:
        """The region that owns `key`. None: nobody has reported it yet, which passes."""
        route = self._table.lookup(key)
        return None if route is None else route.region

    def leader_of(self, region_id: RegionId) -> StoreId:
        """The store thought to lead a region, 0 if none is."""
        route = self._table.get(region_id)
        return StoreId(0) if route is None else route.leader_store

    def routes(self, start: bytes, limit: int) -> tuple[tuple[RegionRoute, ...], bool]:
        """Regions that end after `start`, in key order, and whether there are more. A page has 1 to ROUTES_PAGE_MAX."""
        wanted = min(max(limit, 1), ROUTES_PAGE_MAX)
        page = tuple(islice(self._table.forward(start), wanted + 1))
        return page[:wanted], len(page) > wanted

    def fault(self) -> str | None:
        """Why the regions do not tile the key space, None if they do.

        A gap is no error while the halves of a split are being reported; it is one in a topology, and if it lasts.
        """
        return tiling_fault(tuple(self))

    # ---- changes ----------------------------------------------------------------------------------------------------

    def put(self, region: Region) -> tuple[Region, ...] | None:
        """Take in a description. None: it is not newer than what is listed. Else the regions it swallowed.

        A region is swallowed if a newer version overlaps it: after a merge it is gone, after a split its own leader
        reports the part that is left.
        """
        assert region_fault(region) is None
        known = self._table.get(region.id)
        if known is not None and region.epoch <= known.region.epoch:
            return None
        rivals = tuple(
            route.region for route in self._table.forward(region.start, region.end) if route.region.id != region.id
        )
        if not self._table.put(RegionRoute(region)):
            return None
        for rival in rivals:
            self._leader_terms.pop(rival.id, None)
        return rivals

    def note_leader(self, region_id: RegionId, store_id: StoreId, term: Term) -> bool:
        """Remember who leads, if `term` is not older than what is known; returns whether the hint changed.

        `store_id` 0 says that `term` has no leader yet: it erases the leader of an older term only, since within one
        term it merely means that the teller had not heard of it.
        """
        route = self._table.get(region_id)
        known_term = self._leader_terms.get(region_id, Term(0))
        if route is None or term < known_term:
            return False
        if store_id and route.region.peer_on(store_id) is None:
            return False
        self._leader_terms[region_id] = term
        if store_id:
            return self._table.set_leader(region_id, store_id)
        return term > known_term and self._table.forget_leader(region_id, route.leader_store)

    def news(self, reported: Iterable[Region]) -> tuple[Region, ...]:
        """Those of the reported descriptions that would change the directory, in the order to propose them.

        By key, so that the shrunk half of a split comes before the new one and is not swallowed by it.
        """
        fresh = [region for region in reported if region_fault(region) is None and self._is_news(region)]
        return tuple(sorted(fresh, key=lambda region: (region.start, region.id)))

    def _is_news(self, region: Region) -> bool:
        known = self._table.get(region.id)
        if known is not None and region.epoch <= known.region.epoch:
            return False
        rivals = (r.region for r in self._table.forward(region.start, region.end) if r.region.id != region.id)
        return all(rival.epoch.version < region.epoch.version for rival in rivals)

    def describe(self) -> str:
        """One line per region."""
        return self._table.describe()
