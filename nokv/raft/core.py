"""Core: the state of one Raft node, the gate that terms pass, and the tables that messages go by.

Why: a message is looked at in three steps, each in one place: is it well formed (messages.py), is it of this term
(here, once, for all types), and what does this role do with it (the tables below).
Invariants: term, vote and leader only change in `reset` and in the role transitions of election.py; every outgoing
message goes through `send`, which keeps promises back until what they rest on is durable.
Not here: handing things out to the owner (node.py).
"""

from collections.abc import Callable
from random import Random
from typing import Final

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import NO_INDEX, NO_PEER, NO_TERM, HardState, Message, MessageType
from nokv.raft import election, membership, reads, replication, snapshot, transfer
from nokv.raft.config import Config, Sink
from nokv.raft.describe import TYPE_NAMES
from nokv.raft.log import Log
from nokv.raft.messages import AFTER_APPEND_TYPES
from nokv.raft.read_index import ReadState
from nokv.raft.roles import Follower, Leader, Role, RoleState
from nokv.raft.sizes import entries_bytes, payload_bytes
from nokv.raft.tracker import Tracker

_T = MessageType
Handler = Callable[["Raft", Message], None]


class Raft:
    """One node. Pure: everything it does is in `outbox`, `promises`, `read_states`, and what its log hands out.

    Raises:
        ConfChangeError: the storage's configuration is impossible.
    """

    __slots__ = (
        "config",
        "election_elapsed",
        "election_timeout",
        "id",
        "lead",
        "log",
        "outbox",
        "promises",
        "read_states",
        "replaced",
        "rng",
        "role",
        "sink",
        "state",
        "term",
        "tracker",
        "vote",
    )

    def __init__(self, config: Config) -> None:
        self.config: Final = config
        self.id: Final = config.id
        self.rng: Final[Random] = config.rng
        self.sink: Final[Sink | None] = config.log

        self.term = NO_TERM
        self.vote = NO_PEER

        self.log: Final = Log(
            config.storage, config.max_committed_size_per_ready or config.max_size_per_msg, config.log
        )
        self.tracker: Final = Tracker(config.max_inflight_msgs, config.max_inflight_bytes)
        self.replaced: Tracker | None = None
        """While a snapshot waits to be applied, the configuration before it: that of what is applied."""
        self.lead = NO_PEER
        self.state: RoleState = Follower()
        self.role = Role.FOLLOWER
        self.election_elapsed = 0
        """Ticks since the leader was heard of; as a leader, since check-quorum looked last."""
        self.election_timeout = 0
        """Ticks until a campaign, drawn anew for each role."""

        self.outbox: list[Message] = []
        self.promises: list[Message] = []
        """Messages that may leave when everything that was handed out before is durable."""
        self.read_states: list[ReadState] = []
        self._start()

    def _start(self) -> None:
        hard_state, conf_state = self.config.storage.initial_state()
        log = self.log
        membership.restore(self, conf_state)
        if hard_state != HardState():
            assert log.committed <= hard_state.commit <= log.last_index(), "the storage is not of one piece"
            self.term, self.vote, log.committed = hard_state.term, hard_state.vote, hard_state.commit
        if self.config.applied > 0:
            log.applied_to(self.config.applied, 0)
        election.become_follower(self, self.term, NO_PEER)
        if self.sink is not None:
            peers = ",".join(f"{peer:x}" for peer in self.tracker.voter_ids)
            last_term, last = log.last_id()
            self.sink.info(
                f"newRaft {self.id:x} [peers: [{peers}], term: {self.term}, commit: {log.committed}, "
                f"applied: {log.applied}, lastindex: {last}, lastterm: {last_term}]"
            )

    # ---- input -----------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take a message that has passed the checks of messages.py. Raises ProposalDropped."""
        term = message.term
        if term != self.term and term != NO_TERM and not self._pass_gate(message):
            return
        handler = COMMON.get(message.type) or BY_ROLE[self.role].get(message.type)
        if handler is not None:
            handler(self, message)

    def _pass_gate(self, message: Message) -> bool:
        """Take notice of a higher term, answer or drop a lower one. False: nothing is left to be done."""
        if message.term < self.term:
            self._answer_old_term(message)
            return False
        kind = message.type
        if kind is _T.VOTE or kind is _T.PRE_VOTE:
            if election.ignored_by_lease(self, message):
                return False
            if kind is _T.PRE_VOTE:
                return True  # Its term is one that nobody has yet.
        elif kind is _T.PRE_VOTE_RESP and not message.reject:
            return True  # It answers with the term that was asked about.
        if self.sink is not None:
            self.sink.info(
                f"{self.id:x} [term: {self.term}] received a {TYPE_NAMES[kind]} message with higher term from "
                f"{message.sender:x} [term: {message.term}]"
            )
        of_leader = kind is _T.APP or kind is _T.HEARTBEAT or kind is _T.SNAP
        election.become_follower(self, message.term, message.sender if of_leader else NO_PEER)
        return True

    def _answer_old_term(self, message: Message) -> None:
        kind = message.type
        config = self.config
        if (kind is _T.HEARTBEAT or kind is _T.APP) and (config.check_quorum or config.pre_vote):
            # A node that was partitioned away has a higher term, and its campaigns are ignored or never made; its
            # answer makes the leader step down to a new term in which it can take part again.
            self.send(_T.APP_RESP, message.sender)
        elif kind is _T.PRE_VOTE:
            # Nodes that raised their term before pre_vote was enabled would otherwise never learn of each other.
            election.log_vote(self, "rejected", message)
            self.send(_T.PRE_VOTE_RESP, message.sender, term=self.term, reject=True)
        elif kind is _T.STORAGE_APPEND_RESP:
            # A later leader may have replaced these entries in the meantime. A snapshot is committed in any term.
            if message.index and self.sink is not None:
                self.sink.info(
                    f"{self.id:x} [term: {self.term}] ignored entry appends from a {TYPE_NAMES[kind]} message with "
                    f"lower term [term: {message.term}]"
                )
            if message.snapshot is not None:
                self.snapshot_applied(message.snapshot.metadata.index)
        elif self.sink is not None:
            self.sink.info(
                f"{self.id:x} [term: {self.term}] ignored a {TYPE_NAMES[kind]} message with lower term from "
                f"{message.sender:x} [term: {message.term}]"
            )

    def tick(self) -> None:
        """One tick of the owner's clock."""
        if self.role is Role.LEADER:
            replication.tick(self)
        else:
            election.tick(self)

    # ---- output ----------------------------------------------------------------------------------------------------

    def send(
        self,
        kind: MessageType,
        to: PeerId,
        *,
        term: Term = NO_TERM,
        log_term: Term = NO_TERM,
        index: LogIndex = NO_INDEX,
        reject: bool = False,
        reject_hint: LogIndex = NO_INDEX,
        context: bytes = b"",
    ) -> None:
        """Send a small message, in this node's term unless another is given."""
        message = Message(
            type=kind,
            to=to,
            sender=self.id,
            term=term or self.term,
            log_term=log_term,
            index=index,
            reject=reject,
            reject_hint=reject_hint,
            context=context,
        )
        if kind in AFTER_APPEND_TYPES:
            # Votes and acks promise what must survive a crash. Pre-votes do not have to, but are kept in line with
            # votes, so that a lone node is elected by the same path.
            self.promises.append(message)
        else:
            self.post(message)

    def post(self, message: Message) -> None:
        """Send a message that promises nothing."""
        assert message.to != self.id, "only promises are sent to oneself"
        self.outbox.append(message)

    def hard_state(self) -> HardState:
        """What has to be durable."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def leading(self) -> Leader:
        """The leader's own state, in the handlers of a leader."""
        state = self.state
        assert isinstance(state, Leader)
        return state

    # ---- storage ---------------------------------------------------------------------------------------------------

    def applied_to(self, index: LogIndex, size_bytes: int) -> None:
        """The owner has applied everything up to `index`."""
        log = self.log
        log.applied_to(max(index, log.applied), size_bytes)
        membership.leave_joint_if_due(self)

    def snapshot_applied(self, index: LogIndex) -> None:
        """The owner has stored and applied the snapshot that ends at `index`."""
        self.log.unstable.stable_snapshot_to(index)
        self.applied_to(index, 0)


