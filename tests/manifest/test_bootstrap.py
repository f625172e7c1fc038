"""First start from the topology, later starts from the durable state alone."""

from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from nokv.control.cluster import ControlSeedError
from nokv.manifest.bootstrap import Founding, NotAMemberError, Started, spread, start
from nokv.manifest.identity import OtherClusterError, OtherStoreError, OtherWorkersError, read_identity
from nokv.proto.control import PutRegion, PutStore
from nokv.proto.ids import ClusterId, RegionId, StoreId, WorkerId
from nokv.proto.region import Region
from nokv.storage.engine import ColumnFamily, OutOfSpaceError
from nokv.storage.memory_engine import MemoryEngine
from tests.control.builders import region, store, three_regions

S1, S2 = StoreId(1), StoreId(2)
RANDOM_ID = ClusterId(987)
STORES = (store(1), store(2), store(3))
LEADERS = {RegionId(1): S1, RegionId(2): S2, RegionId(3): StoreId(3)}
TOPOLOGY = Founding(ClusterId(77), STORES, three_regions(), LEADERS)


def open_store(
    engine: MemoryEngine, founding: Founding = TOPOLOGY, *, store_id: StoreId = S1, workers: int = 2
) -> Started:
    return start(engine, founding, store_id=store_id, workers=workers, random_cluster_id=RANDOM_ID)


# ---- first start ----------------------------------------------------------------------------------------------------


def test_a_first_start_is_durable_when_it_returns() -> None:
    engine = MemoryEngine()
    first = open_store(engine)
    assert first.first_start
    assert first.identity.describe() == "store 1 of cluster 77, 2 workers"
    assert first.stores == STORES
    engine.crash()
    later = open_store(engine)
    assert not later.first_start
    assert later.identity == first.identity
    assert later.catalog.placement() == first.catalog.placement()
    assert later.control.snapshot() == first.control.snapshot()
    assert later.notes == ()


def test_a_failed_first_start_leaves_nothing_and_can_be_repeated() -> None:
    engine = MemoryEngine(capacity_bytes=10)
    with pytest.raises(OutOfSpaceError):
        open_store(engine)
    engine.crash()
    assert read_identity(engine) is None
    engine.capacity_bytes = None
    assert open_store(engine).first_start


def test_every_store_founds_the_same_group_0() -> None:
    snapshots = {open_store(MemoryEngine(), store_id=StoreId(s)).control.snapshot() for s in (1, 2, 3)}
    assert len(snapshots) == 1


def test_the_named_first_leaders_campaign() -> None:
    started = open_store(MemoryEngine(), store_id=S2)
    seeds = [seed for worker in (0, 1) for seed in started.catalog.seeds_for(WorkerId(worker))]
    assert {seed.region.id: seed.campaign for seed in seeds} == {1: False, 2: True, 3: False}


def test_without_a_file_a_single_store_keeps_the_random_id_it_was_given_first() -> None:
    founding = Founding(ClusterId(0), (store(1),), (region(1, stores=(1,)),))
    engine = MemoryEngine()
    assert open_store(engine, founding).identity.cluster_id == RANDOM_ID
    later = start(engine, founding, store_id=S1, workers=2, random_cluster_id=ClusterId(5))
    assert later.identity.cluster_id == RANDOM_ID


def test_a_store_that_is_not_listed_founds_nothing() -> None:
    engine = MemoryEngine()
    with pytest.raises(NotAMemberError, match=r"store 9, but the topology lists only: 1, 2, 3"):
        open_store(engine, store_id=StoreId(9))
    assert engine.seek(ColumnFamily.META, b"\0") is None


def test_an_inconsistent_topology_founds_nothing() -> None:
    engine = MemoryEngine()
    with pytest.raises(ControlSeedError, match="gap"):
        open_store(engine, Founding(ClusterId(1), STORES, three_regions()[:2]))
    assert engine.seek(ColumnFamily.META, b"\0") is None


def test_allocated_ids_begin_where_the_topology_says() -> None:
    founding = Founding(ClusterId(77), STORES, three_regions(), next_id=9_000)
    assert open_store(MemoryEngine(), founding).control.next_id == 9_000


