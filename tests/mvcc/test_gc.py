"""Garbage collection (P22, README rule 10): what goes, what stays, and in how many steps."""

import pytest

from nokv.mvcc.evaluate import evaluate
from nokv.mvcc.limits import ApplyLimits
from nokv.mvcc.records import Kind, TraceTag
from nokv.proto.kv import AtomicOp, GcReply, GcRequest
from tests.mvcc.ask import (
    LONG,
    Store,
    atomic,
    collect,
    commit_keys,
    delete,
    lock,
    ms,
    one_phase,
    prewrite,
    put,
    rollback,
)


@pytest.fixture
def store() -> Store:
    return Store()


def apply(store: Store, request: GcRequest, *, limits: ApplyLimits | None = None, end: bytes = b"") -> GcReply:
    reply = evaluate(store.engine, request, region_end=end, limits=limits or ApplyLimits())
    assert isinstance(reply, GcReply)
    return reply


def versions(store: Store, key: bytes = b"k") -> list[tuple[int, str]]:
    return [(at >> 18, record.kind.name) for at, record in store.history(key).commits]


def write(store: Store, kind: Kind, start: int, commit: int) -> None:
    mutation = {Kind.PUT: put(b"k", LONG), Kind.DELETE: delete(b"k"), Kind.LOCK: lock(b"k")}[kind]
    store.ask(prewrite(start, mutation))
    store.ask(commit_keys(start, commit, b"k"))


P, D, L = Kind.PUT, Kind.DELETE, Kind.LOCK


@pytest.mark.parametrize(
    ("kinds", "safe_point", "kept"),
    [
        # Commits at 10, 20, 30, ... of these kinds.
        ((P, P, P), 25, [(30, "PUT"), (20, "PUT")]),
        ((P, P, P), 30, [(30, "PUT")]),
        ((P, P, P), 29, [(30, "PUT"), (20, "PUT")]),
        ((P, P, P), 9, [(30, "PUT"), (20, "PUT"), (10, "PUT")]),
        ((P, D), 25, []),
        ((P, D), 20, [(20, "DELETE")]),
        ((P, D, P), 25, [(30, "PUT")]),
        ((D,), 15, []),
        ((P, L, L), 35, [(10, "PUT")]),
        ((P, L, L), 25, [(30, "LOCK"), (10, "PUT")]),
        ((P, L, L), 30, [(30, "LOCK"), (10, "PUT")]),
        ((P, L), 20, [(20, "LOCK"), (10, "PUT")]),
        ((L, L), 25, []),
        ((P, D, L), 25, [(30, "LOCK")]),
        ((P, D, L), 35, []),
        ((P, L, P, L, P), 45, [(50, "PUT"), (30, "PUT")]),
    ],
)
def test_what_stays(store: Store, kinds: tuple[Kind, ...], safe_point: int, kept: list[tuple[int, str]]) -> None:
    for number, kind in enumerate(kinds, 1):
        write(store, kind, 10 * number - 5, 10 * number)
    reads = {at: store.value(b"k", at) for at in range(safe_point, 70)}
    reply = apply(store, collect(safe_point))
    assert reply == GcReply(len(kinds) - len(kept), b"")
    assert versions(store) == kept
    assert {at: store.value(b"k", at) for at in range(safe_point, 70)} == reads
    # Long values go with their commits and stay with them.
    puts = [at for at, kind in kept if kind == "PUT"]
    assert [at >> 18 for at, _ in store.history(b"k").traces] == [at - 5 for at in puts]
    assert apply(store, collect(safe_point)) == GcReply(0, b"")


def test_marks_below_the_safe_point_go(store: Store) -> None:
    store.ask(rollback(10, b"k", b"only a mark"))
    store.ask(rollback(20, b"k"))
    store.ask(rollback(30, b"k"))
    assert apply(store, collect(20)) == GcReply(2, b"")
    assert [at for at, _ in store.history(b"k").traces] == [ms(30), ms(20)]
    assert store.history(b"only a mark").traces == ()


