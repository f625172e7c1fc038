"""Config: what one Raft node is told at start, with every limit it keeps.

Why: each limit has a name, a unit and a reason, and impossible combinations are refused before anything runs.
Invariants: a checked Config stays as it is; the node never changes it.
Not here: peers, which come from the storage's configuration.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Final, Protocol

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import NO_INDEX, NUMBER_MAX
from nokv.raft.errors import ConfigError
from nokv.raft.storage import Storage

UNLIMITED_BYTES: Final = NUMBER_MAX
"""More than any log has; for tests, as everything in production is bounded."""


class ReadOnly(Enum):
    """How a leader proves that it still leads before it answers a read."""

    SAFE = auto()
    """By a round of heartbeats that a quorum answers."""
    LEASE_BASED = auto()
    """By the check-quorum lease: cheaper, and wrong if clocks drift without bound."""


class Sink(Protocol):
    """Where log lines go. Their text is made only if there is a sink."""

    def debug(self, text: str) -> None:
        """What happens all the time."""
        ...

    def info(self, text: str) -> None:
        """Elections and changes of the configuration."""
        ...

    def warning(self, text: str) -> None:
        """What should not last."""
        ...

    def error(self, text: str) -> None:
        """What the owner asked for and does not get."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a node is told at start.

    Args:
        id: this peer; never 0, never used again after its removal.
        storage: where durable state is read.
        rng: draws election timeouts; the only randomness.
        election_tick: ticks without a leader before a campaign; the timeout is drawn from [n, 2n).
        heartbeat_tick: ticks between a leader's heartbeats.
        applied: last index the owner has applied, at restart.
        async_storage_writes: storage writes are messages to local threads, see the package docstring.
        max_size_per_msg: bytes of entries in one append; 0 sends one entry each.
        max_committed_size_per_ready: bytes of entries handed out to be applied and not yet applied; 0: as above.
        max_uncommitted_entries_size: bytes proposed and not committed before proposals are dropped; 0: no limit.
        max_inflight_msgs: appends on the way to one follower.
        max_inflight_bytes: bytes on the way to one follower; 0: no limit.
        check_quorum: a leader that hears of no quorum for an election timeout steps down; followers that hear of a
            leader ignore campaigns.
        pre_vote: ask whether a campaign would succeed before the term is raised (thesis 9.6).
        read_only: proof behind read_index.
        disable_proposal_forwarding: followers drop proposals.
        disable_conf_change_validation: the owner validates configuration changes when it applies them.
        step_down_on_removal: a leader that is removed or demoted steps down.
        log: where lines go.
    """

    id: PeerId
    storage: Storage
    rng: Random
    election_tick: int = 10
    heartbeat_tick: int = 2
    applied: LogIndex = NO_INDEX
    async_storage_writes: bool = False
    max_size_per_msg: int = 1 << 20
    max_committed_size_per_ready: int = 0
    max_uncommitted_entries_size: int = 0
    max_inflight_msgs: int = 256
    max_inflight_bytes: int = 0
    check_quorum: bool = False
    pre_vote: bool = False
    read_only: ReadOnly = ReadOnly.SAFE
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False
    log: Sink | None = None

    def __post_init__(self) -> None:
        """Check everything. Raises ConfigError."""
        for holds, problem in (
            (0 < self.id <= NUMBER_MAX, "id must be positive and below 2**63"),
            (self.heartbeat_tick > 0, "heartbeat_tick must be positive"),
            (self.election_tick > self.heartbeat_tick, "election_tick must be greater than heartbeat_tick"),
            (self.applied >= 0, "applied must not be negative"),
            (self.max_size_per_msg >= 0, "max_size_per_msg must not be negative"),
            (self.max_committed_size_per_ready >= 0, "max_committed_size_per_ready must not be negative"),
            (self.max_uncommitted_entries_size >= 0, "max_uncommitted_entries_size must not be negative"),
            (self.max_inflight_msgs > 0, "max_inflight_msgs must be positive"),
            (
                self.max_inflight_bytes == 0 or self.max_inflight_bytes >= self.max_size_per_msg,
                "max_inflight_bytes must hold at least one message of max_size_per_msg",
            ),
            (
                self.check_quorum or self.read_only is ReadOnly.SAFE,
                "check_quorum must be enabled when read_only is LEASE_BASED",
            ),
        ):
            if not holds:
                raise ConfigError(problem)
