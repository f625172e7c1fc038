"""Leader lease: arithmetic, and each way in which it must end (M1, M2)."""

from nokv.proto.ids import Term
from nokv.workers.lease import ROUND_LOST_MS, Lease

TERM = Term(7)


def leased(length_ms: int = 800, at_ms: int = 1000) -> Lease:
    """A lease confirmed by a round begun at `at_ms`."""
    lease = Lease(length_ms=length_ms)
    context = lease.begin_round(TERM, at_ms)
    assert context is not None
    assert lease.confirmed(context) == 1
    return lease


def test_no_lease_before_a_quorum_has_answered() -> None:
    lease = Lease(length_ms=800)
    assert lease.begin_round(TERM, 1000) is not None
    assert not lease.valid(TERM, 1000)


def test_the_lease_counts_from_the_start_of_the_round_not_from_its_answer() -> None:
    lease = Lease(length_ms=800)
    context = lease.begin_round(TERM, 1000)
    assert context is not None
    lease.confirmed(context)  # the answer may come at any time: only the start counts
    assert lease.valid(TERM, 1799)
    assert not lease.valid(TERM, 1800)


def test_another_term_has_no_lease() -> None:
    assert not leased().valid(Term(8), 1001)
    assert not leased().valid(Term(6), 1001)


def test_a_transfer_voids_the_lease_for_the_rest_of_the_term() -> None:
    """The order to campaign at once may arrive late: rounds confirmed after the transfer give no lease either."""
    lease = leased()
    lease.void(TERM)
    assert not lease.valid(TERM, 1001)
    context = lease.begin_round(TERM, 1100)
    assert context is not None
    assert lease.confirmed(context) == 2
    assert not lease.valid(TERM, 1101)


def test_a_later_term_has_leases_again_after_a_transfer() -> None:
    lease = leased()
    lease.void(TERM)
    lease.drop()
    context = lease.begin_round(Term(9), 5000)
    assert context is not None
    lease.confirmed(context)
    assert lease.valid(Term(9), 5001)


def test_a_suspended_process_finds_its_lease_expired() -> None:
    """SIGSTOP for five seconds: the clock went on."""
    assert not leased().valid(TERM, 6000)


def test_lost_leadership_drops_the_lease() -> None:
    lease = leased()
    lease.drop()
    assert not lease.valid(TERM, 1001)


def test_an_answer_to_an_older_round_confirms_nothing() -> None:
    lease = Lease(length_ms=800)
    first = lease.begin_round(TERM, 1000)
    second = lease.begin_round(TERM, 1000 + ROUND_LOST_MS)
    assert first is not None and second is not None
    assert lease.confirmed(first) == 0
    assert not lease.valid(TERM, 1001)
    assert lease.confirmed(second) == 2


def test_one_round_at_a_time_until_it_is_given_up() -> None:
    lease = Lease(length_ms=800)
    assert lease.begin_round(TERM, 1000) is not None
    assert lease.begin_round(TERM, 1000 + ROUND_LOST_MS - 1) is None
    assert lease.begin_round(TERM, 1000 + ROUND_LOST_MS) is not None


def test_a_round_of_an_older_term_does_not_stand_in_the_way() -> None:
    lease = Lease(length_ms=800)
    old = lease.begin_round(TERM, 1000)
    new = lease.begin_round(Term(8), 1001)
    assert old is not None and new is not None
    assert lease.confirmed(old) == 0


def test_renewal_is_wanted_in_the_second_half() -> None:
    lease = leased()
    assert not lease.wants_renewal(TERM, 1399)
    assert lease.wants_renewal(TERM, 1400)


def test_zero_length_means_every_read_asks_a_quorum() -> None:
    assert not leased(length_ms=0).valid(TERM, 1000)
