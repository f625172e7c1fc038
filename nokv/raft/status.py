"""Status: what a node tells about itself."""

from typing import TYPE_CHECKING

from msgspec import Struct

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.raft.roles import Leader, Role

if TYPE_CHECKING:
    from nokv.raft.core import Raft


class BasicStatus(Struct, frozen=True, gc=False):
    """Cheap: nothing is copied."""

    id: PeerId
    term: Term
    vote: PeerId
    commit: LogIndex
    applied: LogIndex
    lead: PeerId
    role: Role
    transferee: PeerId


class PeerStatus(Struct, frozen=True, gc=False):
    """A peer as the leader sees it; `line` is Progress.describe()."""

    match: LogIndex
    next: LogIndex
    state: str
    learner: bool
    line: str


class Status(Struct, frozen=True):
    """A node with its configuration and, on a leader, its peers."""

    basic: BasicStatus
    config: str
    progress: dict[PeerId, PeerStatus]


def basic_status(raft: "Raft") -> BasicStatus:
    """Role, term, leader and borders."""
    state = raft.state
    return BasicStatus(
        id=raft.id,
        term=raft.term,
        vote=raft.vote,
        commit=raft.log.committed,
        applied=raft.log.applied,
        lead=raft.lead,
        role=state.role,
        transferee=state.transferee if isinstance(state, Leader) else PeerId(0),
    )


def full_status(raft: "Raft") -> Status:
    """Everything."""
    progress: dict[PeerId, PeerStatus] = {}
    if isinstance(raft.state, Leader):
        progress = {
            peer_id: PeerStatus(pr.match, pr.next, pr.state.value, pr.is_learner, pr.describe())
            for peer_id, pr in raft.tracker.visit()
        }
    return Status(basic_status(raft), raft.tracker.config.describe(), progress)
