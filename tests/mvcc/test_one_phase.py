"""One-phase commit: timestamps, duplicates and what a blind write may do (README rule 9)."""

import pytest

from nokv.mvcc.evaluate import evaluate
from nokv.mvcc.records import Kind, TraceTag
from nokv.proto.errors import (
    AlreadyCommitted,
    AlreadyExists,
    InvalidArgument,
    KeyIsLocked,
    SnapshotTooOld,
    WriteConflict,
)
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    CheckTxnStatusReply,
    CommitReply,
    Mutation,
    OnePhaseReply,
    OnePhaseRequest,
    PrewriteReply,
    TxnAction,
)
from tests.mvcc.ask import (
    LONG,
    Store,
    absent,
    check,
    commit_keys,
    delete,
    insert,
    lock,
    ms,
    one_phase,
    prewrite,
    put,
    rollback,
)
from tests.mvcc.backend import Answer


@pytest.fixture
def store() -> Store:
    return Store()


def apply(store: Store, request: OnePhaseRequest, *, at: Ts, limit: Ts | None = None, safe_point: int = 0) -> Answer:
    """Evaluate with a commit timestamp of the test's choice."""
    return evaluate(
        store.engine, request, commit_ts=at, ts_limit=at if limit is None else limit, safe_point=ms(safe_point)
    )


def test_commits_everything_at_the_assigned_timestamp(store: Store) -> None:
    store.committed(b"d", b"old", 1, 2)
    request = one_phase(10, put(b"p", b"1"), delete(b"d"), lock(b"l"), insert(b"i", LONG), absent(b"n"))
    assert apply(store, request, at=ms(15)) == OnePhaseReply(ms(15))
    assert {key: store.value(key, 15) for key in (b"p", b"d", b"l", b"i", b"n")} == {
        b"p": b"1",
        b"d": None,
        b"l": None,
        b"i": LONG,
        b"n": None,
    }
    assert store.value(b"d", 14) == b"old"
    kinds = {key: [record.kind for _, record in store.history(key).commits] for key in (b"p", b"d", b"l", b"i", b"n")}
    assert kinds == {b"p": [Kind.PUT], b"d": [Kind.DELETE, Kind.PUT], b"l": [Kind.LOCK], b"i": [Kind.PUT], b"n": []}
    assert not any(record.raised for _, record in store.history(b"p").commits)


def test_a_committed_lock_names_the_version_beneath(store: Store) -> None:
    store.committed(b"k", b"v", 1, 2)
    apply(store, one_phase(10, lock(b"k")), at=ms(15))
    apply(store, one_phase(20, lock(b"k")), at=ms(25))
    assert [record.last_change for _, record in store.history(b"k").commits] == [ms(2), ms(2), 0]


@pytest.mark.parametrize("blind", [False, True])
def test_a_duplicate_finds_the_first_outcome(store: Store, blind: bool) -> None:
    request = one_phase(10, put(b"a", b"1"), put(b"b", b"1"), blind=blind)
    assert apply(store, request, at=ms(15)) == OnePhaseReply(ms(15))
    for start in (20, 40):
        store.committed(b"a", b"later", start, start + 10)
    store.ask(prewrite(60, put(b"b")))
    before = store.dump()
    assert apply(store, request, at=ms(90)) == OnePhaseReply(ms(15))
    assert store.dump() == before


def test_one_committed_key_is_enough_to_recognise_a_duplicate(store: Store) -> None:
    """Checked keys leave nothing, so the record may be on the last key only."""
    request = one_phase(10, absent(b"a"), absent(b"b"), put(b"c"))
    assert apply(store, request, at=ms(15)) == OnePhaseReply(ms(15))
    store.committed(b"a", b"now there", 20, 30)
    assert apply(store, request, at=ms(90)) == OnePhaseReply(ms(15))


def test_refusals_in_their_order(store: Store) -> None:
    store.ask(prewrite(5, put(b"locked")))
    store.committed(b"newer", b"v", 6, 30)
    store.committed(b"exists", b"v", 1, 2)
    mutations = [insert(b"exists"), put(b"newer"), put(b"locked")]
    expected: list[type] = [KeyIsLocked, WriteConflict, AlreadyExists]
    before = store.dump()
    while mutations:
        assert type(store.ask(one_phase(20, *mutations))) is expected.pop(0)
        mutations.pop()
    assert store.dump() == before


