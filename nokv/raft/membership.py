"""Membership: when a configuration change may be proposed, and what a node does when one is applied (thesis 4).

Why: two changes at once could leave two majorities without a voter in common.
Invariants: a leader takes a change only when the one before is applied by it; a node takes part in the configuration
of its last applied change, or of a snapshot it has taken; a joint configuration that is to be left by itself is left
by every leader that finds it.
Not here: how a configuration follows from another one (confchange.py).
"""

from typing import TYPE_CHECKING, Final

from nokv.proto.raft import (
    NO_INDEX,
    NO_PEER,
    NO_TERM,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    decode_conf_change,
)
from nokv.raft import confchange, election, reads, replication
from nokv.raft.describe import describe_conf_change
from nokv.raft.errors import ProposalDropped
from nokv.raft.roles import Role
from nokv.raft.tracker import Configuration, Tracker

if TYPE_CHECKING:
    from nokv.raft.core import Raft

_LEAVE_JOINT: Final = Entry(term=NO_TERM, index=NO_INDEX, type=EntryType.CONF_CHANGE_V2)


def is_promotable(raft: "Raft") -> bool:
    """Whether this node may campaign: it is a voter, and its state is not about to be replaced."""
    progress = raft.tracker.progress.get(raft.id)
    return progress is not None and not progress.is_learner and not raft.log.has_snapshot()


def has_unapplied_change(raft: "Raft") -> bool:
    """Whether a change is committed and not applied: a campaign would go by an old configuration."""
    log = raft.log
    if log.applied >= log.committed:
        return False
    page_bytes = raft.config.max_committed_size_per_ready or raft.config.max_size_per_msg
    # The owner may have applied, and compacted, more than the core has heard of yet.
    first = max(log.applied + 1, log.first_index())
    return any(
        entry.type is not EntryType.NORMAL for page in log.pages(first, log.committed + 1, page_bytes) for entry in page
    )


def admit(raft: "Raft", entry: Entry, position: int) -> "replication.Payload":
    """What the leader appends for a proposed change: one that is not in order becomes an empty entry."""
    leader, change = raft.leading, decode_conf_change(entry.type, entry.data)
    problem = _problem(raft, leader.pending_conf_index, change.as_v2())
    if problem and not raft.config.disable_conf_change_validation:
        if raft.sink is not None:
            raft.sink.info(
                f"{raft.id:x} ignoring conf change {describe_conf_change(change)} at config "
                f"{raft.tracker.config.describe()}: {problem}"
            )
        return EntryType.NORMAL, b""
    leader.pending_conf_index = raft.log.last_index() + position + 1
    return entry.type, entry.data


def _problem(raft: "Raft", pending_index: int, change: ConfChangeV2) -> str:
    """Why a change may not be proposed now, empty if it may."""
    joint, leaves = raft.tracker.config.joint, not change.changes
    if pending_index > raft.log.applied:
        return f"possible unapplied conf change at index {pending_index} (applied to {raft.log.applied})"
    if joint and not leaves:
        return "must transition out of joint config first"
    if not joint and leaves:
        return "not in joint state; refusing empty conf change"
    return ""


def apply(raft: "Raft", change: ConfChangeV2) -> ConfState:
    """A change was committed and is applied. Raises ConfChangeError, and nothing has changed then."""
    if raft.log.has_snapshot():
        # It was handed out before the snapshot came, which has it already. The owner may still crash without the
        # snapshot, so it has to hear of the configuration that belongs to this entry.
        before = raft.replaced
        assert before is not None
        before.switch(*confchange.apply_change(before, raft.log.last_index(), change))
        return before.config.conf_state()
    config, progress = confchange.apply_change(raft.tracker, raft.log.last_index(), change)
    raft.tracker.switch(config, progress)
    return _switched(raft)


def keep_before_snapshot(raft: "Raft") -> None:
    """A snapshot is about to be restored: changes that were handed out before it still go by what is in force now."""
    if not raft.log.has_snapshot():
        tracker = raft.tracker
        raft.replaced = Tracker(
            tracker.max_inflight_msgs, tracker.max_inflight_bytes, tracker.config, dict(tracker.progress)
        )


def restore(raft: "Raft", state: ConfState) -> ConfState:
    """Take over a stored configuration. Raises ConfChangeError, and nothing has changed then."""
    empty = Tracker(raft.tracker.max_inflight_msgs, raft.tracker.max_inflight_bytes)
    config, progress = confchange.restore(empty, raft.log.last_index(), state)
    raft.tracker.switch(config, progress)
    return _switched(raft)


def _switched(raft: "Raft") -> ConfState:
    tracker = raft.tracker
    config: Configuration = tracker.config
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} switched to configuration {config.describe()}")
    state = config.conf_state()
    if raft.role is not Role.LEADER:
        return state
    own = tracker.progress.get(raft.id)
    if own is None or own.is_learner:
        # It goes on leading until the change is committed everywhere, without counting itself, or it steps down.
        if raft.config.step_down_on_removal:
            election.become_follower(raft, raft.term, NO_PEER)
        return state
    if replication.maybe_commit(raft):
        reads.release_early(raft)
        replication.broadcast(raft)
    else:
        for peer, progress in tracker.progress.items():
            if peer != raft.id:
                replication.send_append(raft, peer, progress, if_empty=False)
    if raft.leading.transferee not in tracker.voter_ids:
        raft.leading.transferee = NO_PEER
    return state


def leave_joint_if_due(raft: "Raft") -> None:
    """Propose the end of a joint configuration that is to be left by itself, once it is applied."""
    config = raft.tracker.config
    if not config.auto_leave or raft.role is not Role.LEADER or raft.log.applied < raft.leading.pending_conf_index:
        return
    # Empty data passes the limit of uncommitted bytes. While a leader transfer is under way it is refused, and asked
    # for again with the next entries that are applied, here or by the next leader.
    leave = Message(type=MessageType.PROP, sender=raft.id, entries=(_LEAVE_JOINT,))
    try:
        raft.step(leave)
    except ProposalDropped as dropped:
        if raft.sink is not None:
            raft.sink.debug(
                f"not initiating automatic transition out of joint configuration {config.describe()}: {dropped}"
            )
    else:
        if raft.sink is not None:
            raft.sink.info(f"initiating automatic transition out of joint configuration {config.describe()}")
