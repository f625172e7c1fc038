"""Successors, prefixes and cursors: no key is skipped and none is seen twice. Property tests against a plain list."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nokv
from nokv.client.key_range import Cursor, KeyRange, prefix_end, range_of, successor
from nokv.client.limits import Limits
from nokv.proto.ids import RegionId
from nokv.proto.kv import ScanReply
from nokv.proto.region import FIRST_EPOCH, Region

# Few distinct bytes, so that neighbours, prefixes and equal borders are common.
key = st.text(alphabet="\x00\x01a\xfe\xff", min_size=1, max_size=4).map(lambda text: text.encode("latin-1"))
border = st.one_of(st.just(b""), key)


@given(key, key)
def test_nothing_lies_between_a_key_and_its_successor(low: bytes, other: bytes) -> None:
    assert low < successor(low)
    assert not low < other < successor(low)


@given(border, key)
def test_prefix_end_splits_exactly(prefix: bytes, other: bytes) -> None:
    end = prefix_end(prefix)
    inside = prefix <= other and (not end or other < end)
    assert inside == other.startswith(prefix)


def regions_of(cuts: set[bytes]) -> list[Region]:
    borders = [b"", *sorted(cuts), b""]
    return [Region(RegionId(at + 1), start, end, FIRST_EPOCH, ()) for at, (start, end) in enumerate(pairwise(borders))]


@given(st.sets(key, max_size=30), st.sets(key, max_size=4), border, border, st.booleans(), st.data())
def test_cursor_visits_every_key_once_in_order(
    keys: set[bytes], cuts: set[bytes], start: bytes, end: bytes, reverse: bool, data: st.DataObject
) -> None:
    """Pages end where the store likes: full, short with `more`, or even empty with a place to resume."""
    wanted = KeyRange(start, end)
    regions = regions_of(cuts)
    cursor = Cursor(wanted, reverse=reverse)
    seen: list[bytes] = []
    for _ in range(200):
        if cursor.done:
            break
        region = _owner(regions, cursor)
        asked = cursor.clip(region)
        assert not asked.is_empty
        inside = sorted(k for k in keys if asked.start <= k and (not asked.end or k < asked.end))
        if reverse:
            inside.reverse()
        taken = data.draw(st.integers(0, len(inside)))
        seen += inside[:taken]
        pairs = tuple((k, b"") for k in inside[:taken])
        if taken == len(inside):
            cursor.advance(asked, ScanReply(pairs))
            continue
        # An empty page has looked at dead versions only; it still says how far it came.
        resume = successor(inside[taken]) if reverse else inside[taken]
        made_progress = (not asked.end or resume < asked.end) if reverse else asked.start < resume
        if taken or made_progress:
            said = resume if not taken or data.draw(st.booleans()) else b""
            cursor.advance(asked, ScanReply(pairs, True, said))
        else:
            with pytest.raises(nokv.ProtocolError):
                cursor.advance(asked, ScanReply((), True, resume))
            seen.append(inside[0])
            cursor.advance(asked, ScanReply(((inside[0], b""),), len(inside) > 1))
    else:
        raise AssertionError("the cursor does not come to an end")
    assert seen == sorted((k for k in keys if start <= k and (not end or k < end)), reverse=reverse)


def _owner(regions: list[Region], cursor: Cursor) -> Region:
    if not cursor.reverse:
        return next(region for region in regions if region.covers(cursor.start))
    below = cursor.end
    return next(
        r for r in reversed(regions) if (not r.end or (below and below <= r.end)) and (not below or r.start < below)
    )


def test_arguments_of_a_range() -> None:
    limits = Limits()
    assert range_of(b"a", b"b", None, limits) == KeyRange(b"a", b"b")
    assert range_of(b"", None, b"ab", limits) == KeyRange(b"ab", b"ac")
    assert range_of(bytearray(b"a"), memoryview(b"b"), None, limits) == KeyRange(b"a", b"b")
    with pytest.raises(nokv.UsageError, match="not both"):
        range_of(b"a", None, b"p", limits)
    with pytest.raises(nokv.UsageError, match="empty end"):
        range_of(b"a", b"", None, limits)
    with pytest.raises(TypeError, match="encode"):
        range_of("a", None, None, limits)  # type: ignore[arg-type]
    with pytest.raises(nokv.LimitError):
        range_of(b"a" * 402, None, None, limits)
