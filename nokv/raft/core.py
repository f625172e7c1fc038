"""Core: state common to all roles, the transitions between them, and the gate every message passes first.

Why: what changes term, vote or role has one home; the rules of each role are in files of their own.
Invariants:
- Terms never go down; a vote is cast once per term.
- A message of a higher term makes a follower, before it is looked at (except a pre-vote, which promises nothing).
- Messages in `after_append` promise durability, and leave only after what was appended before them is stable.
Not here: follower.py, candidate.py, leader.py (what a message means to each), node.py (Ready and Advance).
"""

from random import Random
from typing import Final

from msgspec.structs import replace

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import Entry, HardState, Message, MessageType
from nokv.raft import candidate, election, follower, leader, membership
from nokv.raft.config import NOBODY, Config
from nokv.raft.describe import type_name
from nokv.raft.hostile import check_message
from nokv.raft.log import RaftLog
from nokv.raft.progress import Inflights, Progress
from nokv.raft.roles import AnyRole, Candidate, Follower, Leader, PreCandidate, ReadState, Role, SoftState
from nokv.raft.sizes import NO_LIMIT, entries_bytes, payload_bytes
from nokv.raft.tracing import Trace
from nokv.raft.tracker import Tracker

_VOTING: Final = frozenset({MessageType.VOTE, MessageType.VOTE_RESP, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP})
_PROMISES: Final = frozenset({MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})
_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
_TERMLESS: Final = frozenset({MessageType.PROP, MessageType.READ_INDEX})
_STEP: Final = {
    Role.FOLLOWER: follower.step,
    Role.PRE_CANDIDATE: candidate.step,
    Role.CANDIDATE: candidate.step,
    Role.LEADER: leader.step,
}


