"""Elections: who becomes leader, and the transitions between roles (paper 5.2, 5.4.1; thesis 3.10, 4.2.3, 9.6).

Why: at most one leader per term, and only one that has every committed entry.
Invariants: a vote is given once per term, to a candidate whose log is up to date; own votes count only when they are
durable, by the same path as votes of others; roles change nowhere else.
Not here: what a leader does then (replication.py).
"""

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from nokv.proto.ids import PeerId, Term
from nokv.proto.raft import NO_PEER, EntryType, Message, MessageType
from nokv.raft import membership, replication
from nokv.raft.config import ReadOnly
from nokv.raft.describe import ROLE_NAMES, TYPE_NAMES
from nokv.raft.quorum import VoteResult
from nokv.raft.roles import Candidate, Follower, Leader, PreCandidate, Role, RoleState

if TYPE_CHECKING:
    from nokv.raft.core import Raft

TRANSFER_CONTEXT: Final = b"CampaignTransfer"
"""Marks a vote request that a leader has asked for: leases do not hold it up. Frozen."""


class Campaign(Enum):
    """Why a node asks for votes."""

    PRE_ELECTION = auto()
    """To learn whether it would be elected."""
    ELECTION = auto()
    """Its leader is silent."""
    TRANSFER = auto()
    """Its leader told it to take over."""


# ---- transitions -----------------------------------------------------------------------------------------------------


def become_follower(raft: "Raft", term: Term, lead: PeerId) -> None:
    """Follow `lead`, or nobody for now."""
    _reset(raft, term)
    _enter(raft, Follower())
    raft.lead = lead
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} became follower at term {raft.term}")


def become_pre_candidate(raft: "Raft") -> None:
    """Ask whether a campaign would succeed; neither term nor vote change."""
    assert raft.role is not Role.LEADER
    _enter(raft, PreCandidate())
    raft.lead = NO_PEER
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} became pre-candidate at term {raft.term}")


def become_candidate(raft: "Raft") -> None:
    """Start a term and vote for oneself."""
    assert raft.role is not Role.LEADER
    _reset(raft, Term(raft.term + 1))
    _enter(raft, Candidate())
    raft.vote = raft.id
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} became candidate at term {raft.term}")


def become_leader(raft: "Raft") -> None:
    """Lead the term, and begin with an empty entry: only entries of this term are committed by counting (5.4.2)."""
    assert raft.role is Role.CANDIDATE
    _reset(raft, raft.term)
    _enter(raft, Leader(pending_conf_index=raft.log.last_index()))
    raft.lead = raft.id
    progress = raft.tracker.progress[raft.id]
    progress.become_replicate()
    progress.recent_active = True
    accepted = replication.append(raft, ((EntryType.NORMAL, b""),))
    assert accepted, "an empty entry passes every limit"
    if raft.sink is not None:
        raft.sink.info(f"{raft.id:x} became leader at term {raft.term}")


def _enter(raft: "Raft", state: RoleState) -> None:
    raft.state = state
    raft.role = state.role


def _reset(raft: "Raft", term: Term) -> None:
    if raft.term != term:
        assert raft.term < term, "terms do not go back"
        raft.term = term
        raft.vote = NO_PEER
    raft.lead = NO_PEER
    raft.election_elapsed = 0
    raft.election_timeout = raft.config.election_tick + raft.rng.randrange(raft.config.election_tick)
    last, tracker = raft.log.last_index(), raft.tracker
    for peer, progress in tracker.progress.items():
        tracker.progress[peer] = tracker.new_progress(
            match=last if peer == raft.id else 0, next_index=last + 1, is_learner=progress.is_learner, active=False
        )


# ---- campaigns -------------------------------------------------------------------------------------------------------


def tick(raft: "Raft") -> None:
    """A tick without being leader."""
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.election_timeout and membership.is_promotable(raft):
        raft.election_elapsed = 0
        start(raft)


def start(raft: "Raft") -> None:
    """The election timeout has passed, or the owner wants it so."""
    _hup(raft, Campaign.PRE_ELECTION if raft.config.pre_vote else Campaign.ELECTION)


def _hup(raft: "Raft", reason: Campaign) -> None:
    sink = raft.sink
    if raft.role is Role.LEADER:
        if sink is not None:
            sink.debug(f"{raft.id:x} ignoring MsgHup because already leader")
    elif not membership.is_promotable(raft):
        if sink is not None:
            sink.warning(f"{raft.id:x} is unpromotable and can not campaign")
    elif membership.has_unapplied_change(raft):
        if sink is not None:
            sink.warning(
                f"{raft.id:x} cannot campaign at term {raft.term} since there are still pending configuration changes "
                "to apply"
            )
    else:
        if sink is not None:
            sink.info(f"{raft.id:x} is starting a new election at term {raft.term}")
        _campaign(raft, reason)


