"""Replication: proposals, appends and their answers, commits and heartbeats (paper 5.3, 5.4.2).

Why: every entry a leader commits is on a quorum, and followers end up with the leader's log whatever theirs held.
Invariants: a leader only appends to its log; an index is committed by counting only if its entry is of the leader's
term; a follower acks an index only if its log equals the leader's up to there; the commit index never goes back.
Not here: snapshots (snapshot.py), elections (election.py).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import NO_PEER, Entry, EntryType, Message, MessageType
from nokv.raft import election, membership, reads, snapshot, transfer
from nokv.raft.errors import ProposalDropped, StorageReadError
from nokv.raft.progress import Flow, Progress
from nokv.raft.roles import Role
from nokv.raft.sizes import payload_bytes

if TYPE_CHECKING:
    from nokv.raft.core import Raft

Payload = tuple[EntryType, bytes]
"""An entry without a place in the log yet."""

# ---- the leader: proposals -------------------------------------------------------------------------------------------


def on_proposal(raft: "Raft", message: Message) -> None:
    """Append entries of the owner, or of a follower's. Raises ProposalDropped."""
    leader = raft.leading
    if raft.id not in raft.tracker.progress:
        raise ProposalDropped  # It was removed while it leads.
    if leader.transferee:
        if raft.sink is not None:
            raft.sink.debug(
                f"{raft.id:x} [term {raft.term}] transfer leadership to {leader.transferee:x} is in progress; "
                "dropping proposal"
            )
        raise ProposalDropped
    normal = EntryType.NORMAL
    payloads = [
        (normal, entry.data) if entry.type is normal else membership.admit(raft, entry, position)
        for position, entry in enumerate(message.entries)
    ]
    if not append(raft, payloads):
        raise ProposalDropped
    broadcast(raft)


def append(raft: "Raft", payloads: Sequence[Payload]) -> bool:
    """Append entries in this term. False: too much is uncommitted already."""
    term, last = raft.term, raft.log.last_index()
    entries = [Entry(term, LogIndex(last + place), kind, data) for place, (kind, data) in enumerate(payloads, 1)]
    if not _reserve_uncommitted(raft, payload_bytes(entries)):
        return False
    # The leader counts its own copy when it is durable, by an ack like everybody's.
    raft.send(MessageType.APP_RESP, raft.id, index=raft.log.append(entries))
    return True


def _reserve_uncommitted(raft: "Raft", size_bytes: int) -> bool:
    leader, limit = raft.leading, raft.config.max_uncommitted_entries_size
    # One proposal of any size is taken when nothing is uncommitted, and empty entries always are: the owner's limit
    # must not stop a leader from starting its term or from leaving a joint configuration.
    if limit and leader.uncommitted_bytes > 0 and size_bytes > 0 and leader.uncommitted_bytes + size_bytes > limit:
        if raft.sink is not None:
            raft.sink.warning(
                f"{raft.id:x} appending new entries to log would exceed uncommitted entry size limit; dropping proposal"
            )
        return False
    leader.uncommitted_bytes += size_bytes
    return True


def release_uncommitted(raft: "Raft", size_bytes: int) -> None:
    """Entries were applied; some may be of an earlier leader, which were never counted."""
    if raft.role is Role.LEADER:
        leader = raft.leading
        leader.uncommitted_bytes = max(leader.uncommitted_bytes - size_bytes, 0)


# ---- the leader: sending ---------------------------------------------------------------------------------------------


def broadcast(raft: "Raft") -> None:
    """Send everybody what is new, be it only the commit index."""
    own = raft.id
    for peer, progress in raft.tracker.progress.items():
        if peer != own:
            send_append(raft, peer, progress)


def send_append(raft: "Raft", peer: PeerId, progress: Progress, *, if_empty: bool = True) -> bool:
    """Send the next entries, or a snapshot if they are gone. False: nothing was sent."""
    if progress.paused:
        return False
    log, previous = raft.log, progress.next - 1
    entries: list[Entry] = []
    try:
        log_term = log.term(previous)
        # With a full window only an empty append may go: if all that filled it was lost, its answer reopens it.
        if progress.flow is not Flow.REPLICATE or not progress.inflights.full:
            entries = log.entries(progress.next, raft.config.max_size_per_msg)
    except StorageReadError:
        return snapshot.send(raft, peer, progress)
    if not entries and not if_empty:
        return False
    raft.post(
        Message(
            type=MessageType.APP,
            to=peer,
            sender=raft.id,
            term=raft.term,
            log_term=log_term,
            index=LogIndex(previous),
            entries=tuple(entries),
            commit=log.committed,
        )
    )
    progress.sent_entries(len(entries), payload_bytes(entries))
    progress.sent_commit(log.committed)
    return True