def _stored(raft: Raft, message: Message) -> None:
    if message.index:
        raft.log.unstable.stable_to(message.log_term, message.index)
    if message.snapshot is not None:
        raft.snapshot_applied(message.snapshot.metadata.index)


def _applied(raft: Raft, message: Message) -> None:
    entries = message.entries
    if entries:
        raft.applied_to(entries[-1].index, entries_bytes(entries))
        replication.release_uncommitted(raft, payload_bytes(entries))


COMMON: Final[dict[MessageType, Handler]] = {
    _T.VOTE: election.on_vote_request,
    _T.PRE_VOTE: election.on_vote_request,
    _T.STORAGE_APPEND_RESP: _stored,
    _T.STORAGE_APPLY_RESP: _applied,
}
"""What every role does alike."""

_CANDIDATE: Final[dict[MessageType, Handler]] = {
    _T.PROP: replication.drop_proposal,
    _T.APP: replication.on_append_as_candidate,
    _T.HEARTBEAT: replication.on_heartbeat_as_candidate,
    _T.SNAP: snapshot.on_snapshot_as_candidate,
    _T.TIMEOUT_NOW: election.ignore_timeout_now,
}

BY_ROLE: Final[dict[Role, dict[MessageType, Handler]]] = {
    Role.FOLLOWER: {
        _T.PROP: replication.forward_proposal,
        _T.APP: replication.on_append,
        _T.HEARTBEAT: replication.on_heartbeat,
        _T.SNAP: snapshot.on_snapshot,
        _T.TRANSFER_LEADER: transfer.forward,
        _T.FORGET_LEADER: election.on_forget_leader,
        _T.TIMEOUT_NOW: election.on_timeout_now,
        _T.READ_INDEX: reads.forward,
        _T.READ_INDEX_RESP: reads.on_response,
    },
    Role.PRE_CANDIDATE: {**_CANDIDATE, _T.PRE_VOTE_RESP: election.on_vote_response},
    Role.CANDIDATE: {**_CANDIDATE, _T.VOTE_RESP: election.on_vote_response},
    Role.LEADER: {
        _T.PROP: replication.on_proposal,
        _T.APP_RESP: replication.on_append_response,
        _T.HEARTBEAT_RESP: replication.on_heartbeat_response,
        _T.TRANSFER_LEADER: transfer.on_request,
        _T.READ_INDEX: reads.on_request,
    },
}
"""What each role does; a type that is not here means nothing to it."""
