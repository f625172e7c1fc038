"""Calls that meet the wrong place, a busy place, or nobody: what is tried next, and when a call gives up.

All on virtual time over a fake cluster, with the real client.
"""

import asyncio

import pytest

import nokv
from nokv.proto.errors import (
    DiskFull,
    EpochNotMatch,
    NotLeader,
    OutcomeUnknown,
    ServerFault,
    ServerIsBusy,
    ShuttingDown,
    StaleCommand,
    WriteConflict,
)
from nokv.proto.frame import Kind
from nokv.proto.ids import RegionId, StoreId, Ts
from nokv.proto.kv import OnePhaseRequest
from nokv.proto.region import RegionEpoch
from tests.client.fake_cluster import Asked, FakeCluster, Fault
from tests.client.virtual import World


def start_timestamps(cluster: FakeCluster) -> list[int]:
    """Of all one-phase writes that arrived, in order."""
    return [request.start_ts for request in cluster.requests(Kind.KV_ONE_PHASE) if isinstance(request, OnePhaseRequest)]


def test_follows_leaders_that_keep_moving() -> None:
    world = World(FakeCluster(cuts=(b"m",)))

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            for leader in (2, 3, 1, 3):
                world.cluster.lead(1, leader)
                world.cluster.lead(2, leader)
                await db.put(b"alfa", b"%d" % leader)
                await db.put(b"zoo", b"%d" % leader)
                assert await db.get(b"alfa") == b"%d" % leader
                assert await db.get(b"zoo") == b"%d" % leader

    world.run(story())


def test_two_wrong_leaders_then_success_without_waiting() -> None:
    world = World()
    world.cluster.fail_next(
        Kind.KV_GET,
        NotLeader(RegionId(1), StoreId(2)),
        NotLeader(RegionId(1), StoreId(3)),
        NotLeader(RegionId(1), StoreId(1)),
    )

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            began = world.now()
            assert await db.get(b"k") is None
            assert world.now() - began < 0.01, "redirects that name a leader cost no backoff"

    world.run(story())
    assert world.cluster.count(Kind.KV_GET) == 4


def test_nodes_that_name_each_other_do_not_spin() -> None:
    world = World()

    def blame(asked: Asked) -> NotLeader | None:
        if asked.kind != Kind.KV_GET:
            return None
        return NotLeader(RegionId(1), StoreId(asked.store_id % 3 + 1))

    world.cluster.rule(blame)

    async def story() -> None:
        async with world.client(timeout=5.0) as db:
            await db.connect()
            with pytest.raises(nokv.UnavailableError) as caught:
                await db.get(b"k")
            assert caught.value.outcome == "not_applied"
            assert caught.value.retryable
            assert set(caught.value.nodes_seen) == {1, 2, 3}
            assert caught.value.region == 1
            assert isinstance(caught.value.__cause__, nokv.TransientError)
            assert 4.9 < caught.value.elapsed < 5.2

    world.run(story())
    assert 5 < world.cluster.count(Kind.KV_GET) < 60


def test_unknown_leader_asks_every_peer_in_turn() -> None:
    """M36: no leader is named, so the peers are tried one after the other until one serves."""
    world = World()
    world.cluster.leaders[RegionId(1)] = StoreId(3)
    world.cluster.rule(
        lambda asked: NotLeader(RegionId(1)) if asked.kind == Kind.KV_GET and asked.store_id != 3 else None
    )

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            route = db._cache.routes()[0]
            db._cache.silent(route, route.leader_store)
            assert await db.get(b"k") is None

    world.run(story())
    assert [asked.store_id for asked in world.cluster.asked if asked.kind == Kind.KV_GET] == [1, 2, 3]