def tick(raft: "Raft") -> None:
    """A tick as leader."""
    leader, config = raft.leading, raft.config
    leader.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.election_elapsed >= config.election_tick:
        raft.election_elapsed = 0
        if config.check_quorum:
            check_quorum(raft)
        if raft.role is not Role.LEADER:
            return
        leader.transferee = NO_PEER  # Not taken over within an election timeout: go on leading (thesis 3.10).
    if leader.heartbeat_elapsed >= config.heartbeat_tick:
        leader.heartbeat_elapsed = 0
        broadcast_heartbeat(raft, leader.reads.last_context())


def check_quorum(raft: "Raft") -> None:
    """Step down if no quorum was heard of since this was called last (thesis 6.2)."""
    if not raft.tracker.quorum_active():
        if raft.sink is not None:
            raft.sink.warning(f"{raft.id:x} stepped down to follower since quorum is not active")
        election.become_follower(raft, raft.term, NO_PEER)
    for peer, progress in raft.tracker.progress.items():
        if peer != raft.id:
            progress.recent_active = False


def broadcast_heartbeat(raft: "Raft", context: bytes) -> None:
    """Tell everybody who leads; answers confirm the read of this context and all before it."""
    committed, own = raft.log.committed, raft.id
    for peer, progress in raft.tracker.progress.items():
        if peer == own:
            continue
        # Not beyond what the peer is known to have: its log may end differently there.
        commit = min(LogIndex(progress.match), committed)
        raft.post(
            Message(type=MessageType.HEARTBEAT, to=peer, sender=own, term=raft.term, commit=commit, context=context)
        )
        progress.sent_commit(commit)


# ---- the leader: answers ---------------------------------------------------------------------------------------------


def on_append_response(raft: "Raft", message: Message) -> None:
    """A peer, or this node's own storage, has stored entries or refused them."""
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    if message.reject:
        _on_rejection(raft, message, progress)
    elif progress.acked(message.index) or (progress.match == message.index and progress.flow is Flow.PROBE):
        _on_ack(raft, message, progress)


def _on_rejection(raft: "Raft", message: Message, progress: Progress) -> None:
    """The logs differ at `message.index`. The hint is the last place where they may agree, as the peer sees it."""
    peer, sink = message.sender, raft.sink
    if sink is not None:
        sink.debug(
            f"{raft.id:x} received MsgAppResp(rejected, hint: (index {message.reject_hint}, term {message.log_term})) "
            f"from {peer:x} for index {message.index}"
        )
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if progress.rejected(message.index, hint):
        if sink is not None:
            sink.debug(f"{raft.id:x} decreased progress of {peer:x} to [{progress.describe()}]")
        if progress.flow is Flow.REPLICATE:
            progress.become_probe()
        send_append(raft, peer, progress)


def _on_ack(raft: "Raft", message: Message, progress: Progress) -> None:
    peer, log = message.sender, raft.log
    if progress.flow is Flow.PROBE:
        progress.become_replicate()
    elif progress.flow is Flow.REPLICATE:
        progress.inflights.free_to(message.index)
    elif progress.match + 1 >= log.first_index():
        # Whichever snapshot it has applied, the log goes on from there.
        if raft.sink is not None:
            raft.sink.debug(
                f"{raft.id:x} recovered from needing snapshot, resumed sending replication messages to {peer:x} "
                f"[{progress.describe()}]"
            )
        progress.become_probe()
        progress.become_replicate()
    own = peer == raft.id
    if maybe_commit(raft):
        reads.release_early(raft)
        broadcast(raft)
    elif not own and progress.wants_commit(log.committed):
        send_append(raft, peer, progress)
    if not own:
        # The ack made room in the window, perhaps for several appends.
        while send_append(raft, peer, progress, if_empty=False):
            pass
        transfer.finish_if_caught_up(raft, peer, progress)


