"""Group 0's state machine: deterministic, durable with its engine, and never going back."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nokv.control.allocator import IDS_COUNT_MAX
from nokv.control.cluster import (
    SNAPSHOT_FORMAT,
    ControlSeedError,
    ControlSnapshot,
    ControlSnapshotError,
    ControlState,
    decode_command,
    read_regions,
)
from nokv.control.tso import TS_MAX, Oracle
from nokv.proto.control import (
    AllocIds,
    AllocIdsReply,
    ControlCommand,
    PutRegion,
    PutStore,
    StoreInfo,
    TsoAhead,
    encode_body,
)
from nokv.proto.errors import InvalidArgument, LimitExceeded
from nokv.proto.ids import RegionId, StoreId, Term, Ts, ts_of
from nokv.proto.region import Region, RegionState
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine
from nokv.storage.keys import (
    CONTROL_NEXT_ID_KEY,
    CONTROL_TSO_KEY,
    apply_state_key,
    control_region_key,
    control_store_key,
)
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.memory_engine import MemoryEngine
from tests.control.builders import region, store, three_regions

META = ColumnFamily.META


def founded(engine: Engine | None = None) -> ControlState:
    """Three stores, three regions."""
    return ControlState.seed(engine or MemoryEngine(), stores=[store(s) for s in (1, 2, 3)], regions=three_regions())


# ---- seed -----------------------------------------------------------------------------------------------------------


def test_a_founded_state_holds_the_topology_and_ids_above_all_in_use() -> None:
    state = founded()
    assert state.stores() == (store(1), store(2), store(3))
    assert state.store(StoreId(2)) == store(2)
    assert state.store(StoreId(9)) is None
    assert tuple(state.directory) == three_regions()
    assert state.tso_ahead == 0
    assert state.next_id == 304  # peer 303 is the highest id in use


def test_the_first_free_id_may_be_higher() -> None:
    state = ControlState.seed(MemoryEngine(), stores=[store(1)], regions=[region(1, stores=(1,))], next_id=5_000)
    assert state.apply(AllocIds(1)) == AllocIdsReply(5_000, 1)


def test_every_founder_derives_the_same_state_whatever_the_order() -> None:
    one = founded()
    other = ControlState.seed(
        MemoryEngine(), stores=[store(s) for s in (3, 1, 2)], regions=tuple(reversed(three_regions()))
    )
    assert one.snapshot() == other.snapshot()


@pytest.mark.parametrize(
    ("stores", "regions", "reason"),
    [
        ([], [region(1)], "no store"),
        ([store(1), store(1)], [region(1, stores=(1,))], "twice"),
        ([store(0)], [region(1, stores=(1,))], "begin at 1"),
        ([StoreInfo(StoreId(1), "", "x:1")], [region(1, stores=(1,))], "address"),
        ([store(1)], [], "no region"),
        ([store(1)], [region(1, stores=(1, 2))], "store 2"),
        ([store(1)], [region(1, b"", b"m", stores=(1,))], "gap"),
        ([store(1)], [region(1, stores=(1,), state=RegionState.NEW)], "NEW"),
        ([store(1)], [region(1, b"", b"m", stores=(1,)), region(2, b"a", b"", stores=(1,))], "overlap"),
        (
            [store(1)],
            [
                region(1, b"", b"m", stores=(1,)),
                msgspec.structs.replace(region(2, b"m", b""), peers=region(1, stores=(1,)).peers),
            ],
            "peer id",
        ),
    ],
)
def test_an_inconsistent_topology_founds_nothing(
    stores: Sequence[StoreInfo], regions: Sequence[Region], reason: str
) -> None:
    engine = MemoryEngine()
    with pytest.raises(ControlSeedError, match=reason):
        ControlState.seed(engine, stores=stores, regions=regions)
    assert engine.seek(META, b"\0") is None


def test_a_cluster_is_founded_once() -> None:
    engine = MemoryEngine()
    founded(engine)
    with pytest.raises(AssertionError):
        founded(engine)


# ---- commands -------------------------------------------------------------------------------------------------------


def test_tso_ahead_only_rises() -> None:
    state = founded()
    assert state.apply(TsoAhead(ts_of(5_000))) is None
    assert state.apply(TsoAhead(ts_of(4_000))) is None
    assert state.tso_ahead == ts_of(5_000)


@pytest.mark.parametrize("until", [0, -1, TS_MAX + 1, (1 << 64) - 1])
def test_a_window_out_of_range_is_refused_and_has_no_effect(until: int) -> None:
    state = founded()
    reply = state.apply(TsoAhead(Ts(until)))
    assert isinstance(reply, InvalidArgument)
    assert state.tso_ahead == 0


def test_ids_are_given_out_once() -> None:
    state = founded()
    assert state.apply(AllocIds(10)) == AllocIdsReply(304, 10)
    assert state.apply(AllocIds(1)) == AllocIdsReply(314, 1)


def test_an_allocation_out_of_range_is_refused_alike_everywhere() -> None:
    state = founded()
    before = state.snapshot()
    assert state.apply(AllocIds(0)) == InvalidArgument("count", "must be at least 1")
    assert state.apply(AllocIds(IDS_COUNT_MAX + 1)) == LimitExceeded("ids_count_max", IDS_COUNT_MAX, IDS_COUNT_MAX + 1)
    assert state.snapshot() == before


def test_a_store_is_registered_and_changed() -> None:
    state = founded()
    assert state.apply(PutStore(store(4))) is True
    assert state.apply(PutStore(store(4))) is False
    assert state.apply(PutStore(store(4, port=9000))) is True
    assert state.store(StoreId(4)) == store(4, port=9000)
    assert isinstance(state.apply(PutStore(store(0))), InvalidArgument)


def test_a_region_is_taken_if_its_epoch_is_newer() -> None:
    state = founded()
    assert state.apply(PutRegion(region(1, b"", b"h"))) is False
    assert state.apply(PutRegion(region(1, b"", b"h", conf_ver=2, stores=(1, 2)))) is True
    assert state.apply(PutRegion(region(1, b"", b"h"))) is False
    found = state.directory.get(RegionId(1))
    assert found is not None
    assert found.epoch.conf_ver == 2
    assert isinstance(state.apply(PutRegion(region(1, b"z", b"a", version=9))), InvalidArgument)


def test_ids_of_a_reported_region_are_never_allocated() -> None:
    state = founded()
    state.apply(PutRegion(region(1, b"", b"d", version=2)))
    state.apply(PutRegion(region(400, b"d", b"h", version=2)))  # its peers are 40001..40003
    assert state.apply(AllocIds(1)) == AllocIdsReply(40_004, 1)


def test_a_swallowed_region_leaves_the_engine_too() -> None:
    engine = MemoryEngine()
    state = founded(engine)
    assert state.apply(PutRegion(region(1, b"", b"p", version=2))) is True
    assert engine.get(META, control_region_key(RegionId(2))) is None
    assert [r.id for r in read_regions(engine)] == [1, 3]
    assert tuple(ControlState(engine).directory) == tuple(state.directory)


def test_leader_hints_are_no_part_of_the_state() -> None:
    one, other = founded(), founded()
    one.directory.note_leader(RegionId(1), StoreId(2), Term(3))
    assert one.snapshot() == other.snapshot()


def test_commands_survive_the_log() -> None:
    for command in (TsoAhead(Ts(7)), AllocIds(3), PutStore(store(1)), PutRegion(region(1))):
        assert decode_command(encode_body(command)) == command
    with pytest.raises(msgspec.DecodeError):
        decode_command(b"\x93\x09\x01\x02")


# ---- durability -----------------------------------------------------------------------------------------------------


def test_a_crash_goes_back_to_the_checkpoint_with_the_applied_index_and_replay_catches_up() -> None:
    engine = MemoryEngine()
    state = founded(engine)
    log: list[ControlCommand] = [
        TsoAhead(ts_of(1_000)),
        AllocIds(5),
        PutStore(store(4)),
        PutRegion(region(1, b"", b"d", version=2)),
        AllocIds(7),
        TsoAhead(ts_of(9_000)),
    ]
    replies = []
    for at, command in enumerate(log):
        replies.append(state.apply(command))
        engine.put(META, apply_state_key(RegionId(0)), b"%d" % (at + 1))
        if at == 2:
            engine.checkpoint()
    reached = state.snapshot()
    engine.crash()

    state = ControlState(engine)
    applied = int(engine.get(META, apply_state_key(RegionId(0))) or b"0")
    assert applied == 3
    assert state.tso_ahead == ts_of(1_000)
    assert [state.apply(command) for command in log[applied:]] == replies[applied:]
    assert state.snapshot() == reached


def test_state_survives_a_restart_on_lmdb(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "env")
    state = founded(engine)
    state.apply(TsoAhead(ts_of(1_000)))
    state.apply(AllocIds(5))
    state.apply(PutRegion(region(1, b"", b"p", version=2)))
    engine.checkpoint()
    kept = state.snapshot()
    state.apply(TsoAhead(ts_of(2_000)))
    engine.close()

    engine = LmdbEngine(tmp_path / "env")
    assert ControlState(engine).snapshot() == kept
    engine.close()


def test_after_a_restart_the_oracle_issues_above_everything_before() -> None:
    """M39: an oracle that starts from its flag, or its clock, repeats itself."""
    engine = MemoryEngine()
    issued: list[int] = []
    founded(engine)
    for now_ms in (50_000, 50_001, 10_000, 5, 60_000):
        state = ControlState(engine)
        oracle = Oracle()
        oracle.lead(state.tso_ahead)
        until = oracle.wanted_window(now_ms)
        assert until is not None
        state.apply(TsoAhead(until))
        engine.checkpoint()
        oracle.window_committed(until)
        for _ in range(3):
            reply = oracle.grant(now_ms, 2)
            assert reply is not None
            issued += [reply.first, reply.first + reply.step]
        engine.crash()
    assert issued == sorted(set(issued))


@pytest.mark.parametrize(
    "key",
    [CONTROL_TSO_KEY, CONTROL_NEXT_ID_KEY, control_store_key(StoreId(1)), control_region_key(RegionId(1))],
)
def test_a_damaged_record_is_corruption(key: bytes) -> None:
    engine = MemoryEngine()
    founded(engine)
    engine.put(META, key, b"\xc1")
    with pytest.raises(CorruptionError):
        ControlState(engine)


# ---- snapshots ------------------------------------------------------------------------------------------------------


def test_a_snapshot_replaces_everything_in_memory_and_in_the_engine() -> None:
    ahead = founded()
    ahead.apply(TsoAhead(ts_of(8_000)))
    ahead.apply(AllocIds(100))
    ahead.apply(PutStore(store(4)))
    ahead.apply(PutRegion(region(1, b"", b"p", version=2)))
    engine = MemoryEngine()
    behind = founded(engine)
    behind.restore(ahead.snapshot())
    assert behind.snapshot() == ahead.snapshot()
    assert ControlState(engine).snapshot() == ahead.snapshot()
    assert behind.apply(AllocIds(1)) == ahead.apply(AllocIds(1))


def snapshot_of(state: ControlState) -> ControlSnapshot:
    return msgspec.msgpack.decode(state.snapshot(), type=ControlSnapshot)


def test_an_unfit_snapshot_changes_nothing() -> None:
    state = founded()
    state.apply(TsoAhead(ts_of(8_000)))
    good = snapshot_of(state)
    replace = msgspec.structs.replace
    unfit = [
        b"",
        b"\xc1",
        encode_body(("x",)),
        encode_body(replace(good, format=SNAPSHOT_FORMAT + 1)),
        encode_body(replace(good, tso_ahead=Ts(good.tso_ahead - 1))),
        encode_body(replace(good, tso_ahead=Ts(TS_MAX + 1))),
        encode_body(replace(good, next_id=good.next_id - 1)),
        encode_body(replace(good, stores=(store(0),))),
        encode_body(replace(good, regions=(region(1, b"", b"m"), region(2, b"l", b"")))),
        encode_body(replace(good, regions=(region(1, b"", b"m"), region(1, b"m", b"")))),
        encode_body(replace(good, regions=(region(1, b"", b""), region(2, b"l", b"")))),
        encode_body(replace(good, regions=(region(1, version=0),))),
    ]
    before = state.snapshot()
    for data in unfit:
        with pytest.raises(ControlSnapshotError):
            state.restore(data)
        assert state.snapshot() == before


def test_a_snapshot_may_have_a_gap_while_a_split_is_half_reported() -> None:
    ahead = founded()
    ahead.apply(PutRegion(region(9, b"c", b"h", version=2)))
    assert ahead.directory.fault() is not None
    behind = founded()
    behind.restore(ahead.snapshot())
    assert tuple(behind.directory) == tuple(ahead.directory)


# ---- any commands ---------------------------------------------------------------------------------------------------

keys = st.sampled_from([b"", b"d", b"h", b"m", b"p", b"z"])
regions = st.builds(
    region,
    st.integers(0, 5),
    keys,
    keys,
    version=st.integers(0, 4),
    conf_ver=st.integers(1, 3),
    stores=st.sampled_from([(1, 2, 3), (1,), (2, 3), ()]),
)
commands = st.one_of(
    st.builds(TsoAhead, st.integers(-1, 10_000).map(lambda n: Ts(n * 1000))),
    st.builds(AllocIds, st.integers(-1, 50)),
    st.builds(PutStore, st.builds(store, st.integers(0, 5), port=st.integers(7000, 7001))),
    st.builds(PutRegion, regions),
)


@settings(max_examples=300, deadline=None)
@given(log=st.lists(commands, max_size=30), cut=st.integers(0, 30))
def test_replicas_agree_and_memory_engine_and_snapshots_tell_the_same(log: list[ControlCommand], cut: int) -> None:
    engines = MemoryEngine(), MemoryEngine()
    leader, follower = founded(engines[0]), founded(engines[1])
    tso_ahead, next_id, allocated = leader.tso_ahead, leader.next_id, set[int]()
    for at, command in enumerate(log):
        reply = leader.apply(command)
        if at == cut:
            follower = ControlState(engines[1])  # restarted in between
        assert follower.apply(command) == reply
        if isinstance(reply, AllocIdsReply):
            fresh = set(range(reply.first, reply.first + reply.count))
            assert not allocated & fresh
            allocated |= fresh
        assert leader.tso_ahead >= tso_ahead
        assert leader.next_id >= next_id
        tso_ahead, next_id = leader.tso_ahead, leader.next_id
    assert leader.snapshot() == follower.snapshot() == ControlState(engines[0]).snapshot()
    newcomer = founded()
    newcomer.restore(leader.snapshot())
    assert newcomer.snapshot() == leader.snapshot()
    used = {i for r in leader.directory for i in (r.id, *(p.id for p in r.peers))}
    assert max(used, default=0) < leader.next_id


@settings(max_examples=100, deadline=None)
@given(log=st.lists(commands.filter(lambda c: not isinstance(c, AllocIds)), max_size=20))
def test_applying_a_command_twice_in_a_row_changes_nothing_more(log: list[ControlCommand]) -> None:
    once, twice = founded(), founded()
    for command in log:
        once.apply(command)
        twice.apply(command)
        again = twice.apply(command)
        assert again is None or again is False or isinstance(again, InvalidArgument)
    assert once.snapshot() == twice.snapshot()
