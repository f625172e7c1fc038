"""The engine's twin in memory: same contract, no file, and a crash on demand.

Why: the simulator runs whole clusters in one process and must lose exactly what a power cut loses; and clever code
needs a naive twin to be compared with.
Invariants: `crash` restores precisely the last checkpoint; nothing else ever loses a write.
Not here: checksums (there is no disk to lie), cost (nothing here says how fast LMDB is).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

from sortedcontainers import SortedDict

from nokv.storage.engine import ColumnFamily, EngineStatistics, OutOfSpaceError, StorageError
from nokv.storage.keys import ENGINE_KEY_BYTES_MAX

PAIR_OVERHEAD_BYTES: Final = 16
"""What a pair is taken to cost beside its key and value, in the estimates below."""


class _Gone(Sequence[Any]):
    """Stands where the tables were, so that any use of them raises."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getitem__(self, at: Any) -> NoReturn:
        raise AssertionError(self._why)

    def __len__(self) -> int:
        return 0


class _Tables:
    """Ordered pairs of each column family, with the reads of the contract."""

    __slots__ = ("tables",)

    def __init__(self, tables: "Sequence[SortedDict[bytes, bytes]]") -> None:
        self.tables = tables

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        assert key
        value: bytes | None = self.tables[cf].get(key)
        return value

    def seek(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The first pair whose key is >= `key`, or None."""
        table = self.tables[cf]
        at = table.bisect_left(key)
        return table.peekitem(at) if at < len(table) else None

    def seek_back(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The last pair whose key is < `key` (b"" = the last pair of all), or None."""
        table = self.tables[cf]
        at = table.bisect_left(key) if key else len(table)
        return table.peekitem(at - 1) if at else None

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (b"" as end: no bound), in key order or its reverse."""
        table = self.tables[cf]
        keys: Iterator[bytes] = table.irange(start, end or None, inclusive=(True, False), reverse=reverse)
        return ((key, table[key]) for key in keys)


class MemorySnapshot(_Tables):
    """A copy of one checkpoint."""

    __slots__ = ()

    def close(self) -> None:
        """Release it; idempotent."""
        self.tables = _Gone("the snapshot is closed")


class MemoryEngine(_Tables):
    """Engine of the contract, held in memory.

    Args:
        capacity_bytes: a checkpoint that would hold more raises OutOfSpaceError, as a full disk does. None: no limit.
        manual_checkpoints: `begin_checkpoint` only notes the start; the owner's simulated disk ends it by calling
            `complete_checkpoint`. Otherwise it ends before `begin_checkpoint` returns.
    """

    __slots__ = (
        "_before",
        "_checkpoints",
        "_dirty_bytes",
        "_failure",
        "_live_tables",
        "_on_done",
        "_result",
        "_running",
        "_used_bytes",
        "capacity_bytes",
        "manual_checkpoints",
    )

    def __init__(self, *, capacity_bytes: int | None = None, manual_checkpoints: bool = False) -> None:
        super().__init__(tuple(SortedDict() for _ in ColumnFamily))
        self._live_tables = self.tables
        # Constant, or the owner's to set.
        self.capacity_bytes = capacity_bytes
        self.manual_checkpoints = manual_checkpoints
        # What a crash puts back: for each key changed since the last checkpoint, its value there (None: absent).
        self._before: dict[tuple[ColumnFamily, bytes], bytes | None] = {}
        # A checkpoint in progress.
        self._running = False
        self._on_done: Callable[[], None] | None = None
        self._result: StorageError | None = None
        self._failure: StorageError | None = None
        # Derived.
        self._used_bytes = 0
        self._dirty_bytes = 0
        self._checkpoints = 0

    # ---- writes ----

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        """Set `key` in the open transaction."""
        assert 0 < len(key) <= ENGINE_KEY_BYTES_MAX
        table = self.tables[cf]
        before = table.get(key)
        self._before.setdefault((cf, key), before)
        table[key] = value
        size = len(key) + len(value) + PAIR_OVERHEAD_BYTES
        self._dirty_bytes += size
        self._used_bytes += size if before is None else len(value) - len(before)

    def delete(self, cf: ColumnFamily, key: bytes) -> bool:
        """Remove `key`; True if it was there."""
        assert 0 < len(key) <= ENGINE_KEY_BYTES_MAX
        before = self.tables[cf].pop(key, None)
        if before is None:
            return False
        self._before.setdefault((cf, key), before)
        self._dirty_bytes += len(key) + PAIR_OVERHEAD_BYTES
        self._used_bytes -= len(key) + len(before) + PAIR_OVERHEAD_BYTES
        return True

    def dirty_bytes(self) -> int:
        """Bytes of keys and values changed since the last checkpoint."""
        return self._dirty_bytes

    # ---- checkpoints ----

    def checkpoint(self) -> None:
        """Make the present state the one that a crash returns to. Raises what the contract says."""
        self.begin_checkpoint(_nothing)
        self.finish_checkpoint()

    def begin_checkpoint(self, on_done: Callable[[], None]) -> None:
        """Start a checkpoint; see `manual_checkpoints` for when it ends."""
        self._assert_usable()
        self._running = True
        self._on_done = on_done
        self.tables = _Gone("a checkpoint is running")
        if not self.manual_checkpoints:
            self.complete_checkpoint()

    def complete_checkpoint(self) -> None:
        """End the checkpoint that was begun, as the disk of a simulator decides, and call its `on_done`."""
        assert self._running
        on_done, self._on_done = self._on_done, None
        assert on_done is not None
        self._result = None
        try:
            self._commit()
        except StorageError as error:
            self._result = error
        on_done()

    def finish_checkpoint(self) -> None:
        """End what `begin_checkpoint` started and raise what `checkpoint` would raise."""
        assert self._running
        if self._on_done is not None:
            self.complete_checkpoint()
        self._running = False
        if self._result is None or isinstance(self._result, OutOfSpaceError):
            self.tables = self._live_tables
        result, self._result = self._result, None
        if result is not None:
            raise result

    def fail_next_checkpoint(self, error: StorageError) -> None:
        """Let the next checkpoint raise `error`: the fault site of simulated disks."""
        self._failure = error

    def _commit(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            if not isinstance(failure, OutOfSpaceError):
                self._roll_back()
            raise failure
        if self.capacity_bytes is not None and self._used_bytes > self.capacity_bytes:
            raise OutOfSpaceError(f"simulated disk of {self.capacity_bytes} bytes is full")
        self._before.clear()
        self._dirty_bytes = 0
        self._checkpoints += 1

    def crash(self) -> None:
        """Lose everything since the last checkpoint; the engine may then be used as if it had been opened again."""
        self._roll_back()
        self._running = False
        self._on_done = None
        self._result = None
        self._failure = None
        self.tables = self._live_tables

    def _roll_back(self) -> None:
        for (cf, key), value in self._before.items():
            if value is None:
                self._live_tables[cf].pop(key, None)
            else:
                self._live_tables[cf][key] = value
        self._before.clear()
        self._dirty_bytes = 0
        self._used_bytes = sum(
            len(key) + len(value) + PAIR_OVERHEAD_BYTES for table in self._live_tables for key, value in table.items()
        )

    # ---- the rest of the contract ----

    def snapshot(self) -> MemorySnapshot:
        """A copy of the last checkpoint: O(size), which simulated stores can afford."""
        self._assert_usable()
        tables = tuple(table.copy() for table in self.tables)
        for (cf, key), value in self._before.items():
            if value is None:
                tables[cf].pop(key, None)
            else:
                tables[cf][key] = value
        return MemorySnapshot(tables)

    def statistics(self) -> EngineStatistics:
        """Sizes as the estimates above have them."""
        return EngineStatistics(
            map_bytes=self.capacity_bytes or 0,
            used_bytes=self._used_bytes,
            dirty_bytes=self._dirty_bytes,
            checkpoints=self._checkpoints,
            entries=sum(len(table) for table in self._live_tables),
        )

    def close(self) -> None:
        """Drop the open transaction. `crash` opens it again, as a restarted process would."""
        self.crash()
        self.tables = _Gone("the engine is closed")

    def _assert_usable(self) -> None:
        if isinstance(self.tables, _Gone):
            self.tables[0]


def _nothing() -> None:
    """Nobody to wake: the caller waits."""
