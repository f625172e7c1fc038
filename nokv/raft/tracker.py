"""Tracker: the configuration in force, each peer's progress, and the votes of an election.

Invariants (of a configuration): voters and learners of the incoming half are disjoint; `learners_next` are voters of
the outgoing half; it is joint exactly if `outgoing` is not empty.
Not here: how one configuration becomes another (confchange.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import ConfState
from nokv.raft import quorum
from nokv.raft.progress import Progress
from nokv.raft.quorum import VoteResult


def majority_text(voters: set[PeerId]) -> str:
    """`(1 2 3)`."""
    return "(" + " ".join(str(voter) for voter in sorted(voters)) + ")"


@dataclass(slots=True)
class Configuration:
    """Who votes and who learns."""

    incoming: set[PeerId] = field(default_factory=set)
    outgoing: set[PeerId] = field(default_factory=set)
    auto_leave: bool = False
    learners: set[PeerId] = field(default_factory=set)
    learners_next: set[PeerId] = field(default_factory=set)

    @property
    def joint(self) -> bool:
        """Whether two majorities decide."""
        return bool(self.outgoing)

    @property
    def voters(self) -> set[PeerId]:
        """Voters of either half."""
        return self.incoming | self.outgoing

    def copy(self) -> "Configuration":
        """A copy that may be changed."""
        return Configuration(
            set(self.incoming), set(self.outgoing), self.auto_leave, set(self.learners), set(self.learners_next)
        )

    def describe(self) -> str:
        """`voters=(1 2)&&(1) learners=(3) learners_next=(2) autoleave`."""
        text = f"voters={majority_text(self.incoming)}"
        if self.outgoing:
            text += f"&&{majority_text(self.outgoing)}"
        if self.learners:
            text += f" learners={majority_text(self.learners)}"
        if self.learners_next:
            text += f" learners_next={majority_text(self.learners_next)}"
        if self.auto_leave:
            text += " autoleave"
        return text


class Tracker:
    """What a node knows of its peers. Used fully by leaders; candidates use the votes."""

    def __init__(self, *, max_inflight: int, max_inflight_bytes: int) -> None:
        self.max_inflight: Final = max_inflight
        self.max_inflight_bytes: Final = max_inflight_bytes

        self.config = Configuration()
        self.progress: dict[PeerId, Progress] = {}
        self.votes: dict[PeerId, bool] = {}

    def conf_state(self) -> ConfState:
        """The configuration as it is stored."""
        config = self.config
        return ConfState(
            voters=tuple(sorted(config.incoming)),
            learners=tuple(sorted(config.learners)),
            voters_outgoing=tuple(sorted(config.outgoing)),
            learners_next=tuple(sorted(config.learners_next)),
            auto_leave=config.auto_leave,
        )

    @property
    def singleton(self) -> bool:
        """Whether this configuration has exactly one voter."""
        return len(self.config.incoming) == 1 and not self.config.outgoing

    def committed(self) -> LogIndex:
        """The highest index that the quorum has acknowledged."""
        progress = self.progress

        def acked(peer_id: PeerId) -> LogIndex | None:
            known = progress.get(peer_id)
            return None if known is None else known.match

        return quorum.committed(self.config.incoming, self.config.outgoing, acked)

    def visit(self) -> Iterator[tuple[PeerId, Progress]]:
        """All peers with their progress, by id."""
        return iter(sorted(self.progress.items()))

    def quorum_active(self) -> bool:
        """Whether a quorum was heard of since the last check."""
        active = {peer_id: pr.recent_active for peer_id, pr in self.progress.items() if not pr.is_learner}
        result = quorum.vote_result(self.config.incoming, self.config.outgoing, active)
        return result is VoteResult.WON

    def voter_nodes(self) -> list[PeerId]:
        """Voters of either half, sorted."""
        return sorted(self.config.voters)

    def reset_votes(self) -> None:
        """Forget the votes of an earlier election."""
        self.votes = {}

    def record_vote(self, peer_id: PeerId, granted: bool) -> None:
        """Note a vote; the first of each peer counts."""
        self.votes.setdefault(peer_id, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """(granted, rejected, result), counting current voters only."""
        granted = rejected = 0
        for peer_id, pr in self.progress.items():
            if pr.is_learner:
                continue
            vote = self.votes.get(peer_id)
            if vote is None:
                continue
            if vote:
                granted += 1
            else:
                rejected += 1
        return granted, rejected, quorum.vote_result(self.config.incoming, self.config.outgoing, self.votes)
