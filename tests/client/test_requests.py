"""Requests on the wire: how many messages, which timestamps, what cancelling and limits do. On virtual time."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

import nokv
from nokv.client.errors import NokvError
from nokv.proto.errors import KeyIsLocked, ServerIsBusy
from nokv.proto.frame import Kind
from nokv.proto.ids import TS_STEP, StoreId, Ts
from nokv.proto.kv import CommitRequest, Mutation, MutationOp, OnePhaseRequest, PrewriteRequest
from nokv.proto.region import RegionEpoch
from tests.client.fake_cluster import Asked, FakeCluster, Fault
from tests.client.virtual import LATENCY_S, World

EPOCH = RegionEpoch(1, 1)


# ---- coalescing -----------------------------------------------------------------------------------------------------


def test_calls_of_one_iteration_share_a_message_per_node() -> None:
    world = World(FakeCluster(cuts=(b"m",)))

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            await asyncio.gather(db.get(b"a"), db.get(b"z"))  # greetings of both nodes
            world.cluster.messages.clear()
            await asyncio.gather(*(db.get(b"%c%d" % (97 + i % 26, i)) for i in range(500)))

    world.run(story())
    assert world.cluster.messages == Counter({1: 1, 2: 1})


def test_large_batches_are_cut_into_messages_of_a_bounded_size() -> None:
    world = World()
    sizes: list[int] = []

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            await asyncio.gather(*(db.put(b"%d" % i, b"x" * 100_000) for i in range(50)))
            sizes.extend(len(message) for connection in world.net.connections for message in connection.sent)
            assert len(await db.get_many(b"%d" % i for i in range(50))) == 50

    world.run(story())
    assert max(sizes) <= 1 << 20
    assert sum(size > 500_000 for size in sizes) >= 4


def test_full_pipe_waits_until_it_is_writable() -> None:
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            world.net.full = True
            reads = [asyncio.ensure_future(db.get(b"%d" % i)) for i in range(10)]
            await asyncio.sleep(0.1)
            more = asyncio.ensure_future(db.get(b"later"))
            await asyncio.sleep(0.1)
            assert world.cluster.count(Kind.KV_GET) == 0
            world.net.make_room()
            await asyncio.gather(more, *reads)

    world.run(story())
    assert world.cluster.count(Kind.KV_GET) == 11


# ---- timestamps -----------------------------------------------------------------------------------------------------


def test_writers_share_timestamp_requests() -> None:
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            await asyncio.gather(*(db.put(b"%d" % i, b"v") for i in range(300)))

    world.run(story())
    assert world.cluster.tso_batches == [300]
    stamps = [request.start_ts for request in world.cluster.requests(Kind.KV_ONE_PHASE)]  # type: ignore[attr-defined]
    assert len(set(stamps)) == 300


def test_late_callers_wait_for_the_next_batch() -> None:
    """Freshness: a timestamp is issued after the call that uses it began, so nobody joins a batch already sent."""
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            first = [asyncio.ensure_future(db.now()) for _ in range(3)]
            await asyncio.sleep(LATENCY_S * 1.5)  # issued, and on its way back
            issued = world.cluster.last_ts
            late = [asyncio.ensure_future(db.now()) for _ in range(5)]
            assert max(await asyncio.gather(*first)) <= issued
            assert min(await asyncio.gather(*late)) > issued

    world.run(story())
    assert world.cluster.tso_batches == [3, 5]


def test_every_timestamp_is_issued_after_its_call_began() -> None:
    world = World(seed=3)
    random = world.random

    async def story() -> None:
        async with world.client() as db:
            await db.connect()

            async def caller() -> None:
                for _ in range(30):
                    await asyncio.sleep(random.uniform(0, 0.003))
                    before = world.cluster.last_ts
                    ts = await db.now()
                    assert before < ts <= world.cluster.last_ts

            await asyncio.gather(*(caller() for _ in range(40)))

    world.run(story())
    assert sum(world.cluster.tso_batches) == 1200
    assert len(world.cluster.tso_batches) < 300


def test_more_callers_than_one_batch_holds() -> None:
    world = World()

    async def story() -> list[int]:
        async with world.client(max_inflight=5000) as db:
            await db.connect()
            return await asyncio.gather(*(db.now() for _ in range(2500)))

    assert len(set(world.run(story()))) == 2500
    assert world.cluster.tso_batches == [1024, 1024, 452]


def test_oracle_that_moves_is_followed() -> None:
    world = World()

    async def story() -> None:
        async with world.client() as db:
            for leader in (1, 3, 2):
                world.cluster.lead(0, leader)
                await db.now()

    world.run(story())


def test_oracle_that_is_gone_times_out_each_caller_at_its_own_deadline() -> None:
    world = World()
    world.cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind == Kind.TSO else None)

    async def bounded(db: nokv.AsyncClient, seconds: float) -> float:
        began = world.now()
        with nokv.deadline(seconds), pytest.raises(nokv.TimeoutError) as caught:
            await db.now()
        assert caught.value.outcome == "not_applied"
        return world.now() - began

    async def story() -> list[float]:
        async with world.client() as db:
            await db.connect()
            return list(await asyncio.gather(bounded(db, 0.3), bounded(db, 1.2), bounded(db, 3.0)))

    assert world.run(story()) == pytest.approx([0.3, 1.2, 3.0], abs=0.02)


# ---- cancellation ---------------------------------------------------------------------------------------------------


def test_cancelled_call_is_forgotten_and_its_late_reply_dropped() -> None:
    world = World()
    world.cluster.put([(b"k", b"v")])

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            call = asyncio.ensure_future(db.get(b"k"))
            await asyncio.sleep(LATENCY_S * 1.2)
            assert world.cluster.count(Kind.KV_GET) == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert [len(peer.link) for peer in db._net._peers.values()] == [0]
            assert await db.get(b"k") == b"v"
            assert db._net._inflight == 0

    world.run(story())


def test_write_cancelled_before_the_greeting_is_never_sent() -> None:
    world = World()

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            world.cluster.lead(1, 2)
            await db.get(b"k")  # now store 2 is known to lead
            world.net.crash(2)
            await asyncio.sleep(0.5)
            world.net.revive(2)
            ts = await db.now()
            assert ts
            call = asyncio.ensure_future(db.put(b"k", b"v"))
            while not any(c.store_id == 2 and c.sent for c in world.net.connections[-1:]):
                await asyncio.sleep(LATENCY_S / 4)
            await asyncio.sleep(LATENCY_S / 2)  # greeting under way, the write waits behind it
            call.cancel()
            await asyncio.sleep(1)
            assert world.cluster.count(Kind.KV_ONE_PHASE) == 0

    world.run(story())


def test_asyncio_timeout_around_a_call() -> None:
    world = World()
    world.cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind == Kind.KV_GET else None)

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.2):
                    await db.get(b"k")
            assert not isinstance(caught.value, nokv.NokvError)
            assert await db.now()

    world.run(story())


# ---- max_inflight ---------------------------------------------------------------------------------------------------


def test_calls_above_max_inflight_wait_their_turn() -> None:
    world = World()
    most = 0

    def watch(asked: Asked) -> None:
        nonlocal most
        most = max(most, Counter(a.kind for a in world.cluster.asked)[Kind.KV_GET] - done)

    world.cluster.rule(watch)
    done = 0

    async def story() -> None:
        nonlocal done
        async with world.client(max_inflight=8) as db:
            await db.connect()

            async def one(i: int) -> None:
                nonlocal done
                await db.get(b"%d" % i)
                done += 1

            await asyncio.gather(*(one(i) for i in range(100)))

    world.run(story())
    assert done == 100
    assert most <= 8


def test_no_place_until_the_deadline_is_busy() -> None:
    world = World()
    world.cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind == Kind.KV_GET else None)

    async def story() -> None:
        async with world.client(max_inflight=2) as db:
            await db.connect()
            blockers = [asyncio.ensure_future(db.get(b"%d" % i)) for i in range(2)]
            await asyncio.sleep(0)
            began = world.now()
            with nokv.deadline(0.5), pytest.raises(nokv.BusyError) as caught:
                await db.get(b"k")
            assert caught.value.code == "max_inflight"
            assert world.now() - began <= 0.5
            ended = await asyncio.gather(*blockers, return_exceptions=True)
            assert all(isinstance(error, NokvError) for error in ended)

    world.run(story())


def test_waiter_that_is_cancelled_hands_its_turn_on() -> None:
    world = World()

    async def story() -> None:
        async with world.client(max_inflight=1) as db:
            await db.connect()
            calls = [asyncio.ensure_future(db.get(b"%d" % i)) for i in range(6)]
            await asyncio.sleep(LATENCY_S)
            calls[1].cancel()
            calls[3].cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in ended] == [
                False,
                True,
                False,
                True,
                False,
                False,
            ]

    world.run(story())


# ---- locks ----------------------------------------------------------------------------------------------------------


def lock_by(world: World, *keys: bytes, primary: bytes, ttl_ms: int = 3000) -> Ts:
    """Leave the locks of an unfinished transaction behind; its start timestamp."""
    ts = world.cluster.fresh_ts()
    mutations = tuple(Mutation(MutationOp.PUT, key, b"locked") for key in keys)
    world.cluster.apply(PrewriteRequest(EPOCH, mutations, primary, ts, ttl_ms, txn_size=len(keys)))
    return ts


def test_orphan_locks_are_rolled_back_by_whoever_meets_them() -> None:
    """S48, M35: reads and writes clear the locks of a dead transaction instead of skipping or overwriting them."""
    world = World(FakeCluster(cuts=(b"m",)))
    world.cluster.put([(b"a", b"1"), (b"n", b"2"), (b"z", b"3")])
    lock_by(world, b"a", b"b", b"n", b"z", primary=b"a", ttl_ms=1)
    world.cluster.last_ts += 10 << 18  # ten milliseconds later

    async def story() -> None:
        async with world.client() as db:
            assert await db.get(b"z") == b"3"
            assert [kv async for kv in db.scan()] == [(b"a", b"1"), (b"n", b"2"), (b"z", b"3")]
            await db.put(b"b", b"mine")
            assert await db.get_many([b"a", b"b"]) == {b"a": b"1", b"b": b"mine"}

    world.run(story())


def test_locks_of_a_committed_transaction_are_carried_on() -> None:
    world = World(FakeCluster(cuts=(b"m",)))
    ts = lock_by(world, b"a", b"z", primary=b"a")
    world.cluster.apply(CommitRequest(EPOCH, (b"a",), ts, world.cluster.fresh_ts()))

    async def story() -> None:
        async with world.client() as db:
            assert await db.get(b"z") == b"locked"
            assert world.cluster.count(Kind.KV_RESOLVE_LOCK) == 1

    world.run(story())


def test_living_lock_is_waited_for() -> None:
    world = World()
    ts = lock_by(world, b"p", b"k", primary=b"p")

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            read = asyncio.ensure_future(db.get(b"k"))
            await asyncio.sleep(0.2)
            assert not read.done()
            world.cluster.apply(CommitRequest(EPOCH, (b"p", b"k"), ts, world.cluster.fresh_ts()))
            assert await read == b"locked"

    world.run(story())
    assert world.cluster.count(Kind.KV_GET) < 15


def test_living_lock_until_the_deadline() -> None:
    world = World()
    lock_by(world, b"p", b"k", primary=b"p", ttl_ms=60_000)

    async def story() -> None:
        async with world.client(timeout=1) as db:
            with pytest.raises(nokv.TimeoutError) as caught:
                await db.put(b"k", b"v")
            assert caught.value.outcome == "not_applied"
            cause = caught.value.__cause__
            assert isinstance(cause, nokv.LockedError)
            assert cause.key == b"k"
            assert cause.ttl_left > 0

    world.run(story())


def test_large_transactions_are_finished_in_one_go() -> None:
    world = World()
    keys = [b"%03d" % i for i in range(100)]
    lock_by(world, *keys, primary=keys[0], ttl_ms=1)
    world.cluster.last_ts += 10 << 18

    async def story() -> None:
        async with world.client() as db:
            assert [kv async for kv in db.scan()] == []

    world.run(story())
    assert world.cluster.count(Kind.KV_RESOLVE_LOCK) <= 2


def test_error_of_resolving_is_told_as_the_lock() -> None:
    world = World()
    lock = KeyIsLocked(b"k", b"k", Ts(5), 1000, 0, Ts(0))
    world.cluster.rule(lambda asked: lock if asked.kind == Kind.KV_GET else None)
    world.cluster.rule(lambda asked: ServerIsBusy("x") if asked.kind == Kind.KV_CHECK_TXN_STATUS else None)

    async def story() -> None:
        async with world.client(timeout=1) as db:
            with pytest.raises(nokv.TimeoutError) as caught:
                await db.get(b"k")
            assert isinstance(caught.value.__cause__, nokv.LockedError)

    world.run(story())


# ---- many keys ------------------------------------------------------------------------------------------------------


def test_get_many_asks_all_regions_together() -> None:
    world = World(FakeCluster(cuts=(b"g", b"p")))
    world.cluster.put([(b"a", b"1"), (b"k", b"2"), (b"z", b"3")])

    async def story() -> None:
        async with world.client() as db:
            await db.get_many([b"a", b"k", b"z"])
            began = world.now()
            found = await db.get_many([b"z", b"nothing", b"a", b"k", b"a"])
            assert list(found.items()) == [(b"z", b"3"), (b"a", b"1"), (b"k", b"2")]
            assert world.now() - began == pytest.approx(4 * LATENCY_S), (
                "one trip for the timestamp, one for all regions"
            )

    world.run(story())


def test_get_many_mends_what_went_wrong_and_keeps_the_rest() -> None:
    world = World(FakeCluster(cuts=(b"g", b"p")))
    pairs = [(b"%c%d" % (97 + i % 26, i), b"%d" % i) for i in range(200)]
    world.cluster.put(pairs)

    async def story() -> None:
        async with world.client() as db:
            assert await db.get_many(key for key, _ in pairs) == dict(pairs)
            world.cluster.lead(world.cluster.split(b"c").id, 1)
            world.cluster.lead(2, 3)
            world.net.crash(2)
            world.cluster.fail_next(Kind.KV_BATCH_GET, ServerIsBusy("x"))
            assert await db.get_many(key for key, _ in pairs) == dict(pairs)
            assert await db.get_many([]) == {}

    world.cluster.lead(2, 2)
    world.run(story())


def test_get_many_asks_for_less_when_replies_get_too_long() -> None:
    world = World()
    world.cluster.put([(b"%d" % i, b"x" * (1 << 20)) for i in range(40)])

    async def story() -> None:
        async with world.client() as db:
            assert len(await db.get_many(b"%d" % i for i in range(40))) == 40

    world.run(story())


def test_put_many_is_all_or_nothing_within_a_region() -> None:
    world = World(FakeCluster(cuts=(b"m",)))

    async def story() -> None:
        async with world.client() as db:
            await db.put_many({b"a": b"1", b"b": b"2"})
            await db.put_many([(b"x", b"old"), (b"x", b"3"), (b"y", b"4")])
            with pytest.raises(nokv.CrossRegionError) as caught:
                await db.put_many({b"a": b"9", b"z": b"9"})
            assert caught.value.outcome == "not_applied"
            assert not caught.value.retryable
            assert await db.get_many([b"a", b"b", b"x", b"y", b"z"]) == {b"a": b"1", b"b": b"2", b"x": b"3", b"y": b"4"}
            await db.delete_many([b"a", b"b"])
            assert await db.get_many([b"a", b"b"]) == {}
            await db.put_many({})
            await db.delete_many([])

    world.run(story())
    written = [len(r.mutations) for r in world.cluster.requests(Kind.KV_ONE_PHASE) if isinstance(r, OnePhaseRequest)]
    assert written == [2, 2, 2]


def test_split_between_attempts_makes_the_outcome_unknown() -> None:
    """The first attempt may have been carried out, and the repeat can no longer be sent in one phase."""
    world = World()
    world.cluster.fail_next(Kind.KV_ONE_PHASE, Fault.LOSE_REPLY)

    async def story() -> None:
        async with world.client() as db:
            await db.connect()
            write = asyncio.ensure_future(db.put_many({b"a": b"1", b"z": b"2"}))
            await asyncio.sleep(0.1)
            world.cluster.split(b"m")
            with pytest.raises(nokv.CrossRegionError) as caught:
                await write
            assert caught.value.outcome == "unknown"

    world.run(story())


# ---- closing --------------------------------------------------------------------------------------------------------


def test_close_lets_calls_finish_and_refuses_new_ones() -> None:
    world = World()

    async def story() -> None:
        db = world.client()
        await db.connect()
        writes = [asyncio.ensure_future(db.put(b"%d" % i, b"v")) for i in range(20)]
        await asyncio.sleep(0)
        await db.close()
        await asyncio.gather(*writes)
        with pytest.raises(nokv.ClientClosedError):
            await db.get(b"k")
        await db.close()

    world.run(story())


def test_close_ends_what_does_not_finish() -> None:
    world = World()
    world.cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind in (Kind.KV_ONE_PHASE, Kind.KV_GET) else None)

    async def story() -> None:
        db = world.client(timeout=60, max_inflight=2)
        await db.connect()
        calls: list[asyncio.Future[Any]] = [asyncio.ensure_future(db.put(b"k", b"v"))]
        await asyncio.sleep(0.1)
        calls += [asyncio.ensure_future(db.get(b"k")) for _ in range(2)]  # the second finds no place
        await asyncio.sleep(0.1)
        began = world.now()
        await db.close(timeout=0.5)
        assert world.now() - began < 0.6
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in ended] == [nokv.ClientClosedError] * 3
        assert [error.outcome for error in ended if isinstance(error, NokvError)] == [
            "unknown",
            "not_applied",
            "not_applied",
        ]

    world.run(story())


def test_step_of_the_oracle_is_kept_between_timestamps() -> None:
    world = World()

    async def story() -> list[int]:
        async with world.client() as db:
            await db.connect()
            return await asyncio.gather(*(db.now() for _ in range(4)))

    stamps = world.run(story())
    assert [b - a for a, b in pairwise(stamps)] == [TS_STEP] * 3
    assert StoreId(1) in world.cluster.messages
