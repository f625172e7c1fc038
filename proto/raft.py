"""Messages, entries and states of the Raft core.

Why: the core is sans-IO, so everything it says or keeps is a value of one of these types; they are also what crosses the
peer plane and what the log stores.
Invariants: enum values are frozen (they are in logs); a term, index or peer id of 0 means "none"; an entry is identified by
(term, index) together.
Not here: rules (nokv.raft), one-line descriptions (nokv.raft.describe), frames around messages (frame.py).
"""

from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from nokv.proto.ids import LogIndex, PeerId, Term


class EntryType(IntEnum):
    """What an entry's data is."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """One log entry. `data` is the application's, or an encoded ConfChange or ConfChangeV2."""

    term: Term = Term(0)
    index: LogIndex = LogIndex(0)
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


class HardState(Struct, array_like=True, frozen=True, gc=False):
    """What must be durable before a promise that rests on it leaves: term, vote; and commit, which may lag."""

    term: Term = Term(0)
    vote: PeerId = PeerId(0)
    commit: LogIndex = LogIndex(0)


class ConfState(Struct, array_like=True, frozen=True):
    """Membership: `voters` (of the incoming majority in a joint configuration), `voters_outgoing` (empty unless joint),
    learners, and voters that become learners when the joint configuration is left. All sorted."""

    voters: tuple[PeerId, ...] = ()
    learners: tuple[PeerId, ...] = ()
    voters_outgoing: tuple[PeerId, ...] = ()
    learners_next: tuple[PeerId, ...] = ()
    auto_leave: bool = False


class SnapshotMetadata(Struct, array_like=True, frozen=True):
    """Which entry a snapshot stands for, and the membership as of it."""

    conf_state: ConfState = ConfState()
    index: LogIndex = LogIndex(0)
    term: Term = Term(0)


class Snapshot(Struct, array_like=True, frozen=True):
    """State of the application up to `metadata.index`. The core never looks into `data`."""

    data: bytes = b""
    metadata: SnapshotMetadata = SnapshotMetadata()


class MessageType(IntEnum):
    """Kinds of message. Those marked local never cross a network."""

    HUP = 0
    """Local: campaign."""
    BEAT = 1
    """Local: send heartbeats."""
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    """Local: the transport could not deliver to a peer."""
    SNAP_STATUS = 11
    """Local: a snapshot was delivered, or not."""
    CHECK_QUORUM = 12
    """Local: step down unless a quorum was heard of lately."""
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    """Local: to the append thread."""
    STORAGE_APPEND_RESP = 20
    """Local: from the append thread."""
    STORAGE_APPLY = 21
    """Local: to the apply thread."""
    STORAGE_APPLY_RESP = 22
    """Local: from the apply thread."""
    FORGET_LEADER = 23
    """Local: follow nobody until somebody leads."""


class Message(Struct, array_like=True, frozen=True):
    """One message of the core. Which fields count depends on `type`; the others are 0 or empty."""

    type: MessageType
    to: PeerId = PeerId(0)
    sender: PeerId = PeerId(0)
    term: Term = Term(0)
    log_term: Term = Term(0)
    index: LogIndex = LogIndex(0)
    entries: tuple[Entry, ...] = ()
    commit: LogIndex = LogIndex(0)
    vote: PeerId = PeerId(0)
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: LogIndex = LogIndex(0)
    context: bytes = b""
    responses: tuple["Message", ...] = ()
    """STORAGE_APPEND, STORAGE_APPLY: to be delivered once the work is durable, or applied."""


class ConfChangeType(IntEnum):
    """One step of a membership change."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How a change goes through a joint configuration."""

    AUTO = 0
    """Joint only if more than one voter changes; left automatically."""
    JOINT_IMPLICIT = 1
    """Joint, left automatically."""
    JOINT_EXPLICIT = 2
    """Joint, left by proposing an empty change."""


class ConfChange(Struct, array_like=True, frozen=True, gc=False):
    """A change of one member, never joint."""

    type: ConfChangeType
    node_id: PeerId
    context: bytes = b""


class ConfChangeSingle(Struct, array_like=True, frozen=True, gc=False):
    """One step of a ConfChangeV2."""

    type: ConfChangeType
    node_id: PeerId


class ConfChangeV2(Struct, array_like=True, frozen=True):
    """A change of any number of members; without changes: leave the joint configuration."""

    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""


_message_encoder: Final = msgspec.msgpack.Encoder()
_message_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """A message as it crosses the peer plane."""
    return _message_encoder.encode(message)


def decode_message(body: bytes) -> Message:
    """The inverse.

    Raises:
        msgspec.DecodeError: the bytes are no message.
    """
    message: Message = _message_decoder.decode(body)
    return message
