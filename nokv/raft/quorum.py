"""Quorums: the one place that says what a majority has, for single and joint configurations alike.

Why: commits, read confirmations, elections and quorum activity all ask the same two questions: up to which index has a
majority acknowledged, and has a majority voted. Answering them twice is how implementations diverge.
Invariants: an empty majority agrees with everything (so a joint configuration with an empty half equals the other
half); a joint decision needs both halves (thesis 4.3).
Not here: who is in which half (tracker.py).
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final

from nokv.proto.ids import LogIndex, PeerId

NO_BOUND: Final = LogIndex((1 << 64) - 1)
"""What an empty majority has acknowledged: everything."""

Acked = Callable[[PeerId], LogIndex | None]
"""The index a voter has acknowledged; None if nothing is known of it, which counts as 0."""


class VoteResult(Enum):
    """State of an election."""

    PENDING = "VotePending"
    """Neither a majority for nor one against."""
    LOST = "VoteLost"
    """A majority can no longer be reached."""
    WON = "VoteWon"


def majority_committed(voters: Iterable[PeerId], acked: Acked) -> LogIndex:
    """The highest index that a majority of `voters` has acknowledged."""
    indexes = [acked(voter) or LogIndex(0) for voter in voters]
    if not indexes:
        return NO_BOUND
    indexes.sort()
    return indexes[(len(indexes) - 1) // 2]


def committed(incoming: Iterable[PeerId], outgoing: Iterable[PeerId], acked: Acked) -> LogIndex:
    """The highest index that both majorities have acknowledged."""
    return min(majority_committed(incoming, acked), majority_committed(outgoing, acked))


def majority_vote(voters: Iterable[PeerId], votes: Mapping[PeerId, bool]) -> VoteResult:
    """Result among `voters`, of whom those missing in `votes` have not answered."""
    yes = missing = total = 0
    for voter in voters:
        total += 1
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            yes += 1
    needed = total // 2 + 1
    if total == 0 or yes >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if yes + missing >= needed else VoteResult.LOST


def vote_result(incoming: Iterable[PeerId], outgoing: Iterable[PeerId], votes: Mapping[PeerId, bool]) -> VoteResult:
    """Result of an election that needs both majorities."""
    first, second = majority_vote(incoming, votes), majority_vote(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
