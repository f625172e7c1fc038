"""Configuration changes: from one configuration to the next, directly or through a joint one (thesis 4.1, 4.3).

Why: two majorities of the old and the new configuration must have a voter in common; a direct change of one voter
guarantees that, anything else goes through a configuration in which both majorities have to agree.
Invariants: a change is worked out on copies and checked before it is returned, so a refused one changes nothing; a
peer in both halves keeps its Progress; a voter who becomes a learner stays a voter until the joint one is left.
Not here: when a change may be proposed (membership.py).
"""

from collections.abc import Iterable
from typing import Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import NUMBER_MAX, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState
from nokv.raft.errors import ConfChangeError
from nokv.raft.progress import Progress
from nokv.raft.tracker import Configuration, Tracker

Changed = tuple[Configuration, dict[PeerId, Progress]]


def apply_change(tracker: Tracker, last_index: int, change: ConfChangeV2) -> Changed:
    """The configuration after a committed change. Raises ConfChangeError."""
    if change.leaves_joint:
        return leave_joint(tracker, last_index)
    if change.enters_joint:
        return enter_joint(tracker, last_index, change.changes, auto_leave=change.auto_leave)
    return simple(tracker, last_index, change.changes)


def simple(tracker: Tracker, last_index: int, changes: Iterable[ConfChangeSingle]) -> Changed:
    """Changes that touch at most one voter, at once. Raises ConfChangeError."""
    draft = _Draft(tracker, last_index)
    if draft.outgoing:
        raise ConfChangeError("can't apply simple config change in joint config")
    draft.apply(changes)
    if len(draft.incoming ^ tracker.config.incoming) > 1:
        raise ConfChangeError("more than one voter changed without entering joint config")
    return draft.checked()


def enter_joint(tracker: Tracker, last_index: int, changes: Iterable[ConfChangeSingle], *, auto_leave: bool) -> Changed:
    """Any changes, with the old majority kept beside the new one. Raises ConfChangeError."""
    draft = _Draft(tracker, last_index)
    if draft.outgoing:
        raise ConfChangeError("config is already joint")
    if not draft.incoming:
        raise ConfChangeError("can't make a zero-voter config joint")
    draft.outgoing = set(draft.incoming)
    draft.apply(changes)
    draft.auto_leave = auto_leave
    return draft.checked()


def leave_joint(tracker: Tracker, last_index: int) -> Changed:
    """Drop the old majority. Raises ConfChangeError."""
    draft = _Draft(tracker, last_index)
    if not draft.outgoing:
        raise ConfChangeError("can't leave a non-joint config")
    for peer in sorted(draft.learners_next):
        draft.learners.add(peer)
        draft.progress[peer].is_learner = True
    draft.learners_next.clear()
    for peer in sorted(draft.outgoing - draft.incoming - draft.learners):
        del draft.progress[peer]
    draft.outgoing.clear()
    draft.auto_leave = False
    return draft.checked()


def restore(tracker: Tracker, last_index: int, state: ConfState) -> Changed:
    """A stored configuration, reached from an empty tracker by the very changes it could have come from.

    A joint one is the outgoing voters first, and then everything else in one step. Raises ConfChangeError.
    """
    additions = [ConfChangeSingle(ConfChangeType.ADD_VOTER, peer) for peer in state.voters]
    additions += [ConfChangeSingle(ConfChangeType.ADD_LEARNER, peer) for peer in state.learners]
    additions += [ConfChangeSingle(ConfChangeType.ADD_LEARNER, peer) for peer in state.learners_next]
    scratch = Tracker(tracker.max_inflight_msgs, tracker.max_inflight_bytes)
    first = [ConfChangeSingle(ConfChangeType.ADD_VOTER, peer) for peer in state.voters_outgoing] or additions
    for change in first:
        scratch.switch(*simple(scratch, last_index, (change,)))
    if state.voters_outgoing:
        removals = [ConfChangeSingle(ConfChangeType.REMOVE, peer) for peer in state.voters_outgoing]
        scratch.switch(*enter_joint(scratch, last_index, removals + additions, auto_leave=state.auto_leave))
    if not same_conf_state(scratch.config.conf_state(), state):
        raise ConfChangeError(f"no configuration looks like {state}")
    return scratch.config, scratch.progress


