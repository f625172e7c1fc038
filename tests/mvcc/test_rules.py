"""One test, or one table, for each acceptance row about transactions: N7 to N14, S35 to S41, M25 to M35, M54."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.mvcc.records import Kind, TraceTag
from nokv.proto import errors
from nokv.proto.errors import (
    AlreadyCommitted,
    AlreadyExists,
    CommitTsTooLow,
    InvalidArgument,
    KeyIsLocked,
    LockNotFound,
    RolledBack,
    TxnNotFound,
    WriteConflict,
)
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    BatchRollbackReply,
    CheckTxnStatusReply,
    CommitReply,
    GetReply,
    Mutation,
    PrewriteReply,
    PrewriteRequest,
    ResolveLockReply,
    ScanReply,
    TxnAction,
)
from tests.mvcc.ask import (
    LONG,
    Store,
    absent,
    check,
    commit_keys,
    delete,
    get,
    heartbeat,
    insert,
    lock,
    ms,
    one_phase,
    prewrite,
    put,
    resolve,
    rollback,
    scan,
)

LOCKED_BY_10 = KeyIsLocked(b"k", b"p", ms(10), 3000, Kind.PUT, ms(11), 1)


@pytest.fixture
def store() -> Store:
    return Store()


# ---- N7, N8, N9: errors, mutations, layout --------------------------------------------------------------------------


def test_n7_errors_carry_what_a_client_needs(store: Store) -> None:
    store.ask(prewrite(10, put(b"k"), primary=b"p", min_commit=11))
    assert store.ask(get(b"k", 20)) == LOCKED_BY_10
    assert store.ask(prewrite(20, put(b"k"))) == PrewriteReply((LOCKED_BY_10,))
    store.ask(commit_keys(10, 30, b"k"))
    conflict = WriteConflict(b"k", b"q", ms(20), ms(10), ms(30))
    assert store.ask(prewrite(20, put(b"k"), primary=b"q")) == PrewriteReply((conflict,))
    assert store.ask(prewrite(40, insert(b"k"))) == PrewriteReply((AlreadyExists(b"k"),))


@pytest.mark.parametrize("detail", [LOCKED_BY_10, WriteConflict(b"k", b"", ms(1), ms(2), ms(3)), AlreadyExists(b"k")])
def test_n7_errors_travel(detail: errors.ErrorDetail) -> None:
    assert errors.decode_error(errors.encode_error(detail)) == detail


@pytest.mark.parametrize(
    ("mutation", "kind", "value"),
    [
        (put(b"k", b"1"), Kind.PUT, b"1"),
        (insert(b"k", b"1"), Kind.PUT, b"1"),
        (Mutation(delete(b"k").op, b"k", b"ignored"), Kind.DELETE, None),
        (Mutation(lock(b"k").op, b"k", b"ignored"), Kind.LOCK, None),
    ],
)
def test_n8_n10_what_each_mutation_leaves(store: Store, mutation: Mutation, kind: Kind, value: bytes | None) -> None:
    store.expect(PrewriteReply, prewrite(10, mutation, ttl=77, min_commit=12))
    pending = store.history(b"k").lock
    assert pending is not None
    assert (pending.kind, pending.value, pending.ttl_ms, pending.min_commit_ts) == (kind, value, 77, ms(12))
    store.expect(CommitReply, commit_keys(10, 20, b"k"))
    ((at, record),) = store.history(b"k").commits
    assert (at, record.kind, record.value, record.start_ts) == (ms(20), kind, value, ms(10))
    assert store.history(b"k").lock is None
    assert store.history(b"k").traces == ()


def test_n9_long_values_lie_beside_their_records(store: Store) -> None:
    store.ask(prewrite(10, put(b"k", LONG)))
    before = store.history(b"k")
    assert before.lock is not None
    assert before.lock.value is None
    assert [(at, trace.tag, trace.value) for at, trace in before.traces] == [(ms(10), TraceTag.VALUE, LONG)]
    store.ask(commit_keys(10, 20, b"k"))
    assert store.history(b"k").traces == before.traces
    assert store.history(b"k").commits[0][1].value is None
    assert store.ask(get(b"k", 20)) == GetReply(LONG, ms(20))


@pytest.mark.parametrize(("size", "inline"), [(0, True), (255, True), (256, False)])
def test_n9_where_short_ends(store: Store, size: int, inline: bool) -> None:
    store.ask(prewrite(10, put(b"two", b"x" * size)))
    store.ask(commit_keys(10, 20, b"two"))
    store.ask(one_phase(10, put(b"one", b"x" * size)))
    for key in (b"one", b"two"):
        ((_, record),) = store.history(key).commits
        assert (record.value is not None) == inline
        assert bool(store.history(key).traces) != inline
        assert store.value(key, 20) == b"x" * size


# ---- N10, S37: prewrite ---------------------------------------------------------------------------------------------


def test_n10_empty_key(store: Store) -> None:
    assert store.ask(prewrite(10, put(b"a"), put(b""))) == InvalidArgument("mutations[1].key", "empty")
    assert store.dump() == []


@pytest.mark.parametrize("mutation", [put(b"k"), delete(b"k"), lock(b"k"), insert(b"k"), absent(b"k")])
@pytest.mark.parametrize("foreign", [put(b"k"), delete(b"k"), lock(b"k")])
@pytest.mark.parametrize("start", [9, 11])
def test_n10_foreign_lock(store: Store, mutation: Mutation, foreign: Mutation, start: int) -> None:
    store.ask(prewrite(10, foreign))
    before = store.dump()
    reply = store.expect(PrewriteReply, prewrite(start, mutation, put(b"other")))
    assert [type(error) for error in reply.errors] == [KeyIsLocked]
    assert store.dump() == before


@pytest.mark.parametrize("mutation", [put(b"k"), delete(b"k"), lock(b"k"), insert(b"k"), absent(b"k")])
@pytest.mark.parametrize("newer", [put(b"k"), delete(b"k"), lock(b"k")])
def test_n10_newer_commit(store: Store, mutation: Mutation, newer: Mutation) -> None:
    store.ask(prewrite(10, newer))
    store.ask(commit_keys(10, 20, b"k"))
    before = store.dump()
    reply = store.expect(PrewriteReply, prewrite(19, mutation, put(b"other")))
    assert reply.errors == (WriteConflict(b"k", b"k", ms(19), ms(10), ms(20)),)
    assert store.dump() == before
    later = store.expect(PrewriteReply, prewrite(21, put(b"k")))
    assert later.errors == ()


def test_n10_a_commit_exactly_at_start_ts_is_no_conflict(store: Store) -> None:
    """TiKV's choice where the rule leaves it open."""
    store.committed(b"k", b"v", 10, 20)
    assert store.ask(prewrite(20, put(b"k"))) == PrewriteReply()


