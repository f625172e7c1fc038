"""The directory: newer descriptions win, ranges stay disjoint, leaders are hints from the highest term."""

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nokv.control.directory import ROUTES_PAGE_MAX, Directory, region_fault
from nokv.proto.control import RegionRoute
from nokv.proto.ids import RegionId, StoreId, Term
from nokv.proto.region import Peer, Region, RegionEpoch, RegionState
from tests.control.builders import region, three_regions

R1, R2, R3 = RegionId(1), RegionId(2), RegionId(3)
S1, S2, S9 = StoreId(1), StoreId(2), StoreId(9)


# ---- epochs and ranges ----------------------------------------------------------------------------------------------


def test_a_tiling_has_no_fault_and_is_iterated_in_key_order() -> None:
    directory = Directory(reversed(three_regions()))
    assert directory.fault() is None
    assert [r.id for r in directory] == [1, 2, 3]
    assert len(directory) == 3
    assert R2 in directory
    assert directory.at(b"h") == directory.get(R2)
    assert directory.at(b"gzz") == directory.get(R1)


@pytest.mark.parametrize(
    ("version", "conf_ver", "taken"),
    [(3, 3, False), (3, 2, False), (2, 9, False), (3, 4, True), (4, 1, True)],
)
def test_only_a_newer_epoch_replaces_a_description_version_first(version: int, conf_ver: int, taken: bool) -> None:
    directory = Directory([region(1, version=3, conf_ver=3)])
    reported = region(1, version=version, conf_ver=conf_ver, stores=(4, 5, 6))
    assert directory.news([reported]) == ((reported,) if taken else ())
    assert (directory.put(reported) == ()) is taken
    assert (directory.get(R1) == reported) is taken


def test_the_halves_of_a_split_are_news_in_an_order_that_swallows_nothing() -> None:
    directory = Directory([region(1)])
    right, left = region(2, b"m", b"", version=2), region(1, b"", b"m", version=2)
    news = directory.news([right, left])
    assert news == (left, right)
    assert [directory.put(r) for r in news] == [(), ()]
    assert directory.fault() is None


def test_news_are_ordered_by_key_not_by_id() -> None:
    directory = Directory([region(5)])
    right, left = region(3, b"m", b"", version=2), region(5, b"", b"m", version=2)
    assert directory.news([right, left]) == (left, right)


def test_what_overlaps_a_region_of_the_same_version_is_no_news() -> None:
    directory = Directory([region(1, version=2)])
    rival = region(2, b"m", b"", version=2)
    assert directory.news([rival]) == ()
    assert directory.put(rival) is None


def test_a_right_half_that_is_heard_of_first_swallows_the_old_region_until_the_left_half_comes() -> None:
    old = region(1)
    directory = Directory([old])
    assert directory.put(region(2, b"m", b"", version=2)) == (old,)
    assert directory.at(b"a") is None
    assert directory.fault() is not None
    assert directory.put(old) is None  # the past does not come back
    assert directory.put(region(1, b"", b"m", version=2)) == ()
    assert directory.fault() is None


def test_a_merge_swallows_its_source_for_ever() -> None:
    left, right = region(1, b"", b"m", version=2), region(2, b"m", b"", version=5)
    directory = Directory([left, right])
    assert directory.put(region(1, version=6)) == (right,)
    assert R2 not in directory
    assert directory.put(right) is None
    assert directory.put(region(2, b"m", b"", version=6, conf_ver=9)) is None
    assert [r.id for r in directory] == [1]


def test_a_region_may_grow_to_the_left() -> None:
    directory = Directory([region(1, b"", b"m"), region(2, b"m", b"")])
    assert directory.put(region(2, version=2)) == (region(1, b"", b"m"),)
    assert directory.at(b"") == region(2, version=2)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (region(0), "out of range"),
        (region(1, state=RegionState.TOMBSTONE), "TOMBSTONE"),
        (region(1, b"m", b"m"), "empty"),
        (region(1, b"m", b"a"), "empty"),
        (region(1, version=0), "epochs"),
        (region(1, conf_ver=0), "epochs"),
        (region(1, stores=()), "no peer"),
        (region(1, stores=(0,)), "ids"),
        (region(1, stores=(2, 2)), "twice"),
        (msgspec.structs.replace(region(1), peers=(Peer(7, S1), Peer(8, S1))), "two peers"),  # type: ignore[arg-type]
    ],
)
def test_an_unfit_description_is_named_and_is_no_news(bad: Region, reason: str) -> None:
    fault = region_fault(bad)
    assert fault is not None
    assert reason in fault
    assert Directory().news([bad]) == ()


# ---- routes ---------------------------------------------------------------------------------------------------------


def test_routes_begin_with_the_region_that_contains_the_key() -> None:
    directory = Directory(three_regions())
    directory.note_leader(R2, S2, Term(4))
    page, more = directory.routes(b"k", 1)
    assert page == (RegionRoute(three_regions()[1], S2),)
    assert more
    page, more = directory.routes(page[-1].region.end, 10)
    assert [route.region.id for route in page] == [3]
    assert not more


def test_paging_visits_every_region_once() -> None:
    bounds = [b"", *(b"%05d" % i for i in range(250)), b""]
    directory = Directory(region(i + 1, start, end) for i, (start, end) in enumerate(pairwise(bounds)))
    seen: list[RegionId] = []
    start, more = b"", True
    while more:
        page, more = directory.routes(start, 16)
        assert 1 <= len(page) <= 16
        seen += [route.region.id for route in page]
        start = page[-1].region.end
    assert seen == [r.id for r in directory]