def is_possible(state: ConfState) -> bool:
    """Whether a stored configuration keeps Configuration's laws, so that `restore` will succeed."""
    voters, outgoing = set(state.voters), set(state.voters_outgoing)
    learners, learners_next = set(state.learners), set(state.learners_next)
    named = voters | outgoing | learners
    return (
        bool(voters)
        and not learners & (voters | outgoing)
        and learners_next <= outgoing - voters
        and (bool(outgoing) or not state.auto_leave)
        and min(named) > 0
        and max(named) <= NUMBER_MAX
    )


def same_conf_state(one: ConfState, other: ConfState) -> bool:
    """Whether two stored configurations mean the same, whatever their order."""
    return (
        set(one.voters) == set(other.voters)
        and set(one.learners) == set(other.learners)
        and set(one.voters_outgoing) == set(other.voters_outgoing)
        and set(one.learners_next) == set(other.learners_next)
        and one.auto_leave == other.auto_leave
    )


class _Draft:
    """A configuration being worked out."""

    __slots__ = (
        "_last_index",
        "_tracker",
        "auto_leave",
        "incoming",
        "learners",
        "learners_next",
        "outgoing",
        "progress",
    )

    def __init__(self, tracker: Tracker, last_index: int) -> None:
        self._tracker: Final = tracker
        self._last_index: Final = last_index

        config = tracker.config
        self.incoming = set(config.incoming)
        self.outgoing = set(config.outgoing)
        self.learners = set(config.learners)
        self.learners_next = set(config.learners_next)
        self.auto_leave = config.auto_leave
        self.progress = {peer: progress.copy() for peer, progress in tracker.progress.items()}

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        """Work in changes one by one; peer 0 is nobody. Raises ConfChangeError if no voter is left."""
        for change in changes:
            if change.peer_id == 0:
                continue
            if change.type is ConfChangeType.ADD_VOTER:
                self._make_voter(change.peer_id)
            elif change.type is ConfChangeType.ADD_LEARNER:
                self._make_learner(change.peer_id)
            elif change.type is ConfChangeType.REMOVE:
                self._remove(change.peer_id)
        if not self.incoming:
            raise ConfChangeError("removed all voters")

    def checked(self) -> Changed:
        """The result, which keeps Configuration's laws."""
        joint = bool(self.outgoing)
        members = self.incoming | self.outgoing | self.learners | self.learners_next
        assert members == self.progress.keys(), "a Progress for each peer and no other"
        assert self.learners_next <= self.outgoing, "a future learner is still a voter"
        assert not self.learners & (self.incoming | self.outgoing), "learners have no vote"
        assert {peer for peer, progress in self.progress.items() if progress.is_learner} == self.learners
        assert joint or not (self.learners_next or self.auto_leave)
        config = Configuration(
            frozenset(self.incoming),
            frozenset(self.outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            self.auto_leave,
        )
        return config, self.progress

    def _make_voter(self, peer: PeerId) -> None:
        self.incoming.add(peer)
        self.learners.discard(peer)
        self.learners_next.discard(peer)
        progress = self.progress.get(peer)
        if progress is None:
            self._start(peer, is_learner=False)
        else:
            progress.is_learner = False

    def _make_learner(self, peer: PeerId) -> None:
        progress = self.progress.get(peer)
        if progress is None:
            self.learners.add(peer)
            self._start(peer, is_learner=True)
            return
        if progress.is_learner:
            return
        self._remove(peer)
        self.progress[peer] = progress
        if peer in self.outgoing:
            # Nobody may be voter and learner at once, so the change waits for the end of the joint configuration.
            self.learners_next.add(peer)
        else:
            self.learners.add(peer)
            progress.is_learner = True

    def _remove(self, peer: PeerId) -> None:
        if peer not in self.progress:
            return
        self.incoming.discard(peer)
        self.learners.discard(peer)
        self.learners_next.discard(peer)
        if peer not in self.outgoing:
            del self.progress[peer]

    def _start(self, peer: PeerId, *, is_learner: bool) -> None:
        # Probed with the last entry first. Counted as active, or check-quorum could find the leader without a quorum
        # before the new peer had a chance to answer.
        self.progress[peer] = self._tracker.new_progress(
            match=0, next_index=max(self._last_index, 1), is_learner=is_learner, active=True
        )
