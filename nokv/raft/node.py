"""RawNode: the core as its owner drives it, by Ready and Advance (after etcd/raft's contract).

The owner calls `step`, `tick`, `propose`; whenever `has_ready`, it takes a Ready, carries it out and calls `advance`:

1. write `entries`, `hard_state` and `snapshot` durably (`must_sync` tells whether that needs a disk sync);
2. send `messages`, not before they are written;
3. apply `committed_entries`; membership changes among them go through `apply_conf_change`;
4. `advance`.

With asynchronous storage writes there is no `advance`: the writes and the applying are messages themselves
(STORAGE_APPEND, STORAGE_APPLY), to be carried out in order; their `responses` are delivered when the work is durable,
or applied. All other messages may leave at once, so a leader's appends do not wait for its own disk (thesis 10.2.1).
"""

from typing import Final

from msgspec import Struct

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import (
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from nokv.raft import membership
from nokv.raft.config import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Config
from nokv.raft.core import Raft
from nokv.raft.errors import StepLocalMessage, StepPeerNotFound
from nokv.raft.roles import Leader, ReadState, Role, SoftState
from nokv.raft.sizes import entries_bytes
from nokv.raft.status import BasicStatus, Status, basic_status, full_status

_LOCAL: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
    }
)
_RESPONSES: Final = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.UNREACHABLE,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY_RESP,
    }
)
_THREADS: Final = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)
_NO_STATE: Final = HardState()


class Ready(Struct, frozen=True):
    """What the core wants done. Empty fields ask for nothing; states are None if they have not changed."""

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: list[ReadState]
    entries: list[Entry]
    snapshot: Snapshot | None
    committed_entries: list[Entry]
    messages: list[Message]
    must_sync: bool


