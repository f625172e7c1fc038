"""Raft messages, log entries and configuration changes, as they lie on sockets and disks.

Why: the core, the log and the transport agree on one set of immutable values; none of them needs a codec of its own.
Invariants: numbers are 0 for "none" and below 2**63, which decoding enforces, so that no sum of a few of them leaves
64 bits and no message from a socket can name a local storage thread as its sender; enum values are frozen.
Not here: what a message means (nokv.raft), how it is framed (frame.py).
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from nokv.proto.ids import LogIndex, PeerId, Term

NUMBER_MAX: Final = (1 << 63) - 1
"""Largest term, index and peer id that is taken from a peer."""

_RANGE: Final = Meta(ge=0, le=NUMBER_MAX)
TermField = Annotated[Term, _RANGE]
IndexField = Annotated[LogIndex, _RANGE]
PeerField = Annotated[PeerId, _RANGE]

NO_PEER: Final = PeerId(0)
NO_TERM: Final = Term(0)
NO_INDEX: Final = LogIndex(0)


class EntryType(IntEnum):
    """What an entry's data is. Frozen: on disks."""

    NORMAL = 0
    """The owner's bytes; empty in a new leader's first entry."""
    CONF_CHANGE = 1
    """A ConfChange."""
    CONF_CHANGE_V2 = 2
    """A ConfChangeV2; empty data is one that leaves a joint configuration."""


class MessageType(IntEnum):
    """What a message says. Frozen: on sockets."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23


class ConfChangeType(IntEnum):
    """What is done with one peer. Frozen: on disks."""

    ADD_VOTER = 0
    REMOVE = 1
    UPDATE = 2
    """Nothing to Raft: the owner's context changes."""
    ADD_LEARNER = 3


class Transition(IntEnum):
    """How a ConfChangeV2 goes from the old configuration to the new one. Frozen: on disks."""

    AUTO = 0
    """Directly if at most one voter changes, otherwise as IMPLICIT."""
    JOINT_IMPLICIT = 1
    """Through a joint configuration, which the leader leaves by itself."""
    JOINT_EXPLICIT = 2
    """Through a joint configuration, until an empty ConfChangeV2 is proposed."""


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """One log entry. Identified by (term, index) together."""

    term: TermField
    index: IndexField
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


class HardState(Struct, array_like=True, frozen=True, gc=False):
    """What must be durable before any message that depends on it leaves."""

    term: TermField = NO_TERM
    vote: PeerField = NO_PEER
    commit: IndexField = NO_INDEX


class ConfState(Struct, array_like=True, frozen=True, gc=False):
    """A configuration as it is stored: peers of each kind, sorted. `voters_outgoing` is empty unless joint."""

    voters: tuple[PeerField, ...] = ()
    learners: tuple[PeerField, ...] = ()
    voters_outgoing: tuple[PeerField, ...] = ()
    learners_next: tuple[PeerField, ...] = ()
    auto_leave: bool = False


class SnapshotMetadata(Struct, array_like=True, frozen=True, gc=False):
    """The entry a snapshot ends with, and the configuration after it."""

    conf_state: ConfState = ConfState()
    index: IndexField = NO_INDEX
    term: TermField = NO_TERM


class Snapshot(Struct, array_like=True, frozen=True, gc=False):
    """The state after all entries up to `metadata.index`; `data` belongs to the owner. Index 0: no snapshot."""

    data: bytes = b""
    metadata: SnapshotMetadata = SnapshotMetadata()


class Message(Struct, array_like=True, frozen=True, gc=False):
    """Everything one replica tells another one, or its own storage threads. Fields that a type has no use for are 0.

    `index` and `log_term` name the entry before `entries`; in a storage append, `term`, `vote` and `commit` are the
    hard state to save (all 0: none) and `responses` are to be delivered when it is durable.
    """

    type: MessageType
    to: PeerField = NO_PEER
    sender: PeerField = NO_PEER
    term: TermField = NO_TERM
    log_term: TermField = NO_TERM
    index: IndexField = NO_INDEX
    entries: tuple[Entry, ...] = ()
    commit: IndexField = NO_INDEX
    vote: PeerField = NO_PEER
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: IndexField = NO_INDEX
    context: bytes = b""
    responses: "tuple[Message, ...]" = ()


class ConfChange(Struct, array_like=True, frozen=True, gc=False):
    """A change of one peer, in the old form."""

    type: ConfChangeType
    peer_id: PeerField
    context: bytes = b""

    def as_v2(self) -> "ConfChangeV2":
        """The same change in the general form."""
        return ConfChangeV2(changes=(ConfChangeSingle(self.type, self.peer_id),), context=self.context)


class ConfChangeSingle(Struct, array_like=True, frozen=True, gc=False):
    """What becomes of one peer."""

    type: ConfChangeType
    peer_id: PeerField


class ConfChangeV2(Struct, array_like=True, frozen=True, gc=False):
    """A change of any number of peers at once; without changes, the end of a joint configuration."""

    transition: Transition = Transition.AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""

    def as_v2(self) -> "ConfChangeV2":
        """Itself."""
        return self

    @property
    def leaves_joint(self) -> bool:
        """Whether it asks for the end of a joint configuration."""
        return self.transition is Transition.AUTO and not self.changes

    @property
    def enters_joint(self) -> bool:
        """Whether it goes through a joint configuration."""
        return self.transition is not Transition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """Whether the joint configuration it enters is left without being asked."""
        return self.transition is not Transition.JOINT_EXPLICIT


_ENCODER: Final = msgspec.msgpack.Encoder()
_MESSAGE_DECODER: Final = msgspec.msgpack.Decoder(Message)
_CONF_CHANGE_DECODER: Final = msgspec.msgpack.Decoder(ConfChange)
_CONF_CHANGE_V2_DECODER: Final = msgspec.msgpack.Decoder(ConfChangeV2)


def encode_message(message: Message) -> bytes:
    """The body of a frame."""
    return _ENCODER.encode(message)


def decode_message(body: bytes | memoryview) -> Message:
    """The message in a frame's body. Raises msgspec.DecodeError, whatever the bytes are."""
    try:
        return _MESSAGE_DECODER.decode(body)
    except RecursionError as error:
        raise msgspec.DecodeError("messages nested too deeply") from error


def encode_conf_change(change: ConfChange | ConfChangeV2) -> tuple[EntryType, bytes]:
    """Type and data of the entry that carries a change. The end of a joint configuration is empty data."""
    if isinstance(change, ConfChange):
        return EntryType.CONF_CHANGE, _ENCODER.encode(change)
    return EntryType.CONF_CHANGE_V2, b"" if change == ConfChangeV2() else _ENCODER.encode(change)


def decode_conf_change(kind: EntryType, data: bytes) -> ConfChange | ConfChangeV2:
    """The change that an entry carries. Raises msgspec.DecodeError."""
    if kind is EntryType.CONF_CHANGE:
        return _CONF_CHANGE_DECODER.decode(data)
    assert kind is EntryType.CONF_CHANGE_V2, kind
    return _CONF_CHANGE_V2_DECODER.decode(data) if data else ConfChangeV2()
