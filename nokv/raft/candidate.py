"""What a message means to a candidate or pre-candidate (Raft 5.2, thesis 9.6)."""

from typing import TYPE_CHECKING

from nokv.proto.raft import Message, MessageType
from nokv.raft import election, follower
from nokv.raft.config import NOBODY
from nokv.raft.errors import ProposalDropped
from nokv.raft.quorum import VoteResult
from nokv.raft.roles import PreCandidate

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def step(raft: "Raft", message: Message) -> None:
    """Take a message of this term."""
    pre = isinstance(raft.state, PreCandidate)
    ours = MessageType.PRE_VOTE_RESP if pre else MessageType.VOTE_RESP
    match message.type:
        case MessageType.PROP:
            raft.trace.info(lambda: f"{raft.id:x} no leader at term {raft.term}; dropping proposal")
            raise ProposalDropped
        case MessageType.APP | MessageType.HEARTBEAT | MessageType.SNAP:
            # Somebody has won this term.
            raft.become_follower(message.term, message.sender)
            follower.obey(raft, message)
        case MessageType.TIMEOUT_NOW:
            raft.trace.debug(
                lambda: (
                    f"{raft.id:x} [term {raft.term} state {raft.role.value}] ignored MsgTimeoutNow "
                    f"from {message.sender:x}"
                )
            )
        case kind if kind is ours:
            _count(raft, message, pre=pre)
        case _:
            pass


def _count(raft: "Raft", message: Message, *, pre: bool) -> None:
    match election.poll(raft, message.sender, message.type, not message.reject):
        case VoteResult.WON if pre:
            election.campaign(raft, election.ELECTION)
        case VoteResult.WON:
            from nokv.raft import leader

            raft.become_leader()
            leader.broadcast_append(raft)
        case VoteResult.LOST:
            raft.become_follower(raft.term, NOBODY)
        case VoteResult.PENDING:
            pass
