"""Atomic operations (P24): results, refusals, and the same answer to a repeated request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.mvcc.atomic import INTEGER_MAX, INTEGER_MIN, NoSwap, Swap, integer_of, operate
from nokv.mvcc.evaluate import evaluate
from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.records import TraceTag
from nokv.proto.errors import KeyIsLocked, LimitExceeded, SnapshotTooOld, TypeMismatch, WriteConflict
from nokv.proto.ids import Ts
from nokv.proto.kv import AtomicOp, AtomicReply, AtomicRequest, GetReply
from nokv.storage.engine import ColumnFamily
from nokv.storage.keys import versioned_key
from tests.mvcc.ask import LONG, Store, atomic, collect, get, lock, ms, one_phase, prewrite, put, rollback
from tests.mvcc.ask import delete as delete_of
from tests.mvcc.backend import Answer

LIMITS = ApplyLimits(append_bytes_max=1000)
TOP = str(INTEGER_MAX).encode()
BOTTOM = str(INTEGER_MIN).encode()


@pytest.fixture
def store() -> Store:
    return Store(LIMITS)


def apply(store: Store, request: AtomicRequest, *, at: int, limit: int = 0, safe_point: int = 0) -> Answer:
    return evaluate(
        store.engine, request, commit_ts=ms(at), ts_limit=ms(limit), safe_point=ms(safe_point), limits=LIMITS
    )


@pytest.mark.parametrize(
    ("op", "operand", "current", "result"),
    [
        (AtomicOp.ADD, b"5", None, b"5"),
        (AtomicOp.ADD, b"5", b"-7", b"-2"),
        (AtomicOp.ADD, b"-1", b"1", b"0"),
        (AtomicOp.ADD, b"0", TOP, TOP),
        (AtomicOp.ADD, b"-1", TOP, str(INTEGER_MAX - 1).encode()),
        (AtomicOp.ADD, TOP, BOTTOM, b"-1"),
        (AtomicOp.ADD, b"-1", str(INTEGER_MIN + 1).encode(), BOTTOM),
        (AtomicOp.ADD, b"1", str(INTEGER_MAX - 1).encode(), TOP),
        (AtomicOp.MIN, b"5", None, b"5"),
        (AtomicOp.MIN, b"5", b"3", b"3"),
        (AtomicOp.MIN, b"-5", b"3", b"-5"),
        (AtomicOp.MAX, b"5", None, b"5"),
        (AtomicOp.MAX, b"5", b"3", b"5"),
        (AtomicOp.MAX, b"5", b"30", b"30"),
        (AtomicOp.APPEND, b"x", None, b"x"),
        (AtomicOp.APPEND, b"x", b"abc", b"abcx"),
        (AtomicOp.APPEND, b"", b"abc", b"abc"),
        (AtomicOp.APPEND, b"y" * 400, b"x" * 600, b"x" * 600 + b"y" * 400),
    ],
)
def test_results(store: Store, op: AtomicOp, operand: bytes, current: bytes | None, result: bytes) -> None:
    if current is not None:
        store.committed(b"k", current, 1, 2)
    request = atomic(op, b"k", operand, 10)
    assert apply(store, request, at=15) == AtomicReply(True, result, ms(15))
    assert store.ask(get(b"k", 15)) == GetReply(result, ms(15))
    assert store.value(b"k", 14) == current
    store.committed(b"k", b"other", 20, 30)
    before = store.dump()
    assert apply(store, request, at=90) == AtomicReply(True, result, ms(15))
    assert store.dump() == before


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize(
    ("current", "expect", "operand", "swapped"),
    [
        (None, None, b"new", True),
        (None, None, None, True),
        (None, b"", b"new", False),
        (b"", b"", b"new", True),
        (b"", None, b"new", False),
        (b"old", b"old", b"new", True),
        (b"old", b"old", None, True),
        (b"old", b"older", b"new", False),
        (LONG, LONG, b"new", True),
        (LONG, b"short", b"new", False),
        (b"old", b"old", LONG, True),
    ],
)
def test_compare_and_set(
    store: Store, deleted: bool, current: bytes | None, expect: bytes | None, operand: bytes | None, swapped: bool
) -> None:
    if current is not None:
        store.committed(b"k", current, 1, 2)
    elif deleted:
        store.committed(b"k", b"was here", 1, 2)
        store.ask(one_phase(3, delete_of(b"k")))
    request = atomic(AtomicOp.COMPARE_AND_SET, b"k", operand, 10, expect)
    answer = AtomicReply(True, operand, ms(15)) if swapped else AtomicReply(False, current)
    assert apply(store, request, at=15) == answer
    assert store.value(b"k", 20) == (operand if swapped else current)
    # The repetition gets the same answer, even when the comparison would come out otherwise by now.
    store.ask(one_phase(30, put(b"k", expect or b"changed")))
    before = store.dump()
    assert apply(store, request, at=90, limit=99) == answer
    assert store.dump() == before


@pytest.mark.parametrize(
    ("op", "operand", "current", "refusal"),
    [
        (AtomicOp.ADD, b"1", b"abc", TypeMismatch(b"k", "value is not an integer or out of range")),
        (AtomicOp.ADD, b"1", b"", TypeMismatch(b"k", "value is not an integer or out of range")),
        (AtomicOp.MIN, b"1", b" 1", TypeMismatch(b"k", "value is not an integer or out of range")),
        (AtomicOp.MAX, b"1", b"9223372036854775808", TypeMismatch(b"k", "value is not an integer or out of range")),
        (AtomicOp.ADD, b"1", TOP, TypeMismatch(b"k", "increment or decrement would overflow")),
        (AtomicOp.ADD, b"-1", BOTTOM, TypeMismatch(b"k", "increment or decrement would overflow")),
        (AtomicOp.APPEND, b"x", b"y" * 1000, LimitExceeded("append_bytes_max", 1000, 1001)),
    ],
)
def test_refusals_are_final(
    store: Store, op: AtomicOp, operand: bytes, current: bytes, refusal: TypeMismatch | LimitExceeded
) -> None:
    store.committed(b"k", current, 1, 2)
    request = atomic(op, b"k", operand, 10)
    assert apply(store, request, at=15) == refusal
    assert store.value(b"k", 20) == current
    # The key changes so that the operation would succeed; its duplicate still must not.
    store.committed(b"k", b"1", 20, 30)
    assert apply(store, request, at=90, limit=99) == refusal
    assert store.value(b"k", 100) == b"1"
    # When the collector has taken what was looked at, the answer says: no effect, begin anew.
    store.ask(collect(60))
    assert [trace.tag for _, trace in store.history(b"k").traces] == []
    store.ask(one_phase(70, put(b"k", current)))
    late = atomic(op, b"k", operand, 80)
    assert apply(store, late, at=85, limit=99) == refusal
    store.committed(b"k", b"1", 9000, 9010)
    store.engine.delete(ColumnFamily.WRITE, _version_seen(store))
    assert apply(store, late, at=9090) == WriteConflict(b"k", b"", ms(80), ms(80), Ts(0))


def _version_seen(store: Store) -> bytes:
    """The stored key of the version that the one refused operation looked at."""
    ((_, trace),) = [pair for pair in store.history(b"k").traces if pair[1].tag is TraceTag.REFUSED]
    return versioned_key(b"k", trace.ts)


def test_it_sees_through_locks_and_marks(store: Store) -> None:
    store.committed(b"k", b"5", 1, 2)
    store.ask(one_phase(3, lock(b"k")))
    store.ask(rollback(4, b"k"))
    assert apply(store, atomic(AtomicOp.ADD, b"k", b"1", 10), at=15) == AtomicReply(True, b"6", ms(15))


def test_it_goes_above_newer_commits_and_its_duplicate_finds_it(store: Store) -> None:
    store.committed(b"k", b"5", 1, 50)
    request = atomic(AtomicOp.ADD, b"k", b"1", 10)
    raised = AtomicReply(True, b"6", Ts(ms(50) + 1))
    assert apply(store, request, at=15, limit=60) == raised
    apply(store, atomic(AtomicOp.ADD, b"k", b"1", 11), at=15, limit=60)
    assert apply(store, request, at=90, limit=99) == raised
    assert store.value(b"k", 60) == b"7"


def test_above_its_limit_it_is_refused_for_good(store: Store) -> None:
    store.committed(b"k", b"5", 1, 50)
    request = atomic(AtomicOp.ADD, b"k", b"1", 10)
    assert apply(store, request, at=15, limit=50) == WriteConflict(b"k", b"", ms(10), ms(1), ms(50))
    assert apply(store, request, at=90, limit=99) == WriteConflict(b"k", b"", ms(10), ms(10), Ts(0))
    assert store.value(b"k", 100) == b"5"


def test_a_lock_keeps_the_question_open(store: Store) -> None:
    store.ask(prewrite(5, lock(b"k")))
    request = atomic(AtomicOp.ADD, b"k", b"1", 10)
    assert isinstance(apply(store, request, at=15), KeyIsLocked)
    store.ask(rollback(5, b"k"))
    assert apply(store, request, at=15) == AtomicReply(True, b"1", ms(15))
    store.ask(prewrite(20, put(b"k")))
    assert apply(store, request, at=90) == AtomicReply(True, b"1", ms(15))


def test_rolled_back_it_never_happens(store: Store) -> None:
    store.ask(rollback(10, b"k"))
    request = atomic(AtomicOp.ADD, b"k", b"1", 10)
    assert apply(store, request, at=15) == WriteConflict(b"k", b"", ms(10), ms(10), Ts(0))
    assert store.value(b"k", 100) is None


def test_another_request_with_the_same_start_ts_is_no_repetition(store: Store) -> None:
    store.committed(b"k", b"5", 1, 2)
    assert apply(store, atomic(AtomicOp.COMPARE_AND_SET, b"k", b"x", 10, b"6"), at=15) == AtomicReply(False, b"5")
    other = atomic(AtomicOp.COMPARE_AND_SET, b"k", b"x", 10, b"5")
    assert apply(store, other, at=15) == WriteConflict(b"k", b"", ms(10), ms(10), Ts(0))
    assert store.value(b"k", 100) == b"5"


def test_below_the_safe_point_only_known_outcomes(store: Store) -> None:
    request = atomic(AtomicOp.ADD, b"k", b"1", 10)
    apply(store, request, at=15)
    assert apply(store, request, at=90, safe_point=50) == AtomicReply(True, b"1", ms(15))
    late = atomic(AtomicOp.ADD, b"k", b"1", 11)
    assert apply(store, late, at=90, safe_point=50) == SnapshotTooOld(ms(11), ms(50))
    assert apply(store, atomic(AtomicOp.ADD, b"k", b"1", 50), at=90, safe_point=50) == AtomicReply(True, b"2", ms(90))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(-9, 9)), max_size=30))
def test_a_counter_counts_each_increment_once(attempts: list[tuple[int, int]]) -> None:
    """Requests named by their start_ts, repeated at will, in any order: the sum has each of them once."""
    store = Store(LIMITS)
    amounts: dict[int, int] = {}
    for number, amount in attempts:
        amounts.setdefault(number, amount)
        request = atomic(AtomicOp.ADD, b"k", b"%d" % amounts[number], 10 + number)
        store.expect(AtomicReply, request)
    assert int(store.value(b"k", 10_000) or b"0") == sum(amounts.values())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"-1", -1),
        (b"10", 10),
        (TOP, INTEGER_MAX),
        (BOTTOM, INTEGER_MIN),
        (b"", None),
        (b"-", None),
        (b"+1", None),
        (b"01", None),
        (b"-0", None),
        (b"1 ", None),
        (b"1\n", None),
        (b"1_000", None),
        (b"0x1", None),
        (b"1.0", None),
        ("١".encode(), None),
        (b"9223372036854775808", None),
        (b"-9223372036854775809", None),
        (b"99999999999999999999", None),
    ],
)
def test_integers_are_canonical(text: bytes, number: int | None) -> None:
    assert integer_of(text) == number


def test_operate_is_pure() -> None:
    request = atomic(AtomicOp.COMPARE_AND_SET, b"k", b"x", 10, b"5")
    assert operate(request, b"5", value_bytes_max=1) == Swap(b"x")
    assert operate(request, b"6", value_bytes_max=1) == NoSwap()