def on_heartbeat_response(raft: "Raft", message: Message) -> None:
    """A peer is alive: send what it lacks, and count it for reads that wait."""
    peer = message.sender
    progress = raft.tracker.progress.get(peer)
    if progress is None:
        return
    progress.recent_active = True
    progress.paused_after_append = False
    # A peer that is being probed gets an append even if it lacks nothing, so that its answer ends the probing.
    if progress.match < raft.log.last_index() or progress.flow is Flow.PROBE:
        send_append(raft, peer, progress)
    if message.context:
        reads.on_ack(raft, peer, message.context)


def maybe_commit(raft: "Raft") -> bool:
    """Commit what a quorum has, if that is of this term (paper 5.4.2, figure 8). True if that is news."""
    log, index = raft.log, raft.tracker.committed()
    return index > log.committed and log.term_or_zero(index) == raft.term and log.commit_to(index)


def unreachable(raft: "Raft", peer: PeerId) -> None:
    """The owner could not deliver a message: appends on the way may be lost."""
    progress = raft.tracker.progress.get(peer)
    if raft.role is not Role.LEADER or progress is None:
        return
    if progress.flow is Flow.REPLICATE:
        progress.become_probe()
    if raft.sink is not None:
        raft.sink.debug(
            f"{raft.id:x} failed to send message to {peer:x} because it is unreachable [{progress.describe()}]"
        )


# ---- the follower ----------------------------------------------------------------------------------------------------


def on_append(raft: "Raft", message: Message) -> None:
    """Entries of the leader."""
    raft.election_elapsed = 0
    raft.lead = message.sender
    log, leader, previous = raft.log, message.sender, message.index
    if previous < log.committed:
        # Out of date: what it brings is in the log already, up to the commit index at least.
        raft.send(MessageType.APP_RESP, leader, index=log.committed)
        return
    if not log.matches(message.log_term, previous):
        if raft.sink is not None:
            raft.sink.debug(
                f"{raft.id:x} [logterm: {log.term_or_zero(previous)}, index: {previous}] rejected MsgApp "
                f"[logterm: {message.log_term}, index: {previous}] from {leader:x}"
            )
        hint = min(previous, log.last_index())
        hint, hint_term = log.find_conflict_by_term(hint, message.log_term)
        raft.send(MessageType.APP_RESP, leader, log_term=hint_term, index=previous, reject=True, reject_hint=hint)
        return
    entries = message.entries
    last_new = LogIndex(previous + len(entries))
    new_from = log.find_conflict(entries)
    if new_from is not None:
        log.append(entries[new_from:])
    log.commit_to(min(message.commit, last_new))
    raft.send(MessageType.APP_RESP, leader, index=last_new)


def on_heartbeat(raft: "Raft", message: Message) -> None:
    """The leader is alive."""
    raft.election_elapsed = 0
    raft.lead = message.sender
    raft.log.commit_to(message.commit)
    raft.send(MessageType.HEARTBEAT_RESP, message.sender, context=message.context)


def on_append_as_candidate(raft: "Raft", message: Message) -> None:
    """Somebody else was elected."""
    election.become_follower(raft, message.term, message.sender)
    on_append(raft, message)


def on_heartbeat_as_candidate(raft: "Raft", message: Message) -> None:
    """Somebody else was elected."""
    election.become_follower(raft, message.term, message.sender)
    on_heartbeat(raft, message)


def forward_proposal(raft: "Raft", message: Message) -> None:
    """Send a proposal on to the leader. Raises ProposalDropped if there is none, or if the owner forwards itself."""
    if not raft.lead:
        drop_proposal(raft, message)
    if raft.config.disable_proposal_forwarding:
        if raft.sink is not None:
            raft.sink.info(f"{raft.id:x} not forwarding to leader {raft.lead:x} at term {raft.term}; dropping proposal")
        raise ProposalDropped
    # Nothing but what belongs to it: nobody has checked the other fields.
    raft.post(Message(type=MessageType.PROP, to=raft.lead, sender=message.sender, entries=message.entries))


def drop_proposal(raft: "Raft", _message: Message) -> NoReturn:
    """There is no leader. Raises ProposalDropped."""
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} no leader at term {raft.term}; dropping proposal")
    raise ProposalDropped
