"""Refused sources are named, at most once a minute each."""

from nokv.router.refusals import SOURCES_MAX, RefusalLog


def test_a_source_is_mentioned_once_in_the_interval_and_the_rest_is_counted() -> None:
    log = RefusalLog(60_000)
    assert log.note("a", 0) == 0
    assert [log.note("a", t) for t in (1, 1000, 59_999)] == [None] * 3
    assert log.note("b", 59_999) == 0, "another source has its own minute"
    assert log.note("a", 60_000) == 3
    assert log.note("a", 60_001) is None
    assert log.note("a", 200_000) == 1


def test_memory_is_bounded_by_forgetting_the_oldest() -> None:
    log = RefusalLog(60_000)
    for i in range(SOURCES_MAX + 1):
        assert log.note(f"s{i}", i) == 0
    assert log.note("s0", SOURCES_MAX + 1) == 0, "forgotten, so mentioned again"
    assert log.note(f"s{SOURCES_MAX}", SOURCES_MAX + 2) is None
