"""Last heartbeats: what is stale is listed, what is removed is forgotten (N45)."""

from nokv.control.heartbeats import NEVER_MS, Heartbeats
from nokv.proto.control import RegionRoute, StoreHeartbeat
from nokv.proto.ids import ClusterId, Incarnation, RegionId, StoreId
from nokv.proto.stats import NodeStatus, RouterStats
from tests.control.builders import region, store

S1, S2, S3 = StoreId(1), StoreId(2), StoreId(3)
R1, R2 = RegionId(1), RegionId(2)


def heartbeat(store_id: int, *leads: int, incarnation: int = 1) -> StoreHeartbeat:
    node = NodeStatus(ClusterId(7), StoreId(store_id), "0", 0, 1, 1, (), RouterStats(), "follower", S1, 1, 0, 0, 0)
    routes = tuple(RegionRoute(region(r), StoreId(store_id)) for r in leads)
    return StoreHeartbeat(store(store_id), Incarnation(incarnation), routes, node)


def test_the_last_heartbeat_is_kept() -> None:
    beats = Heartbeats()
    assert beats.note(heartbeat(1, 1), 100)
    assert not beats.note(heartbeat(1, 1, 2), 200)
    seen = beats.store(S1)
    assert seen is not None
    assert seen.seen_ms == 200
    assert [route.region.id for route in seen.heartbeat.leads] == [1, 2]
    assert beats.incarnation(S1) == 1
    assert beats.incarnation(S2) == 0


def test_another_incarnation_is_a_restart() -> None:
    beats = Heartbeats()
    beats.note(heartbeat(1), 100)
    assert beats.note(heartbeat(1, incarnation=2), 200)
    assert not beats.note(heartbeat(1, incarnation=2), 300)
    seen = beats.store(S1)
    assert seen is not None
    assert seen.restarts == 1


def test_silent_and_unheard_stores_are_stale() -> None:
    beats = Heartbeats()
    beats.note(heartbeat(1), 1_000)
    beats.note(heartbeat(2), 3_000)
    assert beats.stale_stores([S3, S2, S1], 4_000, after_ms=3_000) == (S3,)
    assert beats.stale_stores([S3, S2, S1], 4_001, after_ms=3_000) == (S1, S3)
    assert beats.seen_ms_ago([S3, S2, S1], 4_001) == ((S1, 3_001), (S2, 1_001), (S3, NEVER_MS))


def test_a_region_is_fresh_as_long_as_anybody_reports_it() -> None:
    beats = Heartbeats()
    beats.note(heartbeat(1, 1, 2), 1_000)
    beats.note(heartbeat(2, 2), 2_000)
    assert beats.stale_regions([R1, R2], 4_001, after_ms=3_000) == (R1,)
    assert beats.stale_regions([R1, R2, RegionId(3)], 2_000, after_ms=3_000) == (RegionId(3),)
    seen = beats.region(R2)
    assert seen is not None
    assert seen.store_id == S2


def test_what_is_removed_is_forgotten_until_it_is_heard_of_again() -> None:
    beats = Heartbeats()
    beats.note(heartbeat(1, 1), 1_000)
    beats.note(heartbeat(2, 2), 1_000)
    assert beats.remove_store(S1)
    assert not beats.remove_store(S1)
    assert beats.store(S1) is None
    assert beats.region(R1) is None
    assert beats.remove_region(R2)
    assert not beats.remove_region(R2)
    assert beats.stale_regions([R1, R2], 1_000, after_ms=3_000) == (R1, R2)
    beats.note(heartbeat(1, 1), 1_100)
    assert beats.stale_regions([R1], 1_100, after_ms=3_000) == ()


def test_a_clock_reading_before_the_heartbeat_is_age_zero() -> None:
    beats = Heartbeats()
    beats.note(heartbeat(1), 1_000)
    assert beats.seen_ms_ago([S1], 990) == ((S1, 0),)