def test_own_mark_refuses(store: Store) -> None:
    store.ask(rollback(10, b"b"))
    for blind in (False, True):
        refused = store.expect(WriteConflict, one_phase(10, put(b"a"), put(b"b"), blind=blind))
        assert refused == WriteConflict(b"b", b"", ms(10), ms(10), Ts(0))
    assert store.history(b"a").commits == ()


def test_own_lock_must_end_in_two_phases(store: Store) -> None:
    """A one-phase duplicate that arrives after its client fell back to two phases must not commit half of them."""
    store.ask(prewrite(10, put(b"k", LONG), primary=b"elsewhere"))
    before = store.dump()
    for blind in (False, True):
        refused = store.expect(KeyIsLocked, one_phase(10, put(b"k"), blind=blind))
        assert (refused.primary, refused.start_ts) == (b"elsewhere", ms(10))
    assert store.dump() == before
    assert store.ask(commit_keys(10, 20, b"k")) == CommitReply(ms(20))


def test_an_unknown_outcome_can_be_looked_up(store: Store) -> None:
    apply(store, one_phase(10, put(b"a"), put(b"b")), at=ms(15))
    for key in (b"a", b"b"):
        answer = store.ask(check(key, 10, current=90, roll_back=True))
        assert answer == CheckTxnStatusReply(TxnAction.NONE, ms(15), 0)
    gone = store.expect(CheckTxnStatusReply, check(b"a", 20, current=90, roll_back=True))
    assert gone.action is TxnAction.LOCK_NOT_EXIST_ROLLBACK
    assert isinstance(store.ask(one_phase(20, put(b"b"), put(b"a"), blind=True)), WriteConflict)
    assert store.ask(rollback(10, b"a")) == AlreadyCommitted(b"a", ms(10), ms(15))
    assert store.ask(commit_keys(10, 99, b"b")) == CommitReply(ms(15))


def test_two_phase_duplicates_of_a_one_phase_transaction_are_refused(store: Store) -> None:
    apply(store, one_phase(10, put(b"k")), at=ms(15))
    reply = store.expect(PrewriteReply, prewrite(10, put(b"k")))
    assert [type(error) for error in reply.errors] == [WriteConflict]
    assert store.history(b"k").lock is None


def test_no_mutations_is_an_error(store: Store) -> None:
    assert isinstance(store.ask(one_phase(10)), InvalidArgument)


def test_only_checks_commit_nothing(store: Store) -> None:
    assert apply(store, one_phase(10, absent(b"k")), at=ms(15)) == OnePhaseReply(ms(15))
    assert store.dump() == []


# ---- blind ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"short", LONG])
def test_a_blind_write_goes_on_top(store: Store, value: bytes) -> None:
    """All its mutations go to one timestamp above every newer commit, and the duplicate finds it there."""
    store.committed(b"a", b"v", 1, 50)
    store.committed(b"b", b"v", 1, 40)
    request = one_phase(10, put(b"a", value), put(b"b", value), put(b"c", value), delete(b"d"), blind=True)
    assert apply(store, request, at=ms(15), limit=ms(60)) == OnePhaseReply(Ts(ms(50) + 1))
    assert [store.value(key, 51) for key in (b"a", b"b", b"c", b"d")] == [value, value, value, None]
    assert store.value(b"a", 50) == b"v"
    raised = {key: store.history(key).commits[0][1].raised for key in (b"a", b"b", b"c", b"d")}
    assert raised == {b"a": True, b"b": True, b"c": False, b"d": False}
    assert [trace.tag for _, trace in store.history(b"a").traces] == [TraceTag.RAISED]
    for start in (60, 80):
        for key in (b"a", b"b", b"c", b"d"):
            store.committed(key, b"w", start, start + 10)
    before = store.dump()
    assert apply(store, request, at=ms(95), limit=ms(99)) == OnePhaseReply(Ts(ms(50) + 1))
    assert apply(store, one_phase(10, put(b"a"), blind=True), at=ms(95)) == OnePhaseReply(Ts(ms(50) + 1))
    assert store.dump() == before
    assert store.ask(commit_keys(10, 99, b"a")) == CommitReply(Ts(ms(50) + 1))
    assert isinstance(store.ask(rollback(10, b"a")), AlreadyCommitted)


