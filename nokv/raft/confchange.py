"""Membership changes as functions: a configuration and changes in, a configuration or a refusal out.

Simple changes alter at most one voter, so old and new majorities overlap (thesis 4.1). Anything larger goes through a
joint configuration, in which both majorities decide (thesis 4.3): `enter_joint`, later `leave_joint`.
Invariants: the input is never changed; a refusal is a ConfChangeError and leaves everything as it was; a result always
satisfies the tracker's invariants; a voter that becomes a learner does so only when the joint configuration is
left, since it may still be needed for the outgoing majority.
Not here: when a change may be proposed (membership.py).
"""

from collections.abc import Sequence

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import ConfChangeSingle, ConfChangeType, ConfState
from nokv.raft.progress import Inflights, Progress
from nokv.raft.tracker import Configuration, Tracker

Progresses = dict[PeerId, Progress]


class ConfChangeError(ValueError):
    """The change cannot be made to this configuration."""


class Changer:
    """Applies changes to a copy of a tracker's configuration."""

    def __init__(self, tracker: Tracker, last_index: LogIndex) -> None:
        self._tracker = tracker
        self._last_index = last_index

    def enter_joint(self, changes: Sequence[ConfChangeSingle], *, auto_leave: bool) -> tuple[Configuration, Progresses]:
        """The joint configuration whose outgoing half is the present one, with `changes` made to the incoming half.

        Raises:
            ConfChangeError: joint already, or no voter would be left.
        """
        config, progress = self._copy()
        if config.joint:
            raise ConfChangeError("config is already joint")
        if not config.incoming:
            raise ConfChangeError("can't make a zero-voter config joint")
        config.outgoing = set(config.incoming)
        self._apply(config, progress, changes)
        config.auto_leave = auto_leave
        return self._checked(config, progress)

    def leave_joint(self) -> tuple[Configuration, Progresses]:
        """The incoming half alone; peers that are in neither half any more are forgotten.

        Raises:
            ConfChangeError: not joint.
        """
        config, progress = self._copy()
        if not config.joint:
            raise ConfChangeError("can't leave a non-joint config")
        for peer_id in config.learners_next:
            config.learners.add(peer_id)
            progress[peer_id].is_learner = True
        config.learners_next = set()
        for peer_id in sorted(config.outgoing):
            if peer_id not in config.incoming and peer_id not in config.learners:
                del progress[peer_id]
        config.outgoing = set()
        config.auto_leave = False
        return self._checked(config, progress)

    def simple(self, changes: Sequence[ConfChangeSingle]) -> tuple[Configuration, Progresses]:
        """The configuration after changes that alter at most one voter.

        Raises:
            ConfChangeError: joint, more than one voter, or no voter left.
        """
        config, progress = self._copy()
        if config.joint:
            raise ConfChangeError("can't apply simple config change in joint config")
        before = set(config.incoming)
        self._apply(config, progress, changes)
        if len(before ^ config.incoming) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return self._checked(config, progress)

    # ---- one change ------------------------------------------------------------------------------------------------

    def _apply(self, config: Configuration, progress: Progresses, changes: Sequence[ConfChangeSingle]) -> None:
        for change in changes:
            if change.node_id == 0:
                continue  # etcd replaces the node of a change it wants ignored with 0
            match change.type:
                case ConfChangeType.ADD_NODE:
                    self._make_voter(config, progress, change.node_id)
                case ConfChangeType.ADD_LEARNER_NODE:
                    self._make_learner(config, progress, change.node_id)
                case ConfChangeType.REMOVE_NODE:
                    self._remove(config, progress, change.node_id)
                case ConfChangeType.UPDATE_NODE:
                    pass
        if not config.incoming:
            raise ConfChangeError("removed all voters")

    def _make_voter(self, config: Configuration, progress: Progresses, peer_id: PeerId) -> None:
        known = progress.get(peer_id)
        if known is None:
            self._init_progress(config, progress, peer_id, is_learner=False)
            return
        known.is_learner = False
        config.learners.discard(peer_id)
        config.learners_next.discard(peer_id)
        config.incoming.add(peer_id)

    def _make_learner(self, config: Configuration, progress: Progresses, peer_id: PeerId) -> None:
        known = progress.get(peer_id)
        if known is None:
            self._init_progress(config, progress, peer_id, is_learner=True)
            return
        if known.is_learner:
            return
        self._remove(config, progress, peer_id)
        progress[peer_id] = known
        if peer_id in config.outgoing:
            config.learners_next.add(peer_id)
        else:
            known.is_learner = True
            config.learners.add(peer_id)

    def _remove(self, config: Configuration, progress: Progresses, peer_id: PeerId) -> None:
        if peer_id not in progress:
            return
        config.incoming.discard(peer_id)
        config.learners.discard(peer_id)
        config.learners_next.discard(peer_id)
        if peer_id not in config.outgoing:
            del progress[peer_id]

    def _init_progress(self, config: Configuration, progress: Progresses, peer_id: PeerId, *, is_learner: bool) -> None:
        (config.learners if is_learner else config.incoming).add(peer_id)
        tracker = self._tracker
        # A new peer is taken for a follower whose log is as long as ours: right for a peer that just got a snapshot,
        # and found out at the first append otherwise. At least 1, or `next` would not be above `match`.
        made = Progress(
            next=LogIndex(max(self._last_index, 1)),
            inflights=Inflights(tracker.max_inflight, tracker.max_inflight_bytes),
            match=LogIndex(0),
        )
        made.is_learner = is_learner
        # Otherwise a quorum check right after the change would take the newcomer for dead.
        made.recent_active = True
        progress[peer_id] = made

    # ---- around it -------------------------------------------------------------------------------------------------

    def _copy(self) -> tuple[Configuration, Progresses]:
        config = self._tracker.config.copy()
        progress = {peer_id: copy_progress(pr) for peer_id, pr in self._tracker.progress.items()}
        check_invariants(config, progress)
        return config, progress

    def _checked(self, config: Configuration, progress: Progresses) -> tuple[Configuration, Progresses]:
        check_invariants(config, progress)
        return config, progress