@pytest.mark.parametrize("limit", [0, -5])
def test_a_page_has_at_least_one_region(limit: int) -> None:
    page, more = Directory(three_regions()).routes(b"", limit)
    assert len(page) == 1
    assert more


def test_a_page_has_a_largest_size() -> None:
    bounds = [b"", *(b"%05d" % i for i in range(ROUTES_PAGE_MAX)), b""]
    directory = Directory(region(i + 1, start, end) for i, (start, end) in enumerate(pairwise(bounds)))
    page, more = directory.routes(b"", 1 << 30)
    assert len(page) == ROUTES_PAGE_MAX
    assert more


# ---- leaders --------------------------------------------------------------------------------------------------------


def test_a_leader_of_an_older_term_is_not_believed() -> None:
    directory = Directory(three_regions())
    assert directory.note_leader(R1, S2, Term(7))
    assert not directory.note_leader(R1, S1, Term(6))
    assert directory.leader_of(R1) == S2
    assert directory.note_leader(R1, S1, Term(8))
    assert directory.leader_of(R1) == S1


def test_no_leader_erases_only_the_leader_of_an_older_term() -> None:
    directory = Directory(three_regions())
    directory.note_leader(R1, S2, Term(7))
    assert not directory.note_leader(R1, StoreId(0), Term(7))
    assert directory.leader_of(R1) == S2
    assert directory.note_leader(R1, StoreId(0), Term(8))
    assert directory.leader_of(R1) == 0
    assert not directory.note_leader(R1, S2, Term(7))


def test_a_leader_that_is_no_member_or_of_no_region_is_ignored() -> None:
    directory = Directory(three_regions())
    assert not directory.note_leader(R1, S9, Term(1))
    assert not directory.note_leader(RegionId(99), S1, Term(1))
    assert directory.leader_of(R1) == 0
    assert directory.leader_of(RegionId(99)) == 0


def test_a_leader_survives_a_new_epoch_only_as_a_member() -> None:
    directory = Directory(three_regions())
    directory.note_leader(R1, S1, Term(2))
    directory.note_leader(R2, S1, Term(2))
    directory.put(region(1, b"", b"h", conf_ver=2, stores=(1, 2)))
    directory.put(region(2, b"h", b"p", conf_ver=2, stores=(2, 3)))
    assert directory.leader_of(R1) == S1
    assert directory.leader_of(R2) == 0


def test_a_swallowed_region_takes_the_terms_of_its_leaders_along() -> None:
    directory = Directory([region(1, b"", b"m"), region(2, b"m", b"")])
    directory.note_leader(R2, S1, Term(50))
    directory.put(region(1, version=2))
    directory.put(region(2, b"m", b"", version=3))
    directory.put(region(1, b"", b"m", version=3))
    assert directory.note_leader(R2, S2, Term(1))


# ---- random histories -----------------------------------------------------------------------------------------------


def history(rng: random.Random, changes: int) -> tuple[list[Region], list[Region]]:
    """(every description that ever was, the last ones): random splits, merges and changes of members."""
    current = [region(1)]
    ever = list(current)
    next_id = 2
    for _ in range(changes):
        at = rng.randrange(len(current))
        old = current[at]
        choice = rng.random()
        if choice < 0.5:
            key = b"%08d" % rng.randrange(10**8)
            at = next(i for i, r in enumerate(current) if r.covers(key))
            old = current[at]
            if key == old.start:
                continue
            epoch = RegionEpoch(old.epoch.version + 1, old.epoch.conf_ver)
            left = msgspec.structs.replace(old, end=key, epoch=epoch)
            right = msgspec.structs.replace(
                old, id=RegionId(next_id), start=key, epoch=epoch, peers=region(next_id).peers
            )
            next_id += 1
            current[at : at + 1] = [left, right]
            ever += [left, right]
        elif choice < 0.75 and at + 1 < len(current):
            source = current[at + 1]
            version = max(old.epoch.version, source.epoch.version) + 1
            merged = msgspec.structs.replace(old, end=source.end, epoch=RegionEpoch(version, old.epoch.conf_ver))
            current[at : at + 2] = [merged]
            ever.append(merged)
        else:
            epoch = RegionEpoch(old.epoch.version, old.epoch.conf_ver + 1)
            current[at] = msgspec.structs.replace(old, epoch=epoch)
            ever.append(current[at])
    return ever, current


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 40))
def test_reports_in_any_order_repeated_and_lost_converge_on_the_present(seed: int, changes: int) -> None:
    rng = random.Random(seed)
    ever, present = history(rng, changes)
    directory = Directory()
    reports = [r for r in ever * 2 if rng.random() < 0.8]
    rng.shuffle(reports)
    for reported in reports:
        is_news = directory.news([reported]) != ()
        assert (directory.put(reported) is not None) is is_news
        listed = list(directory)
        assert all(left.end and left.end <= right.start for left, right in pairwise(listed))
        assert all(r.epoch <= truth.epoch for r in listed for truth in present if truth.id == r.id)
    for reported in directory.news(present):
        assert directory.put(reported) is not None
    assert list(directory) == present
    assert directory.fault() is None
