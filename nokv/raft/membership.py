"""Membership: which changes may be proposed, and what happens when one is applied (thesis 4.1 to 4.3)."""

from typing import TYPE_CHECKING

import msgspec

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
)
from nokv.raft import confchange, replication
from nokv.raft.config import NOBODY
from nokv.raft.describe import describe_conf_change
from nokv.raft.errors import ProposalDropped
from nokv.raft.roles import Leader
from nokv.raft.tracker import Configuration, Tracker

if TYPE_CHECKING:
    from nokv.raft.core import Raft

_v1_decoder = msgspec.msgpack.Decoder(ConfChange)
_v2_decoder = msgspec.msgpack.Decoder(ConfChangeV2)
_encoder = msgspec.msgpack.Encoder()


def conf_change_entry(change: ConfChange | ConfChangeV2) -> Entry:
    """A change as an entry to be proposed. An empty change has no data: it leaves the joint configuration."""
    if isinstance(change, ConfChange):
        return Entry(type=EntryType.CONF_CHANGE, data=_encoder.encode(change))
    return Entry(type=EntryType.CONF_CHANGE_V2, data=b"" if change == ConfChangeV2() else _encoder.encode(change))


def decode_conf_change(entry: Entry) -> ConfChange | ConfChangeV2:
    """The change in an entry.

    Raises:
        msgspec.DecodeError: its data is none.
    """
    if entry.type is EntryType.CONF_CHANGE:
        return _v1_decoder.decode(entry.data)
    return _v2_decoder.decode(entry.data) if entry.data else ConfChangeV2()


def as_v2(change: ConfChange | ConfChangeV2) -> ConfChangeV2:
    """The same change in the newer form."""
    if isinstance(change, ConfChangeV2):
        return change
    return ConfChangeV2(changes=(ConfChangeSingle(change.type, change.node_id),), context=change.context)


def leaves_joint(change: ConfChangeV2) -> bool:
    """Whether the change only leaves a joint configuration."""
    return not change.changes and change.transition is ConfChangeTransition.AUTO


def enters_joint(change: ConfChangeV2) -> bool | None:
    """None: the change is simple. Otherwise it goes through a joint configuration, left by itself if True."""
    if change.transition is ConfChangeTransition.AUTO and len(change.changes) <= 1:
        return None
    return change.transition is not ConfChangeTransition.JOINT_EXPLICIT


# ---- proposing ------------------------------------------------------------------------------------------------------


def check_proposal(raft: "Raft", state: Leader, entry: Entry, at: int) -> Entry:
    """The entry to append for a proposed change: the change, or nothing if it may not be made now.

    `at` is its place in the proposal.
    """
    change = decode_conf_change(entry)
    joint = raft.tracker.config.joint
    wants_leave = not as_v2(change).changes
    failed = ""
    if state.pending_conf_index > raft.log.applied:
        failed = f"possible unapplied conf change at index {state.pending_conf_index} (applied to {raft.log.applied})"
    elif joint and not wants_leave:
        failed = "must transition out of joint config first"
    elif not joint and wants_leave:
        failed = "not in joint state; refusing empty conf change"
    if failed and not raft.config.disable_conf_change_validation:
        raft.trace.info(
            lambda: (
                f"{raft.id:x} ignoring conf change {describe_conf_change(change)} at config "
                f"{raft.tracker.config.describe()}: {failed}"
            )
        )
        return Entry()
    state.pending_conf_index = LogIndex(raft.log.last_index() + at + 1)
    return entry


def maybe_auto_leave(raft: "Raft") -> None:
    """Propose to leave a joint configuration that is to be left by itself, once it is applied."""
    state = raft.state
    if not raft.tracker.config.auto_leave or not isinstance(state, Leader):
        return
    if raft.log.applied < state.pending_conf_index:
        return
    leave = Message(type=MessageType.PROP, entries=(conf_change_entry(ConfChangeV2()),))
    try:
        raft.step(leave)
    except ProposalDropped:
        raft.trace.debug(
            lambda: (
                "not initiating automatic transition out of joint configuration "
                f"{raft.tracker.config.describe()}: raft proposal dropped"
            )
        )
        return
    raft.trace.info(
        lambda: f"initiating automatic transition out of joint configuration {raft.tracker.config.describe()}"
    )


# ---- applying -------------------------------------------------------------------------------------------------------


def apply_conf_change(raft: "Raft", change: ConfChangeV2) -> ConfState:
    """A committed change takes effect.

    Raises:
        ConfChangeError: it cannot be made; with validation on, such a change is never committed.
    """
    changer = confchange.Changer(raft.tracker, raft.log.last_index())
    if leaves_joint(change):
        config, progress = changer.leave_joint()
    else:
        auto_leave = enters_joint(change)
        if auto_leave is None:
            config, progress = changer.simple(change.changes)
        else:
            config, progress = changer.enter_joint(change.changes, auto_leave=auto_leave)
    return switch_to(raft, config, progress)


def restore(raft: "Raft", state: ConfState) -> None:
    """Take the membership from a stored state or a snapshot."""
    old = raft.tracker
    raft.tracker = Tracker(max_inflight=old.max_inflight, max_inflight_bytes=old.max_inflight_bytes)
    config, progress = confchange.restore(raft.tracker, raft.log.last_index(), state)
    restored = switch_to(raft, config, progress)
    assert _same(restored, state), f"stored {state} came back as {restored}"


def _same(one: ConfState, other: ConfState) -> bool:
    """Equality whatever the order of ids."""

    def key(state: ConfState) -> tuple[object, ...]:
        return (
            sorted(state.voters),
            sorted(state.learners),
            sorted(state.voters_outgoing),
            sorted(state.learners_next),
            state.auto_leave,
        )

    return key(one) == key(other)


def switch_to(raft: "Raft", config: Configuration, progress: confchange.Progresses) -> ConfState:
    """Use another configuration from now on; a leader acts on what it means for it and its peers."""
    raft.tracker.config = config
    raft.tracker.progress = progress
    raft.trace.info(lambda: f"{raft.id:x} switched to configuration {config.describe()}")
    conf_state = raft.tracker.conf_state()
    state = raft.state
    if not isinstance(state, Leader):
        return conf_state
    own = progress.get(raft.id)
    if own is None or own.is_learner:
        if raft.config.step_down_on_removal:
            raft.become_follower(raft.term, NOBODY)
        return conf_state
    if not conf_state.voters:
        return conf_state
    if replication.maybe_commit(raft):
        # Fewer are needed now, so more is committed.
        replication.broadcast_append(raft)
    else:
        for peer_id, known in raft.tracker.visit():
            if peer_id != raft.id:
                replication.maybe_send_append(raft, peer_id, known, send_if_empty=False)
    if state.transferee != NOBODY and state.transferee not in config.voters:
        state.transferee = PeerId(NOBODY)
    return conf_state