class Raft:
    """One node of the core. Driven by `step` and `tick`; speaks through `messages` and `after_append`."""

    def __init__(self, config: Config) -> None:
        config.check()
        # constant
        self.id: Final = config.id
        self.config: Final = config
        self.trace: Final = Trace(config.sink)
        self.max_message_bytes: Final = config.max_size_per_msg
        self._rng: Final[Random] = config.rng

        # durable mirrors
        self.term = Term(0)
        self.vote = NOBODY
        self.log = RaftLog(
            config.storage, self.trace, config.max_committed_size_per_ready or config.max_size_per_msg or NO_LIMIT
        )

        # volatile
        self.lead = NOBODY
        self.state: AnyRole = Follower()
        self.election_elapsed = 0
        self.randomized_timeout = 0
        self.messages: list[Message] = []
        self.after_append: list[Message] = []
        self.read_states: list[ReadState] = []
        self.tracker = Tracker(max_inflight=config.max_inflight_msgs, max_inflight_bytes=config.max_inflight_bytes)
        self._load()

    def _load(self) -> None:
        hard_state, conf_state = self.config.storage.initial_state()
        last_index, last_term = self.log.last_index(), self.log.last_term()
        membership.restore(self, conf_state)
        if hard_state != HardState():
            assert self.log.committed <= hard_state.commit <= last_index, (
                f"commit {hard_state.commit} is out of range [{self.log.committed}, {last_index}]"
            )
            self.log.committed, self.term, self.vote = hard_state.commit, hard_state.term, hard_state.vote
        if self.config.applied > 0:
            self.log.applied_to(self.config.applied, 0)
        self.become_follower(self.term, NOBODY)
        peers = ",".join(f"{peer_id:x}" for peer_id in self.tracker.voter_nodes())
        self.trace.info(
            lambda: (
                f"newRaft {self.id:x} [peers: [{peers}], term: {self.term}, commit: {self.log.committed}, "
                f"applied: {self.log.applied}, lastindex: {last_index}, lastterm: {last_term}]"
            )
        )

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What this node is in its term."""
        return self.state.role

    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.lead, self.state.role)

    def hard_state(self) -> HardState:
        """Term, vote and commit."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def promotable(self) -> bool:
        """Whether this node may become a leader: a voter without a snapshot that waits to be written."""
        progress = self.tracker.progress.get(self.id)
        return progress is not None and not progress.is_learner and self.log.unstable.snapshot is None

    # ---- speaking --------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message, stamped with sender and term; a promise waits until what it promises is stable."""
        kind = message.type
        if kind in _VOTING:
            assert message.term != 0, "a vote names the term it is about"
            message = replace(message, sender=self.id)
        elif kind in _TERMLESS:
            message = replace(message, sender=message.sender or self.id)
        else:
            message = replace(message, sender=message.sender or self.id, term=self.term)
        if kind in _PROMISES:
            self.after_append.append(message)
        else:
            assert message.to != self.id, f"{kind.name} to itself"
            self.messages.append(message)

    # ---- transitions: the only writers of state, term and lead ------------------------------------------------------

    def become_follower(self, term: Term, lead: PeerId) -> None:
        """Follow `lead` (NOBODY: none known) in `term`."""
        self._reset(term)
        self.lead = lead
        self.state = Follower()
        self.trace.info(lambda: f"{self.id:x} became follower at term {self.term}")

    def become_pre_candidate(self) -> None:
        """Ask whether an election could be won. Term and vote stay."""
        assert not isinstance(self.state, Leader), "leader to pre-candidate"
        self.tracker.reset_votes()
        self.lead = NOBODY
        self.state = PreCandidate()
        self.trace.info(lambda: f"{self.id:x} became pre-candidate at term {self.term}")

    def become_candidate(self) -> None:
        """Begin an election in the next term, with a vote for itself."""
        assert not isinstance(self.state, Leader), "leader to candidate"
        self._reset(Term(self.term + 1))
        self.vote = self.id
        self.state = Candidate()
        self.trace.info(lambda: f"{self.id:x} became candidate at term {self.term}")

    def become_leader(self) -> None:
        """Lead the present term: append an empty entry, whose commit commits all before it (Raft 5.4.2, thesis 6.4)."""
        assert not isinstance(self.state, Follower), "follower to leader"
        self._reset(self.term)
        self.lead = self.id
        # Membership changes of earlier terms may be anywhere in the log; assume that one is at its very end.
        self.state = Leader(pending_conf_index=self.log.last_index())
        progress = self.tracker.progress[self.id]
        progress.become_replicate()
        progress.recent_active = True
        appended = leader.append(self, self.state, [Entry()])
        assert appended, "the empty entry was dropped"
        self.trace.info(lambda: f"{self.id:x} became leader at term {self.term}")

    def _reset(self, term: Term) -> None:
        if self.term != term:
            self.term = term
            self.vote = NOBODY
        self.lead = NOBODY
        self.election_elapsed = 0
        self.randomized_timeout = self.config.draw_timeout(self._rng, self.config.election_tick)
        tracker = self.tracker
        tracker.reset_votes()
        last_index = self.log.last_index()
        for peer_id, old in tracker.progress.items():
            fresh = Progress(
                next=LogIndex(last_index + 1),
                inflights=Inflights(tracker.max_inflight, tracker.max_inflight_bytes),
                match=last_index if peer_id == self.id else LogIndex(0),
            )
            fresh.is_learner = old.is_learner
            tracker.progress[peer_id] = fresh

    # ---- time ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One logical tick."""
        state = self.state
        self.election_elapsed += 1
        if isinstance(state, Leader):
            leader.tick(self, state)
        elif self.election_elapsed >= self.randomized_timeout and self.promotable:
            self.election_elapsed = 0
            self.step(Message(type=MessageType.HUP, sender=self.id))

    # ---- the gate --------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take a message.

        Raises:
            ProposalDropped: a proposal was not appended.
            StepMalformed: no honest peer could have sent it; nothing was changed.
        """
        if message.term:
            check_message(self, message)
            if message.term > self.term:
                if not self._higher_term(message):
                    return
            elif message.term < self.term:
                self._lower_term(message)
                return
        match message.type:
            case MessageType.HUP:
                election.hup(self, election.PRE_ELECTION if self.config.pre_vote else election.ELECTION)
            case MessageType.STORAGE_APPEND_RESP:
                if message.index:
                    self.log.stable_to(message.index, message.log_term)
                if message.snapshot is not None:
                    self.applied_snapshot(message.snapshot.metadata.index)
            case MessageType.STORAGE_APPLY_RESP:
                self._applied(message.entries)
            case MessageType.VOTE | MessageType.PRE_VOTE:
                election.answer_vote(self, message)
            case _:
                _STEP[self.state.role](self, message)

    def _higher_term(self, message: Message) -> bool:
        """Follow a higher term. False: the message was ignored, because a leader was heard of lately (thesis 4.2.3)."""
        kind = message.type
        if kind in (MessageType.VOTE, MessageType.PRE_VOTE):
            forced = message.context == election.TRANSFER
            leased = (
                self.config.check_quorum and self.lead != NOBODY and self.election_elapsed < self.config.election_tick
            )
            if leased and not forced:
                self.trace.info(
                    lambda: (
                        f"{election.position(self)} ignored {election.asked(message)} at term {self.term}: "
                        f"lease is not expired (remaining ticks: {self.config.election_tick - self.election_elapsed})"
                    )
                )
                return False
        # A pre-vote never changes a term, nor does a granted answer to ours: that is of a term we have not begun.
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESP and not message.reject):
            return True
        self.trace.info(
            lambda: (
                f"{self.id:x} [term: {self.term}] received a {type_name(kind)} message with higher term "
                f"from {message.sender:x} [term: {message.term}]"
            )
        )
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NOBODY)
        return True

    def _lower_term(self, message: Message) -> None:
        """Answer or ignore what comes from an earlier term."""
        kind, config = message.type, self.config
        if (config.check_quorum or config.pre_vote) and kind in (MessageType.HEARTBEAT, MessageType.APP):
            # A leader of an earlier term does not step down by itself if this node's elections are ignored: tell it.
            self.send(Message(type=MessageType.APP_RESP, to=message.sender))
        elif kind is MessageType.PRE_VOTE:
            # A candidate that raised its term before pre-votes were on would otherwise never learn of ours.
            self.trace.info(lambda: f"{election.position(self)} rejected {election.asked(message)} at term {self.term}")
            self.send(Message(type=MessageType.PRE_VOTE_RESP, to=message.sender, term=self.term, reject=True))
        elif kind is MessageType.STORAGE_APPEND_RESP:
            if message.index:
                # The entries may have been overwritten since: an equal (index, term) would prove nothing.
                self.trace.info(
                    lambda: (
                        f"{self.id:x} [term: {self.term}] ignored entry appends from a {type_name(kind)} message "
                        f"with lower term [term: {message.term}]"
                    )
                )
            if message.snapshot is not None:
                self.applied_snapshot(message.snapshot.metadata.index)
        else:
            self.trace.info(
                lambda: (
                    f"{self.id:x} [term: {self.term}] ignored a {type_name(kind)} message with lower term "
                    f"from {message.sender:x} [term: {message.term}]"
                )
            )

    # ---- applying --------------------------------------------------------------------------------------------------

    def _applied(self, entries: tuple[Entry, ...]) -> None:
        """The application has applied entries that were handed to it."""
        if not entries:
            return
        self.applied_to(entries[-1].index, entries_bytes(entries))
        if isinstance(self.state, Leader):
            self.state.uncommitted_bytes = max(0, self.state.uncommitted_bytes - payload_bytes(entries))

    def applied_to(self, index: LogIndex, size_bytes: int) -> None:
        """Note that entries up to `index` are applied; leave a joint configuration that is to be left by itself."""
        self.log.applied_to(max(index, self.log.applied), size_bytes)
        membership.maybe_auto_leave(self)

    def applied_snapshot(self, index: LogIndex) -> None:
        """A snapshot was written and taken in by the application."""
        self.log.unstable.stable_snapshot_to(index)
        self.applied_to(index, 0)
