"""Linearizable reads without a log entry (thesis 6.4): who may read what, and when.

Why: a read must see everything that was committed when it was asked, and a leader may have been replaced unnoticed.
Invariants: no read is answered before an entry of this term is committed; under SAFE none before a quorum has answered
a heartbeat sent after it was asked; under LEASE_BASED the check-quorum lease takes the heartbeats' place.
Not here: the queue of reads that wait (read_index.py).
"""

from typing import TYPE_CHECKING

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import NO_PEER, Message, MessageType
from nokv.raft import replication
from nokv.raft.config import ReadOnly
from nokv.raft.quorum import VoteResult, joint_vote
from nokv.raft.read_index import ReadState

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def on_request(raft: "Raft", message: Message) -> None:
    """A read of the leader's owner, or of a follower's."""
    # Even a leader that is alone has to wait: its commit index may have been lost in a crash, as nobody syncs it.
    if _has_committed_in_term(raft):
        _start(raft, message)
    else:
        raft.leading.early_reads.append(message)


def release_early(raft: "Raft") -> None:
    """The commit index went on: if it reached this term, start the reads that were asked too early."""
    leader = raft.leading
    if leader.early_reads and _has_committed_in_term(raft):
        early, leader.early_reads = leader.early_reads, []
        for message in early:
            _start(raft, message)


def on_ack(raft: "Raft", peer: PeerId, context: bytes) -> None:
    """A heartbeat with a read's context was answered."""
    reads = raft.leading.reads
    acks = reads.ack(context, peer)
    if acks is not None and joint_vote(raft.tracker.config.voters, acks) is VoteResult.WON:
        for read in reads.confirm(context):
            _answer(raft, read.request, read.index)


def _has_committed_in_term(raft: "Raft") -> bool:
    return raft.log.term_or_zero(raft.log.committed) == raft.term


def _start(raft: "Raft", message: Message) -> None:
    if raft.config.read_only is ReadOnly.LEASE_BASED or raft.tracker.is_only_voter(raft.id):
        _answer(raft, message, raft.log.committed)
        return
    reads, context = raft.leading.reads, message.entries[0].data
    reads.add(context, message, raft.log.committed)
    reads.ack(context, raft.id)
    replication.broadcast_heartbeat(raft, context)


def _answer(raft: "Raft", request: Message, index: LogIndex) -> None:
    context = request.entries[0].data
    if request.sender in (NO_PEER, raft.id):
        raft.read_states.append(ReadState(index, context))
    else:
        raft.post(
            Message(
                type=MessageType.READ_INDEX_RESP,
                to=request.sender,
                sender=raft.id,
                term=raft.term,
                index=index,
                entries=request.entries,
            )
        )


def forward(raft: "Raft", message: Message) -> None:
    """A follower asks the leader."""
    if raft.lead:
        asker = message.sender or raft.id
        raft.post(Message(type=MessageType.READ_INDEX, to=raft.lead, sender=asker, entries=message.entries))
    elif raft.sink is not None:
        raft.sink.info(f"{raft.id:x} no leader at term {raft.term}; dropping index reading msg")


def on_response(raft: "Raft", message: Message) -> None:
    """The leader has confirmed a read of this follower's owner."""
    raft.read_states.append(ReadState(message.index, message.entries[0].data))
