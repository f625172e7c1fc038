"""What a message means to a follower, and how a leader's entries, heartbeats and snapshots are taken (Raft 5.3, 7)."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from nokv.proto.ids import LogIndex
from nokv.proto.raft import Message, MessageType, Snapshot
from nokv.raft import election, membership
from nokv.raft.config import NOBODY, ReadOnlyOption
from nokv.raft.errors import ProposalDropped
from nokv.raft.roles import ReadState

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def step(raft: "Raft", message: Message) -> None:
    """Take a message of this term."""
    match message.type:
        case MessageType.APP | MessageType.HEARTBEAT | MessageType.SNAP:
            raft.election_elapsed = 0
            raft.lead = message.sender
            obey(raft, message)
        case MessageType.PROP:
            _forward_proposal(raft, message)
        case MessageType.TRANSFER_LEADER:
            _forward(raft, message, "dropping leader transfer msg")
        case MessageType.READ_INDEX:
            _forward(raft, message, "dropping index reading msg")
        case MessageType.FORGET_LEADER:
            _forget_leader(raft)
        case MessageType.TIMEOUT_NOW:
            raft.trace.info(
                lambda: (
                    f"{raft.id:x} [term {raft.term}] received MsgTimeoutNow from {message.sender:x} and starts an "
                    "election to get leadership."
                )
            )
            # No pre-vote: the leader itself has asked, so this is no return from a partition (thesis 3.10).
            election.hup(raft, election.TRANSFER)
        case MessageType.READ_INDEX_RESP:
            if len(message.entries) == 1:
                raft.read_states.append(ReadState(message.index, message.entries[0].data))
        case _:
            pass


def obey(raft: "Raft", message: Message) -> None:
    """Take what only a leader sends."""
    match message.type:
        case MessageType.APP:
            handle_append(raft, message)
        case MessageType.HEARTBEAT:
            raft.log.commit_to(message.commit)
            raft.send(Message(type=MessageType.HEARTBEAT_RESP, to=message.sender, context=message.context))
        case MessageType.SNAP:
            handle_snapshot(raft, message)
        case _:
            raise AssertionError(f"{message.type.name} is no order")


def handle_append(raft: "Raft", message: Message) -> None:
    """Append entries, or say where the logs might agree (Raft 5.3)."""
    log = raft.log
    if message.index < log.committed:
        raft.send(Message(type=MessageType.APP_RESP, to=message.sender, index=log.committed))
        return
    last = log.maybe_append(message.index, message.log_term, message.entries, message.commit)
    if last is not None:
        raft.send(Message(type=MessageType.APP_RESP, to=message.sender, index=last))
        return
    raft.trace.debug(
        lambda: (
            f"{raft.id:x} [logterm: {log.term_or_zero(message.index)}, index: {message.index}] rejected MsgApp "
            f"[logterm: {message.log_term}, index: {message.index}] from {message.sender:x}"
        )
    )
    hint_index, hint_term = log.find_conflict_by_term(min(message.index, log.last_index()), message.log_term)
    raft.send(
        Message(
            type=MessageType.APP_RESP,
            to=message.sender,
            index=message.index,
            reject=True,
            reject_hint=hint_index,
            log_term=hint_term,
        )
    )


def handle_snapshot(raft: "Raft", message: Message) -> None:
    """Replace the log by a snapshot if that brings it forward (Raft 7)."""
    snapshot = message.snapshot or Snapshot()
    metadata = snapshot.metadata
    restored = _restore(raft, snapshot)
    verb = "restored" if restored else "ignored"
    raft.trace.info(
        lambda: (
            f"{raft.id:x} [commit: {raft.log.committed}] {verb} snapshot "
            f"[index: {metadata.index}, term: {metadata.term}]"
        )
    )
    index = raft.log.last_index() if restored else raft.log.committed
    raft.send(Message(type=MessageType.APP_RESP, to=message.sender, index=LogIndex(index)))


def _restore(raft: "Raft", snapshot: Snapshot) -> bool:
    """Take a snapshot in. False: it is old, not for this node, or says nothing new."""
    log, metadata = raft.log, snapshot.metadata
    if metadata.index <= log.committed:
        return False
    state = metadata.conf_state
    if raft.id not in (*state.voters, *state.learners, *state.voters_outgoing):
        raft.trace.warn(
            lambda: (
                f"{raft.id:x} attempted to restore snapshot but it is not in the ConfState {state}; should never happen"
            )
        )
        return False
    if log.match_term(metadata.index, metadata.term):
        raft.trace.info(
            lambda: (
                f"{raft.id:x} [commit: {log.committed}, lastindex: {log.last_index()}, lastterm: {log.last_term()}] "
                f"fast-forwarded commit to snapshot [index: {metadata.index}, term: {metadata.term}]"
            )
        )
        log.commit_to(metadata.index)
        return False
    log.restore(snapshot)
    membership.restore(raft, state)
    raft.trace.info(
        lambda: (
            f"{raft.id:x} [commit: {log.committed}, lastindex: {log.last_index()}, lastterm: {log.last_term()}] "
            f"restored snapshot [index: {metadata.index}, term: {metadata.term}]"
        )
    )
    return True


def _forward_proposal(raft: "Raft", message: Message) -> None:
    if raft.lead == NOBODY:
        raft.trace.info(lambda: f"{raft.id:x} no leader at term {raft.term}; dropping proposal")
        raise ProposalDropped
    if raft.config.disable_proposal_forwarding:
        raft.trace.info(
            lambda: f"{raft.id:x} not forwarding to leader {raft.lead:x} at term {raft.term}; dropping proposal"
        )
        raise ProposalDropped
    raft.send(replace(message, to=raft.lead))


def _forward(raft: "Raft", message: Message, dropping: str) -> None:
    if raft.lead == NOBODY:
        raft.trace.info(lambda: f"{raft.id:x} no leader at term {raft.term}; {dropping}")
        return
    raft.send(replace(message, to=raft.lead))


def _forget_leader(raft: "Raft") -> None:
    """Be ready to vote for somebody else at once, without raising the term."""
    if raft.config.read_only is ReadOnlyOption.LEASE_BASED:
        raft.trace.error(lambda: "ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
    elif raft.lead != NOBODY:
        lead = raft.lead
        raft.trace.info(lambda: f"{raft.id:x} forgetting leader {lead:x} at term {raft.term}")
        raft.lead = NOBODY