@pytest.mark.parametrize(
    ("mutation", "refused"),
    [(put(b"k"), False), (delete(b"k"), False), (lock(b"k"), False), (insert(b"k"), True), (absent(b"k"), True)],
)
def test_n8_existence(store: Store, mutation: Mutation, refused: bool) -> None:
    store.committed(b"k", b"v", 10, 20)
    reply = store.expect(PrewriteReply, prewrite(30, mutation))
    assert reply.errors == ((AlreadyExists(b"k"),) if refused else ())


@pytest.mark.parametrize("mutation", [put(b"k", b"x"), delete(b"k"), lock(b"k"), insert(b"k"), absent(b"k")])
def test_n10_own_lock_is_left_as_it_is(store: Store, mutation: Mutation) -> None:
    store.committed(b"k", b"v", 1, 2)
    store.ask(prewrite(10, put(b"k", b"mine"), ttl=100, min_commit=11))
    before = store.dump()
    assert store.ask(prewrite(10, mutation, ttl=1, min_commit=0)) == PrewriteReply()
    assert store.dump() == before


def test_n10_all_refusals_are_reported_each_for_its_key(store: Store) -> None:
    store.committed(b"exists", b"v", 1, 2)
    store.committed(b"newer", b"v", 3, 30)
    store.ask(prewrite(5, put(b"locked")))
    store.ask(rollback(20, b"mine"))
    request = prewrite(20, put(b"fine"), insert(b"exists"), put(b"newer"), put(b"locked"), put(b"mine"))
    reply = store.expect(PrewriteReply, request)
    assert [(type(error).__name__, getattr(error, "key", b"")) for error in reply.errors] == [
        ("AlreadyExists", b"exists"),
        ("WriteConflict", b"newer"),
        ("KeyIsLocked", b"locked"),
        ("WriteConflict", b"mine"),
    ]
    assert store.history(b"fine").lock is None


