"""Which regions serve, seen by the writers: when each region last acknowledged a write.

Why: "the cluster is back" means that every region takes writes again, and "the others went on" that their writes never
paused; both are read off the acknowledgements, not off what nodes say about themselves.
Invariants: only a write that began after a moment counts as served after it; times are seconds of one monotonic clock.
Not here: writing (writers.py), the promises themselves (ledger.py).
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence

from nokv.proto.region import Region


class RegionProgress:
    """Acknowledgements by region. `note` fits the `on_ack` of nokv.testing.writers."""

    def __init__(self, regions: Sequence[Region]) -> None:
        """`regions` tile the key space; they do not change while this looks on."""
        ordered = sorted(regions, key=lambda region: region.start)
        self._starts = [region.start for region in ordered]
        self._ids: list[int] = [region.id for region in ordered]

        self._mark = 0.0
        self._served: dict[int, float] = {}
        """Region -> when the first write that began after the mark was acknowledged."""
        self._last: dict[int, float] = {}
        self._gap: dict[int, float] = {}
        """Region -> longest distance of two acknowledgements since the mark."""

        self.acknowledged = 0

    def region_of(self, key: bytes) -> int:
        """The region a key lies in."""
        return self._ids[bisect_right(self._starts, key) - 1]

    def note(self, key: bytes, began: float, ended: float) -> None:
        """A write was acknowledged."""
        region_id = self.region_of(key)
        self.acknowledged += 1
        last = self._last.get(region_id, self._mark)
        self._gap[region_id] = max(self._gap.get(region_id, 0.0), ended - last)
        self._last[region_id] = ended
        if began >= self._mark:
            self._served.setdefault(region_id, ended)

    def mark(self, now: float) -> None:
        """Forget what was; count from `now` on."""
        self._mark = now
        self._served.clear()
        self._gap.clear()

    def served(self) -> dict[int, float]:
        """Regions that acknowledged a write begun after the mark -> seconds from the mark to the first one."""
        return {region_id: at - self._mark for region_id, at in self._served.items()}

    def missing(self, regions: Collection[int]) -> list[int]:
        """Those of `regions` that have not."""
        return sorted(set(regions) - set(self._served))

    def longest_gap(self, regions: Collection[int]) -> float:
        """The longest pause, in seconds, between two acknowledgements of one of `regions` since the mark."""
        return max((self._gap.get(region_id, 0.0) for region_id in regions), default=0.0)
