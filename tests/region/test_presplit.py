"""First cuts: ascending, repeatable, and fair to each kind of key they promise to be fair to."""

import random
from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise

import pytest

from nokv.region.presplit import KINDS, REGIONS_MAX, SLACK, share_below, split_keys, split_ranges

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 64, 100, 256)


@pytest.mark.parametrize("count", COUNTS)
def test_ranges_tile_the_key_space(count: int) -> None:
    ranges = split_ranges(count)
    assert len(ranges) == count and ranges[0][0] == b"" and ranges[-1][1] == b""
    assert all(left[1] == right[0] for left, right in pairwise(ranges))
    assert all(start < end for start, end in ranges[:-1])


@pytest.mark.parametrize("count", COUNTS)
def test_every_region_has_its_share_of_the_mixture(count: int) -> None:
    shares = [Fraction(0), *map(share_below, split_keys(count)), Fraction(1)]
    for low, high in pairwise(shares):
        assert abs((high - low) - Fraction(1, count)) <= 2 * SLACK / count


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("count", [2, 4, 8, 16, 64])
def test_no_region_gets_more_than_three_shares_of_a_kind(count: int, kind: int) -> None:
    rng = random.Random(7)
    cuts, load = split_keys(count), [0] * count
    keys = 20_000
    for _ in range(keys):
        load[bisect_right(cuts, bytes(rng.choices(KINDS[kind], k=6)))] += 1
    assert max(load) <= 3.1 * (1 + 2 * SLACK) * keys / count + 30


def test_decimal_numbers_use_several_regions() -> None:
    cuts = split_keys(8)
    assert len({bisect_right(cuts, str(n).encode()) for n in range(10_000)}) >= 3


def test_the_same_cuts_on_every_machine() -> None:
    assert split_keys(4) == (b"7", b"W", b"o")
    assert split_keys(8) == (b"2", b"7", b"E", b"W", b"dA", b"o", b"\xa0")


@pytest.mark.parametrize("count", [-1, 0, REGIONS_MAX + 1])
def test_counts_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=str(REGIONS_MAX)):
        split_keys(count)


def test_the_largest_count_works() -> None:
    assert len(set(split_keys(REGIONS_MAX))) == REGIONS_MAX - 1
