"""A cluster whose every step is asked for: nodes, the messages between them, and their storage threads' work.

Why: interaction scripts say in which order things happen; nothing happens by itself here.
Invariants: messages to one node are delivered in the order they were sent; local ones are never dropped.
Not here: the commands of scripts (interaction.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from msgspec.structs import replace as with_fields

from nokv.proto.ids import PeerId
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
from nokv.raft import Config, MemoryStorage, ProposalDropped, RawNode, StepError
from nokv.raft.describe import describe_message, describe_ready
from nokv.raft.messages import LOCAL_THREADS
from tests.raft.conformance.output import Output


class CommandError(Exception):
    """A command cannot be carried out; its text is part of the output."""


class HistoryStorage(MemoryStorage):
    """Hands out the snapshot of the state machine, not the one its log begins with."""

    __slots__ = ("history",)

    def __init__(self, first: Snapshot) -> None:
        super().__init__()
        self.history = [first]

    def snapshot(self) -> Snapshot:
        """After the last entry applied."""
        return self.history[-1]


@dataclass
class Node:
    """A node with its storage and what its storage threads have to do."""

    raw: RawNode
    storage: HistoryStorage
    config: Config
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)


class Cluster:
    """The nodes, by id from 1 on, and the messages on their way."""

    def __init__(self) -> None:
        self.out = Output()
        self.nodes: list[Node] = []
        self.messages: list[Message] = []

    def add_nodes(self, count: int, config: Config, first: Snapshot) -> None:
        """Start nodes, all alike; from a snapshot if it is not empty."""
        for _ in range(count):
            peer = PeerId(len(self.nodes) + 1)
            storage = HistoryStorage(first)
            if first != Snapshot():
                if first.metadata.index <= 1:
                    raise CommandError("index must be specified as > 1 due to bootstrap")
                storage.apply_snapshot(first)
            own = replace(config, id=peer, storage=storage, rng=Random(peer), log=self.out)
            self.nodes.append(Node(RawNode(own), storage, own))

    def node(self, peer: int) -> Node:
        """The node with this id."""
        if not 1 <= peer <= len(self.nodes):
            raise CommandError(f"no node {peer}")
        return self.nodes[peer - 1]

    # ---- messages ----

    def deliver(self, peer: int, kind: MessageType | None = None, *, drop: bool = False) -> int:
        """Deliver or drop what is on its way to a node; how many there were."""
        taken = [message for message in self.messages if self._concerns(message, peer, kind, drop)]
        self.messages = [message for message in self.messages if not self._concerns(message, peer, kind, drop)]
        for message in taken:
            if drop:
                self.out.line(f"dropped: {describe_message(message)}")
                continue
            self.out.line(describe_message(message))
            try:
                self.node(message.to).raw.step(message)
            except (StepError, ProposalDropped) as error:
                self.out.line(str(error))
        return len(taken)

    @staticmethod
    def _concerns(message: Message, peer: int, kind: MessageType | None, drop: bool) -> bool:
        local = message.sender == message.to or message.sender in LOCAL_THREADS
        return message.to == peer and (kind is None or message.type is kind) and not (drop and local)

    # ---- Ready and the storage threads ----

    def process_ready(self, peer: int) -> None:
        """Carry out what a node has ready."""
        node = self.node(peer)
        ready = node.raw.ready()
        self.out.line(describe_ready(ready))
        if not node.config.async_storage_writes:
            self._save(node, ready.hard_state, ready.entries, ready.snapshot)
            self._apply(node, ready.committed_entries)
        for message in ready.messages:
            if message.type is MessageType.STORAGE_APPEND:
                node.append_work.append(message)
            elif message.type is MessageType.STORAGE_APPLY:
                node.apply_work.append(message)
            else:
                self.messages.append(message)
        if not node.config.async_storage_writes:
            node.raw.advance()

    def process_append(self, peer: int) -> None:
        """The append thread does one piece of its work."""
        node = self.node(peer)
        if not node.append_work:
            self.out.write("no append work to perform")
            return
        message = node.append_work.pop(0)
        self.out.line(f"Processing:\n{describe_message(with_fields(message, responses=()))}")
        state = HardState(message.term, message.vote, message.commit)
        self._save(node, state if state != HardState() else None, message.entries, message.snapshot)
        self._respond(message)

    def process_apply(self, peer: int) -> None:
        """The apply thread does one piece of its work."""
        node = self.node(peer)
        if not node.apply_work:
            self.out.write("no apply work to perform")
            return
        message = node.apply_work.pop(0)
        self.out.line(f"Processing:\n{describe_message(with_fields(message, responses=()))}")
        self._apply(node, message.entries)
        self._respond(message)

    def _respond(self, message: Message) -> None:
        self.out.line("Responses:")
        for response in message.responses:
            self.out.line(describe_message(response))
        self.messages.extend(message.responses)

    @staticmethod
    def _save(node: Node, state: HardState | None, entries: Sequence[Entry], snapshot: Snapshot | None) -> None:
        if state is not None:
            node.storage.set_hard_state(state)
        if snapshot is not None:
            assert not entries, "a snapshot and entries at the same time"
            node.storage.apply_snapshot(snapshot)
        node.storage.append(entries)

    @staticmethod
    def _apply(node: Node, entries: Sequence[Entry]) -> None:
        """The state is everything applied, one after the other."""
        for entry in entries:
            last = node.storage.history[-1]
            state: ConfState = last.metadata.conf_state
            update = entry.data
            if entry.type is not EntryType.NORMAL:
                change = decode_conf_change(entry.type, entry.data)
                update = change.context
                state = node.raw.apply_conf_change(change)
            node.storage.history.append(Snapshot(last.data + update, SnapshotMetadata(state, entry.index, entry.term)))

    # ---- until nothing is left to be done ----

    def stabilize(self, peers: Sequence[int]) -> None:
        """Carry out everything at these nodes, over and over, until nothing is left."""
        while any([self._all_ready(peers), self._all_receive(peers), self._all_work(peers)]):
            pass

    def _all_ready(self, peers: Sequence[int]) -> bool:
        busy = [peer for peer in peers if self.node(peer).raw.has_ready()]
        for peer in busy:
            self.under(f"> {peer} handling Ready", self.process_ready, peer)
        return bool(busy)

    def _all_receive(self, peers: Sequence[int]) -> bool:
        did = False
        for peer in peers:
            if any(message.to == peer for message in self.messages):
                self.under(f"> {peer} receiving messages", self.deliver, peer)
                did = True
        return did

    def _all_work(self, peers: Sequence[int]) -> bool:
        did = False
        for name, process in (("append", self.process_append), ("apply", self.process_apply)):
            for peer in peers:
                node = self.node(peer)
                work = node.append_work if name == "append" else node.apply_work
                if work:
                    did = True
                    self.out.line(f"> {peer} processing {name} thread")
                    while work:
                        with self.out.indented():
                            process(peer)
        return did

    def under(self, title: str, action: Callable[[int], object], peer: int) -> None:
        """Do something to a node, with its output below a title."""
        self.out.line(title)
        with self.out.indented():
            action(peer)
