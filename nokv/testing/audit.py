"""The check at the end of a run: every promise of the ledger, and all replicas of every region equal.

Why: reading through leaders proves what clients see; comparing the replicas' own hashes at one applied index proves
that the next leader will see the same.
Not here: how a hash is made (nokv.workers.hashing).
"""

import time
from collections.abc import Sequence

from msgspec import Struct

import nokv
from nokv.node.admin import Address, Asker, AskError, hash_question
from nokv.proto.control import RegionRoute, ReplicaHashReply
from nokv.proto.ids import StoreId
from nokv.testing.ledger import Finding, Ledger, decode_version

KEYS_PER_READ = 500
SETTLE_S = 20.0
"""How long replicas may take to apply what is committed, once nobody writes any more."""
POLL_S = 0.05
HASH_TIMEOUT_MS = 3000


class ReplicaView(Struct, frozen=True):
    """One replica's data: applied index, records and page digests; or the error that came instead."""

    store_id: StoreId
    applied: int = 0
    records: int = 0
    digests: tuple[bytes, ...] = ()
    error: str = ""


class RegionView(Struct, frozen=True):
    """All replicas of one region."""

    region_id: int
    replicas: tuple[ReplicaView, ...]

    @property
    def equal(self) -> bool:
        """Whether all replicas answered, at one applied index, with the same data."""
        first = self.replicas[0]
        same = all((view.applied, view.digests) == (first.applied, first.digests) for view in self.replicas)
        return same and not any(view.error for view in self.replicas)

    def describe(self) -> str:
        """One line: what each replica says."""
        said = (
            f"store {view.store_id}: {view.error or f'applied {view.applied}, {view.records} records'}"
            for view in self.replicas
        )
        return f"region {self.region_id}  {'  '.join(said)}"


async def read_back(db: "nokv.AsyncClient", ledger: Ledger) -> list[Finding]:
    """Read every key of the ledger, each chunk from one snapshot; the keys that hold what they must not."""
    findings = []
    keys = ledger.keys()
    for at in range(0, len(keys), KEYS_PER_READ):
        chunk = keys[at : at + KEYS_PER_READ]
        values = await db.get_many(chunk)
        for key in chunk:
            finding = ledger.judge(key, decode_version(values.get(key)))
            if finding is not None:
                findings.append(finding)
    return findings


def compare_replicas(
    asker: Asker, addresses: dict[StoreId, Address], routes: Sequence[RegionRoute], *, settle_s: float = SETTLE_S
) -> list[RegionView]:
    """Every region's replicas, looked at until all are equal or `settle_s` seconds have passed."""
    deadline = time.monotonic() + settle_s
    views: dict[int, RegionView] = {}
    while True:
        for route in routes:
            known = views.get(route.region.id)
            if known is None or not known.equal:
                views[route.region.id] = look_at_region(asker, addresses, route)
        if all(view.equal for view in views.values()) or time.monotonic() >= deadline:
            return list(views.values())
        time.sleep(POLL_S)


def look_at_region(asker: Asker, addresses: dict[StoreId, Address], route: RegionRoute) -> RegionView:
    """What each replica of a region holds now."""
    replicas = (_look_at_replica(asker, addresses[peer.store_id], peer.store_id, route) for peer in route.region.peers)
    return RegionView(route.region.id, tuple(replicas))


def _look_at_replica(asker: Asker, address: Address, store_id: StoreId, route: RegionRoute) -> ReplicaView:
    digests: list[bytes] = []
    applied = records = 0
    cursor = b""
    while True:
        try:
            page = asker.ask(
                hash_question(address, route.region.id, cursor), ReplicaHashReply, timeout_ms=HASH_TIMEOUT_MS
            )
        except AskError as error:
            return ReplicaView(store_id, error=error.reason)
        if digests and page.applied != applied:
            return ReplicaView(store_id, error=f"applied {applied} to {page.applied} while it was read")
        applied, cursor = page.applied, page.cursor
        records += page.records
        digests.append(page.digest)
        if not cursor:
            return ReplicaView(store_id, applied, records, tuple(digests))
