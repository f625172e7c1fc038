"""The catalog: placement is durable, a confirmed replica is never fresh again, states move only as the table allows."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nokv.control.cluster import ControlState
from nokv.manifest.catalog import Catalog, CatalogCounts, CatalogError, read_entries, read_offline
from nokv.manifest.identity import IDENTITY_FORMAT, StoreIdentity, UnknownFormatError, write_identity
from nokv.proto.control import RegionSeed
from nokv.proto.ids import ClusterId, RegionId, StoreId, WorkerId
from nokv.proto.region import Region, RegionState
from nokv.region.lifecycle import IllegalTransition, may_become
from nokv.storage.engine import ColumnFamily, CorruptionError
from nokv.storage.keys import STORE_IDENTITY_KEY, catalog_key
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.memory_engine import MemoryEngine
from tests.control.builders import region, store, three_regions

S1 = StoreId(1)
R1, R2, R3 = RegionId(1), RegionId(2), RegionId(3)
W0, W1 = WorkerId(0), WorkerId(1)


def catalog(engine: MemoryEngine | None = None) -> Catalog:
    """Regions 1 and 3 with worker 0, region 2 with worker 1."""
    made = Catalog(engine or MemoryEngine(), S1)
    for at, placed in enumerate(three_regions()):
        assert made.place(placed, WorkerId(at % 2))
    return made


# ---- placement ------------------------------------------------------------------------------------------------------


def test_placement_is_the_same_after_a_restart() -> None:
    """S3."""
    engine = MemoryEngine()
    before = catalog(engine).placement()
    engine.checkpoint()
    engine.crash()
    after = Catalog(engine, S1)
    assert after.placement() == before == ((R1, W0), (R2, W1), (R3, W0))
    assert after.regions() == three_regions()


def test_placing_again_is_nothing_new_and_another_worker_is_refused() -> None:
    made = catalog()
    assert not made.place(three_regions()[0], W0)
    with pytest.raises(CatalogError, match="with worker 0, not 1"):
        made.place(three_regions()[0], W1)


def test_a_region_of_other_stores_is_not_placed() -> None:
    with pytest.raises(CatalogError, match="no peer"):
        Catalog(MemoryEngine(), S1).place(region(1, stores=(2, 3)), W0)


def test_counts_tell_here_from_elsewhere() -> None:
    """S19: three regions, two of them local."""
    made = Catalog(MemoryEngine(), S1)
    made.place(region(1, b"", b"h"), W0)
    made.place(region(2, b"h", b"p"), W0)
    assert made.counts([R1, R2, R3]) == CatalogCounts(total=3, here=2, elsewhere=1)
    assert made.counts([]) == CatalogCounts(total=2, here=2, elsewhere=0)


# ---- seeds ----------------------------------------------------------------------------------------------------------


def test_a_worker_gets_its_regions_in_key_order() -> None:
    seeds = catalog().seeds_for(W0)
    assert [seed.region.id for seed in seeds] == [1, 3]
    assert all(seed.fresh and not seed.campaign for seed in seeds)
    assert catalog().seeds_for(WorkerId(7)) == ()


def test_a_confirmed_replica_is_not_fresh_once_that_is_durable() -> None:
    engine = MemoryEngine()
    made = catalog(engine)
    engine.checkpoint()
    assert made.confirm(R1)
    assert not made.confirm(R1)
    assert [seed.fresh for seed in made.seeds_for(W0)] == [False, True]
    engine.crash()
    assert [seed.fresh for seed in Catalog(engine, S1).seeds_for(W0)] == [True, True]
    again = Catalog(engine, S1)
    again.confirm(R1)
    engine.checkpoint()
    engine.crash()
    assert [seed.fresh for seed in Catalog(engine, S1).seeds_for(W0)] == [False, True]


@pytest.mark.parametrize(
    ("placed", "first_leader", "campaign"),
    [
        (region(1), 1, True),
        (region(1), 2, False),
        (region(1), 0, False),
        (region(1, stores=(1,)), 0, True),
        (region(1, stores=(1, 2), learners=(2,)), 0, True),
        (region(1, stores=(1, 2), learners=(1,)), 0, False),
        (region(1, stores=(1, 2), learners=(1,)), 1, False),
        (region(1, stores=(1,), state=RegionState.NEW), 0, False),
        (region(1, state=RegionState.REMOVING), 1, False),
    ],
)
def test_the_only_voter_and_the_named_leader_campaign(placed: Region, first_leader: int, campaign: bool) -> None:
    made = Catalog(MemoryEngine(), S1)
    made.place(placed, W0, first_leader=StoreId(first_leader))
    assert made.seeds_for(W0) == (RegionSeed(placed, fresh=True, campaign=campaign),)


def test_only_a_known_replica_is_confirmed() -> None:
    with pytest.raises(CatalogError, match="no replica of region 9"):
        catalog().confirm(RegionId(9))


# ---- updates --------------------------------------------------------------------------------------------------------


def test_a_newer_description_is_taken_an_older_one_ignored() -> None:
    engine = MemoryEngine()
    made = catalog(engine)
    newer = region(1, b"", b"d", version=3)
    assert made.update(newer)
    assert not made.update(newer)
    assert not made.update(region(1, b"", b"h", version=2, conf_ver=9))
    assert made.regions()[0] == newer
    assert Catalog(engine, S1).regions()[0] == newer


def test_one_epoch_has_one_description() -> None:
    with pytest.raises(AssertionError):
        catalog().update(region(1, b"", b"g"))


@pytest.mark.parametrize("old", list(RegionState))
@pytest.mark.parametrize("new", list(RegionState))
@pytest.mark.parametrize("newer_epoch", [False, True])
def test_states_move_as_the_lifecycle_allows_and_not_otherwise(
    old: RegionState, new: RegionState, newer_epoch: bool
) -> None:
    """S62: Tombstone -> Running is an error."""
    made = Catalog(MemoryEngine(), S1)
    made.place(region(1, state=old), W0)
    reported = region(1, state=new, conf_ver=2 if newer_epoch else 1)
    if may_become(old, new):
        assert made.update(reported) is (newer_epoch or old is not new)
    else:
        with pytest.raises(IllegalTransition):
            made.update(reported)
    entry = made.get(R1)
    assert entry is not None
    assert entry.region.state is (new if may_become(old, new) else old)


def test_an_update_keeps_worker_and_confirmation() -> None:
    made = catalog()
    made.confirm(R2)
    made.update(region(2, b"h", b"k", version=2))
    entry = made.get(R2)
    assert entry is not None
    assert entry.worker_id == W1
    assert entry.confirmed


def test_only_a_known_replica_is_updated() -> None:
    with pytest.raises(CatalogError, match="no replica of region 9"):
        catalog().update(region(9))


# ---- tombstones -----------------------------------------------------------------------------------------------------


def test_a_destroyed_replica_is_served_by_nobody_and_stays_known() -> None:
    engine = MemoryEngine()
    made = catalog(engine)
    made.update(region(1, b"", b"h", state=RegionState.TOMBSTONE))
    for known in (made, Catalog(engine, S1)):
        assert known.placement() == ((R2, W1), (R3, W0))
        assert [r.id for r in known.regions()] == [2, 3]
        assert [seed.region.id for seed in known.seeds_for(W0)] == [3]
        assert known.get(R1) is not None
        assert known.counts([R1, R2, R3]) == CatalogCounts(3, 2, 1)
        with pytest.raises(CatalogError):
            known.confirm(R1)


def test_a_tombstone_gives_way_only_to_a_newer_membership() -> None:
    made = catalog()
    made.confirm(R1)
    made.update(region(1, b"", b"h", conf_ver=2, state=RegionState.TOMBSTONE))
    for stale in (region(1, b"", b"h"), region(1, b"", b"h", conf_ver=2)):
        with pytest.raises(CatalogError, match="does not come back"):
            made.place(stale, W0)
    assert made.place(region(1, b"", b"h", conf_ver=3), W1)
    entry = made.get(R1)
    assert entry is not None
    assert entry.worker_id == W1
    assert not entry.confirmed  # another peer: the first one's data is no proof of this one's


# ---- stored entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"\xc1", b"\x90", msgspec.msgpack.encode((region(2), 0))])
def test_a_damaged_entry_is_corruption(value: bytes) -> None:
    engine = MemoryEngine()
    catalog(engine)
    engine.put(ColumnFamily.META, catalog_key(R1), value)
    with pytest.raises(CorruptionError):
        Catalog(engine, S1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["place", "confirm", "update"]),
            st.integers(1, 3),
            st.integers(1, 3),
            st.sampled_from(list(RegionState)),
            st.integers(0, 2),
        ),
        max_size=30,
    )
)
def test_memory_and_engine_never_differ_and_confirmations_stay(
    steps: list[tuple[str, int, int, RegionState, int]],
) -> None:
    engine = MemoryEngine()
    made = Catalog(engine, S1)
    confirmed: set[RegionId] = set()
    for what, region_id, conf_ver, state, worker in steps:
        described = region(region_id, conf_ver=conf_ver, state=state)
        try:
            if what == "place":
                if made.place(described, WorkerId(worker)):
                    confirmed.discard(described.id)
            elif what == "confirm":
                made.confirm(described.id)
                confirmed.add(described.id)
            else:
                made.update(described)
        except (CatalogError, IllegalTransition):
            pass
        assert read_entries(engine) == tuple(sorted(made.entries(), key=lambda entry: entry.region.id))
        assert {entry.region.id for entry in made.entries() if entry.confirmed} == confirmed


# ---- offline --------------------------------------------------------------------------------------------------------


def test_an_engine_that_was_never_started_has_no_catalog() -> None:
    assert read_offline(MemoryEngine()) is None


def test_the_catalog_of_another_format_is_refused(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "lmdb")
    Catalog(engine, S1).place(region(1), W0)
    engine.put(ColumnFamily.META, STORE_IDENTITY_KEY, msgspec.msgpack.encode([IDENTITY_FORMAT + 1, "new shape"]))
    engine.checkpoint()
    engine.close()
    engine = LmdbEngine(tmp_path / "lmdb")
    with pytest.raises(UnknownFormatError, match=f"format {IDENTITY_FORMAT + 1}"):
        read_offline(engine)
    engine.close()


def test_offline_shows_local_replicas_and_what_lies_elsewhere() -> None:
    """S57."""
    engine = MemoryEngine()
    identity = StoreIdentity(IDENTITY_FORMAT, ClusterId(7), S1, 2)
    write_identity(engine, identity)
    ControlState.seed(engine, stores=[store(s) for s in (1, 2, 3)], regions=three_regions())
    made = Catalog(engine, S1)
    made.place(three_regions()[1], W1)
    found = read_offline(engine)
    assert found is not None
    assert found.identity == identity
    assert [(entry.region, entry.worker_id) for entry in found.entries] == [(three_regions()[1], W1)]
    assert [r.id for r in found.elsewhere] == [1, 3]
