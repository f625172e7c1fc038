"""RawNode: the core as its owner sees it: ticks, messages and proposals go in, Ready comes out.

Why: an owner with many groups drives all of them from one loop, so nothing here waits, calls back or starts anything.
Invariants: what a Ready has told is not told again; promises leave a Ready's messages only in the order that keeps
them true: after the owner has saved everything handed out before.
Not here: Raft's rules (core.py and the files beside it).
"""

from typing import Final

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import (
    NO_INDEX,
    NO_TERM,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    encode_conf_change,
)
from nokv.raft import election, membership, replication, snapshot
from nokv.raft.config import Config
from nokv.raft.core import Raft
from nokv.raft.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, LOCAL_THREADS, check, check_storage_response
from nokv.raft.ready import Ready, SoftState
from nokv.raft.roles import Role
from nokv.raft.sizes import entries_bytes
from nokv.raft.status import BasicStatus, Status, basic_status, status

_EMPTY_HARD_STATE: Final = HardState()


class RawNode:
    """One replica.

    Raises:
        ConfChangeError: the storage's configuration is impossible.
    """

    __slots__ = ("_allow_unstable", "_async", "_last_hard_state", "_last_soft_state", "_on_advance", "_raft")

    def __init__(self, config: Config) -> None:
        self._async: Final = config.async_storage_writes
        self._allow_unstable: Final = not config.async_storage_writes
        """Without a storage that lags behind, entries may be applied in the Ready that saves them."""

        self._raft: Final = Raft(config)
        self._last_hard_state = self._raft.hard_state()
        self._last_soft_state = SoftState(self._raft.lead, self._raft.role)
        self._on_advance: list[Message] = []

    # ---- input -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the owner's clock."""
        self._raft.tick()

    def campaign(self) -> None:
        """Start an election now, if this node may."""
        election.start(self._raft)

    def propose(self, data: bytes) -> None:
        """Have an entry appended. Raises ProposalDropped; otherwise it may commit, or not."""
        self.propose_batch((data,))

    def propose_batch(self, batch: tuple[bytes, ...]) -> None:
        """Have entries appended side by side. Raises ProposalDropped."""
        assert batch, "nothing to propose"
        self._propose(tuple(Entry(term=NO_TERM, index=NO_INDEX, data=data) for data in batch))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Have a change appended; one that is out of order becomes an empty entry. Raises ProposalDropped."""
        kind, data = encode_conf_change(change)
        self._propose((Entry(term=NO_TERM, index=NO_INDEX, type=kind, data=data),))

    def _propose(self, entries: tuple[Entry, ...]) -> None:
        self._raft.step(Message(type=MessageType.PROP, sender=self._raft.id, entries=entries))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """Apply a committed change; the configuration to store. An owner that refuses a change does not call this.

        Raises:
            ConfChangeError: it is impossible here, and so on every replica; nothing has changed.
        """
        return membership.apply(self._raft, change.as_v2())

    def step(self, message: Message) -> None:
        """Take a message of a peer, or the response of a local thread.

        Raises:
            StepError: it was refused before it changed anything.
            ProposalDropped: it is a proposal, which was refused.
        """
        if message.sender in LOCAL_THREADS:
            check_storage_response(self._raft, message)
        else:
            check(self._raft, message)
        self._raft.step(message)

    def read_index(self, context: bytes) -> None:
        """Ask for the index from which a read is linearizable; it comes as a ReadState with this context, or never.

        Args:
            context: not empty, and different from that of every other read under way.
        """
        assert context, "a read is known by its context"
        entry = Entry(term=NO_TERM, index=NO_INDEX, data=context)
        self._raft.step(Message(type=MessageType.READ_INDEX, entries=(entry,)))

    def transfer_leader(self, target: PeerId) -> None:
        """Have `target` take over, if it can within an election timeout."""
        self._raft.step(Message(type=MessageType.TRANSFER_LEADER, sender=target))

    def forget_leader(self) -> None:
        """Forget a leader that is known to be dead, so that this node may vote at once."""
        self._raft.step(Message(type=MessageType.FORGET_LEADER, sender=self._raft.id))

    def report_unreachable(self, peer: PeerId) -> None:
        """A message to `peer` could not be delivered."""
        replication.unreachable(self._raft, peer)

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """A snapshot for `peer` has arrived, or is lost. Has to be called, or nothing more is sent until it acks."""
        snapshot.reported(self._raft, peer, ok=ok)

    # ---- output ----------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether there is anything to do."""
        raft = self._raft
        log = raft.log
        unstable = log.unstable
        return bool(
            raft.outbox
            or raft.promises
            or raft.read_states
            or unstable.in_progress - unstable.offset < len(unstable.entries)
            or log.has_next_committed(self._allow_unstable)
            or raft.lead != self._last_soft_state.lead
            or raft.role is not self._last_soft_state.role
            or self._new_hard_state() is not None
            or unstable.next_snapshot() is not None
        )

    def ready(self) -> Ready:
        """What is to be done. It is told once; without async_storage_writes, advance() must follow."""
        ready = self.ready_without_accept()
        self._accept(ready)
        return ready

    def ready_without_accept(self) -> Ready:
        """What is to be done, to look at only."""
        raft = self._raft
        log = raft.log
        soft_state = SoftState(raft.lead, raft.role)
        hard_state, last = self._new_hard_state(), self._last_hard_state
        entries = log.unstable.next_entries()
        ready = Ready(
            soft_state=None if soft_state == self._last_soft_state else soft_state,
            hard_state=hard_state,
            read_states=list(raft.read_states),
            entries=entries,
            snapshot=log.unstable.next_snapshot(),
            committed_entries=log.next_committed(self._allow_unstable),
            messages=list(raft.outbox),
            must_sync=bool(entries) or raft.term != last.term or raft.vote != last.vote,
        )
        if self._async:
            self._add_storage_messages(ready)
        else:
            ready.messages.extend(promise for promise in raft.promises if promise.to != raft.id)
        return ready

    def advance(self) -> None:
        """Everything in the last Ready was done. Only without async_storage_writes."""
        assert not self._async, "with async_storage_writes, the local threads' responses say what was done"
        done, self._on_advance = self._on_advance, []
        for message in done:
            self._raft.step(message)

    def _new_hard_state(self) -> HardState | None:
        raft, last = self._raft, self._last_hard_state
        if raft.term == last.term and raft.vote == last.vote and raft.log.committed == last.commit:
            return None
        return raft.hard_state()

    def _accept(self, ready: Ready) -> None:
        raft = self._raft
        if ready.soft_state is not None:
            self._last_soft_state = ready.soft_state
        if ready.hard_state is not None:
            self._last_hard_state = ready.hard_state
        committed = ready.committed_entries
        if not self._async:
            assert not self._on_advance, "a Ready was accepted without advance()"
            self._on_advance.extend(promise for promise in raft.promises if promise.to == raft.id)
            if self._wants_stored(ready):
                self._on_advance.append(self._stored(ready))
            if committed:
                self._on_advance.append(self._applied(committed))
        raft.read_states.clear()
        raft.outbox.clear()
        raft.promises.clear()
        raft.log.unstable.accept()
        if committed:
            raft.log.accept_applying(committed[-1].index, entries_bytes(committed), self._allow_unstable)

    # ---- storage ---------------------------------------------------------------------------------------------------

    def _add_storage_messages(self, ready: Ready) -> None:
        raft, hard_state = self._raft, ready.hard_state or _EMPTY_HARD_STATE
        if ready.entries or ready.hard_state is not None or ready.snapshot is not None or raft.promises:
            # The promises come before the storage's own response: a leader counts its own copy while the terms of
            # these entries can still be looked up in the unstable log.
            responses = (*raft.promises, self._stored(ready)) if self._wants_stored(ready) else tuple(raft.promises)
            ready.messages.append(
                Message(
                    type=MessageType.STORAGE_APPEND,
                    to=LOCAL_APPEND_THREAD,
                    sender=raft.id,
                    term=hard_state.term,
                    vote=hard_state.vote,
                    commit=hard_state.commit,
                    entries=tuple(ready.entries),
                    snapshot=ready.snapshot,
                    responses=responses,
                )
            )
        if ready.committed_entries:
            ready.messages.append(
                Message(
                    type=MessageType.STORAGE_APPLY,
                    to=LOCAL_APPLY_THREAD,
                    sender=raft.id,
                    entries=tuple(ready.committed_entries),
                    responses=(self._applied(ready.committed_entries),),
                )
            )

    def _wants_stored(self, ready: Ready) -> bool:
        """Whether the core has to hear that something is durable."""
        return bool(self._raft.log.unstable.entries) or ready.snapshot is not None

    def _stored(self, ready: Ready) -> Message:
        """What the append thread answers when everything handed out so far is durable.

        It names the last entry even if this Ready has none. Suppose entries of term 1 are on their way to disk when a
        leader of term 2 replaces them and one of term 3 puts the first ones back: the answer about the first write
        would then seem to speak of entries whose last write is still under way. Therefore an answer counts only in
        the term it was asked in, and each Ready of a new term asks again as long as anything is not durable.
        """
        raft = self._raft
        term, index = raft.log.last_id() if raft.log.unstable.entries else (Term(0), LogIndex(0))
        return Message(
            type=MessageType.STORAGE_APPEND_RESP,
            to=raft.id,
            sender=LOCAL_APPEND_THREAD,
            term=raft.term,
            log_term=term,
            index=index,
            snapshot=ready.snapshot,
        )

    def _applied(self, committed: list[Entry]) -> Message:
        """What the apply thread answers."""
        return Message(
            type=MessageType.STORAGE_APPLY_RESP,
            to=self._raft.id,
            sender=LOCAL_APPLY_THREAD,
            entries=tuple(committed),
        )

    # ---- looking ---------------------------------------------------------------------------------------------------

    def basic_status(self) -> BasicStatus:
        """Term, vote, marks, leader and role; cheap."""
        return basic_status(self._raft)

    def status(self) -> Status:
        """Everything, with what a leader knows of its peers."""
        return status(self._raft)

    def match_indexes(self) -> dict[PeerId, LogIndex]:
        """As leader, how far each peer is known to have the log, its own included; otherwise empty."""
        raft = self._raft
        if raft.role is not Role.LEADER:
            return {}
        return {peer: LogIndex(progress.match) for peer, progress in raft.tracker.progress.items()}

    @property
    def election_timeout(self) -> int:
        """Ticks without a leader until this node campaigns, as drawn for its present role."""
        return self._raft.election_timeout

    @election_timeout.setter
    def election_timeout(self, ticks: int) -> None:
        """For tests: until the next change of role or term."""
        assert ticks > 0
        self._raft.election_timeout = ticks
