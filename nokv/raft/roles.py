"""Roles: each holds only the fields that have a meaning in it, and is replaced as a whole on a transition."""

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from msgspec import Struct

from nokv.proto.ids import LogIndex, PeerId
from nokv.raft.config import NOBODY, NOTHING
from nokv.raft.read_only import ReadOnly


class Role(Enum):
    """What a node is in its term."""

    FOLLOWER = "StateFollower"
    CANDIDATE = "StateCandidate"
    LEADER = "StateLeader"
    PRE_CANDIDATE = "StatePreCandidate"


@dataclass(slots=True)
class Follower:
    """Takes entries from a leader, if one is known."""

    role: ClassVar[Role] = Role.FOLLOWER


@dataclass(slots=True)
class PreCandidate:
    """Asks whether it could win, without raising its term (thesis 9.6)."""

    role: ClassVar[Role] = Role.PRE_CANDIDATE


@dataclass(slots=True)
class Candidate:
    """Has voted for itself and asks for votes."""

    role: ClassVar[Role] = Role.CANDIDATE


@dataclass(slots=True)
class Leader:
    """Takes proposals, replicates, commits."""

    role: ClassVar[Role] = Role.LEADER
    heartbeat_elapsed: int = 0
    transferee: PeerId = NOBODY
    """To whom the leadership is being handed; no proposals are taken meanwhile."""
    pending_conf_index: LogIndex = NOTHING
    """No membership change may be proposed until everything up to here is applied."""
    uncommitted_bytes: int = 0
    reads: ReadOnly = field(default_factory=ReadOnly)


AnyRole = Follower | PreCandidate | Candidate | Leader


class ReadState(Struct, frozen=True):
    """A read index request was confirmed: the state machine may be read once it has applied `index`."""

    index: LogIndex
    context: bytes


class SoftState(Struct, frozen=True):
    """What need not be durable: who leads, and this node's role."""

    lead: PeerId
    role: Role
