"""The engine contract: ordered column families inside one transaction that stays open.

Why: a synced commit costs a disk round trip, so applied writes stay in one open transaction over many turns and are
committed at a checkpoint. The Raft log replays what a crash takes from that transaction.
Invariants:
- Reads through an Engine see every write made before, checkpointed or not.
- A checkpoint is atomic and synced: after a crash the engine holds exactly the state of some past checkpoint.
- Data, applied indexes and region states of all regions are in the same transaction (META has the latter two).
- Every value carries a checksum of key and value; a mismatch raises CorruptionError and is never returned as data.
- Single owner: all calls come from one thread. Between `begin_checkpoint` and `finish_checkpoint` a helper thread of
  the engine's own works, and nothing but `finish_checkpoint` may be called (open Snapshots may be read).
Not here: what keys and values mean (keys.py, nokv.mvcc.records), the log (wal.py).
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Protocol

from msgspec import Struct


class ColumnFamily(IntEnum):
    """Separate key spaces of one engine. Values are frozen (they name LMDB databases)."""

    DEFAULT = 0
    """(encoded key, start_ts) -> a value too long to lie in its write record."""
    LOCK = 1
    """encoded key -> the one lock."""
    WRITE = 2
    """(encoded key, commit_ts descending) -> what was committed."""
    META = 3
    """Region states, applied indexes, control plane state, store identity."""


class StorageError(Exception):
    """The environment failed: disk, file system, or bytes that are not what was written. The shard must stop."""


class CorruptionError(StorageError):
    """Stored bytes fail their checksum or their grammar. Says which file or key."""


class OutOfSpaceError(StorageError):
    """The disk or the quota is full. Nothing of the refused write was kept; it may be tried again later."""


class SnapshotExpiredError(Exception):
    """The engine had to take a snapshot back (it grew its map). Nothing is wrong: take a new one and begin again."""


class Reader(Protocol):
    """Reads at one state. All keys and values are bytes; iteration order is byte order of keys."""

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def seek(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The first pair whose key is >= `key`, or None."""
        ...

    def seek_back(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The last pair whose key is < `key` (b"" = the last pair of all), or None."""
        ...

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (b"" as end: no bound), in key order or its reverse.

        The caller must not write to the same column family while it iterates.
        """
        ...


class EngineStatistics(Struct, frozen=True):
    """Sizes in bytes; `checkpoints` since open, `dirty_bytes` an upper estimate of what the next one writes."""

    map_bytes: int
    used_bytes: int
    dirty_bytes: int
    checkpoints: int
    entries: int


class Engine(Reader, Protocol):
    """A Reader of the newest state that can also be changed."""

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        """Set `key` in the open transaction."""
        ...

    def delete(self, cf: ColumnFamily, key: bytes) -> bool:
        """Remove `key`; True if it was there."""
        ...

    def dirty_bytes(self) -> int:
        """Upper estimate of what the next checkpoint must write. Cheap: called every turn."""
        ...

    def checkpoint(self) -> None:
        """Commit the open transaction, synced, and open the next one. Grows the map between the two when it runs short.

        Raises:
            OutOfSpaceError: the file system is full. The open transaction is kept as it was; try again later.
            StorageError: the disk failed. The open transaction is lost; the owner must stop and recover from the log.
        """
        ...

    def begin_checkpoint(self, on_done: Callable[[], None]) -> None:
        """Start what `checkpoint` does without waiting for it.

        `on_done` is called once when it has ended, well or not, on a thread of the engine's choice (possibly this one,
        before this call returns): it may only wake the owner. No other call on the engine until `finish_checkpoint`.
        """
        ...

    def finish_checkpoint(self) -> None:
        """End what `begin_checkpoint` started, waiting for it if need be, and raise what `checkpoint` would raise."""
        ...

    def snapshot(self) -> "Snapshot":
        """A stable view of the last checkpoint, to be closed by the caller. Never sees the open transaction."""
        ...

    def statistics(self) -> EngineStatistics:
        """Sizes for status and metrics."""
        ...

    def close(self) -> None:
        """Drop the open transaction and release the files. A caller that wants to keep it checkpoints first."""
        ...


class Snapshot(Reader, Protocol):
    """A Reader of one checkpoint. Every read may raise SnapshotExpiredError after a later checkpoint."""

    def close(self) -> None:
        """Release it; idempotent."""
        ...