# ---- N11, S38, M26, M27: commit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", [put(b"k", b"w"), put(b"k", LONG), delete(b"k"), lock(b"k")])
def test_n11_commit_is_repeatable(store: Store, mutation: Mutation) -> None:
    store.committed(b"k", b"v", 1, 2)
    store.ask(prewrite(10, mutation))
    assert store.ask(commit_keys(10, 20, b"k")) == CommitReply(ms(20))
    before = store.dump()
    assert store.ask(commit_keys(10, 20, b"k")) == CommitReply(ms(20))
    assert store.ask(commit_keys(10, 99, b"k")) == CommitReply(ms(20))
    assert store.dump() == before


def test_n11_without_a_lock(store: Store) -> None:
    assert store.ask(commit_keys(10, 20, b"k")) == LockNotFound(b"k", ms(10))
    store.ask(prewrite(11, put(b"k")))
    locked = store.expect(KeyIsLocked, commit_keys(10, 20, b"k"))
    assert (locked.key, locked.start_ts) == (b"k", ms(11))
    store.ask(rollback(10, b"k"))
    assert store.ask(commit_keys(10, 20, b"k")) == RolledBack(b"k", ms(10))


def test_n11_the_first_bad_key_refuses_all(store: Store) -> None:
    store.ask(prewrite(10, put(b"a"), put(b"b"), primary=b"a"))
    store.ask(rollback(10, b"c"))
    before = store.dump()
    assert store.ask(commit_keys(10, 20, b"a", b"c", b"d", b"b")) == RolledBack(b"c", ms(10))
    assert store.ask(commit_keys(10, 20, b"a", b"d", b"c", b"b")) == LockNotFound(b"d", ms(10))
    assert store.dump() == before


@pytest.mark.parametrize(
    ("min_commit", "commit", "floor"), [(0, 9, 11), (0, 10, 11), (30, 29, 30), (30, 11, 30), (5, 10, 11)]
)
def test_m26_commit_ts_too_low(store: Store, min_commit: int, commit: int, floor: int) -> None:
    store.ask(prewrite(10, put(b"k"), min_commit=min_commit))
    before = store.dump()
    refused = store.expect(CommitTsTooLow, commit_keys(10, commit, b"k"))
    assert (refused.key, refused.start_ts, refused.commit_ts) == (b"k", ms(10), ms(commit))
    assert refused.min_commit_ts == (ms(30) if floor == 30 else ms(10) + 1)
    assert store.dump() == before


def test_m26_commit_ts_at_the_floor(store: Store) -> None:
    store.ask(prewrite(10, put(b"k"), min_commit=30))
    assert store.ask(commit_keys(10, 30, b"k")) == CommitReply(ms(30))


def test_m27_a_repeated_commit_leaves_no_lock_and_not_another_ones(store: Store) -> None:
    store.ask(prewrite(10, put(b"a"), put(b"b"), primary=b"a"))
    store.ask(commit_keys(10, 20, b"a"))
    assert store.ask(commit_keys(10, 20, b"a", b"b")) == CommitReply(ms(20))
    assert store.history(b"b").lock is None
    store.ask(prewrite(30, put(b"a")))
    assert store.ask(commit_keys(10, 20, b"a")) == CommitReply(ms(20))
    assert store.history(b"a").lock is not None


def test_commit_records_only_grow_upwards(store: Store) -> None:
    """What lookup.py relies on: after any commit, it is the newest."""
    for start, mutation in ((10, put(b"k")), (30, lock(b"k")), (50, delete(b"k")), (70, lock(b"k"))):
        store.ask(prewrite(start, mutation))
        store.ask(commit_keys(start, start + 10, b"k"))
        assert store.history(b"k").commits[0][0] == ms(start + 10)
    assert [record.last_change for _, record in store.history(b"k").commits] == [ms(60), 0, ms(20), 0]


# ---- N12, S39, M25, M32: rollback -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", [put(b"k", b"w"), put(b"k", LONG), delete(b"k"), lock(b"k")])
def test_n12_removes_lock_and_value_and_leaves_the_mark(store: Store, mutation: Mutation) -> None:
    store.committed(b"k", b"old", 1, 2)
    store.ask(prewrite(10, mutation))
    assert store.ask(rollback(10, b"k")) == BatchRollbackReply()
    kept = store.history(b"k")
    assert kept.lock is None
    assert [(at, trace.tag) for at, trace in kept.traces] == [(ms(10), TraceTag.ROLLED_BACK)]
    assert store.value(b"k", 50) == b"old"
    before = store.dump()
    assert store.ask(rollback(10, b"k")) == BatchRollbackReply()
    assert store.dump() == before


