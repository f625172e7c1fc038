"""Delete range (P25): what was visible at start_ts goes, exactly once, and nothing that came later."""

import pytest

from nokv.mvcc.evaluate import evaluate
from nokv.mvcc.limits import ApplyLimits
from nokv.proto.errors import KeyIsLocked, SnapshotTooOld, WriteConflict
from nokv.proto.ids import Ts
from nokv.proto.kv import DeleteRangeReply, DeleteRangeRequest, Mutation
from tests.mvcc.ask import LONG, Store, commit_keys, delete, delete_range, lock, ms, one_phase, prewrite, put, rollback
from tests.mvcc.backend import Answer

KEYS = [b"a", b"b", b"c", b"d", b"e"]


@pytest.fixture
def store() -> Store:
    store = Store()
    store.ask(prewrite(1, *(put(key, key) for key in KEYS), primary=b"a"))
    store.ask(commit_keys(1, 2, *KEYS))
    return store


def apply(store: Store, request: DeleteRangeRequest, *, at: int, limits: ApplyLimits | None = None) -> Answer:
    return evaluate(store.engine, request, commit_ts=ms(at), limits=limits or ApplyLimits())


def left(store: Store, at: int = 1000) -> list[bytes]:
    return [key for key in KEYS if store.value(key, at) is not None]


@pytest.mark.parametrize(
    ("begin", "end", "kept"),
    [
        (b"", b"", []),
        (b"b", b"", [b"a"]),
        (b"", b"b", [b"b", b"c", b"d", b"e"]),
        (b"b", b"d", [b"a", b"d", b"e"]),
        (b"b\0", b"d\0", [b"a", b"b", b"e"]),
        (b"c", b"c", KEYS),
        (b"x", b"", KEYS),
        (b"d", b"b", KEYS),
    ],
)
def test_bounds(store: Store, begin: bytes, end: bytes, kept: list[bytes]) -> None:
    gone = len(KEYS) - len(kept)
    reply = DeleteRangeReply(gone, False, b"", ms(15) if gone else Ts(0))
    assert apply(store, delete_range(10, begin, end), at=15) == reply
    assert left(store) == kept
    assert left(store, 14) == KEYS


def test_the_region_bounds_the_range(store: Store) -> None:
    reply = evaluate(
        store.engine, delete_range(10), commit_ts=ms(15), region_start=b"b", region_end=b"d", limits=ApplyLimits()
    )
    assert reply == DeleteRangeReply(2, False, b"", ms(15))
    assert left(store) == [b"a", b"d", b"e"]


def test_what_is_not_visible_is_not_counted(store: Store) -> None:
    store.ask(one_phase(3, delete(b"a"), lock(b"b")))
    store.ask(rollback(4, b"c", b"f"))
    assert apply(store, delete_range(10), at=15) == DeleteRangeReply(4, False, b"", ms(15))
    assert left(store) == []


def test_keys_written_since_are_left(store: Store) -> None:
    """The delete is ordered before every write that it did not see."""
    store.committed(b"b", b"newer", 5, 20)
    store.committed(b"f", b"new", 6, 21)
    assert apply(store, delete_range(10), at=30) == DeleteRangeReply(4, False, b"", ms(30))
    assert left(store) == [b"b"]
    assert store.value(b"f", 100) == b"new"


def test_a_duplicate_takes_nothing_away(store: Store) -> None:
    request = delete_range(10)
    first = apply(store, request, at=15)
    assert first == DeleteRangeReply(5, False, b"", ms(15))
    store.committed(b"b", b"again", 20, 30)
    store.committed(b"bb", b"new", 20, 30)
    store.ask(prewrite(40, put(b"c")))
    before = store.dump()
    assert apply(store, request, at=90) == first
    assert store.dump() == before


def test_pages(store: Store) -> None:
    seen: list[tuple[int, bool, bytes]] = []
    begin = b""
    for _ in range(9):
        reply = apply(store, delete_range(10, begin, limit=2), at=15)
        assert isinstance(reply, DeleteRangeReply)
        assert apply(store, delete_range(10, begin, limit=2), at=90) == reply
        seen.append((reply.deleted, reply.more, reply.resume))
        if not reply.more:
            break
        begin = reply.resume
    assert seen == [(2, True, b"c"), (2, True, b"e"), (1, False, b"")]
    assert left(store) == []