def _campaign(raft: "Raft", reason: Campaign) -> None:
    assert membership.is_promotable(raft)
    if reason is Campaign.PRE_ELECTION:
        become_pre_candidate(raft)
        kind, answer, term = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP, Term(raft.term + 1)
    else:
        become_candidate(raft)
        kind, answer, term = MessageType.VOTE, MessageType.VOTE_RESP, raft.term
    last_term, last = raft.log.last_id()
    context = TRANSFER_CONTEXT if reason is Campaign.TRANSFER else b""
    for peer in raft.tracker.voter_ids:
        if peer == raft.id:
            raft.send(answer, peer, term=term)
            continue
        if raft.sink is not None:
            raft.sink.info(
                f"{raft.id:x} [logterm: {last_term}, index: {last}] sent {TYPE_NAMES[kind]} request to {peer:x} "
                f"at term {raft.term}"
            )
        raft.send(kind, peer, term=term, log_term=last_term, index=last, context=context)


# ---- votes -----------------------------------------------------------------------------------------------------------


def ignored_by_lease(raft: "Raft", message: Message) -> bool:
    """Whether a campaign in a later term is ignored because the leader was heard of a moment ago (thesis 4.2.3)."""
    if not (raft.config.check_quorum and raft.lead and raft.election_elapsed < raft.config.election_tick):
        return False
    if message.context == TRANSFER_CONTEXT:
        return False
    if raft.sink is not None:
        remaining = raft.config.election_tick - raft.election_elapsed
        log_vote(raft, "ignored", message, f": lease is not expired (remaining ticks: {remaining})")
    return True


def on_vote_request(raft: "Raft", message: Message) -> None:
    """A peer asks for a vote in this term, or whether it would get one in a later one."""
    kind = message.type
    is_pre_vote = kind is MessageType.PRE_VOTE
    answer = MessageType.PRE_VOTE_RESP if is_pre_vote else MessageType.VOTE_RESP
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_PEER and raft.lead == NO_PEER)
        or (is_pre_vote and message.term > raft.term)
    )
    # Learners vote as well: one that was promoted may not know of it yet, and its vote may be the one that counts.
    if can_vote and raft.log.is_up_to_date(message.log_term, message.index):
        log_vote(raft, "cast", message)
        # An answer to a pre-vote has the term that was asked about, or it would be dropped as out of date.
        raft.send(answer, message.sender, term=message.term)
        if not is_pre_vote:
            raft.election_elapsed = 0
            raft.vote = message.sender
    else:
        log_vote(raft, "rejected", message)
        raft.send(answer, message.sender, term=raft.term, reject=True)


def on_vote_response(raft: "Raft", message: Message) -> None:
    """A vote, to a candidate of either kind."""
    state, sink = raft.state, raft.sink
    assert isinstance(state, PreCandidate | Candidate)
    name = TYPE_NAMES[message.type]
    if sink is not None:
        rejection = " rejection" if message.reject else ""
        sink.info(f"{raft.id:x} received {name}{rejection} from {message.sender:x} at term {raft.term}")
    state.votes.setdefault(message.sender, not message.reject)
    granted, refused, result = raft.tracker.tally(state.votes)
    if sink is not None:
        sink.info(f"{raft.id:x} has received {granted} {name} votes and {refused} vote rejections")
    if result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            _campaign(raft, Campaign.ELECTION)
        else:
            become_leader(raft)
            replication.broadcast(raft)
    elif result is VoteResult.LOST:
        become_follower(raft, raft.term, NO_PEER)


def log_vote(raft: "Raft", outcome: str, message: Message, remark: str = "") -> None:
    """A line on what became of a vote request."""
    if raft.sink is None:
        return
    last_term, last = raft.log.last_id()
    preposition = "for" if outcome == "cast" else "from"
    raft.sink.info(
        f"{raft.id:x} [logterm: {last_term}, index: {last}, vote: {raft.vote:x}] {outcome} {TYPE_NAMES[message.type]} "
        f"{preposition} {message.sender:x} [logterm: {message.log_term}, index: {message.index}] at term "
        f"{raft.term}{remark}"
    )


# ---- the end of a leadership -----------------------------------------------------------------------------------------


def on_timeout_now(raft: "Raft", message: Message) -> None:
    """The leader hands over. Never by pre-vote: nobody would grant one while that leader is alive."""
    if raft.sink is not None:
        raft.sink.info(
            f"{raft.id:x} [term {raft.term}] received MsgTimeoutNow from {message.sender:x} and starts an election to "
            "get leadership."
        )
    _hup(raft, Campaign.TRANSFER)


def ignore_timeout_now(raft: "Raft", message: Message) -> None:
    """A candidate campaigns already."""
    if raft.sink is not None:
        raft.sink.debug(
            f"{raft.id:x} [term {raft.term} state {ROLE_NAMES[raft.role]}] ignored MsgTimeoutNow from "
            f"{message.sender:x}"
        )


def on_forget_leader(raft: "Raft", _message: Message) -> None:
    """The owner knows that the leader is dead: let others be voted for at once, without a new timeout."""
    if raft.config.read_only is ReadOnly.LEASE_BASED:
        # The leader's lease rests on our not voting.
        if raft.sink is not None:
            raft.sink.error("ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
    elif raft.lead:
        if raft.sink is not None:
            raft.sink.info(f"{raft.id:x} forgetting leader {raft.lead:x} at term {raft.term}")
        raft.lead = NO_PEER