def test_n12_committed_is_refused(store: Store) -> None:
    store.committed(b"k", b"v", 10, 20)
    store.ask(prewrite(10, put(b"l")))
    before = store.dump()
    assert store.ask(rollback(10, b"l", b"free", b"k")) == AlreadyCommitted(b"k", ms(10), ms(20))
    assert store.dump() == before


def test_m25_never_another_transactions_lock(store: Store) -> None:
    store.ask(prewrite(10, put(b"k", LONG)))
    before = store.history(b"k").lock
    assert store.ask(rollback(11, b"k")) == BatchRollbackReply()
    assert store.ask(rollback(9, b"k")) == BatchRollbackReply()
    assert store.history(b"k").lock == before
    store.ask(commit_keys(10, 20, b"k"))
    assert store.value(b"k", 20) == LONG


@pytest.mark.parametrize("mark_first", [True, False])
@pytest.mark.parametrize("value", [b"v", LONG])
def test_m32_mark_and_commit_at_one_timestamp(store: Store, mark_first: bool, value: bytes) -> None:
    store.ask(prewrite(10, put(b"k", value)))
    if mark_first:
        store.ask(rollback(20, b"k"))
        store.ask(commit_keys(10, 20, b"k"))
    else:
        store.ask(commit_keys(10, 20, b"k"))
        store.ask(rollback(20, b"k"))
    assert store.value(b"k", 20) == value
    assert store.ask(commit_keys(10, 20, b"k")) == CommitReply(ms(20))
    assert store.ask(commit_keys(20, 30, b"k")) == RolledBack(b"k", ms(20))
    reply = store.expect(PrewriteReply, prewrite(20, put(b"k")))
    assert reply.errors == (WriteConflict(b"k", b"k", ms(20), ms(20), Ts(0)),)


# ---- N13, S40, M28: resolve -----------------------------------------------------------------------------------------


def test_n13_counts_only_what_it_finished(store: Store) -> None:
    store.ask(prewrite(10, put(b"a"), put(b"b"), primary=b"a"))
    store.ask(prewrite(11, put(b"c")))
    store.ask(commit_keys(10, 20, b"a"))
    assert store.ask(resolve(10, 20, b"a", b"b", b"b", b"c", b"none")) == ResolveLockReply(1)
    assert store.ask(resolve(10, 20)) == ResolveLockReply(0)
    assert store.value(b"b", 20) == b"v"
    assert store.history(b"none").traces == ()
    assert store.ask(resolve(11, 0)) == ResolveLockReply(1)
    assert store.ask(commit_keys(11, 30, b"c")) == RolledBack(b"c", ms(11))


def test_m28_a_secondary_follows_its_primary_at_once(store: Store) -> None:
    """The steps of a reader that meets the secondary of a committed transaction whose owner has died."""
    store.ask(prewrite(10, put(b"p"), put(b"s"), primary=b"p", ttl=60_000))
    store.ask(commit_keys(10, 20, b"p"))
    met = store.expect(KeyIsLocked, get(b"s", 30))
    status = store.expect(CheckTxnStatusReply, check(met.primary, 10, caller=30, current=30))
    assert status == CheckTxnStatusReply(TxnAction.NONE, ms(20), 0)
    assert store.ask(resolve(10, 20, b"s")) == ResolveLockReply(1)
    assert store.value(b"s", 30) == b"v"


# ---- N14, S41, M33, M34, M54: status and heartbeat ------------------------------------------------------------------


@pytest.mark.parametrize(("current", "alive"), [(0, True), (100, True), (150, True), (151, False), (10_000, False)])
def test_n14_m33_expiry_counts_physical_milliseconds(store: Store, current: int, alive: bool) -> None:
    store.ask(prewrite(100, put(b"k"), ttl=50))
    status = store.expect(CheckTxnStatusReply, check(b"k", 100, current=current))
    if alive:
        assert status == CheckTxnStatusReply(TxnAction.NONE, Ts(0), 50)
    else:
        assert status == CheckTxnStatusReply(TxnAction.TTL_EXPIRE_ROLLBACK, Ts(0), 0)
    assert (store.history(b"k").lock is not None) == alive


