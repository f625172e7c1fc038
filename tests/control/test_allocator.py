"""Ids: each once."""

import pytest

from nokv.control.allocator import FIRST_ID, IDS_COUNT_MAX, IdAllocator
from nokv.proto.control import AllocIdsReply
from nokv.proto.errors import InvalidArgument, LimitExceeded


def test_ids_follow_each_other() -> None:
    ids = IdAllocator()
    assert ids.take(3) == AllocIdsReply(FIRST_ID, 3)
    assert ids.take(1) == AllocIdsReply(FIRST_ID + 3, 1)
    assert ids.next_id == FIRST_ID + 4


def test_a_used_id_and_those_below_are_never_given_out() -> None:
    ids = IdAllocator(10)
    assert not ids.reserve(9)
    assert ids.next_id == 10
    assert ids.reserve(10)
    assert ids.reserve(40)
    assert not ids.reserve(20)
    assert ids.take(1) == AllocIdsReply(41, 1)


@pytest.mark.parametrize("count", [0, -1])
def test_no_ids_are_no_request(count: int) -> None:
    assert IdAllocator.refusal(count) == InvalidArgument("count", "must be at least 1")


def test_the_limit_is_inclusive() -> None:
    assert IdAllocator.refusal(IDS_COUNT_MAX) is None
    assert IdAllocator.refusal(IDS_COUNT_MAX + 1) == LimitExceeded("ids_count_max", IDS_COUNT_MAX, IDS_COUNT_MAX + 1)
