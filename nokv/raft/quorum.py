"""Quorums: the committed index and the outcome of a vote, for a majority and for two of them at once.

Why: commits, elections, read confirmation and check-quorum all ask the same two questions; one answer to each, once,
is what joint consensus (thesis 4.3) needs to be right everywhere.
Invariants: an empty majority agrees to everything, so that it is neutral beside another one; the second half of a
joint quorum is empty exactly when the configuration is not joint; swapping the halves changes nothing.
Not here: who the voters are (tracker.py) and how that changes (confchange.py).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from nokv.proto.ids import LogIndex, PeerId

Majority = frozenset[PeerId]
"""The voters of one configuration; more than half of them is a quorum."""
Joint = tuple[Majority, Majority]
"""Incoming and outgoing voters; a quorum is one of each."""

EVERYTHING: Final = LogIndex((1 << 64) - 1)
"""Committed index of the empty majority: above every index there is."""


class VoteResult(Enum):
    """Outcome of a vote so far."""

    PENDING = "VotePending"
    """Votes that are missing decide."""
    LOST = "VoteLost"
    """No quorum can say yes any more."""
    WON = "VoteWon"
    """A quorum has said yes."""


def majority_committed(voters: Majority, acked: Mapping[PeerId, LogIndex]) -> LogIndex:
    """The highest index that more than half of the voters have acked; one that is missing has acked nothing."""
    count = len(voters)
    if count == 0:
        return EVERYTHING
    indexes = sorted([acked.get(voter, 0) for voter in voters])
    # Sorted upwards, all voters from this position on have at least its index, and they are count // 2 + 1.
    return LogIndex(indexes[(count - 1) // 2])


def joint_committed(voters: Joint, acked: Mapping[PeerId, LogIndex]) -> LogIndex:
    """The highest index that both majorities have committed."""
    incoming, outgoing = voters
    committed = majority_committed(incoming, acked)
    if not outgoing:
        return committed
    return min(committed, majority_committed(outgoing, acked))


def majority_vote(voters: Majority, votes: Mapping[PeerId, bool]) -> VoteResult:
    """Outcome of a vote among a majority. The empty majority says yes."""
    if not voters:
        return VoteResult.WON
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    quorum = len(voters) // 2 + 1
    if granted >= quorum:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= quorum else VoteResult.LOST


def joint_vote(voters: Joint, votes: Mapping[PeerId, bool]) -> VoteResult:
    """Outcome of a vote that both majorities must win."""
    incoming, outgoing = majority_vote(voters[0], votes), majority_vote(voters[1], votes)
    if incoming is outgoing:
        return incoming
    if VoteResult.LOST in (incoming, outgoing):
        return VoteResult.LOST
    return VoteResult.PENDING


def describe_majority(voters: Majority) -> str:
    """As in `(1 2 3)`."""
    return f"({' '.join(str(voter) for voter in sorted(voters))})"


def describe_joint(voters: Joint) -> str:
    """As in `(1 2 3)&&(1)`; the second half only if there is one."""
    incoming, outgoing = voters
    return describe_majority(incoming) + (f"&&{describe_majority(outgoing)}" if outgoing else "")


def describe_progress(voters: Majority, acked: Mapping[PeerId, LogIndex]) -> str:
    """A bar chart of acked indexes: the i-th smallest has a bar of i, equal ones have equal bars."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    bars: dict[LogIndex, int] = {}
    for rank, index in enumerate(sorted(acked.get(voter, LogIndex(0)) for voter in voters)):
        bars.setdefault(index, rank)
    lines = [" " * width + "    idx\n"]
    for voter in sorted(voters):
        index = acked.get(voter, LogIndex(0))
        if voter in acked:
            chart = "x" * bars[index] + ">" + " " * (width - bars[index])
        else:
            chart = "?" + " " * width
        lines.append(f"{chart} {index:5d}    (id={voter})\n")
    return "".join(lines)


def describe_index(index: LogIndex) -> str:
    """The number, with a sign of its own for the empty majority's."""
    return "∞" if index == EVERYTHING else str(index)
