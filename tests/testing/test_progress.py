"""Progress and readers on made-up histories: what counts as served, as a pause, and as a stale read."""

from collections.abc import Callable
from typing import cast

import pytest

import nokv
from nokv.proto.ids import RegionId
from nokv.proto.region import FIRST_EPOCH, Region
from nokv.testing.ledger import Ledger, encode_version
from nokv.testing.progress import RegionProgress
from nokv.testing.readers import Readers, StaleRead

REGIONS = [
    Region(RegionId(1), b"", b"g", FIRST_EPOCH, ()),
    Region(RegionId(2), b"g", b"p", FIRST_EPOCH, ()),
    Region(RegionId(3), b"p", b"", FIRST_EPOCH, ()),
]


@pytest.mark.parametrize(("key", "region"), [(b"\x00", 1), (b"fff", 1), (b"g", 2), (b"o\xff", 2), (b"p", 3)])
def test_a_key_lies_in_one_region(key: bytes, region: int) -> None:
    assert RegionProgress(REGIONS[::-1]).region_of(key) == region


def test_only_a_write_that_began_after_the_mark_counts_as_served_after_it() -> None:
    progress = RegionProgress(REGIONS)
    progress.note(b"a", 0.5, 1.0)
    progress.mark(2.0)
    progress.note(b"a", 1.9, 2.5)
    assert progress.missing([1, 2, 3]) == [1, 2, 3]
    progress.note(b"a", 2.1, 3.5)
    progress.note(b"z", 2.0, 2.25)
    assert progress.missing([1, 2, 3]) == [2]
    assert progress.served() == {1: 1.5, 3: 0.25}
    assert progress.acknowledged == 4


def test_the_longest_gap_begins_at_the_last_acknowledgement_before_the_mark() -> None:
    progress = RegionProgress(REGIONS)
    progress.note(b"a", 0.0, 1.0)
    progress.mark(2.0)
    progress.note(b"a", 1.5, 4.0)
    progress.note(b"a", 4.0, 4.5)
    progress.note(b"g", 2.0, 2.5)
    assert progress.longest_gap([1]) == 3.0
    assert progress.longest_gap([2]) == 0.5
    assert progress.longest_gap([1, 2, 3]) == 3.0


class Answers:
    """A client that answers what it is told to, one read after the other, and runs a step before each answer."""

    def __init__(self, *versions: int | None) -> None:
        self.versions = list(versions)
        self.before: Callable[[], object] = list

    async def get(self, _key: bytes) -> bytes | None:
        self.before()
        version = self.versions.pop(0)
        if version is None:
            raise nokv.TimeoutError("no answer")
        return encode_version(version, 8) if version else None


def ledger_with(acknowledged: int, *, unknown: int = 0) -> Ledger:
    """A key whose versions up to `acknowledged` are; the one after it has an unknown outcome if asked for."""
    ledger = Ledger()
    for _ in range(acknowledged):
        ledger.acknowledge(b"k", ledger.attempt(b"k"))
    if unknown:
        ledger.lose_sight(b"k", ledger.attempt(b"k"))
    return ledger


async def read_all(ledger: Ledger, answers: Answers) -> Readers:
    readers = Readers(cast("nokv.AsyncClient", answers), ledger, [b"k"], count=1)
    while answers.versions:
        await readers._read_one(b"k")
    return readers


async def test_a_read_that_is_older_than_an_acknowledgement_is_stale() -> None:
    readers = await read_all(ledger_with(3), Answers(3, 2, 0))
    assert readers.stale == [StaleRead(b"k", 3, 2), StaleRead(b"k", 3, 0)]
    assert readers.reads == 3


async def test_what_was_acknowledged_while_a_read_was_under_way_is_not_owed_to_it() -> None:
    ledger, answers = ledger_with(1), Answers(1)
    answers.before = lambda: ledger.acknowledge(b"k", ledger.attempt(b"k"))
    assert (await read_all(ledger, answers)).stale == []


async def test_what_a_read_has_shown_is_owed_to_the_next_one() -> None:
    """A version that is not acknowledged yet, shown once, must not vanish again."""
    assert (await read_all(ledger_with(1), Answers(2, 1))).stale == [StaleRead(b"k", 2, 1)]


async def test_a_version_of_unknown_outcome_may_come_late() -> None:
    ledger = ledger_with(2, unknown=1)
    ledger.acknowledge(b"k", ledger.attempt(b"k"))
    assert (await read_all(ledger, Answers(4, 3, 4))).stale == []
    assert (await read_all(ledger, Answers(2))).stale == [StaleRead(b"k", 4, 2)]


async def test_a_read_without_an_answer_says_nothing() -> None:
    readers = await read_all(ledger_with(2), Answers(None, 2))
    assert (readers.failed, readers.reads, readers.stale) == (1, 1, [])
