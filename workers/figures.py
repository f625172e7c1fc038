"""Figures of the loop: what the shell around a core measures and the core reports.

Invariants: sums and counts only rise; maxima are taken and reset with each report.
Not here: what the figures of Raft and regions are (shard, peer), how they are shown.
"""

from typing import Literal

from msgspec import Struct

from nokv.storage.engine import EngineStatistics


class LoopFigures(Struct):
    """Times are microseconds."""

    syncs: int = 0
    sync_us_total: int = 0
    sync_us_max: int = 0
    checkpoints: int = 0
    checkpoint_us_max: int = 0
    busy_us_total: int = 0
    lag_us_max: int = 0
    """Longest delay of a tick beyond its time: what a heartbeat suffered."""
    stalls: int = 0
    """Ticks later than half a heartbeat interval."""
    cpu_us_total: int = 0
    rss_bytes: int = 0
    peer_messages_sent: int = 0
    peer_messages_dropped: int = 0
    link_dropped: int = 0
    engine: EngineStatistics = EngineStatistics(0, 0, 0, 0, 0)
    """As last read; the engine is not asked while a checkpoint runs."""

    def note_sync(self, us: int) -> None:
        """A log sync took so long."""
        self.syncs += 1
        self.sync_us_total += us
        self.sync_us_max = max(self.sync_us_max, us)

    def note_checkpoint(self, us: int) -> None:
        """A checkpoint took so long."""
        self.checkpoints += 1
        self.checkpoint_us_max = max(self.checkpoint_us_max, us)

    def take_max(self, name: Literal["sync_us_max", "checkpoint_us_max", "lag_us_max"]) -> int:
        """A maximum since the last report."""
        value: int = getattr(self, name)
        setattr(self, name, 0)
        return value
