"""Start of a store: found it from the topology once, and trust only its own durable state ever after.

Why: a file that somebody edits on one node must not give that node other members, regions or workers than its peers
believe in (a cluster that disagrees about its members elects two leaders). Addresses are different: the wrong one
only fails to connect, so there the file wins.
Invariants: identity, catalog and group 0's first state become durable in one checkpoint, so a crash leaves a store
that was founded or one that was not; every founding store derives the same group 0 state from the same topology.
Not here: reading the topology file (nokv.topology), the data directory's own lock and stamp (nokv.storage.datadir).
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from nokv.control.cluster import ControlState
from nokv.manifest.catalog import Catalog
from nokv.manifest.identity import IDENTITY_FORMAT, StoreIdentity, read_identity, verify, write_identity
from nokv.proto.control import StoreInfo
from nokv.proto.ids import ClusterId, RegionId, StoreId, WorkerId
from nokv.proto.region import Region
from nokv.storage.engine import Engine


class Founding(Struct, frozen=True):
    """What a topology says, as this package needs it.

    `cluster_id` 0: no file, so a first start takes the random one it is handed, a later one whatever is stored.
    `leaders`: the store that is to lead a region first. `next_id`: first free id, raised above every id in use.
    """

    cluster_id: ClusterId
    stores: tuple[StoreInfo, ...]
    regions: tuple[Region, ...]
    leaders: Mapping[RegionId, StoreId] = {}
    next_id: int = 1


class NotAMemberError(Exception):
    """The topology does not list the store that this node was started as."""

    def __init__(self, store_id: StoreId, listed: Sequence[StoreId]) -> None:
        names = ", ".join(map(str, listed)) or "none"
        super().__init__(f"this node was started as store {store_id}, but the topology lists only: {names}")
        self.store_id = store_id
        self.listed = tuple(listed)


class Started:
    """An opened store. `stores`: the cluster's members with the addresses to use. `notes`: lines for the log."""

    __slots__ = ("catalog", "control", "first_start", "identity", "notes", "stores")

    def __init__(
        self,
        identity: StoreIdentity,
        control: ControlState,
        catalog: Catalog,
        *,
        first_start: bool,
        stores: tuple[StoreInfo, ...],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.identity = identity
        self.control = control
        self.catalog = catalog
        self.first_start = first_start
        self.stores = stores
        self.notes = notes


def start(
    engine: Engine, founding: Founding, *, store_id: StoreId, workers: int, random_cluster_id: ClusterId
) -> Started:
    """Open the store in `engine`, founding it if it is new.

    Raises:
        IdentityError: the engine belongs to another store, cluster, worker count or format. Nothing was changed.
        NotAMemberError: a new store that the topology does not list. Nothing was changed.
        ControlSeedError: a new store, and the topology is inconsistent. Nothing was changed.
        StorageError: the disk failed, or a stored record is not what was written.
    """
    assert store_id > 0
    assert workers > 0
    identity = read_identity(engine)
    if identity is None:
        return _first_start(engine, founding, store_id, workers, founding.cluster_id or random_cluster_id)
    verify(identity, store_id=store_id, cluster_id=founding.cluster_id, workers=workers)
    control = ControlState(engine)
    catalog = Catalog(engine, store_id)
    stores = addresses(control.stores(), founding.stores)
    notes = differences(founding, control)
    return Started(identity, control, catalog, first_start=False, stores=stores, notes=notes)


def _first_start(engine: Engine, founding: Founding, store_id: StoreId, workers: int, cluster_id: ClusterId) -> Started:
    """Write everything a store needs to know about itself, and make it durable."""
    listed = [store.id for store in founding.stores]
    if store_id not in listed:
        raise NotAMemberError(store_id, listed)
    control = ControlState.seed(engine, stores=founding.stores, regions=founding.regions, next_id=founding.next_id)
    identity = StoreIdentity(IDENTITY_FORMAT, cluster_id, store_id, workers)
    write_identity(engine, identity)
    catalog = Catalog(engine, store_id)
    for region, worker_id in spread(founding.regions, store_id, workers, founding.leaders):
        catalog.place(region, worker_id, first_leader=founding.leaders.get(region.id, StoreId(0)))
    engine.checkpoint()
    return Started(identity, control, catalog, first_start=True, stores=control.stores())


def spread(
    regions: Sequence[Region], store_id: StoreId, workers: int, leaders: Mapping[RegionId, StoreId]
) -> tuple[tuple[Region, WorkerId], ...]:
    """Which worker gets which of this store's regions: round-robin in key order, so that neighbours are apart.

    Regions that this store is to lead are dealt first: leading costs several times as much as following, and with as
    many stores as workers one round over all regions would give all of them to the same worker.
    """
    assert workers > 0
    here = sorted((region for region in regions if region.peer_on(store_id) is not None), key=lambda r: r.start)
    led = [region for region in here if leaders.get(region.id) == store_id]
    followed = [region for region in here if leaders.get(region.id) != store_id]
    return tuple((region, WorkerId(at % workers)) for at, region in enumerate(led + followed))


def addresses(members: Sequence[StoreInfo], listed: Sequence[StoreInfo]) -> tuple[StoreInfo, ...]:
    """The members, each as the file lists it if it does, else as it is stored."""
    by_id = {store.id: store for store in listed}
    return tuple(by_id.get(member.id, member) for member in members)


def differences(founding: Founding, control: ControlState) -> tuple[str, ...]:
    """What the file says of members and regions that the durable state does not: ignored, but worth a line each."""
    if not founding.stores:
        return ()
    listed = {store.id for store in founding.stores}
    members = {store.id for store in control.stores()}
    strange = [f"store {it} is in the topology but not in the cluster: ignored" for it in sorted(listed - members)]
    missing = [
        f"store {it} is in the cluster but not in the topology: kept, with its stored addresses"
        for it in sorted(members - listed)
    ]
    ahead = [
        f"the topology has {region.describe()}, which the cluster does not: ignored"
        for region in founding.regions
        if not _is_known(region, control.directory.get(region.id))
    ]
    return (*strange, *missing, *ahead)


def _is_known(region: Region, known: Region | None) -> bool:
    """Whether the cluster has this description, or had it and has moved on."""
    return known is not None and (known == region or known.epoch > region.epoch)