class RawNode:
    """One node of a Raft group. Not safe for concurrent use; does no input or output."""

    def __init__(self, config: Config) -> None:
        self.raft: Final = Raft(config)
        self._async: Final = config.async_storage_writes
        self._soft = self.raft.soft_state()
        self._hard = self.raft.hard_state()
        self._on_advance: list[Message] = []
        self._accepted = False

    # ---- input -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One logical tick."""
        self.raft.tick()

    def campaign(self) -> None:
        """Start an election now."""
        self.raft.step(Message(type=MessageType.HUP))

    def propose(self, data: bytes) -> None:
        """Propose an entry.

        Raises:
            ProposalDropped: it was not appended.
        """
        self.raft.step(Message(type=MessageType.PROP, sender=self.raft.id, entries=(Entry(data=data),)))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Propose a membership change. Raises ProposalDropped."""
        self.raft.step(Message(type=MessageType.PROP, entries=(membership.conf_change_entry(change),)))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """A committed membership change takes effect; returns the membership to store. Raises ConfChangeError."""
        return membership.apply_conf_change(self.raft, membership.as_v2(change))

    def step(self, message: Message) -> None:
        """Take a message of another node, or of a local storage thread.

        Raises:
            StepLocalMessage, StepPeerNotFound, StepMalformed: it must not be taken; nothing was changed.
            ProposalDropped: a forwarded proposal was not appended.
        """
        local = message.sender in _THREADS
        if message.type in _LOCAL and not local:
            raise StepLocalMessage(message.type.name)
        if message.type in _RESPONSES and not local and message.sender not in self.raft.tracker.progress:
            raise StepPeerNotFound(f"{message.sender:x}")
        self.raft.step(message)

    def read_index(self, context: bytes) -> None:
        """Ask for an index at or above everything committed now; the answer is a ReadState with this context."""
        self.raft.step(Message(type=MessageType.READ_INDEX, entries=(Entry(data=context),)))

    def transfer_leader(self, target: PeerId) -> None:
        """Ask the leader to hand over to `target`."""
        self.raft.step(Message(type=MessageType.TRANSFER_LEADER, sender=target))

    def forget_leader(self) -> None:
        """A follower follows nobody from now on, and may vote for somebody else."""
        self.raft.step(Message(type=MessageType.FORGET_LEADER))

    def report_unreachable(self, peer_id: PeerId) -> None:
        """Messages to a peer were lost."""
        self.raft.step(Message(type=MessageType.UNREACHABLE, sender=peer_id))

    def report_snapshot(self, peer_id: PeerId, *, ok: bool) -> None:
        """A snapshot was delivered to a peer, or not."""
        self.raft.step(Message(type=MessageType.SNAP_STATUS, sender=peer_id, reject=not ok))

    # ---- output ----------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` would hold anything."""
        raft, log = self.raft, self.raft.log
        unstable = log.unstable
        if raft.messages or raft.after_append or raft.read_states:
            return True
        if unstable.offset_in_progress - unstable.offset < len(unstable.entries):
            return True
        if log.has_next_committed(not self._async):
            return True
        if raft.lead != self._soft.lead or raft.state.role is not self._soft.role:
            return True
        hard = raft.hard_state()
        return (hard not in (self._hard, _NO_STATE)) or unstable.next_snapshot() is not None

    def ready(self) -> Ready:
        """Everything that is to be done now; it will not be handed out again."""
        ready = self.ready_without_accept()
        self._accept(ready)
        return ready

    def ready_without_accept(self) -> Ready:
        """What `ready` would return, without taking it."""
        raft, log = self.raft, self.raft.log
        soft, hard = raft.soft_state(), raft.hard_state()
        entries = log.unstable.next_entries()
        committed = log.next_committed(not self._async)
        changed_hard = hard if hard != self._hard else None
        snapshot = log.unstable.next_snapshot()
        messages = list(raft.messages)
        if self._async:
            if entries or changed_hard is not None or snapshot is not None or raft.after_append:
                messages.append(self._storage_append(entries, changed_hard, snapshot))
            if committed:
                messages.append(self._storage_apply(committed))
        else:
            messages += [message for message in raft.after_append if message.to != raft.id]
        return Ready(
            soft_state=soft if soft != self._soft else None,
            hard_state=changed_hard,
            read_states=list(raft.read_states),
            entries=entries,
            snapshot=snapshot,
            committed_entries=committed,
            messages=messages,
            must_sync=bool(entries) or hard.term != self._hard.term or hard.vote != self._hard.vote,
        )

    def advance(self) -> None:
        """The last Ready was carried out. Not with asynchronous storage writes."""
        assert not self._async, "with asynchronous storage writes there is nothing to advance"
        steps, self._on_advance = self._on_advance, []
        self._accepted = False
        for message in steps:
            self.raft.step(message)

    def _accept(self, ready: Ready) -> None:
        raft, log = self.raft, self.raft.log
        if ready.soft_state is not None:
            self._soft = ready.soft_state
        if ready.hard_state is not None:
            self._hard = ready.hard_state
        raft.read_states = []
        if not self._async:
            assert not self._accepted, "two Readys without an advance between them"
            self._accepted = True
            self._on_advance += [message for message in raft.after_append if message.to == raft.id]
            if log.unstable.entries or ready.snapshot is not None:
                self._on_advance.append(self._storage_append_response(ready.snapshot))
            if ready.committed_entries:
                self._on_advance.append(self._storage_apply_response(ready.committed_entries))
        raft.messages = []
        raft.after_append = []
        log.unstable.accept_in_progress()
        if ready.committed_entries:
            last = ready.committed_entries[-1].index
            log.accept_applying(last, entries_bytes(ready.committed_entries), allow_unstable=not self._async)

    # ---- storage messages ------------------------------------------------------------------------------------------

    def _storage_append(self, entries: list[Entry], hard: HardState | None, snapshot: Snapshot | None) -> Message:
        """Write these; then deliver what promises them, the leader's own acknowledgements before the report of
        stability.
        """
        raft = self.raft
        responses = list(raft.after_append)
        if raft.log.unstable.entries or snapshot is not None:
            responses.append(self._storage_append_response(snapshot))
        state = hard or _NO_STATE
        return Message(
            type=MessageType.STORAGE_APPEND,
            to=LOCAL_APPEND_THREAD,
            sender=raft.id,
            term=state.term,
            vote=state.vote,
            commit=state.commit,
            entries=tuple(entries),
            snapshot=snapshot,
            responses=tuple(responses),
        )

    def _storage_append_response(self, snapshot: Snapshot | None) -> Message:
        """Reports the last entry as stable, also if it was handed out before: the newest report is the one that counts.

        It carries the term: were it taken in a later one, the entry could have been overwritten and appended again
        (ABA).
        """
        raft = self.raft
        index, log_term = LogIndex(0), Term(0)
        if raft.log.unstable.entries:
            index, log_term = raft.log.last_index(), raft.log.last_term()
        return Message(
            type=MessageType.STORAGE_APPEND_RESP,
            to=raft.id,
            sender=LOCAL_APPEND_THREAD,
            term=raft.term,
            index=index,
            log_term=log_term,
            snapshot=snapshot,
        )

    def _storage_apply(self, committed: list[Entry]) -> Message:
        return Message(
            type=MessageType.STORAGE_APPLY,
            to=LOCAL_APPLY_THREAD,
            sender=self.raft.id,
            entries=tuple(committed),
            responses=(self._storage_apply_response(committed),),
        )

    def _storage_apply_response(self, committed: list[Entry]) -> Message:
        return Message(
            type=MessageType.STORAGE_APPLY_RESP,
            to=self.raft.id,
            sender=LOCAL_APPLY_THREAD,
            entries=tuple(committed),
        )

    # ---- questions -------------------------------------------------------------------------------------------------

    def basic_status(self) -> BasicStatus:
        """Role, term, leader and borders; cheap."""
        return basic_status(self.raft)

    def status(self) -> Status:
        """The same, with configuration and, on a leader, everybody's progress."""
        return full_status(self.raft)

    def match_indexes(self) -> dict[PeerId, LogIndex]:
        """On a leader, how much of the log each peer is known to have; empty elsewhere."""
        if not isinstance(self.raft.state, Leader):
            return {}
        return {peer_id: progress.match for peer_id, progress in self.raft.tracker.progress.items()}

    @property
    def role(self) -> Role:
        """What this node is in its term."""
        return self.raft.state.role
