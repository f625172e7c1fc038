"""What a message means to a leader:

proposals, acknowledgements, reads, transfers (Raft 5.3, 5.4.2, 8; thesis 3.10, 6.4).
"""

from typing import TYPE_CHECKING

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import Entry, EntryType, Message, MessageType
from nokv.raft import membership, quorum, replication
from nokv.raft.config import NOBODY, ReadOnlyOption
from nokv.raft.errors import ProposalDropped
from nokv.raft.progress import Progress, ProgressState
from nokv.raft.quorum import VoteResult
from nokv.raft.read_only import context_of
from nokv.raft.replication import broadcast_append, broadcast_heartbeat, maybe_send_append, send_append
from nokv.raft.roles import Leader, ReadState
from nokv.raft.sizes import payload_bytes

if TYPE_CHECKING:
    from nokv.raft.core import Raft

__all__ = ["append", "broadcast_append", "step", "tick"]


def tick(raft: "Raft", state: Leader) -> None:
    """Count towards the next heartbeat and the next quorum check."""
    state.heartbeat_elapsed += 1
    if raft.election_elapsed >= raft.config.election_tick:
        raft.election_elapsed = 0
        if raft.config.check_quorum:
            raft.step(Message(type=MessageType.CHECK_QUORUM, sender=raft.id))
        if raft.state is state and state.transferee != NOBODY:
            # Not finished in an election timeout: this node leads on (thesis 3.10).
            state.transferee = NOBODY
    if raft.state is state and state.heartbeat_elapsed >= raft.config.heartbeat_tick:
        state.heartbeat_elapsed = 0
        raft.step(Message(type=MessageType.BEAT, sender=raft.id))


def step(raft: "Raft", message: Message) -> None:
    """Take a message of this term."""
    state = raft.state
    assert isinstance(state, Leader)
    match message.type:
        case MessageType.BEAT:
            broadcast_heartbeat(raft, state.reads.last_context())
        case MessageType.CHECK_QUORUM:
            _check_quorum(raft)
        case MessageType.PROP:
            _propose(raft, state, message)
        case MessageType.READ_INDEX:
            _read_index(raft, state, message)
        case MessageType.FORGET_LEADER:
            pass
        case _:
            progress = raft.tracker.progress.get(message.sender)
            if progress is None:
                raft.trace.debug(lambda: f"{raft.id:x} no progress available for {message.sender:x}")
                return
            _from_peer(raft, state, message, progress)


def _from_peer(raft: "Raft", state: Leader, message: Message, progress: Progress) -> None:
    match message.type:
        case MessageType.APP_RESP:
            progress.recent_active = True
            if message.reject:
                _rejected(raft, message, progress)
            else:
                _acknowledged(raft, state, message, progress)
        case MessageType.HEARTBEAT_RESP:
            _heartbeat_answered(raft, state, message, progress)
        case MessageType.SNAP_STATUS:
            _snapshot_status(raft, message, progress)
        case MessageType.UNREACHABLE:
            # What was sent ahead is probably lost.
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            raft.trace.debug(
                lambda: (
                    f"{raft.id:x} failed to send message to {message.sender:x} because it is unreachable "
                    f"[{progress.describe()}]"
                )
            )
        case MessageType.TRANSFER_LEADER:
            _transfer(raft, state, message.sender, progress)
        case _:
            pass


# ---- proposals ------------------------------------------------------------------------------------------------------


def _propose(raft: "Raft", state: Leader, message: Message) -> None:
    assert message.entries, "an empty proposal"
    if raft.id not in raft.tracker.progress:
        raise ProposalDropped  # removed while leading
    if state.transferee != NOBODY:
        raft.trace.debug(
            lambda: (
                f"{raft.id:x} [term {raft.term}] transfer leadership to {state.transferee:x} is in progress; "
                "dropping proposal"
            )
        )
        raise ProposalDropped
    entries = [
        membership.check_proposal(raft, state, entry, at) if entry.type is not EntryType.NORMAL else entry
        for at, entry in enumerate(message.entries)
    ]
    if not append(raft, state, entries):
        raise ProposalDropped
    broadcast_append(raft)


