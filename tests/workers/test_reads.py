"""Read queue: when a read may be answered (S25, N2, M1)."""

from nokv.proto.frame import Kind
from nokv.proto.ids import LogIndex, Term
from nokv.workers.lease import Lease
from nokv.workers.reads import PendingRead, ReadQueue

TERM = Term(3)


def queue(length_ms: int = 800) -> tuple[Lease, ReadQueue]:
    lease = Lease(length_ms=length_ms)
    return lease, ReadQueue(lease)


def read(lease: Lease, *, wait_index: int = 0, deadline_ms: int = 3000) -> PendingRead:
    return PendingRead(b"Cx", 1, Kind.KV_GET, None, deadline_ms, LogIndex(wait_index), lease.next_round)


def confirm(lease: Lease, reads: ReadQueue, now_ms: int, index: int) -> None:
    context = lease.begin_round(TERM, now_ms)
    assert context is not None
    reads.confirm(context, LogIndex(index))


def test_without_lease_or_round_nothing_is_answered() -> None:
    lease, reads = queue()
    reads.add(read(lease))
    assert reads.take(TERM, LogIndex(9), 1000) == ([], [])
    assert reads.wants_round(TERM, 1000)


def test_a_round_begun_after_the_read_answers_it_once_applied() -> None:
    lease, reads = queue(length_ms=0)
    one = read(lease)
    reads.add(one)
    confirm(lease, reads, 1000, index=5)
    assert reads.take(TERM, LogIndex(4), 1001) == ([], [])
    assert reads.take(TERM, LogIndex(5), 1001) == ([], [one])


def test_a_round_begun_before_the_read_does_not_answer_it() -> None:
    """Its read index may lie before a write acknowledged between the round's start and the read."""
    lease, reads = queue(length_ms=0)
    context = lease.begin_round(TERM, 1000)
    assert context is not None
    reads.add(read(lease))
    reads.confirm(context, LogIndex(5))
    assert reads.take(TERM, LogIndex(9), 1001) == ([], [])


def test_a_read_waits_for_its_own_index_too() -> None:
    lease, reads = queue()
    confirm(lease, reads, 1000, index=1)
    one = read(lease, wait_index=7)
    reads.add(one)
    assert reads.take(TERM, LogIndex(6), 1001) == ([], [])
    assert reads.take(TERM, LogIndex(7), 1001) == ([one], [])


def test_a_read_evaluated_under_a_lease_that_ended_meanwhile_is_taken_back() -> None:
    """The process was stopped between taking the time and reading; the fresh clock tells."""
    lease, reads = queue()
    confirm(lease, reads, 1000, index=1)
    one = read(lease)
    reads.add(one)
    leased, _ = reads.take(TERM, LogIndex(1), 1001)
    assert leased == [one]
    assert not reads.settle(leased, TERM, lambda: 6000)
    assert len(reads) == 1
    assert reads.wants_round(TERM, 6000)
    # only a round that begins now may answer it
    confirm(lease, reads, 6000, index=2)
    assert reads.take(TERM, LogIndex(2), 6001)[1] == [one]


def test_expired_reads_leave_the_queue() -> None:
    lease, reads = queue()
    early, late = read(lease, deadline_ms=100), read(lease, deadline_ms=200)
    reads.add(early)
    reads.add(late)
    assert reads.expire(100) == [early]
    assert reads.expire(100) == []
    assert len(reads) == 1


def test_lost_leadership_returns_everybody_and_forgets_the_round() -> None:
    lease, reads = queue(length_ms=0)
    confirm(lease, reads, 1000, index=1)
    reads.add(read(lease))
    assert len(reads.abandon()) == 1
    one = read(lease)
    one.round = 1
    reads.add(one)
    assert reads.take(TERM, LogIndex(9), 1001) == ([], [])