def test_split_is_learned_from_the_refusal() -> None:
    world = World()
    world.cluster.put([(b"a", b"1"), (b"z", b"2")])

    async def story() -> None:
        async with world.client() as db:
            assert await db.get(b"z") == b"2"
            routes = world.cluster.count(Kind.ROUTES)
            world.cluster.split(b"m")
            assert await db.get(b"z") == b"2"
            assert await db.get(b"a") == b"1"
            assert world.cluster.count(Kind.ROUTES) == routes, "the refusal said enough"

    world.run(story())


def test_refusal_without_regions_asks_the_directory() -> None:
    world = World()
    world.cluster.put([(b"z", b"2")])

    async def story() -> None:
        async with world.client() as db:
            assert await db.get(b"z") == b"2"
            world.cluster.split(b"m")
            world.cluster.rule(
                lambda asked: (
                    EpochNotMatch(asked.region_id) if asked.kind == Kind.KV_GET and asked.region_id == 1 else None
                )
            )
            assert await db.get(b"z") == b"2"

    world.run(story())


def test_region_that_nobody_has_is_forgotten_and_asked_for() -> None:
    """The directory holds another region with a lower version, as after a rebuild: the old belief must not win."""
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            (region_id,) = world.cluster.regions
            del world.cluster.regions[region_id]
            rebuilt = world.cluster.add_region(b"", b"", RegionEpoch(1, 1), StoreId(2))
            assert await db.get(b"z") is None
            assert world.cluster.asked[-1].region_id == rebuilt.id

    world.run(story())


def test_lagging_node_does_not_unteach() -> None:
    """A deposed leader answers with borders that are older than ours: it is passed over, not believed."""
    world = World()
    old = world.cluster.regions[RegionId(1)]

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            world.cluster.split(b"m")
            world.cluster.lead(1, 2)
            assert await db.get(b"a") is None
            world.cluster.fail_next(Kind.KV_GET, EpochNotMatch(RegionId(1), (old,)))
            assert await db.get(b"a") is None
            assert len(db._cache.routes()) == 2

    world.run(story())


@pytest.mark.parametrize(
    "detail",
    [ServerIsBusy("queue", 20), StaleCommand(RegionId(1)), OutcomeUnknown(RegionId(1)), ShuttingDown(StoreId(1))],
)
def test_passing_trouble_is_waited_out(detail: ServerIsBusy) -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_ONE_PHASE, detail, detail, detail)

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            assert await db.get(b"k") == b"v"

    world.run(story())
    assert len(set(start_timestamps(world.cluster))) == 1, "every attempt names the same write"


def test_a_node_whose_worker_is_down_is_left_for_the_new_leader() -> None:
    """Its router answers "busy" for as long as the worker is away; the region has another leader long before."""
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            gone = world.cluster.leaders[RegionId(1)]
            world.cluster.lead(1, gone % 3 + 1)
            world.cluster.rule(
                lambda asked: (
                    ServerIsBusy("worker 0 is down", 20) if asked.store_id == gone and asked.region_id == 1 else None
                )
            )
            began = world.now()
            await db.put(b"k", b"w")
            assert await db.get(b"k") == b"w"
            assert world.now() - began < 0.5

    world.run(story())


def test_a_leader_that_is_merely_busy_stays_the_one_to_ask() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_GET, *[ServerIsBusy("proposals_max", 20)] * 7)

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            began = world.now()
            assert await db.get(b"k") == b"v"
            assert world.now() - began < 2.0

    world.run(story())


def test_busy_hint_is_honoured() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_GET, ServerIsBusy("queue", 700))

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            began = world.now()
            await db.get(b"k")
            assert 0.7 <= world.now() - began < 0.75

    world.run(story())


def test_full_disk_until_the_deadline_names_the_cause() -> None:
    world = World()
    world.cluster.rule(lambda asked: DiskFull(StoreId(1), 10, 100) if asked.kind == Kind.KV_ONE_PHASE else None)

    async def story() -> None:
        async with world.client(timeout=3) as db:
            with pytest.raises(nokv.TimeoutError) as caught:
                await db.put(b"k", b"v")
            assert caught.value.outcome == "not_applied"
            cause = caught.value.__cause__
            assert isinstance(cause, nokv.BusyError)
            assert cause.code == "disk_full"

    world.run(story())