def append(raft: "Raft", state: Leader, entries: list[Entry]) -> bool:
    """Append entries of this term; the leader's own acknowledgement waits until they are stable.

    False: too much waits.
    """
    size = payload_bytes(entries)
    if (
        state.uncommitted_bytes > 0
        and size > 0
        and (state.uncommitted_bytes + size > raft.config.max_uncommitted_entries_size)
    ):
        raft.trace.warn(
            lambda: (
                f"{raft.id:x} appending new entries to log would exceed uncommitted entry size limit; dropping proposal"
            )
        )
        return False
    state.uncommitted_bytes += size
    first, term = raft.log.last_index() + 1, raft.term
    last = raft.log.append(
        [Entry(term, LogIndex(first + at), entry.type, entry.data) for at, entry in enumerate(entries)]
    )
    raft.send(Message(type=MessageType.APP_RESP, to=raft.id, index=last))
    return True


# ---- replication ----------------------------------------------------------------------------------------------------


def _rejected(raft: "Raft", message: Message, progress: Progress) -> None:
    """The logs part before `message.index`: go back by the follower's hint, a whole term at a time (Raft 5.3)."""
    raft.trace.debug(
        lambda: (
            f"{raft.id:x} received MsgAppResp(rejected, hint: (index {message.reject_hint}, "
            f"term {message.log_term})) from {message.sender:x} for index {message.index}"
        )
    )
    next_probe = message.reject_hint
    if message.log_term > 0:
        next_probe, _term = raft.log.find_conflict_by_term(message.reject_hint, message.log_term)
    if progress.maybe_decrease(message.index, next_probe):
        raft.trace.debug(lambda: f"{raft.id:x} decreased progress of {message.sender:x} to [{progress.describe()}]")
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.sender)


def _acknowledged(raft: "Raft", state: Leader, message: Message, progress: Progress) -> None:
    """A peer has the log up to `message.index`: commit what a quorum has, and send it more."""
    probing = progress.match == message.index and progress.state is ProgressState.PROBE
    if not progress.maybe_update(message.index) and not probing:
        return
    _advance_state(raft, message, progress)
    sender, log = message.sender, raft.log
    if replication.maybe_commit(raft):
        _release_reads(raft, state)
        broadcast_append(raft)
    elif sender != raft.id and progress.can_bump_commit(log.committed):
        send_append(raft, sender)
    if sender != raft.id:
        # The window may have opened by several messages.
        while maybe_send_append(raft, sender, progress, send_if_empty=False):
            pass
    if sender == state.transferee and progress.match == log.last_index():
        raft.trace.info(lambda: f"{raft.id:x} sent MsgTimeoutNow to {sender:x} after received MsgAppResp")
        raft.send(Message(type=MessageType.TIMEOUT_NOW, to=sender))


def _advance_state(raft: "Raft", message: Message, progress: Progress) -> None:
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.SNAPSHOT:
        # Whatever snapshot it has taken in: if our log goes on from there, it needs no other.
        if progress.match + 1 >= raft.log.first_index():
            raft.trace.debug(
                lambda: (
                    f"{raft.id:x} recovered from needing snapshot, resumed sending replication messages to "
                    f"{message.sender:x} [{progress.describe()}]"
                )
            )
            progress.become_probe()
            progress.become_replicate()
    else:
        progress.inflights.free_to(message.index)


def _heartbeat_answered(raft: "Raft", state: Leader, message: Message, progress: Progress) -> None:
    progress.recent_active = True
    progress.msg_app_flow_paused = False
    if progress.match < raft.log.last_index() or progress.state is ProgressState.PROBE:
        # It lags, or its window is full of lost messages, or it has been unreachable: an append finds out.
        send_append(raft, message.sender)
    if raft.config.read_only is not ReadOnlyOption.SAFE or not message.context:
        return
    config = raft.tracker.config
    acks = state.reads.acknowledge(message.sender, message.context)
    if quorum.vote_result(config.incoming, config.outgoing, acks) is not VoteResult.WON:
        return
    for read in state.reads.confirmed(message.context):
        _answer_read(raft, read.request, read.index)


