"""Status: what a node tells about itself.

Why: owners route by it, operators look at it; neither may reach into the core.
Invariants: values, which do not change afterwards.
Not here: figures over time, which are the owner's.
"""

from typing import TYPE_CHECKING, NamedTuple

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.raft.progress import Flow
from nokv.raft.roles import Role
from nokv.raft.tracker import Configuration

if TYPE_CHECKING:
    from nokv.raft.core import Raft


class BasicStatus(NamedTuple):
    """Cheap: no allocation but its own."""

    id: PeerId
    term: Term
    vote: PeerId
    commit: LogIndex
    applied: LogIndex
    lead: PeerId
    role: Role


class PeerStatus(NamedTuple):
    """What a leader knows of a peer."""

    match: LogIndex
    next: LogIndex
    flow: Flow
    is_learner: bool
    paused: bool
    recent_active: bool
    pending_snapshot: LogIndex
    inflight: int
    text: str
    """All of it, as logs show it."""


class Status(NamedTuple):
    """Everything."""

    basic: BasicStatus
    config: Configuration
    transferee: PeerId
    progress: dict[PeerId, PeerStatus]
    """Empty unless it leads."""


def basic_status(raft: "Raft") -> BasicStatus:
    """The cheap part."""
    log = raft.log
    return BasicStatus(raft.id, raft.term, raft.vote, log.committed, log.applied, raft.lead, raft.role)


def status(raft: "Raft") -> Status:
    """Everything."""
    leads = raft.role is Role.LEADER
    progress = {
        peer: PeerStatus(
            LogIndex(one.match),
            LogIndex(one.next),
            one.flow,
            one.is_learner,
            one.paused,
            one.recent_active,
            LogIndex(one.pending_snapshot),
            len(one.inflights),
            one.describe(),
        )
        for peer, one in (raft.tracker.progress.items() if leads else ())
    }
    return Status(basic_status(raft), raft.tracker.config, raft.leading.transferee if leads else PeerId(0), progress)