def test_lost_reply_is_repeated_with_the_same_timestamp_and_counts_once() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_ATOMIC, Fault.LOSE_REPLY, Fault.LOSE_REQUEST, Fault.LOSE_REPLY)

    async def story() -> None:
        async with world.client(timeout=20) as db:
            assert await db.incr(b"n") == 1
            assert await db.incr(b"n") == 2

    world.run(story())
    first = [request.start_ts for request in world.cluster.requests(Kind.KV_ATOMIC)][:4]  # type: ignore[attr-defined]
    assert len(set(first)) == 1


def test_lost_reply_at_the_deadline_is_an_unknown_outcome() -> None:
    world = World()
    world.cluster.rule(lambda asked: Fault.LOSE_REPLY if asked.kind == Kind.KV_ONE_PHASE else None)

    async def story() -> None:
        async with world.client(timeout=2) as db:
            began = world.now()
            with pytest.raises(nokv.TimeoutError) as caught:
                await db.put(b"k", b"v")
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.outcome == "unknown"
            assert caught.value.attempts > 2
            assert isinstance(caught.value.__cause__, nokv.ConnectError)
            assert 2.0 <= world.now() - began < 2.1
            assert await db.get(b"k") == b"v"

    world.run(story())
    assert len(set(start_timestamps(world.cluster))) == 1


def test_conflict_takes_a_new_timestamp() -> None:
    world = World()
    conflict = WriteConflict(b"k", b"k", Ts(1), Ts(2), Ts(3))
    world.cluster.fail_next(Kind.KV_ONE_PHASE, Fault.LOSE_REQUEST, conflict, conflict)

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            assert await db.get(b"k") == b"v"

    world.run(story())
    stamps = start_timestamps(world.cluster)
    assert stamps[0] == stamps[1] < stamps[2] < stamps[3]


def test_conflict_until_the_deadline_wrote_nothing() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_ONE_PHASE, Fault.LOSE_REQUEST)
    world.cluster.rule(
        lambda asked: WriteConflict(b"k", b"k", Ts(1), Ts(2), Ts(3)) if asked.kind == Kind.KV_ONE_PHASE else None
    )

    async def story() -> None:
        async with world.client(timeout=3) as db:
            with pytest.raises(nokv.TimeoutError) as caught:
                await db.put(b"k", b"v")
            assert caught.value.outcome == "not_applied", "the store proved it"
            assert isinstance(caught.value.__cause__, nokv.ConflictError)

    world.run(story())


def test_fault_of_the_node_is_raised_at_once() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_GET, ServerFault("bad_checksum", "the value is damaged"))

    async def story() -> None:
        async with world.client() as db:
            with pytest.raises(nokv.ServerError) as caught:
                await db.get(b"k")
            assert (caught.value.code, caught.value.region, caught.value.attempts) == ("bad_checksum", 1, 1)

    world.run(story())


def test_crashed_leader_is_left_at_once() -> None:
    """The connection breaks, so the next peer is asked without waiting for a timeout."""
    world = World(FakeCluster(cuts=(b"m",)))

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            world.net.crash(1)
            world.cluster.lead(1, 2)
            world.cluster.lead(0, 3)
            began = world.now()
            assert await db.get(b"k") == b"v"
            await db.put(b"k", b"w")
            assert world.now() - began < 0.2
            world.net.revive(1)
            world.cluster.lead(1, 1)
            assert await db.get(b"k") == b"w"

    world.run(story())


def test_requests_under_way_survive_a_crash() -> None:
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            writes = [asyncio.ensure_future(db.put(b"%d" % i, b"v")) for i in range(50)]
            await asyncio.sleep(0.0022)  # the timestamps are back, the writes have arrived, their answers have not
            world.net.crash(1)
            world.cluster.lead(1, 2)
            world.cluster.lead(0, 2)
            await asyncio.gather(*writes)
            assert len(await db.get_many(b"%d" % i for i in range(50))) == 50

    world.run(story())


