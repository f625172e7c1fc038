"""Leader transfer: a leader hands over to a peer that has all of its log (thesis 3.10).

Why: a node that is to be stopped or relieved should not leave its group without a leader for an election timeout.
Invariants: while a transfer is under way no proposals are taken, so that the peer can catch up; it ends with a higher
term, or after an election timeout, or when the peer loses its vote.
Not here: the campaign of the peer (election.py).
"""

from typing import TYPE_CHECKING

from nokv.proto.ids import PeerId
from nokv.proto.raft import NO_PEER, Message, MessageType
from nokv.raft import replication
from nokv.raft.progress import Progress
from nokv.raft.roles import Leader

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def on_request(raft: "Raft", message: Message) -> None:
    """Somebody wants the message's sender to lead."""
    leader, target, sink = raft.leading, message.sender, raft.sink
    progress = raft.tracker.progress.get(target)
    if progress is None or progress.is_learner:
        if sink is not None and progress is not None:
            sink.debug(f"{raft.id:x} is learner. Ignored transferring leadership")
        return
    if leader.transferee == target:
        if sink is not None:
            sink.info(
                f"{raft.id:x} [term {raft.term}] transfer leadership to {target:x} is in progress, ignores request to "
                f"same node {target:x}"
            )
        return
    if leader.transferee:
        if sink is not None:
            sink.info(f"{raft.id:x} [term {raft.term}] abort previous transferring leadership to {leader.transferee:x}")
        leader.transferee = NO_PEER
    if target == raft.id:
        if sink is not None:
            sink.debug(f"{raft.id:x} is already leader. Ignored transferring leadership to self")
        return
    if sink is not None:
        sink.info(f"{raft.id:x} [term {raft.term}] starts to transfer leadership to {target:x}")
    _start(raft, leader, target, progress)


def _start(raft: "Raft", leader: Leader, target: PeerId, progress: Progress) -> None:
    raft.election_elapsed = 0  # It has one election timeout from now on.
    leader.transferee = target
    if progress.match == raft.log.last_index():
        raft.send(MessageType.TIMEOUT_NOW, target)
        if raft.sink is not None:
            raft.sink.info(
                f"{raft.id:x} sends MsgTimeoutNow to {target:x} immediately as {target:x} already has up-to-date log"
            )
    else:
        replication.send_append(raft, target, progress)


def finish_if_caught_up(raft: "Raft", peer: PeerId, progress: Progress) -> None:
    """The peer has acked something: let it campaign if it is the one and has everything."""
    if raft.leading.transferee == peer and progress.match == raft.log.last_index():
        if raft.sink is not None:
            raft.sink.info(f"{raft.id:x} sent MsgTimeoutNow to {peer:x} after received MsgAppResp")
        raft.send(MessageType.TIMEOUT_NOW, peer)


def forward(raft: "Raft", message: Message) -> None:
    """A follower passes the request on to the leader."""
    if raft.lead:
        raft.post(Message(type=MessageType.TRANSFER_LEADER, to=raft.lead, sender=message.sender, term=raft.term))
    elif raft.sink is not None:
        raft.sink.info(f"{raft.id:x} no leader at term {raft.term}; dropping leader transfer msg")