def test_n14_m33_logical_parts_do_not_count(store: Store) -> None:
    logical = (1 << 18) - 1
    request = prewrite(100, put(b"k"), ttl=50)
    late = PrewriteRequest(request.epoch, request.mutations, b"k", Ts(ms(100) + logical), 50)
    store.ask(late)
    asked = check(b"k", 100, current=150)
    alive = store.expect(
        CheckTxnStatusReply,
        type(asked)(asked.epoch, b"k", late.start_ts, Ts(0), Ts(ms(150) + logical), False),
    )
    assert alive.lock_ttl_ms == 50
    expired = type(asked)(asked.epoch, b"k", late.start_ts, Ts(0), ms(151), False)
    assert store.expect(CheckTxnStatusReply, expired).action is TxnAction.TTL_EXPIRE_ROLLBACK


@pytest.mark.parametrize(
    ("min_commit", "caller", "current", "expected", "pushed"),
    [
        (11, 50, 50, ms(50) + 1, True),
        (11, 50, 60, ms(60), True),
        (11, 50, 0, ms(50) + 1, True),
        (50, 50, 50, ms(50) + 1, True),
        (51, 50, 90, ms(51), True),
        (11, 0, 90, ms(11), False),
        (0, 50, 90, Ts(0), False),
        (0, 0, 90, Ts(0), False),
    ],
)
def test_n14_push(store: Store, min_commit: int, caller: int, current: int, expected: Ts, pushed: bool) -> None:
    store.ask(prewrite(10, put(b"k", LONG), ttl=5000, min_commit=min_commit))
    action = TxnAction.MIN_COMMIT_TS_PUSHED if pushed else TxnAction.NONE
    answer = CheckTxnStatusReply(action, Ts(0), 5000, expected)
    assert store.ask(check(b"k", 10, caller=caller, current=current)) == answer
    before = store.dump()
    assert store.ask(check(b"k", 10, caller=caller, current=current)) == answer
    assert store.dump() == before
    pending = store.history(b"k").lock
    assert pending is not None
    assert (pending.min_commit_ts, pending.primary, pending.ttl_ms) == (expected, b"k", 5000)


def test_n14_a_caller_at_latest_pushes_nothing(store: Store) -> None:
    store.ask(prewrite(10, put(b"k"), min_commit=11))
    asked = check(b"k", 10, current=20)
    latest = type(asked)(asked.epoch, b"k", ms(10), Ts((1 << 64) - 1), ms(20), False)
    assert store.expect(CheckTxnStatusReply, latest) == CheckTxnStatusReply(TxnAction.NONE, Ts(0), 3000, ms(11))


@pytest.mark.parametrize("foreign_lock", [False, True])
@pytest.mark.parametrize("roll_back", [False, True])
def test_n14_finished_transactions(store: Store, foreign_lock: bool, roll_back: bool) -> None:
    store.committed(b"k", b"v", 10, 20)
    store.ask(rollback(15, b"k"))
    if foreign_lock:
        store.ask(prewrite(30, put(b"k")))
    before = store.dump()
    committed = store.ask(check(b"k", 10, current=9000, roll_back=roll_back))
    assert committed == CheckTxnStatusReply(TxnAction.NONE, ms(20), 0)
    rolled_back = store.ask(check(b"k", 15, current=9000, roll_back=roll_back))
    assert rolled_back == CheckTxnStatusReply(TxnAction.LOCK_NOT_EXIST_ROLLBACK, Ts(0), 0)
    assert store.dump() == before


@pytest.mark.parametrize("foreign_lock", [False, True])
def test_n14_unknown_transactions(store: Store, foreign_lock: bool) -> None:
    if foreign_lock:
        store.ask(prewrite(30, put(b"k")))
    unknown = store.ask(check(b"k", 10, current=20))
    if foreign_lock:
        assert isinstance(unknown, KeyIsLocked)
        assert unknown.start_ts == ms(30)
    else:
        assert unknown == TxnNotFound(b"k", ms(10))
    assert store.history(b"k").traces == ()
    gone = CheckTxnStatusReply(TxnAction.LOCK_NOT_EXIST_ROLLBACK, Ts(0), 0)
    assert store.ask(check(b"k", 10, current=20, roll_back=True)) == gone
    assert (store.history(b"k").lock is not None) == foreign_lock
    store.ask(resolve(30, 0))
    assert store.expect(PrewriteReply, prewrite(10, put(b"k"))).errors != ()


