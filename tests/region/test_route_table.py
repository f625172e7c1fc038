"""The route table against a naive twin and against histories of a cluster whose truth is known."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nokv.proto.control import RegionRoute
from nokv.proto.errors import EpochNotMatch, NotLeader
from nokv.proto.ids import PeerId, RegionId, StoreId
from nokv.proto.region import Peer, Region, RegionEpoch
from nokv.region.route_table import RouteTable, tiling_fault

ALPHABET = [bytes((c,)) for c in b"abcdefgh"]
KEYS = [b"", *ALPHABET, b"aa", b"bb", b"cc", b"h\xff"]


def region(
    region_id: int, start: bytes, end: bytes, version: int = 1, conf_ver: int = 1, stores: tuple[int, ...] = (1, 2, 3)
) -> Region:
    peers = tuple(Peer(PeerId(100 * region_id + store), StoreId(store)) for store in stores)
    return Region(RegionId(region_id), start, end, RegionEpoch(version, conf_ver), peers)


def route(*args: object, leader: int = 0, **kw: object) -> RegionRoute:
    return RegionRoute(region(*args, **kw), StoreId(leader))  # type: ignore[arg-type]


def ids(routes: object) -> list[int]:
    return [r.region.id for r in routes]  # type: ignore[attr-defined]


class NaiveTable:
    """The same rules with linear searches over an unordered list."""

    def __init__(self) -> None:
        self.routes: list[RegionRoute] = []

    @staticmethod
    def overlap(a: Region, start: bytes, end: bytes) -> bool:
        return (not end or a.start < end) and (not a.end or start < a.end)

    def put(self, new: RegionRoute) -> None:
        mine = [r for r in self.routes if r.region.id == new.region.id]
        if mine and mine[0].region.epoch > new.region.epoch:
            return
        if mine and mine[0].region.epoch == new.region.epoch:
            if new.leader_store and mine[0].region.peer_on(new.leader_store):
                self.routes = [r for r in self.routes if r is not mine[0]]
                self.routes.append(RegionRoute(mine[0].region, new.leader_store))
            return
        rest = [r for r in self.routes if r.region.id != new.region.id]
        clash = [r for r in rest if self.overlap(r.region, new.region.start, new.region.end)]
        if any(r.region.epoch.version >= new.region.epoch.version for r in clash):
            return
        if mine and not new.leader_store and new.region.peer_on(mine[0].leader_store):
            new = RegionRoute(new.region, mine[0].leader_store)
        self.routes = [r for r in rest if r not in clash] + [new]

    def lookup(self, key: bytes) -> RegionRoute | None:
        return next((r for r in self.routes if r.region.covers(key)), None)

    def lookup_below(self, key: bytes) -> RegionRoute | None:
        for r in self.routes:
            if not key and not r.region.end:
                return r
            if key and r.region.start < key and (not r.region.end or key <= r.region.end):
                return r
        return None

    def forward(self, start: bytes, end: bytes) -> list[RegionRoute]:
        if end and start >= end:
            return []
        found = [r for r in self.routes if self.overlap(r.region, start, end)]
        return sorted(found, key=lambda r: r.region.start)


@st.composite
def any_route(draw: st.DrawFn) -> RegionRoute:
    start, end = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
    if end and end <= start:
        start, end = (end, start) if end < start else (start, b"")
    stores = tuple(sorted(draw(st.sets(st.integers(1, 4), min_size=1, max_size=3))))
    return route(
        draw(st.integers(1, 6)), start, end, draw(st.integers(1, 5)), draw(st.integers(1, 2)), stores,
        leader=draw(st.integers(0, 4)),
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(any_route(), max_size=30))
def test_table_equals_its_naive_twin(routes: list[RegionRoute]) -> None:
    table, twin = RouteTable(), NaiveTable()
    for new in routes:
        before = list(table)
        changed = table.put(new)
        twin.put(new)
        table.check()
        assert changed == (list(table) != before)
    assert list(table) == twin.forward(b"", b"")
    for key in KEYS:
        assert table.lookup(key) == twin.lookup(key)
        assert table.lookup_below(key) == twin.lookup_below(key)
        for end in KEYS:
            expected = twin.forward(key, end)
            assert list(table.forward(key, end)) == expected
            assert list(table.reverse(key, end)) == expected[::-1]


@settings(max_examples=200, deadline=None)
@given(st.lists(any_route(), max_size=12), st.sampled_from(KEYS), st.sampled_from(KEYS))
def test_gaps_and_routes_together_cover_the_range_once(routes: list[RegionRoute], start: bytes, end: bytes) -> None:
    if end and end <= start:
        return
    table = RouteTable(routes)
    gaps = table.gaps(start, end)
    for key in KEYS:
        if key >= start and (not end or key < end):
            in_gap = any(low <= key and (not high or key < high) for low, high in gaps)
            assert in_gap == (table.lookup(key) is None)
    assert all(high and high < low for (_, high), (low, _) in pairwise(gaps))


class Truth:
    """A cluster whose regions split, merge and change members; every state ever true is remembered."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = [region(1, b"", b"")]
        self.past = list(self.now)
        self.next_id = 2

    def step(self) -> None:
        at = self.rng.randrange(len(self.now))
        choice = self.rng.randrange(3)
        old = self.now[at]
        if choice == 0:
            self.split(at, old)
        elif choice == 1 and at + 1 < len(self.now):
            self.merge(at, old, self.now[at + 1])
        elif choice == 2:
            stores = tuple(sorted(self.rng.sample(range(1, 6), 3)))
            epoch = old.epoch
            self.replace(at, 1, [region(old.id, old.start, old.end, epoch.version, epoch.conf_ver + 1, stores)])

    def split(self, at: int, old: Region) -> None:
        inside = [k for k in KEYS if k > old.start and old.covers(k)]
        if not inside:
            return
        cut, new_id = self.rng.choice(inside), self.next_id
        self.next_id += 1
        version, conf_ver = old.epoch.version + 1, old.epoch.conf_ver
        left_id, right_id = (old.id, new_id) if self.rng.random() < 0.5 else (new_id, old.id)
        left = region(left_id, old.start, cut, version, conf_ver)
        self.replace(at, 1, [left, region(right_id, cut, old.end, version, conf_ver)])

    def merge(self, at: int, left: Region, right: Region) -> None:
        target = self.rng.choice((left, right))
        version = max(left.epoch.version, right.epoch.version) + 1
        self.replace(at, 2, [region(target.id, left.start, right.end, version, target.epoch.conf_ver)])

    def replace(self, at: int, count: int, new: list[Region]) -> None:
        self.now[at : at + count] = new
        self.past += new