@pytest.mark.parametrize("mutation", [delete(b"k"), lock(b"k")])
def test_blind_deletes_and_locks_go_on_top_too(store: Store, mutation: Mutation) -> None:
    store.committed(b"k", b"v", 1, 50)
    request = one_phase(10, mutation, blind=True)
    raised = OnePhaseReply(Ts(ms(50) + 1))
    assert apply(store, request, at=ms(15), limit=ms(60)) == raised
    assert apply(store, request, at=ms(70)) == raised
    ((_, record), _) = store.history(b"k").commits
    assert (record.raised, record.last_change) == (True, ms(50) if mutation.op.name == "LOCK" else 0)
    assert store.value(b"k", 60) == (b"v" if mutation.op.name == "LOCK" else None)


def test_a_blind_write_not_above_its_limit(store: Store) -> None:
    store.committed(b"k", b"v", 1, 50)
    just = Ts(ms(50) + 1)
    request = one_phase(10, put(b"k", b"w"), put(b"j", b"w"), blind=True)
    refused = WriteConflict(b"k", b"", ms(10), ms(1), ms(50))
    assert apply(store, request, at=ms(15), limit=Ts(just - 1)) == refused
    assert store.history(b"k").commits[0][0] == ms(50)
    # Its duplicate meets a leader that could vouch for more, and is refused for good.
    again = apply(store, request, at=ms(90), limit=ms(99))
    assert again == WriteConflict(b"k", b"", ms(10), ms(10), Ts(0))
    assert apply(store, one_phase(11, put(b"k", b"w"), blind=True), at=ms(15), limit=just) == OnePhaseReply(just)


def test_the_limit_does_not_matter_where_nothing_is_raised(store: Store) -> None:
    store.committed(b"k", b"v", 1, 12)
    assert apply(store, one_phase(10, put(b"k"), blind=True), at=ms(15), limit=Ts(0)) == OnePhaseReply(ms(15))
    assert store.history(b"k").commits[0][1].raised


def test_a_refused_blind_insert_stays_refused(store: Store) -> None:
    """Its duplicate must not succeed after the key was deleted: the caller was told AlreadyExists."""
    store.committed(b"k", b"v", 1, 2)
    request = one_phase(10, put(b"a"), insert(b"k"), blind=True)
    assert apply(store, request, at=ms(15)) == AlreadyExists(b"k")
    store.ask(one_phase(20, delete(b"k")))
    assert isinstance(apply(store, request, at=ms(90), limit=ms(99)), WriteConflict)
    assert store.value(b"a", 100) is None


def test_a_refused_request_without_blind_leaves_no_mark_and_stays_refused(store: Store) -> None:
    store.committed(b"k", b"v", 1, 2)
    request = one_phase(10, insert(b"k"))
    assert apply(store, request, at=ms(15)) == AlreadyExists(b"k")
    assert store.history(b"k").traces == ()
    apply(store, one_phase(20, delete(b"k")), at=ms(25))
    assert isinstance(apply(store, request, at=ms(90)), WriteConflict)


def test_a_locked_key_keeps_the_question_open(store: Store) -> None:
    store.ask(prewrite(5, put(b"k")))
    request = one_phase(10, put(b"k", b"mine"), blind=True)
    assert isinstance(apply(store, request, at=ms(15)), KeyIsLocked)
    store.ask(rollback(5, b"k"))
    assert apply(store, request, at=ms(20)) == OnePhaseReply(ms(20))


# ---- safe point, timestamps -----------------------------------------------------------------------------------------


def test_below_the_safe_point_only_known_outcomes(store: Store) -> None:
    request = one_phase(10, put(b"k"))
    apply(store, request, at=ms(15))
    assert apply(store, request, at=ms(90), safe_point=50) == OnePhaseReply(ms(15))
    for other in (one_phase(11, put(b"k")), one_phase(49, put(b"new"), blind=True)):
        assert apply(store, other, at=ms(90), safe_point=50) == SnapshotTooOld(other.start_ts, ms(50))
    assert apply(store, one_phase(50, put(b"k")), at=ms(90), safe_point=50) == OnePhaseReply(ms(90))


def test_the_assigned_timestamp_must_be_above_start(store: Store) -> None:
    with pytest.raises(AssertionError):
        apply(store, one_phase(10, put(b"k")), at=ms(10))


def test_a_read_is_never_changed_by_a_later_one_phase_write(store: Store) -> None:
    for number in range(1, 20):
        seen = store.value(b"k", 100 * number)
        reply = store.expect(OnePhaseReply, one_phase(10 * number, put(b"j%d" % number), put(b"k%d" % number)))
        assert reply.commit_ts > ms(100 * number)
        assert store.value(b"k", 100 * number) == seen
