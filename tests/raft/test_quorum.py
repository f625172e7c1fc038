"""Quorums against a naive twin."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from nokv.proto.ids import LogIndex, PeerId
from nokv.raft.quorum import EVERYTHING, VoteResult, describe_index, joint_committed, joint_vote

majorities = st.frozensets(st.integers(1, 7).map(PeerId), max_size=6)
acks = st.dictionaries(st.integers(1, 7).map(PeerId), st.integers(0, 12).map(LogIndex))
ballots = st.dictionaries(st.integers(1, 7).map(PeerId), st.booleans())


def quorums(voters: frozenset[PeerId]) -> list[set[PeerId]]:
    """Every set of more than half of the voters; for nobody, the empty one."""
    return [
        set(one) for size in range(len(voters) // 2 + 1, len(voters) + 1) for one in combinations(sorted(voters), size)
    ] or [set()]


def naive_committed(voters: frozenset[PeerId], acked: dict[PeerId, LogIndex]) -> int:
    """The best that any quorum has in common."""
    if not voters:
        return EVERYTHING
    return max(min(acked.get(voter, 0) for voter in quorum) for quorum in quorums(voters))


def naive_vote(voters: frozenset[PeerId], votes: dict[PeerId, bool]) -> VoteResult:
    """Won if some quorum has said yes, lost if none can any more."""
    if any(all(votes.get(voter) for voter in quorum) for quorum in quorums(voters)):
        return VoteResult.WON
    if any(all(votes.get(voter, True) for voter in quorum) for quorum in quorums(voters)):
        return VoteResult.PENDING
    return VoteResult.LOST


@given(majorities, majorities, acks)
def test_committed_index(
    incoming: frozenset[PeerId], outgoing: frozenset[PeerId], acked: dict[PeerId, LogIndex]
) -> None:
    """What both majorities have, whichever comes first."""
    expected = min(naive_committed(incoming, acked), naive_committed(outgoing, acked))
    assert joint_committed((incoming, outgoing), acked) == expected
    assert joint_committed((outgoing, incoming), acked) == expected


@given(majorities, majorities, ballots)
def test_outcome_of_a_vote(incoming: frozenset[PeerId], outgoing: frozenset[PeerId], votes: dict[PeerId, bool]) -> None:
    """Lost if either is lost, won if both are won."""
    results = {naive_vote(incoming, votes), naive_vote(outgoing, votes)}
    expected = (
        VoteResult.LOST
        if VoteResult.LOST in results
        else VoteResult.PENDING
        if VoteResult.PENDING in results
        else VoteResult.WON
    )
    assert joint_vote((incoming, outgoing), votes) is expected
    assert joint_vote((outgoing, incoming), votes) is expected


def test_the_empty_majority_is_neutral() -> None:
    """It agrees to everything."""
    nobody: frozenset[PeerId] = frozenset()
    assert joint_vote((nobody, nobody), {}) is VoteResult.WON
    assert describe_index(joint_committed((nobody, nobody), {})) == "∞"