@pytest.mark.parametrize("seed", range(60))
def test_knowledge_in_any_order_ends_in_the_truth(seed: int) -> None:
    """Whatever old news arrives in whatever order, the present, once told, is never lost again."""
    rng = random.Random(seed)
    truth = Truth(rng)
    for _ in range(25):
        truth.step()
    assert tiling_fault(truth.now) is None
    news = [*truth.past, *rng.choices(truth.past, k=30)]
    rng.shuffle(news)
    table = RouteTable(RegionRoute(r) for r in news)
    table.check()
    assert table.is_complete() and [r.region for r in table] == truth.now

    small = RouteTable()
    for r in [*truth.now, *news]:
        small.put(RegionRoute(r))
    assert [r.region for r in small] == truth.now


def test_an_equal_version_is_no_proof_against_another_region() -> None:
    table = RouteTable([route(1, b"", b"m", 2), route(2, b"m", b"", 2)])
    assert not table.put(route(3, b"a", b"z", 2))
    assert ids(table) == [1, 2]
    assert table.put(route(3, b"a", b"z", 3))
    assert ids(table) == [3] and table.gaps() == ((b"", b"a"), (b"z", b""))


def test_version_is_compared_before_conf_ver() -> None:
    table = RouteTable([route(1, b"", b"", 2, 1)])
    assert not table.put(route(1, b"", b"m", 1, 9))
    assert table.put(route(1, b"", b"", 2, 2))
    assert table.put(route(1, b"", b"k", 3, 1))


def test_a_new_epoch_keeps_a_leader_that_is_still_a_member() -> None:
    table = RouteTable([route(1, b"", b"", leader=2)])
    table.put(route(1, b"", b"", 1, 2, (1, 2)))
    assert table.lookup(b"k") == route(1, b"", b"", 1, 2, (1, 2), leader=2)
    table.put(route(1, b"", b"", 1, 3, (1, 3)))
    assert table.lookup(b"k") == route(1, b"", b"", 1, 3, (1, 3), leader=0)