def test_stalled_leader_is_left_after_an_attempt() -> None:
    """A stopped process answers nothing and breaks no connection."""
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            world.net.stalled.add(StoreId(1))
            world.cluster.lead(1, 2)
            world.cluster.lead(0, 2)
            began = world.now()
            assert await db.get(b"k") == b"v"
            assert 0.9 < world.now() - began < 1.3

    world.run(story())


def test_one_node_down_from_the_start() -> None:
    """M37: construction and first calls need one live node, not all."""
    world = World()
    world.net.down.add(StoreId(1))
    world.cluster.lead(0, 2)
    world.cluster.lead(1, 3)

    async def story() -> None:
        async with world.client() as db:
            await db.put(b"k", b"v")
            assert await db.get(b"k") == b"v"
            status = await db.cluster.status()
            assert status.state == "degraded"
            assert [node.error != "" for node in status.nodes] == [True, False, False]

    world.run(story())


def test_silent_seed_does_not_use_up_the_others_time() -> None:
    world = World()
    world.net.gone.add(StoreId(1))
    world.cluster.lead(0, 2)
    world.cluster.lead(1, 3)

    async def story() -> None:
        async with world.client() as db:
            began = world.now()
            await db.connect()
            assert world.now() - began < 1.5
            assert await db.get(b"k") is None

    world.run(story())


def test_whole_cluster_down_after_connecting() -> None:
    world = World()

    async def story() -> None:
        async with world.client(timeout=2) as db:
            await db.put(b"k", b"v")
            for store in (1, 2, 3):
                world.net.crash(store)
            began = world.now()
            with pytest.raises(nokv.UnavailableError) as caught:
                await db.put(b"k", b"w")
            assert caught.value.outcome == "not_applied"
            assert world.now() - began < 2.1
            for store in (1, 2, 3):
                world.net.revive(store)
            assert await db.get(b"k") == b"v"

    world.run(story())


def test_deadlines_nest_and_only_shorten() -> None:
    world = World()
    world.cluster.rule(lambda asked: ServerIsBusy("x") if asked.kind == Kind.KV_GET else None)

    async def story() -> None:
        async with world.client(timeout=5) as db:
            await db.connect()
            began = world.now()
            with nokv.deadline(0.5), nokv.deadline(60), pytest.raises(nokv.TimeoutError):
                await db.get(b"k")
            assert 0.5 <= world.now() - began < 0.52
            with nokv.deadline(0), pytest.raises(nokv.TimeoutError) as caught:
                await db.get(b"k")
            assert caught.value.attempts == 0

    world.run(story())


def test_remaining_budget_travels_with_each_request() -> None:
    world = World()
    world.cluster.fail_next(Kind.KV_GET, ServerIsBusy("x", 300))

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            with nokv.deadline(0.8):
                await db.get(b"k")

    world.run(story())
    budgets = [asked.deadline_ms for asked in world.cluster.asked if asked.kind == Kind.KV_GET]
    assert len(budgets) == 2
    assert 0 < budgets[1] < budgets[0] <= 400


def test_same_seed_same_run() -> None:
    def trace() -> list[tuple[int, int, bytes]]:
        world = World(FakeCluster(cuts=(b"m",)), seed=7)
        world.cluster.fail_next(Kind.KV_ONE_PHASE, ServerIsBusy("x"), Fault.LOSE_REPLY, ServerIsBusy("y"))

        async def story() -> None:
            async with world.client() as db:
                await asyncio.gather(*(db.put(b"%d" % i, b"v") for i in range(20)))
                world.net.crash(2)
                world.cluster.lead(2, 1)
                await asyncio.gather(*(db.get(b"z%d" % i) for i in range(20)))

        world.run(story())
        return [(asked.store_id, asked.kind, asked.body) for asked in world.cluster.asked]

    assert trace() == trace()