def test_n14_a_secondary_cannot_decide(store: Store) -> None:
    """Expired or not, a lock whose primary is elsewhere says whom to ask."""
    store.ask(prewrite(10, put(b"p"), put(b"s"), primary=b"p", ttl=5))
    before = store.dump()
    met = store.expect(KeyIsLocked, check(b"s", 10, current=9000, roll_back=True))
    assert (met.key, met.primary, met.start_ts) == (b"s", b"p", ms(10))
    assert store.dump() == before


def test_m34_a_heartbeat_keeps_a_long_transaction_alive(store: Store) -> None:
    store.ask(prewrite(100, put(b"k", LONG), ttl=50, min_commit=101))
    assert store.ask(heartbeat(b"k", 100, 500)) == store.ask(heartbeat(b"k", 100, 20))
    pending = store.history(b"k").lock
    assert pending is not None
    assert (pending.ttl_ms, pending.min_commit_ts, pending.kind) == (500, ms(101), Kind.PUT)
    assert store.expect(CheckTxnStatusReply, check(b"k", 100, current=600)).lock_ttl_ms == 500
    assert store.ask(heartbeat(b"k", 99, 900)) == TxnNotFound(b"k", ms(99))
    store.ask(commit_keys(100, 700, b"k"))
    assert store.ask(heartbeat(b"k", 100, 900)) == TxnNotFound(b"k", ms(100))
    assert store.value(b"k", 700) == LONG


# ---- S35, S36, M29, M31, M35: reads ---------------------------------------------------------------------------------


def test_s35_get(store: Store) -> None:
    store.committed(b"k", b"v", 10, 20)
    assert store.ask(get(b"k", 19)) == GetReply(None)
    assert store.ask(get(b"k", 20)) == GetReply(b"v", ms(20))
    store.ask(prewrite(100, put(b"k", b"w"), min_commit=0))
    assert store.value(b"k", 99) == b"v"
    assert store.expect(KeyIsLocked, get(b"k", 100)).start_ts == ms(100)


def test_s36_a_lock_inside_the_range_is_named(store: Store) -> None:
    store.committed(b"a", b"1", 10, 20)
    store.ask(prewrite(30, put(b"b")))
    store.committed(b"c", b"3", 31, 40)
    assert store.expect(KeyIsLocked, scan(50)).key == b"b"
    assert store.expect(ScanReply, scan(29)).pairs == ((b"a", b"1"),)


def test_m29_whoever_reads_first_is_below_the_commit(store: Store) -> None:
    """A reader at 15 is answered before the prewrite, so the commit timestamp must come after it: 20, not 11."""
    assert store.value(b"k", 15) is None
    store.ask(prewrite(10, put(b"k"), min_commit=11))
    assert isinstance(store.ask(get(b"k", 15)), KeyIsLocked)
    store.ask(check(b"k", 10, caller=15, current=15))
    assert isinstance(store.ask(commit_keys(10, 11, b"k")), CommitTsTooLow)
    assert store.ask(commit_keys(10, 20, b"k")) == CommitReply(ms(20))
    assert store.value(b"k", 15) is None


def test_m31_put_rollback_get(store: Store) -> None:
    store.committed(b"k", b"v", 10, 20)
    for start in (30, 40, 50):
        store.ask(prewrite(start, put(b"k", b"x")))
        store.ask(rollback(start, b"k"))
    store.ask(prewrite(60, lock(b"k")))
    store.ask(commit_keys(60, 70, b"k"))
    assert store.value(b"k", 100) == b"v"
    assert store.expect(ScanReply, scan(100)).pairs == ((b"k", b"v"),)


@given(
    st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=30, unique=True), st.integers(1, 4), st.booleans()
)
def test_m35_paging_misses_and_repeats_nothing(keys: list[bytes], limit: int, reverse: bool) -> None:
    """The next page begins at the successor of the last key, which is key + 0x00, not key + 1."""
    store = Store()
    store.ask(one_phase(10, *(put(key, key) for key in keys)))
    found: list[bytes] = []
    begin = end = b""
    while True:
        page = store.expect(ScanReply, scan(100, begin, end, limit, reverse=reverse))
        assert len(page.pairs) <= limit
        assert page.pairs or not page.more
        found.extend(key for key, _ in page.pairs)
        if not page.more:
            break
        if reverse:
            end = page.resume
        else:
            begin = page.resume
    assert found == sorted(keys, reverse=reverse)
