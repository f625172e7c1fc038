"""The catalog: which regions have a replica on this store, which worker serves each, and what is known of them.

Why: a worker that finds no data for a region must know whether that is a first start or a loss, and a region must be
served by the same worker after a restart as before.
Invariants: one entry per region id for ever, since a destroyed replica leaves its tombstone; the worker of a replica
never changes; an entry's epoch never goes back and its state moves only as nokv.region.lifecycle allows; a confirmed
replica stays so. All changes are in the engine's open transaction until the owner's next checkpoint.
Not here: regions of other stores (group 0's directory), the Raft state of a replica (its worker's own engine).
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from nokv.control.cluster import read_regions
from nokv.manifest.identity import StoreIdentity, read_identity
from nokv.proto.control import RegionSeed
from nokv.proto.ids import RegionId, StoreId, WorkerId
from nokv.proto.region import PeerRole, Region, RegionState
from nokv.region.lifecycle import check_change
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine, Reader
from nokv.storage.keys import CATALOG_PREFIX, catalog_key, prefix_bounds

NO_STORE: Final = StoreId(0)

_META: Final = ColumnFamily.META


class CatalogEntry(Struct, array_like=True, frozen=True):
    """One replica on this store.

    `confirmed`: its worker has said that the replica is durable, so from then on a missing one is data loss.
    `first_leader`: the store that the topology names as the region's first leader, 0 = none.
    """

    region: Region
    worker_id: WorkerId
    confirmed: bool = False
    first_leader: StoreId = NO_STORE


_entry_decoder: Final = msgspec.msgpack.Decoder(CatalogEntry)


class CatalogCounts(Struct, frozen=True):
    """Regions of the cluster as this store knows it: all, with a replica here, without one here."""

    total: int
    here: int
    elsewhere: int


class CatalogError(ValueError):
    """A change that would break an invariant of the catalog. Nothing was changed."""


class Catalog:
    """The durable list of this store's replicas, mirrored in memory."""

    def __init__(self, engine: Engine, store_id: StoreId) -> None:
        """Load what the engine holds.

        Raises:
            CorruptionError: a stored entry is not what was written.
        """
        assert store_id > 0
        self._engine: Final = engine
        self._store_id: Final = store_id

        # Durable mirror
        self._entries: dict[RegionId, CatalogEntry] = {entry.region.id: entry for entry in read_entries(engine)}

    # ---- questions --------------------------------------------------------------------------------------------------

    def get(self, region_id: RegionId) -> CatalogEntry | None:
        """The entry of a region, tombstones included; None if this store never had a replica of it."""
        return self._entries.get(region_id)

    def entries(self) -> tuple[CatalogEntry, ...]:
        """All entries in key order, tombstones included."""
        return tuple(sorted(self._entries.values(), key=_key_order))

    def regions(self) -> tuple[Region, ...]:
        """Descriptions of the replicas that exist, in key order: no tombstones."""
        return tuple(entry.region for entry in self.entries() if _exists(entry))

    def placement(self) -> tuple[tuple[RegionId, WorkerId], ...]:
        """(region, worker) of the replicas that exist, by region id: what the router's table is made of."""
        pairs = ((region_id, entry.worker_id) for region_id, entry in self._entries.items() if _exists(entry))
        return tuple(sorted(pairs))

    def seeds_for(self, worker_id: WorkerId) -> tuple[RegionSeed, ...]:
        """What a worker must serve, in key order."""
        return tuple(
            RegionSeed(entry.region, fresh=not entry.confirmed, campaign=self._campaigns(entry))
            for entry in self.entries()
            if entry.worker_id == worker_id and _exists(entry)
        )

    def counts(self, listed: Iterable[RegionId]) -> CatalogCounts:
        """Sums for the start-up summary; `listed` are the regions of group 0's directory."""
        here = {region_id for region_id, _worker_id in self.placement()}
        elsewhere = sum(1 for region_id in listed if region_id not in here)
        return CatalogCounts(len(here) + elsewhere, len(here), elsewhere)

    # ---- changes ----------------------------------------------------------------------------------------------------

    def place(self, region: Region, worker_id: WorkerId, *, first_leader: StoreId = NO_STORE) -> bool:
        """Give a replica to a worker; returns False if that is how it already is.

        Over a tombstone only with a newer epoch: the store was made a member again, with a new peer.

        Raises:
            CatalogError: the store has no peer in the region, or the region is with another worker, or is a tombstone
                with this epoch or a newer one.
        """
        assert worker_id >= 0
        if region.peer_on(self._store_id) is None:
            raise CatalogError(f"store {self._store_id} has no peer in {region.describe()}")
        known = self._entries.get(region.id)
        if known is not None and _exists(known):
            if known.worker_id != worker_id:
                raise CatalogError(f"region {region.id} is with worker {known.worker_id}, not {worker_id}")
            return False
        if known is not None and region.epoch <= known.region.epoch:
            raise CatalogError(f"region {region.id} was destroyed on this store and does not come back")
        self._put(CatalogEntry(region, worker_id, first_leader=first_leader))
        return True

    def confirm(self, region_id: RegionId) -> bool:
        """Its worker has a durable replica from now on; returns False if that was known.

        Requires a checkpoint before the worker may rely on it; until then a crash makes the region fresh again, which
        is harmless: the worker finds its replica and does not make one.

        Raises:
            CatalogError: no such replica.
        """
        entry = self._existing(region_id)
        if entry.confirmed:
            return False
        self._put(msgspec.structs.replace(entry, confirmed=True))
        return True

    def update(self, region: Region) -> bool:
        """Take in what the replica's worker reports of it; returns False if it is not newer than what is known.

        Raises:
            CatalogError: no such replica.
            IllegalTransition: no event leads from the known state to the reported one.
        """
        entry = self._entries.get(region.id)
        if entry is None:
            raise CatalogError(f"store {self._store_id} has no replica of region {region.id}")
        known = entry.region
        if region.epoch < known.epoch or region == known:
            return False
        if region.epoch == known.epoch:
            same = msgspec.structs.replace(region, state=known.state)
            assert same == known, "one epoch has one description"
        check_change(known.state, region.state)
        self._put(msgspec.structs.replace(entry, region=region))
        return True

    def _campaigns(self, entry: CatalogEntry) -> bool:
        """Whether the replica should start an election at once: nobody else can, or it was named for it."""
        peer = entry.region.peer_on(self._store_id)
        if entry.region.state is not RegionState.RUNNING or peer is None or peer.role is not PeerRole.VOTER:
            return False
        voters = [other for other in entry.region.peers if other.role is PeerRole.VOTER]
        return len(voters) == 1 or entry.first_leader == self._store_id

    def _existing(self, region_id: RegionId) -> CatalogEntry:
        entry = self._entries.get(region_id)
        if entry is None or not _exists(entry):
            raise CatalogError(f"store {self._store_id} has no replica of region {region_id}")
        return entry

    def _put(self, entry: CatalogEntry) -> None:
        self._engine.put(_META, catalog_key(entry.region.id), msgspec.msgpack.encode(entry))
        self._entries[entry.region.id] = entry


