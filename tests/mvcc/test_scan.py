"""Range reads: pages of bounded work that together are the range (M51, P25)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.mvcc.evaluate import evaluate_read
from nokv.mvcc.limits import Limits
from nokv.mvcc.scan import scan
from nokv.proto.errors import InvalidArgument, KeyIsLocked, LimitExceeded, SnapshotTooOld
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import BatchGetReply, BatchGetRequest, GetReply, GetRequest, Mutation, ScanReply, ScanRequest
from nokv.proto.region import FIRST_EPOCH
from nokv.storage.engine import ColumnFamily, CorruptionError
from tests.mvcc.ask import LONG, Store, commit_keys, delete, get, lock, ms, one_phase, prewrite, put, rollback
from tests.mvcc.ask import scan as scan_request
from tests.mvcc.backend import Answer

Pairs = tuple[tuple[bytes, bytes | None], ...]


@pytest.fixture
def store() -> Store:
    return Store()


HUGE = 10**9


def pages(
    store: Store,
    at: int,
    *,
    reverse: bool = False,
    limit: int = HUGE,
    bytes_max: int = HUGE,
    visited_max: int = HUGE,
) -> list[ScanReply]:
    """All pages of the whole key space."""
    found: list[ScanReply] = []
    begin = end = b""
    while True:
        reply = scan(
            store.engine, begin, end, ms(at), limit, bytes_max=bytes_max, visited_max=visited_max, reverse=reverse
        )
        assert isinstance(reply, ScanReply)
        found.append(reply)
        if not reply.more:
            assert reply.resume == b""
            return found
        assert reply.resume
        if reverse:
            assert end == b"" or reply.resume < end
            end = reply.resume
        else:
            assert reply.resume > begin
            begin = reply.resume


def joined(found: list[ScanReply]) -> Pairs:
    return tuple(pair for page in found for pair in page.pairs)


def test_a_page_ends_by_pairs(store: Store) -> None:
    store.ask(one_phase(1, *(put(b"%d" % number) for number in range(5))))
    assert [len(page.pairs) for page in pages(store, 9000, limit=2)] == [2, 2, 1]
    assert [page.resume for page in pages(store, 9000, limit=2)] == [b"2", b"4", b""]
    assert [page.resume for page in pages(store, 9000, limit=2, reverse=True)] == [b"2\0", b"0\0", b""]
    assert [len(page.pairs) for page in pages(store, 9000, limit=5)] == [5]


def test_a_page_ends_by_bytes(store: Store) -> None:
    store.ask(one_phase(1, *(put(b"%d" % number, b"x" * 9) for number in range(5))))
    assert [len(page.pairs) for page in pages(store, 9000, bytes_max=20)] == [2, 2, 1]
    assert [len(page.pairs) for page in pages(store, 9000, bytes_max=21, reverse=True)] == [3, 2]
    assert [len(page.pairs) for page in pages(store, 9000, bytes_max=1)] == [1, 1, 1, 1, 1]


def test_a_page_ends_by_records_visited_even_if_empty(store: Store) -> None:
    """Dead keys end a page: the next one goes on behind them."""
    keys = [b"%02d" % number for number in range(20)]
    store.ask(one_phase(1, *(put(key) for key in keys)))
    store.ask(one_phase(2, *(delete(key) for key in keys[:-1])))
    for reverse in (False, True):
        found = pages(store, 9000, visited_max=6, reverse=reverse)
        assert joined(found) == ((b"19", b"v"),)
        assert any(page.more and not page.pairs for page in found)
        assert 4 <= len(found) <= 10


@pytest.mark.parametrize("reverse", [False, True])
def test_locks_that_do_not_block_are_visited_too(store: Store, reverse: bool) -> None:
    """Keys that are only locked end pages as dead versions do, before, between and behind the values."""
    store.committed(b"m", b"1", 1, 2)
    store.ask(prewrite(3, *(lock(b"%c%d" % (letter, number)) for letter in b"amz" for number in range(9))))
    found = pages(store, 100, visited_max=4, reverse=reverse)
    assert joined(found) == ((b"m", b"1"),)
    assert len(found) >= 7


@pytest.mark.parametrize("reverse", [False, True])
def test_a_key_with_many_versions_is_one_key(store: Store, reverse: bool) -> None:
    """199 versions of b cost a page no more than a few records, whether the read is above, between or below them."""
    store.ask(one_phase(1, put(b"a"), put(b"c")))
    for start in range(1, 200):
        store.ask(one_phase(start * 10, put(b"b", b"%d" % start)))
    for at, value in ((9000, b"199"), (1005, b"100"), (5, None)):
        expected: list[tuple[bytes, bytes | None]] = [(b"a", b"v"), (b"b", value), (b"c", b"v")]
        (page,) = pages(store, at, visited_max=16, reverse=reverse)
        assert list(page.pairs) == sorted((pair for pair in expected if pair[1] is not None), reverse=reverse)


@pytest.mark.parametrize("versions", [1, 7, 8, 9, 10, 30])
@pytest.mark.parametrize("reverse", [False, True])
def test_jumps_over_versions_lose_no_neighbour(store: Store, versions: int, reverse: bool) -> None:
    """Above, at and below the number of versions that are stepped over one by one."""
    for number in range(versions):
        store.ask(prewrite(10 * number + 1, put(b"k", b"%d" % number), put(b"k\0"), put(b"l"), primary=b"k"))
        store.ask(commit_keys(10 * number + 1, 10 * number + 5, b"k", b"k\0", b"l"))
    for at in range(0, 10 * versions + 10, 5):
        expected: Pairs = ()
        if at >= 5:
            value = b"%d" % min((at - 5) // 10, versions - 1)
            expected = ((b"k", value), (b"k\0", b"v"), (b"l", b"v"))
        if reverse:
            expected = expected[::-1]
        reply = scan(store.engine, b"", b"", ms(at), 9, bytes_max=10**6, visited_max=10**6, reverse=reverse)
        assert reply == ScanReply(expected), at
        inner = scan(store.engine, b"k", b"k\0", ms(at), 9, bytes_max=10**6, visited_max=10**6, reverse=reverse)
        assert inner == ScanReply(tuple(pair for pair in expected if pair[0] == b"k"))


def test_keys_only_fetches_no_values(store: Store) -> None:
    store.committed(b"k", LONG, 1, 2)
    for stored in list(store.engine.tables[ColumnFamily.DEFAULT]):
        store.engine.delete(ColumnFamily.DEFAULT, stored)
    assert store.expect(ScanReply, scan_request(9, keys_only=True)).pairs == ((b"k", None),)
    with pytest.raises(CorruptionError, match="is missing"):
        store.ask(scan_request(9))


def test_limit_zero_and_negative(store: Store) -> None:
    store.ask(prewrite(1, put(b"k")))
    assert store.ask(scan_request(9, limit=0)) == ScanReply(())
    assert isinstance(store.ask(scan_request(9, limit=-1)), InvalidArgument)


def test_the_region_clips_the_range(store: Store) -> None:
    store.ask(one_phase(1, *(put(key) for key in (b"a", b"b", b"c", b"d"))))
    store.ask(prewrite(2, put(b"e")))

    def keys(begin: bytes, end: bytes) -> list[bytes]:
        reply = evaluate_read(store.engine, scan_request(9000, begin, end), region_start=b"b", region_end=b"d")
        assert isinstance(reply, ScanReply)
        return [key for key, _ in reply.pairs]

    assert keys(b"", b"") == [b"b", b"c"]
    assert keys(b"a", b"z") == [b"b", b"c"]
    assert keys(b"c", b"") == [b"c"]
    assert keys(b"", b"c") == [b"b"]
    assert keys(b"e", b"") == []


def test_the_node_bounds_a_page(store: Store) -> None:
    store.ask(one_phase(1, *(put(b"%d" % number, b"x" * 9) for number in range(5))))
    for limits in (Limits(scan_pairs_max=2), Limits(scan_bytes_max=20)):
        reply = evaluate_read(store.engine, scan_request(9000, limit=5), limits=limits)
        assert isinstance(reply, ScanReply)
        assert (len(reply.pairs), reply.more, reply.resume) == (2, True, b"2")


# ---- point reads ----------------------------------------------------------------------------------------------------


def test_latest(store: Store) -> None:
    """The newest committed version. A lock on its own primary is not committed yet; on a secondary it may be."""
    store.committed(b"p", b"1", 1, 2)
    store.committed(b"s", b"1", 1, 2)

    def latest(key: bytes) -> object:
        return store.ask(GetRequest(FIRST_EPOCH, key, LATEST))

    store.ask(prewrite(10, put(b"p", b"2"), put(b"s", b"2"), lock(b"l"), primary=b"p", min_commit=11))
    assert latest(b"p") == GetReply(b"1", ms(2))
    assert isinstance(latest(b"s"), KeyIsLocked)
    assert latest(b"l") == GetReply(None)
    store.ask(commit_keys(10, 20, b"p"))
    assert latest(b"p") == GetReply(b"2", ms(20))
    assert isinstance(latest(b"s"), KeyIsLocked)
    store.ask(commit_keys(10, 20, b"s", b"l"))
    assert latest(b"s") == GetReply(b"2", ms(20))
    store.ask(one_phase(30, delete(b"s")))
    assert latest(b"s") == GetReply(None)
    assert isinstance(store.ask(GetRequest(FIRST_EPOCH, b"p", ms(15))), GetReply)


def test_latest_is_for_one_key(store: Store) -> None:
    assert isinstance(store.ask(BatchGetRequest(FIRST_EPOCH, (b"a", b"b"), LATEST)), InvalidArgument)
    assert store.ask(BatchGetRequest(FIRST_EPOCH, (b"a",), LATEST)) == BatchGetReply((None,))
    assert isinstance(store.ask(ScanRequest(FIRST_EPOCH, b"", b"", 1, LATEST)), InvalidArgument)


def test_batch_get(store: Store) -> None:
    store.ask(one_phase(1, put(b"a", b"1"), put(b"b", b"2")))
    store.ask(prewrite(20, put(b"c"), put(b"d"), primary=b"c"))

    def ask(at: int, *keys: bytes) -> Answer:
        return store.ask(BatchGetRequest(FIRST_EPOCH, keys, ms(at)))

    assert ask(19, b"b", b"x", b"a", b"b") == BatchGetReply((b"2", None, b"1", b"2"))
    assert ask(19) == BatchGetReply(())
    refused = ask(9000, b"a", b"d", b"c")
    assert isinstance(refused, KeyIsLocked)
    assert refused.key == b"d"


def test_batch_get_is_bounded_in_bytes(store: Store) -> None:
    store.ask(one_phase(1, put(b"a", b"x" * 60), put(b"b", b"x" * 40)))
    limits = Limits(value_bytes_max=300, batch_get_bytes_max=300)
    request = BatchGetRequest(FIRST_EPOCH, (b"a", b"b") * 3, ms(9000))
    assert isinstance(evaluate_read(store.engine, request, limits=limits), BatchGetReply)
    request = BatchGetRequest(FIRST_EPOCH, (b"a", b"b") * 3 + (b"b",), ms(9000))
    assert evaluate_read(store.engine, request, limits=limits) == LimitExceeded("batch_get_bytes_max", 300, 340)


@pytest.mark.parametrize("mutation", [put(b"k"), delete(b"k"), lock(b"k")])
@pytest.mark.parametrize("min_commit", [0, 11, 30])
def test_what_blocks_a_read(store: Store, mutation: Mutation, min_commit: int) -> None:
    store.committed(b"k", b"old", 1, 2)
    store.ask(prewrite(10, mutation, min_commit=min_commit))
    for at in (9, 10, 11, 29, 30, 31):
        blocked = mutation.op.name != "LOCK" and at >= 10 and at >= min_commit
        assert isinstance(store.ask(get(b"k", at)), KeyIsLocked) == blocked
        for reverse in (False, True):
            assert isinstance(store.ask(scan_request(at, reverse=reverse)), KeyIsLocked) == blocked


def test_reads_below_the_safe_point_are_refused(store: Store) -> None:
    store.committed(b"k", b"v", 1, 2)
    for request in (get(b"k", 9), scan_request(9), BatchGetRequest(FIRST_EPOCH, (b"k",), ms(9))):
        assert evaluate_read(store.engine, request, safe_point=ms(10)) == SnapshotTooOld(ms(9), ms(10))
        assert not isinstance(evaluate_read(store.engine, request, safe_point=ms(9)), SnapshotTooOld)


def test_reads_at_zero_see_nothing(store: Store) -> None:
    store.committed(b"k", b"v", 1, 2)
    store.ask(prewrite(3, put(b"l")))
    assert store.ask(GetRequest(FIRST_EPOCH, b"k", Ts(0))) == GetReply(None)
    assert store.ask(scan_request(0)) == ScanReply(())


# ---- against a sorted list ------------------------------------------------------------------------------------------

keys = st.binary(min_size=1, max_size=3)
bounds = st.one_of(st.just(b""), st.binary(max_size=4))


@given(
    st.lists(st.tuples(keys, st.sampled_from("pdlrr"), st.integers(0, 60)), max_size=60),
    bounds,
    bounds,
    st.integers(0, 90),
    st.booleans(),
    st.sampled_from([1, 2, 5, 1000]),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1, 4, 1000]),
)
def test_pages_together_are_the_range(
    history: list[tuple[bytes, str, int]],
    begin: bytes,
    end: bytes,
    at: int,
    reverse: bool,
    limit: int,
    bytes_max: int,
    visited_max: int,
) -> None:
    store = Store()
    values: dict[bytes, list[tuple[int, bytes | None]]] = {}
    for clock, (key, kind, _) in enumerate(history, 1):
        if kind == "r":
            store.ask(rollback(clock, key))
            continue
        mutation = {"p": put(key, b"%d" % clock), "d": delete(key), "l": lock(key)}[kind]
        store.ask(prewrite(clock, mutation))
        store.ask(commit_keys(clock, clock + 1, key))
        if kind != "l":
            values.setdefault(key, []).append((clock + 1, b"%d" % clock if kind == "p" else None))
    visible = {key: [value for when, value in old if when <= at][-1:] for key, old in values.items()}
    expected = [
        (key, value[0])
        for key, value in sorted(visible.items(), reverse=reverse)
        if value and value[0] is not None and begin <= key and (not end or key < end)
    ]
    found: list[tuple[bytes, bytes | None]] = []
    for _ in range(2000):
        reply = scan(
            store.engine, begin, end, ms(at), limit, bytes_max=bytes_max, visited_max=visited_max, reverse=reverse
        )
        assert isinstance(reply, ScanReply)
        found.extend(reply.pairs)
        if not reply.more:
            break
        if reverse:
            end = reply.resume
        else:
            begin = reply.resume
    assert found == expected
