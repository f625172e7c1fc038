"""Elections: campaigning and answering candidates (Raft 5.2, 5.4.1; thesis 3.10, 4.2.3, 9.6)."""

from typing import TYPE_CHECKING, Final

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import EntryType, Message, MessageType
from nokv.raft.config import NOBODY
from nokv.raft.describe import type_name
from nokv.raft.quorum import VoteResult
from nokv.raft.roles import Role

if TYPE_CHECKING:
    from nokv.raft.core import Raft

PRE_ELECTION: Final = b"CampaignPreElection"
ELECTION: Final = b"CampaignElection"
TRANSFER: Final = b"CampaignTransfer"
"""Context of votes asked for on a leader's order: voters then do not wait for its silence."""

SCAN_ENTRIES: Final = 256
"""Committed entries looked at together when pending membership changes are searched."""

_RESPONSE: Final = {
    MessageType.VOTE: MessageType.VOTE_RESP,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESP,
}


def hup(raft: "Raft", kind: bytes) -> None:
    """Campaign, unless this node leads, must not, or has membership changes to apply first."""
    if raft.role is Role.LEADER:
        raft.trace.debug(lambda: f"{raft.id:x} ignoring MsgHup because already leader")
        return
    if not raft.promotable:
        raft.trace.warn(lambda: f"{raft.id:x} is unpromotable and can not campaign")
        return
    if has_unapplied_conf_changes(raft):
        raft.trace.warn(
            lambda: (
                f"{raft.id:x} cannot campaign at term {raft.term} since there are still "
                "pending configuration changes to apply"
            )
        )
        return
    raft.trace.info(lambda: f"{raft.id:x} is starting a new election at term {raft.term}")
    campaign(raft, kind)


def campaign(raft: "Raft", kind: bytes) -> None:
    """Ask all voters, itself included: its own vote counts once it is durable."""
    if kind == PRE_ELECTION:
        raft.become_pre_candidate()
        vote, term = MessageType.PRE_VOTE, Term(raft.term + 1)
    else:
        raft.become_candidate()
        vote, term = MessageType.VOTE, raft.term
    last_index, last_term = raft.log.last_index(), raft.log.last_term()
    for peer_id in raft.tracker.voter_nodes():
        if peer_id == raft.id:
            raft.send(Message(type=_RESPONSE[vote], to=peer_id, term=term))
            continue
        raft.trace.info(
            lambda peer_id=peer_id: (
                f"{raft.id:x} [logterm: {last_term}, index: {last_index}] sent {type_name(vote)} "  # type: ignore[misc]
                f"request to {peer_id:x} at term {raft.term}"
            )
        )
        raft.send(
            Message(
                type=vote,
                to=peer_id,
                term=term,
                log_term=last_term,
                index=last_index,
                context=TRANSFER if kind == TRANSFER else b"",
            )
        )


def poll(raft: "Raft", sender: PeerId, kind: MessageType, granted: bool) -> VoteResult:
    """Count a vote."""
    if granted:
        raft.trace.info(lambda: f"{raft.id:x} received {type_name(kind)} from {sender:x} at term {raft.term}")
    else:
        raft.trace.info(lambda: f"{raft.id:x} received {type_name(kind)} rejection from {sender:x} at term {raft.term}")
    raft.tracker.record_vote(sender, granted)
    yes, no, result = raft.tracker.tally()
    raft.trace.info(lambda: f"{raft.id:x} has received {yes} {type_name(kind)} votes and {no} vote rejections")
    return result


def answer_vote(raft: "Raft", message: Message) -> None:
    """Grant a vote or refuse it: once per term, to a log at least as up to date as ours (Raft 5.4.1)."""
    kind = message.type
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NOBODY and raft.lead == NOBODY)
        or (kind is MessageType.PRE_VOTE and message.term > raft.term)
    )
    response = _RESPONSE[kind]
    if can_vote and raft.log.is_up_to_date(message.log_term, message.index):
        raft.trace.info(lambda: f"{position(raft)} cast {asked(message, verb='for')} at term {raft.term}")
        # With the asked term, not ours: for a pre-vote it is one that we have not begun.
        raft.send(Message(type=response, to=message.sender, term=message.term))
        if kind is MessageType.VOTE:
            raft.election_elapsed = 0
            raft.vote = message.sender
    else:
        raft.trace.info(lambda: f"{position(raft)} rejected {asked(message)} at term {raft.term}")
        raft.send(Message(type=response, to=message.sender, term=raft.term, reject=True))


def position(raft: "Raft") -> str:
    """`1 [logterm: 2, index: 3, vote: 0]`."""
    log = raft.log
    return f"{raft.id:x} [logterm: {log.last_term()}, index: {log.last_index()}, vote: {raft.vote:x}]"


def asked(message: Message, *, verb: str = "from") -> str:
    """`MsgVote from 2 [logterm: 1, index: 5]`."""
    return f"{type_name(message.type)} {verb} {message.sender:x} [logterm: {message.log_term}, index: {message.index}]"


def has_unapplied_conf_changes(raft: "Raft") -> bool:
    """Whether a committed membership change waits to be applied: who votes would not be known."""
    log = raft.log
    lo, end = LogIndex(log.applied + 1), LogIndex(log.committed + 1)
    if log.unstable.snapshot is not None:
        lo = max(lo, log.first_index())
    while lo < end:
        hi = LogIndex(min(end, lo + SCAN_ENTRIES))
        if any(entry.type is not EntryType.NORMAL for entry in log.slice(lo, hi)):
            return True
        lo = hi
    return False