def read_entries(reader: Reader) -> tuple[CatalogEntry, ...]:
    """The stored entries, by region id.

    Raises:
        CorruptionError: an entry is not what was written.
    """
    entries = []
    for key, value in reader.scan(_META, *prefix_bounds(CATALOG_PREFIX)):
        try:
            entry = _entry_decoder.decode(value)
        except msgspec.DecodeError as error:
            raise CorruptionError(f"catalog entry {key!r}: {error}") from error
        if catalog_key(entry.region.id) != key:
            raise CorruptionError(f"catalog entry {key!r} describes region {entry.region.id}")
        entries.append(entry)
    return tuple(entries)


def _exists(entry: CatalogEntry) -> bool:
    return entry.region.state is not RegionState.TOMBSTONE


def _key_order(entry: CatalogEntry) -> tuple[bytes, RegionId]:
    return entry.region.start, entry.region.id


# ---- offline --------------------------------------------------------------------------------------------------------


class OfflineCatalog(Struct, frozen=True):
    """What a store's manifest knew at its last checkpoint. Both tuples are in key order."""

    identity: StoreIdentity
    entries: tuple[CatalogEntry, ...]
    """Replicas on this store, tombstones included."""
    elsewhere: tuple[Region, ...]
    """Regions of the directory without a replica here."""


def read_offline(reader: Reader) -> OfflineCatalog | None:
    """The catalog of an engine that nobody serves; None if the store was never started.

    Raises:
        UnknownFormatError: written by another version.
        CorruptionError: a record is not what was written.
    """
    identity = read_identity(reader)
    if identity is None:
        return None
    entries = read_entries(reader)
    here = {entry.region.id for entry in entries if _exists(entry)}
    elsewhere = sorted(
        (region for region in read_regions(reader) if region.id not in here), key=lambda region: region.start
    )
    return OfflineCatalog(identity, tuple(sorted(entries, key=_key_order)), tuple(elsewhere))
