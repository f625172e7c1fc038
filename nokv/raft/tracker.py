"""Tracker: the configuration in force, and a Progress for each of its peers.

Why: whoever counts (commits, votes, activity) needs the voters and what is known of them together.
Invariants: there is a Progress exactly for the peers of the configuration; peers are visited in the order of their ids.
Not here: how a configuration changes (confchange.py), what a quorum is (quorum.py).
"""

from dataclasses import dataclass, field
from typing import Final

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import ConfState
from nokv.raft.progress import Inflights, Progress
from nokv.raft.quorum import Joint, Majority, VoteResult, describe_joint, describe_majority, joint_committed, joint_vote

NOBODY: Final[Majority] = frozenset()


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who takes part, and how.

    Laws: a peer is in at most one of learners and voters; learners_next are outgoing voters who become learners when
    the joint configuration is left, as nobody may be both; only a joint configuration has learners_next or auto_leave.
    """

    incoming: Majority = NOBODY
    outgoing: Majority = NOBODY
    learners: Majority = NOBODY
    learners_next: Majority = NOBODY
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        """Whether two majorities have to agree."""
        return bool(self.outgoing)

    @property
    def voters(self) -> Joint:
        """Both halves, for quorum.py."""
        return self.incoming, self.outgoing

    def conf_state(self) -> ConfState:
        """As it is stored."""
        return ConfState(
            voters=tuple(sorted(self.incoming)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def describe(self) -> str:
        """As in `voters=(1 2)&&(1) learners=(3) autoleave`."""
        parts = [f"voters={describe_joint(self.voters)}"]
        if self.learners:
            parts.append(f"learners={describe_majority(self.learners)}")
        if self.learners_next:
            parts.append(f"learners_next={describe_majority(self.learners_next)}")
        if self.auto_leave:
            parts.append("autoleave")
        return " ".join(parts)


@dataclass(slots=True)
class Tracker:
    """The configuration and the peers' progress.

    Args:
        max_inflight_msgs, max_inflight_bytes: limits of each peer's window.
    """

    max_inflight_msgs: Final[int]
    max_inflight_bytes: Final[int]
    config: Configuration = field(default_factory=Configuration)
    progress: dict[PeerId, Progress] = field(default_factory=dict)
    """In the order of ids."""
    voter_ids: tuple[PeerId, ...] = ()
    """Of both halves, sorted."""

    def switch(self, config: Configuration, progress: dict[PeerId, Progress]) -> None:
        """Put a configuration in force."""
        self.config = config
        self.progress = {peer: progress[peer] for peer in sorted(progress)}
        self.voter_ids = tuple(sorted(config.incoming | config.outgoing))

    def new_progress(self, *, match: int, next_index: int, is_learner: bool, active: bool) -> Progress:
        """A Progress with an empty window."""
        window = Inflights(self.max_inflight_msgs, self.max_inflight_bytes)
        return Progress(match=match, next_index=next_index, inflights=window, is_learner=is_learner, active=active)

    def is_only_voter(self, peer: PeerId) -> bool:
        """Whether `peer` is a quorum by itself."""
        config = self.config
        return not config.outgoing and len(config.incoming) == 1 and peer in config.incoming

    def committed(self) -> LogIndex:
        """The highest index that a quorum has."""
        acked = {peer: LogIndex(progress.match) for peer, progress in self.progress.items()}
        return joint_committed(self.config.voters, acked)

    def quorum_active(self) -> bool:
        """Whether a quorum was heard of since this was asked last."""
        active = {peer: one.recent_active for peer, one in self.progress.items() if not one.is_learner}
        return joint_vote(self.config.voters, active) is VoteResult.WON

    def tally(self, votes: dict[PeerId, bool]) -> tuple[int, int, VoteResult]:
        """Votes granted, votes refused, and what that comes to. Votes of learners do not count."""
        granted = refused = 0
        for peer, progress in self.progress.items():
            vote = None if progress.is_learner else votes.get(peer)
            if vote is not None:
                granted += vote
                refused += not vote
        return granted, refused, joint_vote(self.config.voters, votes)