def _snapshot_status(raft: "Raft", message: Message, progress: Progress) -> None:
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = LogIndex(0)
    progress.become_probe()
    verb = "failed" if message.reject else "succeeded"
    raft.trace.debug(
        lambda: (
            f"{raft.id:x} snapshot {verb}, resumed sending replication messages to {message.sender:x} "
            f"[{progress.describe()}]"
        )
    )
    # After success its acknowledgement is on the way; after a failure a heartbeat interval is soon enough.
    progress.msg_app_flow_paused = True


def _check_quorum(raft: "Raft") -> None:
    """Step down unless a quorum was heard of since the last check (thesis 6.2)."""
    if not raft.tracker.quorum_active():
        raft.trace.warn(lambda: f"{raft.id:x} stepped down to follower since quorum is not active")
        raft.become_follower(raft.term, NOBODY)
    for peer_id, progress in raft.tracker.progress.items():
        if peer_id != raft.id:
            progress.recent_active = False


# ---- reads ----------------------------------------------------------------------------------------------------------


def _read_index(raft: "Raft", state: Leader, message: Message) -> None:
    """Find an index at or above everything committed so far, and prove that no later leader has gone further."""
    if raft.tracker.singleton:
        _answer_read(raft, message, raft.log.committed)
    elif raft.log.term_or_zero(raft.log.committed) != raft.term:
        # What earlier terms have committed is known only once an entry of this term is (thesis 6.4).
        state.reads.waiting.append(message)
    else:
        _prove_read(raft, state, message)


def _prove_read(raft: "Raft", state: Leader, message: Message) -> None:
    if raft.config.read_only is ReadOnlyOption.LEASE_BASED:
        _answer_read(raft, message, raft.log.committed)
        return
    context = context_of(message)
    state.reads.add(raft.log.committed, message)
    state.reads.acknowledge(raft.id, context)
    broadcast_heartbeat(raft, context)


def _release_reads(raft: "Raft", state: Leader) -> None:
    """An entry was committed: if it is of this term, reads that waited for one go on."""
    if state.reads.waiting and raft.log.term_or_zero(raft.log.committed) == raft.term:
        waiting, state.reads.waiting = state.reads.waiting, []
        for message in waiting:
            _prove_read(raft, state, message)


def _answer_read(raft: "Raft", request: Message, index: LogIndex) -> None:
    if request.sender in (NOBODY, raft.id):
        raft.read_states.append(ReadState(index, context_of(request)))
    else:
        raft.send(Message(type=MessageType.READ_INDEX_RESP, to=request.sender, index=index, entries=request.entries))


# ---- transfer -------------------------------------------------------------------------------------------------------


def _transfer(raft: "Raft", state: Leader, target: PeerId, progress: Progress) -> None:
    """Hand the leadership to `target` once its log is complete (thesis 3.10)."""
    if progress.is_learner:
        raft.trace.debug(lambda: f"{raft.id:x} is learner. Ignored transferring leadership")
        return
    previous = state.transferee
    if previous != NOBODY:
        if previous == target:
            raft.trace.info(
                lambda: (
                    f"{raft.id:x} [term {raft.term}] transfer leadership to {target:x} is in progress, "
                    f"ignores request to same node {target:x}"
                )
            )
            return
        state.transferee = NOBODY
        raft.trace.info(
            lambda: f"{raft.id:x} [term {raft.term}] abort previous transferring leadership to {previous:x}"
        )
    if target == raft.id:
        raft.trace.debug(lambda: f"{raft.id:x} is already leader. Ignored transferring leadership to self")
        return
    raft.trace.info(lambda: f"{raft.id:x} [term {raft.term}] starts to transfer leadership to {target:x}")
    raft.election_elapsed = 0  # it is to be done within one election timeout
    state.transferee = target
    if progress.match == raft.log.last_index():
        raft.send(Message(type=MessageType.TIMEOUT_NOW, to=target))
        raft.trace.info(
            lambda: (
                f"{raft.id:x} sends MsgTimeoutNow to {target:x} immediately as {target:x} already has up-to-date log"
            )
        )
    else:
        send_append(raft, target)