@pytest.mark.parametrize(
    "limits", [ApplyLimits(delete_range_visited_max=2), ApplyLimits(delete_range_keys_max=2)], ids=["visited", "keys"]
)
def test_a_request_is_bounded_whatever_it_asks_for(store: Store, limits: ApplyLimits) -> None:
    reply = apply(store, delete_range(10, limit=1000), at=15, limits=limits)
    assert reply == DeleteRangeReply(2, True, b"c", ms(15))
    assert left(store) == [b"c", b"d", b"e"]


def test_dead_keys_count_as_visited(store: Store) -> None:
    store.ask(one_phase(3, delete(b"a"), delete(b"b")))
    limits = ApplyLimits(delete_range_visited_max=2)
    assert apply(store, delete_range(10), at=15, limits=limits) == DeleteRangeReply(0, True, b"c", Ts(0))


def test_many_locks_end_a_request_early(store: Store) -> None:
    """Locks that are in nobody's way still cost a look each."""
    store.ask(prewrite(3, lock(b"aa"), lock(b"ab"), lock(b"bb"), primary=b"aa"))
    limits = ApplyLimits(delete_range_visited_max=2)
    assert apply(store, delete_range(10), at=15, limits=limits) == DeleteRangeReply(2, True, b"bb", ms(15))
    store.ask(prewrite(4, lock(b"ca"), lock(b"cb"), lock(b"cc"), primary=b"ca"))
    limits = ApplyLimits(delete_range_visited_max=2, delete_range_keys_max=9)
    assert apply(store, delete_range(11, b"c"), at=16, limits=limits) == DeleteRangeReply(1, True, b"cc", ms(16))
    assert left(store) == [b"d", b"e"]


@pytest.mark.parametrize(
    ("mutation", "start", "blocked"),
    [
        (put(b"bb"), 5, True),
        (delete(b"bb"), 5, True),
        (lock(b"bb"), 5, False),
        (put(b"bb"), 11, False),
        (put(b"b", LONG), 5, True),
        (lock(b"b"), 5, True),
        (put(b"b"), 11, True),
        (lock(b"b"), 11, True),
    ],
)
def test_locks(store: Store, mutation: Mutation, start: int, blocked: bool) -> None:
    """Any lock on a key to be deleted refuses; elsewhere only one that may still become visible at start_ts."""
    store.ask(prewrite(start, mutation))
    before = store.dump()
    reply = apply(store, delete_range(10), at=15)
    if blocked:
        assert isinstance(reply, KeyIsLocked)
        assert reply.key == mutation.key
        assert store.dump() == before
    else:
        assert reply == DeleteRangeReply(5, False, b"", ms(15))


def test_rolled_back_it_never_happens(store: Store) -> None:
    store.ask(rollback(10, b"c"))
    before = store.dump()
    assert apply(store, delete_range(10), at=15) == WriteConflict(b"c", b"", ms(10), ms(10), Ts(0))
    assert store.dump() == before
    assert apply(store, delete_range(10, b"d"), at=15) == DeleteRangeReply(2, False, b"", ms(15))
    assert apply(store, delete_range(11), at=16) == DeleteRangeReply(3, False, b"", ms(16))


def test_a_lock_behind_the_page_is_not_met(store: Store) -> None:
    store.ask(prewrite(5, put(b"c")))
    assert apply(store, delete_range(10, limit=2), at=15) == DeleteRangeReply(2, True, b"c", ms(15))


def test_below_the_safe_point(store: Store) -> None:
    reply = evaluate(store.engine, delete_range(10), commit_ts=ms(15), safe_point=ms(11))
    assert reply == SnapshotTooOld(ms(10), ms(11))
    assert left(store) == KEYS
    assert evaluate(store.engine, delete_range(10), commit_ts=ms(15), safe_point=ms(10)) == DeleteRangeReply(
        5, False, b"", ms(15)
    )