def test_refused_and_raised_traces(store: Store) -> None:
    store.committed(b"k", b"5", 1, 50)
    store.ask(atomic(AtomicOp.COMPARE_AND_SET, b"k", b"x", 10, b"6"))
    store.ask(atomic(AtomicOp.ADD, b"k", b"1", 20))
    assert [trace.tag for _, trace in store.history(b"k").traces] == [TraceTag.RAISED, TraceTag.REFUSED]
    assert apply(store, collect(40)) == GcReply(1, b"")
    assert [trace.tag for _, trace in store.history(b"k").traces] == [TraceTag.RAISED]
    store.committed(b"k", b"7", 60, 70)
    assert apply(store, collect(80)) == GcReply(2, b"")
    assert store.history(b"k").traces == ()
    assert store.value(b"k", 80) == b"7"


def test_raised_long_values_stay_readable(store: Store) -> None:
    store.committed(b"k", b"5", 1, 50)
    store.ask(one_phase(10, put(b"k", LONG), blind=True))
    assert apply(store, collect(60)) == GcReply(1, b"")
    assert store.value(b"k", 60) == LONG
    store.ask(one_phase(70, delete(b"k")))
    assert apply(store, collect(10_000)) == GcReply(2, b"")
    assert store.dump() == []


def test_locks_stay_with_their_values(store: Store) -> None:
    store.committed(b"k", b"1", 1, 2)
    store.committed(b"k", b"2", 3, 4)
    store.ask(prewrite(10, put(b"k", LONG)))
    assert apply(store, collect(50)) == GcReply(1, b"")
    store.ask(commit_keys(10, 60, b"k"))
    assert store.value(b"k", 60) == LONG
    assert store.value(b"k", 59) == b"2"


def test_a_version_referred_to_by_a_committed_lock_above_may_be_gone(store: Store) -> None:
    write(store, P, 5, 10)
    write(store, D, 15, 20)
    write(store, L, 25, 90)
    apply(store, collect(50))
    assert versions(store) == [(90, "LOCK")]
    assert store.value(b"k", 100) is None
    assert not store.ask(prewrite(95, put(b"k", b"back"))).errors  # type: ignore[union-attr]


def test_steps_by_keys(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.committed(key, b"1", 1, 2)
        store.committed(key, b"2", 3, 4)
    store.ask(rollback(5, b"bb"))
    assert apply(store, collect(10, limit=1)) == GcReply(1, b"b")
    assert apply(store, collect(10, b"b", limit=2)) == GcReply(2, b"c")
    limits = ApplyLimits(gc_visited_max=1)
    assert apply(store, collect(10, b"a"), limits=limits) == GcReply(0, b"b")
    assert apply(store, collect(10, b"c"), end=b"c") == GcReply(0, b"")
    assert apply(store, collect(10, b"c")) == GcReply(1, b"")


def test_steps_within_a_key_never_bring_a_value_back(store: Store) -> None:
    """A tombstone goes after everything beneath it, however small the steps are."""
    for number in range(1, 8):
        write(store, P, 10 * number - 5, 10 * number)
    write(store, D, 85, 90)
    for start in (100, 101, 102):
        store.ask(rollback(start, b"k"))
    store.committed(b"z", b"1", 1, 2)
    store.committed(b"z", b"2", 3, 4)
    limits = ApplyLimits(gc_records_max=2)
    begin, removed, steps = b"", 0, 0
    while True:
        reply = apply(store, collect(200, begin), limits=limits)
        assert reply.removed <= 2
        assert reply.removed or not reply.resume
        assert store.value(b"k", 200) is None
        removed += reply.removed
        steps += 1
        if not reply.resume:
            break
        begin = reply.resume
    assert removed == 8 + 3 + 1
    assert steps == 6
    assert versions(store) == []
    assert store.history(b"k").traces == ()
    assert versions(store, b"z") == [(4, "PUT")]


def test_the_region_bounds_it(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.committed(key, b"1", 1, 2)
        store.committed(key, b"2", 3, 4)
    reply = evaluate(store.engine, collect(10), region_start=b"b", region_end=b"c")
    assert reply == GcReply(1, b"")
    assert [len(versions(store, key)) for key in (b"a", b"b", b"c")] == [2, 1, 2]
