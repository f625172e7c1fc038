"""Command pipeline: exactly one answer for each waiter (S43, S61, M8, M9)."""

from nokv.proto.ids import Incarnation
from nokv.workers.pipeline import Pipeline, Waiter

OURS, THEIRS = Incarnation(11), Incarnation(22)


def waiter(name: bytes, deadline_ms: int = 3000) -> Waiter:
    return Waiter(b"C" + name, 1, deadline_ms)


def test_a_result_goes_to_those_who_proposed_it_in_order() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    first, second = waiter(b"a"), waiter(b"b")
    sequence = pipeline.next_sequence()
    pipeline.add(sequence, [first, second])
    assert list(pipeline.complete(OURS, sequence)) == [first, second]
    assert len(pipeline) == 0


def test_an_equal_number_of_another_store_completes_nothing() -> None:
    """Two leaders count from 1; an entry of the other one must not answer our caller."""
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    sequence = pipeline.next_sequence()
    pipeline.add(sequence, [waiter(b"a")])
    assert not pipeline.complete(THEIRS, sequence)
    assert len(pipeline) == 1


def test_an_entry_applied_twice_answers_once() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    sequence = pipeline.next_sequence()
    pipeline.add(sequence, [waiter(b"a")])
    assert pipeline.complete(OURS, sequence)
    assert not pipeline.complete(OURS, sequence)


def test_full_pipeline_waits() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=1)
    sequence = pipeline.next_sequence()
    pipeline.add(sequence, [waiter(b"a")])
    assert pipeline.full
    pipeline.complete(OURS, sequence)
    assert not pipeline.full


def test_expiry_answers_the_late_and_only_once() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    sequence = pipeline.next_sequence()
    pipeline.add(sequence, [waiter(b"early", 100), waiter(b"late", 200)])
    assert [w.address for w in pipeline.expire(99)] == []
    assert [w.address for w in pipeline.expire(100)] == [b"Cearly"]
    assert [w.address for w in pipeline.expire(150)] == []
    # the entry commits after all: only the one who still waits is answered
    assert [w.address for w in pipeline.complete(OURS, sequence)] == [b"", b"Clate"]


def test_lost_leadership_ends_every_wait_at_once() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    for name in (b"a", b"b"):
        pipeline.add(pipeline.next_sequence(), [waiter(name)])
    assert [w.address for w in pipeline.abandon()] == [b"Ca", b"Cb"]
    assert pipeline.abandon() == []
    assert len(pipeline) == 0


def test_abandon_does_not_answer_those_who_expired_before() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    pipeline.add(pipeline.next_sequence(), [waiter(b"a", 100), waiter(b"b", 500)])
    pipeline.expire(100)
    assert [w.address for w in pipeline.abandon()] == [b"Cb"]


def test_sequences_never_repeat() -> None:
    pipeline = Pipeline(incarnation=OURS, proposals_max=4)
    assert len({pipeline.next_sequence() for _ in range(1000)}) == 1000