def test_epoch_not_match_replaces_and_empty_teaches_nothing() -> None:
    table = RouteTable([route(1, b"", b"")])
    halves = (region(1, b"", b"m", 2), region(2, b"m", b"", 2))
    assert table.apply_epoch_not_match(EpochNotMatch(RegionId(1), halves))
    assert ids(table) == [1, 2]
    assert not table.apply_epoch_not_match(EpochNotMatch(RegionId(1), (region(1, b"", b""),)))
    assert not table.apply_epoch_not_match(EpochNotMatch(RegionId(1)))
    assert ids(table) == [1, 2]


FIRST = RegionEpoch(1, 1)


def test_not_leader_switches_leader_only_where_the_question_still_stands() -> None:
    table = RouteTable([route(1, b"", b"", leader=1)])

    def refused(leader: int, *, by: int, epoch: RegionEpoch = FIRST) -> bool:
        detail = NotLeader(RegionId(1), StoreId(leader))
        return table.apply_not_leader(detail, asked_store=StoreId(by), asked_epoch=epoch)

    def leader() -> int:
        found = table.get(RegionId(1))
        assert found is not None
        return found.leader_store

    assert refused(2, by=1) and leader() == 2
    assert not refused(3, by=1) and leader() == 2  # store 1's second answer is about a question long answered
    assert refused(0, by=2) and leader() == 0
    assert refused(3, by=2) and leader() == 3
    assert refused(9, by=3) and leader() == 0  # not a member: unknown, rather than a detour
    table.put(route(1, b"", b"", 2))
    assert not refused(2, by=3, epoch=FIRST) and leader() == 0  # older epoch
    assert not table.apply_not_leader(NotLeader(RegionId(7)), asked_store=StoreId(1), asked_epoch=FIRST)


def test_set_and_forget_leader_and_region() -> None:
    table = RouteTable([route(1, b"", b"m"), route(2, b"m", b"")])
    assert table.set_leader(RegionId(1), StoreId(3))
    assert not table.set_leader(RegionId(1), StoreId(3))
    assert not table.set_leader(RegionId(1), StoreId(8))
    assert not table.set_leader(RegionId(9), StoreId(1))
    assert not table.forget_leader(RegionId(1), StoreId(2))
    assert table.forget_leader(RegionId(1), StoreId(3))
    assert not table.forget_leader(RegionId(1), StoreId(0))
    assert table.forget(RegionId(1)) and not table.forget(RegionId(1))
    assert RegionId(2) in table and RegionId(1) not in table and len(table) == 1
    assert table.lookup(b"a") is None and table.lookup(b"m") is not None
    table.clear()
    assert len(table) == 0 and table.gaps() == ((b"", b""),)


def test_iteration_is_not_disturbed_by_changes() -> None:
    table = RouteTable([route(i, bytes((i,)), bytes((i + 1,))) for i in range(1, 5)])
    seen = []
    for found in table.forward():
        seen.append(found.region.id)
        table.forget(found.region.id)
    assert seen == [1, 2, 3, 4] and len(table) == 0


@pytest.mark.parametrize(
    ("regions", "word"),
    [
        ([], "no region"),
        ([region(1, b"", b"m"), region(1, b"m", b"")], "twice"),
        ([region(1, b"m", b"m")], "no keys"),
        ([region(1, b"", b"z"), region(2, b"z", b"m"), region(3, b"m", b"")], "no keys"),
        ([region(1, b"a", b"")], "gap"),
        ([region(1, b"", b"m")], "gap"),
        ([region(1, b"", b"m"), region(2, b"n", b"")], "gap"),
        ([region(1, b"", b"n"), region(2, b"m", b"")], "overlap"),
        ([region(1, b"", b""), region(2, b"m", b"")], "overlap"),
    ],
)
def test_tiling_faults_are_named(regions: list[Region], word: str) -> None:
    fault = tiling_fault(regions)
    assert fault is not None and word in fault


def test_a_tiling_in_any_order_is_fine() -> None:
    assert tiling_fault([region(2, b"m", b""), region(1, b"", b"m")]) is None
    assert tiling_fault([region(1, b"", b"")]) is None


def test_describe_is_one_line_per_region() -> None:
    table = RouteTable([route(2, b"m", b"", leader=1), route(1, b"", b"m")])
    assert table.describe().splitlines() == [
        'region 1 [-inf, "m") v1 c1 peers 101@1 102@2 103@3 leader ?',
        'region 2 ["m", +inf) v1 c1 peers 201@1 202@2 203@3 leader 1',
    ]
