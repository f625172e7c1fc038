"""Machine of the explorer: one RawNode with an owner, a disk that survives it, and a state that it applies to.

Why: everything between the core and the promises of the group is here once, for both ways of writing: the owner saves,
sends and applies in the order that the package docstring asks for, and may be stopped between any two of these.
Invariants: a crash keeps what was saved with a sync, and of what was on its way to the disk some prefix; the state
machine's own disk may be behind, so that entries are applied again.
Not here: when anything happens (explorer_world.py).
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    decode_conf_change,
)
from nokv.raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChangeError,
    Config,
    MemoryStorage,
    ProposalDropped,
    RawNode,
    ReadState,
    Ready,
    SnapshotTemporarilyUnavailable,
    StepPeerNotFound,
)
from tests.raft.explorer_rules import BASE_INDEX, BASE_NUMBER, BASE_TERM, Ledger, View


class Disk(MemoryStorage):
    """What survives a crash. The configuration lies with the state machine, not with the log."""

    __slots__ = ("_refresh", "busy", "conf_state", "synced")

    def __init__(self, refresh: Callable[[], None]) -> None:
        super().__init__()
        self._refresh = refresh
        self.conf_state = ConfState()
        self.busy = False
        """Whether no snapshot can be made for now."""
        self.synced = HardState()
        """The hard state saved with the last sync; one with a new commit index only may be lost."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state, and the configuration of what is applied."""
        return self._hard_state, self.conf_state

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        if self.busy:
            raise SnapshotTemporarilyUnavailable
        self._refresh()
        return super().snapshot()

    def save(self, hard_state: HardState | None, entries: tuple[Entry, ...], snapshot: Snapshot | None) -> None:
        """Write what the core has handed out."""
        if snapshot is not None:
            self.apply_snapshot(snapshot)
        if entries:
            self.append(entries)
        if hard_state is not None:
            self.set_hard_state(hard_state)

    def base(self) -> tuple[int, int]:
        """Term and index of the last entry that was compacted."""
        return self._base.term, self._base.index

    def stored(self, offset: int) -> list[Entry]:
        """Entries below `offset`."""
        return self._entries[: max(offset - self._base.index - 1, 0)]

    def term_at(self, index: int) -> int | None:
        """Term of an entry that is durable, 0 if it was compacted, None if it is not there."""
        place = index - self._base.index
        if place <= 0:
            return 0
        return self._entries[place - 1].term if place <= len(self._entries) else None

    def saved(self) -> tuple[int, int]:
        """Durable term and vote."""
        return self._hard_state.term, self._hard_state.vote

    def lose_commit(self) -> None:
        """A crash has eaten a commit index that was written without a sync."""
        self.set_hard_state(HardState(self._hard_state.term, self._hard_state.vote, self.synced.commit))


