"""Roles: what a node is, each with the state that only makes sense in it.

Why: state of a role that has ended cannot be used by mistake when it does not exist any more.
Invariants: a role object is made by a transition (election.py) and thrown away by the next one; nothing in here is
durable.
Not here: term, vote and leader, which every role has (core.py); what a role does with a message (the tables in
core.py).

    Follower ──timeout──▶ PreCandidate ──would win──▶ Candidate ──won──▶ Leader
        ▲                      │                          │                │
        └──── lost, or a leader or a higher term was heard of ─────────────┘
"""

from enum import Enum, auto
from typing import Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import NO_PEER, Message
from nokv.raft.read_index import ReadQueue


class Role(Enum):
    """What a node is."""

    FOLLOWER = auto()
    """Takes entries from a leader, if it knows of one. Learners are always followers."""
    PRE_CANDIDATE = auto()
    """Asks whether it would be elected, without raising its term."""
    CANDIDATE = auto()
    """Asks for votes in a new term."""
    LEADER = auto()
    """Appends proposals and replicates them."""


class Follower:
    """Nothing of its own."""

    __slots__ = ()
    role: Final = Role.FOLLOWER


class PreCandidate:
    """Answers to the question whether it would be elected."""

    __slots__ = ("votes",)
    role: Final = Role.PRE_CANDIDATE

    def __init__(self) -> None:
        self.votes: dict[PeerId, bool] = {}


class Candidate:
    """Votes of its term. A peer's first one counts."""

    __slots__ = ("votes",)
    role: Final = Role.CANDIDATE

    def __init__(self) -> None:
        self.votes: dict[PeerId, bool] = {}


class Leader:
    """What a leader keeps beside its followers' progress.

    Args:
        pending_conf_index: last index of the log at the election: there may be a configuration change below it that
            is not applied yet, so none is taken until it is.
    """

    __slots__ = (
        "early_reads",
        "heartbeat_elapsed",
        "pending_conf_index",
        "reads",
        "transferee",
        "uncommitted_bytes",
    )
    role: Final = Role.LEADER

    def __init__(self, pending_conf_index: int) -> None:
        self.pending_conf_index = pending_conf_index
        self.heartbeat_elapsed = 0
        self.uncommitted_bytes = 0
        self.transferee = NO_PEER
        """Whom it is handing over to."""
        self.reads: Final = ReadQueue()
        self.early_reads: list[Message] = []
        """Reads asked before an entry of this term was committed: until then the commit index may be too low."""


RoleState = Follower | PreCandidate | Candidate | Leader
