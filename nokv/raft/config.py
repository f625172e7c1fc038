"""Configuration of a node of the core. Ticks are logical; bytes as in sizes.py."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final

from nokv.proto.ids import LogIndex, PeerId
from nokv.raft.errors import ConfigError
from nokv.raft.sizes import NO_LIMIT
from nokv.raft.storage import Storage
from nokv.raft.tracing import Sink

LOCAL_APPEND_THREAD: Final = PeerId((1 << 64) - 1)
"""Addressee of messages that ask for a durable write, with asynchronous storage writes."""
LOCAL_APPLY_THREAD: Final = PeerId((1 << 64) - 2)
"""Addressee of messages that ask for entries to be applied."""
NOBODY: Final = PeerId(0)
NOTHING: Final = LogIndex(0)


class ReadOnlyOption(Enum):
    """How a leader proves that it still leads before it answers a read index."""

    SAFE = "safe"
    """A quorum answers a heartbeat that was sent after the request (thesis 6.4)."""
    LEASE_BASED = "lease-based"
    """Nobody is asked: CheckQuorum is trusted (thesis 6.4.1); needs bounded clock drift."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a node is started with.

    Raises (`check`):
        ConfigError: a value that cannot work; the text names it.
    """

    id: PeerId
    storage: Storage
    rng: Random
    election_tick: int = 10
    """Ticks of silence after which a follower may campaign; the actual number is drawn from [this, 2 * this)."""
    heartbeat_tick: int = 1
    """Ticks between a leader's heartbeats."""
    applied: LogIndex = NOTHING
    """Last index the application has applied: nothing up to it is handed out again."""
    async_storage_writes: bool = False
    max_size_per_msg: int = NO_LIMIT
    """Bytes of entries in one append; 0 = at most one entry."""
    max_committed_size_per_ready: int = 0
    """Bytes handed out to be applied and not reported applied; 0 = as max_size_per_msg."""
    max_uncommitted_entries_size: int = NO_LIMIT
    """Payload bytes a leader takes beyond what is committed."""
    max_inflight_msgs: int = 256
    max_inflight_bytes: int = 0
    """0 = bounded by count only."""
    check_quorum: bool = False
    pre_vote: bool = False
    read_only: ReadOnlyOption = ReadOnlyOption.SAFE
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False
    sink: Sink | None = None
    """Where log lines go; None: nowhere, at no cost."""
    draw_timeout: Callable[[Random, int], int] = field(default=lambda rng, ticks: ticks + rng.randrange(ticks))
    """Draws the randomised election timeout; tests hand in a constant."""

    def check(self) -> None:
        """Refuse what cannot work."""
        if self.id == NOBODY:
            raise ConfigError("id: 0 means nobody")
        if self.id in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD):
            raise ConfigError("id: reserved for a local thread")
        if self.heartbeat_tick <= 0:
            raise ConfigError("heartbeat_tick: must be above 0")
        if self.election_tick <= self.heartbeat_tick:
            raise ConfigError("election_tick: must be above heartbeat_tick")
        if self.max_inflight_msgs <= 0:
            raise ConfigError("max_inflight_msgs: must be above 0")
        if self.max_inflight_bytes and self.max_inflight_bytes < self.max_size_per_msg != NO_LIMIT:
            raise ConfigError("max_inflight_bytes: must be at least max_size_per_msg")
        if self.read_only is ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            raise ConfigError("read_only: lease-based reads need check_quorum")