class Machine:
    """One server.

    Args:
        peer: its id.
        settings: arguments of Config, but for id, storage, rng and applied.
        send: takes messages for other machines.
    """

    def __init__(
        self, peer: PeerId, settings: dict[str, Any], ledger: Ledger, send: Callable[[Message], None], rng: Random
    ) -> None:
        self.peer = peer
        self._settings = settings
        self._ledger = ledger
        self._send = send
        self._rng = rng
        self.is_async: bool = settings["async_storage_writes"]

        self.freshness = rng.choice((0.1, 1.0))
        """How probably a snapshot is made when one is needed; an old one may not name a peer that has joined since."""
        self.disk = Disk(self._refresh)
        self.durable_applied = 0
        self._number_at: dict[int, int] = {0: -1}
        """State after each entry that a restart may begin with."""

        self.node: RawNode | None = None
        self.incarnation = 0
        self.applied = 0
        self._pending: Ready | None = None
        """Saved, but not applied: the second half of the owner's turn (synchronous writes)."""
        self.appends: deque[Message] = deque()
        self.applies: deque[Message] = deque()
        self.responses: deque[Message] = deque()
        """Of the local threads, on their way to the core."""

    def found(self, conf_state: ConfState) -> None:
        """Make it one of the first members."""
        metadata = SnapshotMetadata(conf_state, LogIndex(BASE_INDEX), Term(BASE_TERM))
        self.disk.save(
            HardState(Term(BASE_TERM), PeerId(0), LogIndex(BASE_INDEX)), (), Snapshot(b"%d" % BASE_NUMBER, metadata)
        )
        self.disk.synced = self.disk.initial_state()[0]
        self.durable_applied = BASE_INDEX
        self._number_at = {BASE_INDEX: BASE_NUMBER}

    def node_or_fail(self) -> RawNode:
        """The core of a machine that is up."""
        assert self.node is not None
        return self.node

    # ---- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start from what the disk has."""
        assert self.node is None
        self.incarnation += 1
        # Some of what was applied after the last checkpoint may have reached the state machine's disk.
        self.applied = self._rng.randint(self.durable_applied, max(self._number_at))
        self._number_at = {index: one for index, one in self._number_at.items() if index <= self.applied}
        self.disk.conf_state = self._ledger.conf_state(self.applied)
        hard_state, _ = self.disk.initial_state()
        if self.applied > hard_state.commit:
            self.disk.set_hard_state(HardState(hard_state.term, hard_state.vote, LogIndex(self.applied)))
        self._ledger.views[self.peer] = View(self.peer, self.incarnation)
        config = Config(
            id=self.peer, storage=self.disk, rng=self._rng, applied=LogIndex(self.applied), **self._settings
        )
        self.node = RawNode(config)
        self.observe()

    def crash(self) -> None:
        """Stop, and lose what is not durable."""
        self.node = None
        if not self.is_async and self._rng.random() < 0.5:
            self.disk.lose_commit()
        for _ in range(self._rng.randint(0, len(self.appends))):
            self._save(self.appends.popleft())
        self._pending = None
        self.appends.clear()
        self.applies.clear()
        self.responses.clear()

    def observe(self) -> None:
        """Check everything that can be seen of the core."""
        assert self.node is not None
        raft, disk = self.node._raft, self.disk
        unstable = raft.log.unstable
        base, pending = disk.base(), unstable.snapshot
        stored = disk.stored(unstable.offset)
        if pending is not None and pending.metadata.index > base[1]:
            base = (pending.metadata.term, pending.metadata.index)
            stored = []
        fresh = unstable.entries
        if unstable.offset <= base[1]:
            fresh = fresh[base[1] + 1 - unstable.offset :]
        self._ledger.observe(self._ledger.views[self.peer], raft, base, stored + fresh)

    # ---- input -----------------------------------------------------------------------------------------------------

    def call(self, method: Callable[..., Any], *arguments: Any) -> bool:
        """Call the core. False: it was refused, as it may be."""
        try:
            method(*arguments)
        except (ProposalDropped, StepPeerNotFound):
            return False
        finally:
            self.observe()
        return True

    def read(self, context: bytes) -> None:
        """Ask for a read."""
        assert self.node is not None
        self._ledger.ask(context)
        self.call(self.node.read_index, context)

    # ---- the owner's turn ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is left to be done."""
        node = self.node
        if node is None:
            return False
        return bool(self._pending or self.appends or self.applies or self.responses or node.has_ready())

    def turn(self) -> None:
        """Take what the core hands out, or finish with what it has handed out before."""
        node = self.node
        assert node is not None
        if self._pending is not None:
            ready, self._pending = self._pending, None
            self._apply(ready.committed_entries)
            self.call(node.advance)
        elif node.has_ready():
            ready = node.ready()
            self._answer(ready.read_states)
            if self.is_async:
                self._route(ready.messages)
            else:
                self._save_ready(ready)
                self._pending = ready
                for message in ready.messages:
                    self._send(message)

    def _route(self, messages: list[Message]) -> None:
        for message in messages:
            if message.to == LOCAL_APPEND_THREAD:
                self.appends.append(message)
            elif message.to == LOCAL_APPLY_THREAD:
                self.applies.append(message)
            else:
                self._send(message)

    def _answer(self, states: list[ReadState]) -> None:
        for state in states:
            self._ledger.answer(self.peer, state.context, state.index)

    def _save_ready(self, ready: Ready) -> None:
        self._install(ready.snapshot)
        self.disk.save(ready.hard_state, tuple(ready.entries), ready.snapshot)
        if ready.must_sync or ready.snapshot is not None:
            self.disk.synced = self.disk.initial_state()[0]

    # ---- the local threads -----------------------------------------------------------------------------------------

    def write(self) -> None:
        """The append thread: make the oldest write durable, and let its promises go."""
        message = self.appends.popleft()
        self._save(message)
        for response in message.responses:
            if response.to == self.peer:
                self.responses.append(response)
            else:
                self._send(response)
        self.observe()

    def _save(self, message: Message) -> None:
        changed = message.term or message.vote or message.commit
        hard_state = HardState(message.term, message.vote, message.commit) if changed else None
        self._install(message.snapshot)
        self.disk.save(hard_state, message.entries, message.snapshot)

    def apply(self) -> None:
        """The apply thread: apply the oldest batch."""
        message = self.applies.popleft()
        self._apply(list(message.entries))
        self.responses.extend(message.responses)

    def respond(self) -> None:
        """The core hears of a local thread, in the order they spoke."""
        assert self.node is not None
        self.call(self.node.step, self.responses.popleft())

    def _install(self, snapshot: Snapshot | None) -> None:
        """Replace the state with a snapshot's."""
        if snapshot is None:
            return
        metadata, number = snapshot.metadata, int(snapshot.data)
        self._ledger.check_snapshot(self.peer, (metadata.term, metadata.index), metadata.conf_state, number)
        self.applied = self.durable_applied = metadata.index
        self._number_at = {self.applied: number}

    def _apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.index <= self.applied:
                continue  # A snapshot has overtaken it.
            assert entry.index == self.applied + 1, "a gap in what is applied"
            number = self._ledger.apply(self.peer, entry, self._number_at[self.applied])
            if entry.type is not EntryType.NORMAL:
                self._apply_change(entry)
            self.applied = entry.index
            self._number_at[self.applied] = number

    def _apply_change(self, entry: Entry) -> None:
        assert self.node is not None
        try:
            state = self.node.apply_conf_change(decode_conf_change(entry.type, entry.data))
        except ConfChangeError:
            state = self._ledger.conf_state(entry.index - 1)
        finally:
            self.observe()
        self._ledger.set_conf_state(self.peer, entry.index, state)

    # ---- housekeeping ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Make the state durable."""
        self.durable_applied = self.applied
        self._number_at = {self.applied: self._number_at[self.applied]}

    def snapshot(self) -> None:
        """Make a snapshot of the state."""
        self.checkpoint()
        if self.applied > self.disk._snapshot.metadata.index:
            data = b"%d" % self._number_at[self.applied]
            self.disk.create_snapshot(LogIndex(self.applied), self._ledger.conf_state(self.applied), data)

    def _refresh(self) -> None:
        if self._rng.random() < self.freshness:
            self.snapshot()

    def compact(self) -> None:
        """Forget some entries that a snapshot has."""
        low, high = self.disk.base()[1], self.disk._snapshot.metadata.index
        if low < high:
            self.disk.compact(LogIndex(self._rng.randint(low + 1, high)))
            if self.node is not None:
                self.observe()

    def deliver(self, message: Message) -> None:
        """A message has arrived."""
        if self.node is not None:
            self.call(self.node.step, message)

    def report_snapshot(self, message: Message, ok: bool) -> None:
        """What became of a snapshot that this machine sent."""
        assert message.type is MessageType.SNAP
        if self.node is not None:
            self.call(self.node.report_snapshot, message.to, ok)