def copy_progress(progress: Progress) -> Progress:
    """A copy that shares the inflight window, which a change of role does not touch."""
    copy = Progress(next=progress.next, inflights=progress.inflights, match=progress.match)
    copy.sent_commit = progress.sent_commit
    copy.state = progress.state
    copy.pending_snapshot = progress.pending_snapshot
    copy.recent_active = progress.recent_active
    copy.msg_app_flow_paused = progress.msg_app_flow_paused
    copy.is_learner = progress.is_learner
    return copy


def check_invariants(config: Configuration, progress: Progresses) -> None:
    """Assert what every configuration must satisfy; a violation is a bug of this module."""
    for peer_id in config.voters | config.learners | config.learners_next:
        assert peer_id in progress, f"no progress for {peer_id}"
    for peer_id in config.learners_next:
        assert peer_id in config.outgoing, f"{peer_id} is in learners_next, but not in the outgoing half"
        assert not progress[peer_id].is_learner, f"{peer_id} is in learners_next, but already a learner"
    for peer_id in config.learners:
        assert peer_id not in config.voters, f"{peer_id} is a learner and a voter"
        assert progress[peer_id].is_learner, f"{peer_id} is in learners, but not marked as one"
    if not config.joint:
        assert not config.learners_next, "learners_next in a simple configuration"
        assert not config.auto_leave, "autoleave in a simple configuration"


def restore(tracker: Tracker, last_index: LogIndex, state: ConfState) -> tuple[Configuration, Progresses]:
    """The configuration that a stored membership describes, built up from nothing by legal changes.

    Raises:
        ConfChangeError: the stored membership is none that changes could have led to.
    """
    outgoing = [ConfChangeSingle(ConfChangeType.ADD_NODE, peer_id) for peer_id in state.voters_outgoing]
    incoming = [ConfChangeSingle(ConfChangeType.REMOVE_NODE, peer_id) for peer_id in state.voters_outgoing]
    incoming += [ConfChangeSingle(ConfChangeType.ADD_NODE, peer_id) for peer_id in state.voters]
    incoming += [ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, peer_id) for peer_id in state.learners]
    incoming += [ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, peer_id) for peer_id in state.learners_next]
    work = Tracker(max_inflight=tracker.max_inflight, max_inflight_bytes=tracker.max_inflight_bytes)
    changer = Changer(work, last_index)
    for change in outgoing or incoming:
        work.config, work.progress = changer.simple([change])
    if outgoing:
        work.config, work.progress = changer.enter_joint(incoming, auto_leave=state.auto_leave)
    return work.config, work.progress
