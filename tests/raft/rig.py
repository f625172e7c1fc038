"""Rig of the Raft tests: a few nodes with storage in memory, on a network that does what a test says.

Why: a test of one rule should show the rule, not the loop of an owner.
Invariants: nothing happens by itself: a test ticks, and lets messages through.
Not here: random runs (explorer.py).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
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
from nokv.raft import Config, MemoryStorage, RawNode, ReadState, Ready, Role, StepPeerNotFound
from nokv.raft.core import Raft

T = MessageType


class Storage(MemoryStorage):
    """Configuration changes are kept beside the log, as by an owner's state machine."""

    def __init__(self, state: ConfState | None = None) -> None:
        super().__init__(state)
        self.state = state or ConfState()

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Hard state and the last configuration applied."""
        return super().initial_state()[0], self.state


class Member:
    """One node with synchronous storage and a list of what it has applied."""

    def __init__(self, peer: int, storage: Storage, **settings: Any) -> None:
        self.peer = PeerId(peer)
        self.storage = storage
        self.settings = settings
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.node = self._start(LogIndex(0))

    def _start(self, applied: LogIndex) -> RawNode:
        settings = {"rng": Random(self.peer)} | self.settings
        return RawNode(Config(id=self.peer, storage=self.storage, applied=applied, **settings))

    def restart(self) -> None:
        """Lose everything that was not saved; what was applied is durable here."""
        self.node = self._start(self.applied[-1].index if self.applied else LogIndex(0))

    @property
    def raft(self) -> Raft:
        """The core, to look at."""
        return self.node._raft

    @property
    def role(self) -> Role:
        """What it is."""
        return self.raft.role

    @property
    def log(self) -> list[tuple[int, int]]:
        """(term, index) of each entry that can be read."""
        log = self.raft.log
        return [(entry.term, entry.index) for entry in log.entries(log.first_index(), 1 << 40)]

    @property
    def committed(self) -> int:
        """Its commit index."""
        return self.raft.log.committed

    def turn(self) -> list[Message]:
        """Do what there is to do; the messages for others."""
        sent: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.save(ready)
            sent += ready.messages
            self.reads += ready.read_states
            for entry in ready.committed_entries:
                self.apply(entry)
            self.node.advance()
        return sent

    def save(self, ready: Ready) -> None:
        """Make durable what a Ready wants saved."""
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
            self.storage.state = ready.snapshot.metadata.conf_state
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)

    def apply(self, entry: Entry) -> None:
        """Apply a committed entry."""
        self.applied.append(entry)
        if entry.type is not EntryType.NORMAL:
            self.storage.state = self.node.apply_conf_change(decode_conf_change(entry.type, entry.data))
            # A peer that has just joined needs a snapshot that names it.
            self.storage.create_snapshot(entry.index, self.storage.state, b"state")

    def take(self, *messages: Message) -> list[Message]:
        """Step messages; the messages it sends in return."""
        for message in messages:
            self.node.step(message)
        return self.turn()

    def tick(self, count: int = 1) -> list[Message]:
        """Some ticks; the messages it sends."""
        for _ in range(count):
            self.node.tick()
        return self.turn()


def lone(
    peers: int | ConfState = 3,
    *,
    log: Iterable[int] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    peer: int = 1,
    **settings: Any,
) -> Member:
    """One node whose peers are played by the test.

    Args:
        log: the term of each entry from index 1 on.
    """
    state = peers if isinstance(peers, ConfState) else ConfState(voters=ids(range(1, peers + 1)))
    storage = Storage(state)
    storage.append(entries(log))
    last = max(log, default=0)
    if term or last:
        storage.set_hard_state(HardState(Term(max(term, last)), PeerId(vote), LogIndex(commit)))
    member = Member(peer, storage, **settings)
    member.turn()
    return member


def ids(numbers: Iterable[int]) -> tuple[PeerId, ...]:
    """Peer ids."""
    return tuple(PeerId(number) for number in numbers)


def entries(terms: Iterable[int], first: int = 1) -> list[Entry]:
    """Entries with these terms from an index on."""
    return [Entry(Term(term), LogIndex(index), data=b"%d" % index) for index, term in enumerate(terms, first)]


def message(kind: MessageType, sender: int, term: int, to: int = 1, **fields: Any) -> Message:
    """A message; `entries` may be a list."""
    fields["entries"] = tuple(fields.get("entries", ()))
    return Message(type=kind, to=PeerId(to), sender=PeerId(sender), term=Term(term), **fields)


def snapshot(index: int, term: int, state: ConfState, data: bytes = b"state") -> Snapshot:
    """A snapshot."""
    return Snapshot(data, SnapshotMetadata(state, LogIndex(index), Term(term)))


def make_candidate(member: Member) -> list[Message]:
    """Let the election timeout pass; the messages it sends."""
    return member.tick(member.node.election_timeout)


def make_leader(member: Member) -> list[Message]:
    """Have the other voters elect it; the messages of its first term."""
    make_candidate(member)
    sent: list[Message] = []
    for peer in member.raft.tracker.voter_ids:
        if member.role is not Role.LEADER and peer != member.peer:
            sent = member.take(message(T.VOTE_RESP, peer, member.raft.term))
    assert member.role is Role.LEADER
    return sent


def of(kind: MessageType, messages: Iterable[Message]) -> list[Message]:
    """Those of a type."""
    return [one for one in messages if one.type is kind]


class Rig:
    """A group on a network.

    Args:
        members: number of voters 1..n, or members by id.
    """

    def __init__(self, members: int | dict[int, Member], **settings: Any) -> None:
        if isinstance(members, int):
            members = {peer: lone(members, peer=peer, **settings) for peer in range(1, members + 1)}
        self.members = members
        self.isolated: set[int] = set()
        """Nobody hears of these, nor they of others."""
        self.blocked: Callable[[Message], bool] = lambda _: False
        """What the network loses."""
        self.delivered: list[Message] = []

    def __getitem__(self, peer: int) -> Member:
        return self.members[peer]

    def settle(self) -> None:
        """Let all messages through, and all that follow from them."""
        flights = [one for member in self.members.values() for one in member.turn()]
        while flights:
            one = flights.pop(0)
            if one.to in self.members and not {one.to, one.sender} & self.isolated and not self.blocked(one):
                self.delivered.append(one)
                with suppress(StepPeerNotFound):
                    flights += self.members[one.to].take(one)
                if one.type is T.SNAP:
                    self.members[one.sender].node.report_snapshot(one.to, True)

    def elect(self, peer: int) -> None:
        """Have a member campaign and win."""
        self.members[peer].node.campaign()
        self.settle()
        assert self.members[peer].role is Role.LEADER

    def tick(self, count: int = 1) -> None:
        """Everybody ticks."""
        for _ in range(count):
            for member in self.members.values():
                member.node.tick()
            self.settle()

    def propose(self, peer: int, data: bytes = b"x") -> None:
        """Propose, and let it get through."""
        self.members[peer].node.propose(data)
        self.settle()