# ---- later starts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("founding", "store_id", "workers", "error"),
    [
        (TOPOLOGY, 2, 2, OtherStoreError),
        (Founding(ClusterId(78), STORES, three_regions()), 1, 2, OtherClusterError),
        (TOPOLOGY, 1, 3, OtherWorkersError),
    ],
)
def test_another_nodes_directory_is_refused_untouched(
    founding: Founding, store_id: int, workers: int, error: type[Exception]
) -> None:
    engine = MemoryEngine()
    open_store(engine)
    dirty_bytes = engine.dirty_bytes()
    with pytest.raises(error):
        open_store(engine, founding, store_id=StoreId(store_id), workers=workers)
    assert engine.dirty_bytes() == dirty_bytes


def test_members_and_regions_come_from_the_durable_state_only() -> None:
    """M45: a file that was edited on one node changes neither members, regions nor placement there."""
    engine = MemoryEngine()
    before = open_store(engine)
    edited = Founding(
        ClusterId(77),
        (store(1), store(2), store(4)),
        (region(1, b"", b"k", stores=(1, 2, 4), version=2), region(8, b"k", b"", stores=(1, 2, 4), version=2)),
        {RegionId(1): S2},
        next_id=70_000,
    )
    later = open_store(engine, edited)
    assert later.control.snapshot() == before.control.snapshot()
    assert later.catalog.entries() == before.catalog.entries()
    assert [s.id for s in later.stores] == [1, 2, 3]
    assert len(later.notes) == 4
    assert "store 4" in later.notes[0]
    assert "store 3" in later.notes[1]
    assert all("ignored" in note for note in later.notes[2:])


def test_addresses_come_from_the_file_where_it_has_them() -> None:
    engine = MemoryEngine()
    open_store(engine)
    moved = store(2, port=9_000)
    later = open_store(engine, Founding(ClusterId(77), (store(1), moved), ()))
    assert later.stores == (store(1), moved, store(3))
    assert later.control.store(S2) == store(2)


def test_a_store_registered_later_is_a_member_too() -> None:
    engine = MemoryEngine()
    open_store(engine).control.apply(PutStore(store(4)))
    assert [s.id for s in open_store(engine).stores] == [1, 2, 3, 4]


def test_a_file_that_is_behind_the_cluster_is_not_remarked_on() -> None:
    engine = MemoryEngine()
    open_store(engine).control.apply(PutRegion(region(1, b"", b"d", version=2)))
    assert open_store(engine).notes == ()


def test_no_file_at_all_is_not_remarked_on() -> None:
    engine = MemoryEngine()
    open_store(engine)
    later = open_store(engine, Founding(ClusterId(0), (), ()))
    assert later.notes == ()
    assert later.stores == STORES


# ---- spread ---------------------------------------------------------------------------------------------------------


def tiling(count: int) -> tuple[Region, ...]:
    bounds = [b"", *(b"%05d" % i for i in range(1, count)), b""]
    return tuple(region(i + 1, low, high) for i, (low, high) in enumerate(pairwise(bounds)))


def test_regions_go_round_the_workers_in_key_order() -> None:
    dealt = spread(tuple(reversed(tiling(6))), S1, 2, {})
    assert [(r.id, w) for r, w in dealt] == [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (6, 1)]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stores", [1, 2, 3])
def test_both_replicas_and_leaders_are_even_over_the_workers(workers: int, stores: int) -> None:
    regions = tiling(24)
    leaders = {r.id: StoreId(i % stores + 1) for i, r in enumerate(regions)}
    dealt = spread(regions, S1, workers, leaders)
    for counted in (
        Counter(w for _r, w in dealt),
        Counter(w for r, w in dealt if leaders[r.id] == S1),
    ):
        sizes = [counted[WorkerId(w)] for w in range(workers)]
        assert max(sizes) - min(sizes) <= 1


def test_regions_of_other_stores_are_left_out() -> None:
    regions = [msgspec.structs.replace(r, peers=r.peers[1:]) if r.id % 2 else r for r in tiling(4)]
    assert [r.id for r, _w in spread(regions, S1, 2, {})] == [2, 4]
