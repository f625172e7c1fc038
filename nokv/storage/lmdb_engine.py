"""The engine on LMDB: one environment, one write transaction that stays open between checkpoints.

Why: see engine.py. Four facts of LMDB shape this file:
1. Its writer mutex belongs to the thread that began the transaction, but its pages belong to nobody. So a thread of the
   engine's own begins and commits, and the owner's thread reads and writes in between; the two never overlap, because
   the owner calls nothing while a checkpoint runs.
2. A commit that meets a full disk loses the transaction. So the file is allocated ahead (posix_fallocate), up to a
   bound of what the commit can write, and a full disk shows before the commit is attempted.
3. The map may only grow while no transaction of this process is open. So it grows between two transactions, early
   enough that a bounded transaction always fits, and open snapshots are expired first.
4. It returns flipped bits as data. So every value ends with a checksum of column family, key and value.
Invariants: an environment is open at most once in a process, and never used in a forked child; an OutOfSpaceError
leaves the open transaction as it was; any other failure of a checkpoint closes the engine for good.
Not here: what is stored (keys.py, nokv.mvcc.records), when to checkpoint (the owner, by `dirty_bytes` and time).

Stored value = value u32(crc32c of u8(column family) u16(length of key) key value), integers little-endian.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import lmdb
from google_crc32c import extend

from nokv.storage.disk import free_bytes, raise_os_error
from nokv.storage.engine import (
    ColumnFamily,
    CorruptionError,
    EngineStatistics,
    OutOfSpaceError,
    SnapshotExpiredError,
    StorageError,
)
from nokv.storage.keys import ENGINE_KEY_BYTES_MAX
from nokv.storage.page_bound import FREE_LIST_SHARE, PageBound, TreeShape

MIB: Final = 1 << 20
MAP_BYTES_INITIAL: Final = 256 * MIB
"""Address space, not disk: small enough for tests, large enough that a young store does not grow at once."""
MAP_BYTES_STEP: Final = 256 * MIB
"""Least growth of the map. It also grows by a quarter of itself, so that growth stays rare in large stores."""
MAP_MARGIN_BYTES: Final = 64 * MIB
"""Free map a new transaction starts with at least: what one turn and one checkpoint interval may dirty together."""
PREALLOCATE_BYTES: Final = 16 * MIB
"""Step in which the data file is allocated."""
READERS_MAX: Final = 64
"""Reader slots of the environment (LMDB's default of 126 is an accident of its page size)."""
CHECKSUM_BYTES: Final = 4
DATA_FILE: Final = "data.mdb"

_SEEDS: Final = tuple(
    tuple(extend(0, bytes([cf]) + length.to_bytes(2, "little")) for length in range(ENGINE_KEY_BYTES_MAX + 1))
    for cf in ColumnFamily
)
"""Checksums to go on from: the key's length tells where it ends and the value begins."""
_CORRUPTION: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError)


def _seal(cf: ColumnFamily, key: bytes, value: bytes) -> bytes:
    """The stored form of a value."""
    checksum: int = extend(extend(_SEEDS[cf][len(key)], key), value)
    return value + checksum.to_bytes(CHECKSUM_BYTES, "little")


def _unseal(cf: ColumnFamily, key: bytes, stored: bytes) -> bytes:
    """The value of a stored form. Raises CorruptionError if it is not what was stored under this key."""
    value = stored[:-CHECKSUM_BYTES]
    checksum: int = extend(extend(_SEEDS[cf][len(key)], key), value)
    if checksum.to_bytes(CHECKSUM_BYTES, "little") != stored[-CHECKSUM_BYTES:]:
        raise CorruptionError(
            f"value of {cf.name} key {key.hex()} fails its checksum: rebuild this replica from others"
        )
    return value


def _translate(error: lmdb.Error, doing: str) -> StorageError:
    """The contract's error for one of LMDB's."""
    if isinstance(error, _CORRUPTION):
        return CorruptionError(f"LMDB found its own structure damaged while {doing}: {error}")
    return StorageError(f"LMDB failed while {doing}: {error}")


class _Gone:
    """Stands where a transaction was, so that any use of it raises, at no cost to the uses that are right."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error


class _LmdbReads:
    """The reads of the contract over one LMDB transaction, with one reused cursor for each column family."""

    __slots__ = ("_cursors", "_dbs", "_empty", "_txn")
    _txn: Any
    _cursors: list[Any]

    def __init__(self, dbs: tuple[Any, ...]) -> None:
        self._dbs = dbs
        self._take(AssertionError("not open"))

    def _use(self, txn: Any) -> None:
        """Read through `txn` from now on."""
        self._txn = txn
        # A store without open transactions has no locks and one of short values no long ones: they cost no look-up.
        self._empty = [txn.stat(db)["entries"] == 0 for db in self._dbs]
        self._cursors = [txn.cursor(db) for db in self._dbs]

    def _take(self, error: Exception) -> Any:
        """The transaction, which can no longer be used here: what tries to raises `error`."""
        txn = getattr(self, "_txn", None)
        self._txn = _Gone(error)
        self._empty = [False for _ in ColumnFamily]
        self._cursors = [self._txn for _ in ColumnFamily]
        return txn

    def _failed(self, error: lmdb.Error) -> Exception:
        return _translate(error, "reading")

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        if self._empty[cf]:
            return None
        try:
            stored = self._txn.get(key, None, self._dbs[cf])
        except lmdb.Error as error:
            raise self._failed(error) from error
        return None if stored is None else _unseal(cf, key, stored)

    def seek(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The first pair whose key is >= `key`, or None."""
        if self._empty[cf]:
            return None
        try:
            cursor = self._cursors[cf]
            if not cursor.set_range(key):
                return None
            found, stored = cursor.item()
        except lmdb.Error as error:
            raise self._failed(error) from error
        return found, _unseal(cf, found, stored)

    def seek_back(self, cf: ColumnFamily, key: bytes) -> tuple[bytes, bytes] | None:
        """The last pair whose key is < `key` (b"" = the last pair of all), or None."""
        try:
            cursor = self._cursors[cf]
            if not _place_before(cursor, key):
                return None
            found, stored = cursor.item()
        except lmdb.Error as error:
            raise self._failed(error) from error
        return found, _unseal(cf, found, stored)

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (b"" as end: no bound), in key order or its reverse."""
        try:
            cursor = self._txn.cursor(self._dbs[cf])
            if reverse:
                yield from self._scan_down(cf, cursor, start, end)
            else:
                yield from self._scan_up(cf, cursor, start, end)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def _scan_up(self, cf: ColumnFamily, cursor: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if not cursor.set_range(start):
            return
        for key, stored in cursor.iternext():
            if end and key >= end:
                return
            yield key, _unseal(cf, key, stored)

    def _scan_down(self, cf: ColumnFamily, cursor: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if not _place_before(cursor, end):
            return
        for key, stored in cursor.iterprev():
            if key < start:
                return
            yield key, _unseal(cf, key, stored)


def _place_before(cursor: Any, key: bytes) -> bool:
    """Put the cursor on the last key < `key` (b"": the last of all). False if there is none."""
    if key and cursor.set_range(key):
        placed: bool = cursor.prev()
    else:
        placed = cursor.last()
    return placed


class LmdbSnapshot(_LmdbReads):
    """A read transaction. It holds a reader slot and keeps old pages from reuse, so it must not live for long."""

    __slots__ = ("_engine", "_expired")

    def __init__(self, engine: "LmdbEngine", txn: Any, dbs: tuple[Any, ...]) -> None:
        super().__init__(dbs)
        self._engine = engine
        self._expired = False
        self._use(txn)

    def close(self) -> None:
        """Release it; idempotent."""
        if not isinstance(self._txn, _Gone):
            self._engine._forget(self)
            self._end(AssertionError("the snapshot is closed"))

    def _expire(self) -> None:
        self._expired = True
        self._end(SnapshotExpiredError("the map has grown"))

    def _end(self, error: Exception) -> None:
        self._take(error).abort()

    def _failed(self, error: lmdb.Error) -> Exception:
        return SnapshotExpiredError("the map has grown") if self._expired else super()._failed(error)


class _Registry:
    """Which environments are open here. LMDB's locks break when a process opens one twice or uses it after a fork."""

    def __init__(self) -> None:
        self._open: dict[Path, LmdbEngine] = {}
        self._inherited: list[object] = []
        os.register_at_fork(after_in_child=self._disown)

    def add(self, path: Path, engine: "LmdbEngine") -> None:
        assert path not in self._open, f"{path} is already open in this process"
        self._open[path] = engine

    def holds(self, path: Path, engine: "LmdbEngine") -> bool:
        return self._open.get(path) is engine

    def discard(self, path: Path) -> None:
        self._open.pop(path, None)

    def _disown(self) -> None:
        """In a forked child: no engine of the parent is usable, and none may be finalised (it would unlock)."""
        for engine in self._open.values():
            cursors = engine._cursors
            self._inherited += [engine, cursors, engine._take(AssertionError("an LMDB environment used after a fork"))]
        self._open.clear()


_REGISTRY: Final = _Registry()


class LmdbEngine(_LmdbReads):
    """Engine of the contract on an LMDB environment in a directory of its own.

    Args:
        path: the environment's directory; made if it is missing (its parent must exist).
        map_bytes_initial, map_bytes_step, map_margin_bytes, preallocate_bytes, readers_max: see the constants.

    Raises:
        OutOfSpaceError: no room to make or preallocate the file.
        CorruptionError: the environment's own structure is damaged.
        StorageError: it cannot be opened.
    """

    __slots__ = (
        "_bound",
        "_checkpoints",
        "_data_fd",
        "_env",
        "_file_bytes",
        "_last_page",
        "_map_bytes",
        "_margin_bytes",
        "_page_bytes",
        "_path",
        "_preallocate_bytes",
        "_running",
        "_snapshots",
        "_step_bytes",
        "_thread",
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_bytes_initial: int = MAP_BYTES_INITIAL,
        map_bytes_step: int = MAP_BYTES_STEP,
        map_margin_bytes: int = MAP_MARGIN_BYTES,
        preallocate_bytes: int = PREALLOCATE_BYTES,
        readers_max: int = READERS_MAX,
    ) -> None:
        super().__init__(())
        assert map_bytes_initial >= 2 * map_margin_bytes
        assert map_bytes_step >= 2 * map_margin_bytes
        # Constant.
        self._path = Path(path).resolve()
        self._step_bytes = map_bytes_step
        self._margin_bytes = map_margin_bytes
        self._preallocate_bytes = preallocate_bytes
        self._data_fd = -1
        # Volatile.
        self._running: Future[Any] | None = None
        self._snapshots: list[LmdbSnapshot] = []
        self._checkpoints = 0
        _REGISTRY.add(self._path, self)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._env: Any = None
        try:
            self._use(self._thread.submit(self._open, map_bytes_initial, readers_max).result())
        except BaseException:
            self._release()
            raise

    # ---- writes ----

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        """Set `key` in the open transaction."""
        assert 0 < len(key) <= ENGINE_KEY_BYTES_MAX
        self._empty[cf] = False
        try:
            self._txn.put(key, _seal(cf, key, value), True, True, False, self._dbs[cf])
        except lmdb.Error as error:
            raise _translate(error, "writing") from error
        self._bound.note(cf, len(key) + len(value))

    def delete(self, cf: ColumnFamily, key: bytes) -> bool:
        """Remove `key`; True if it was there."""
        assert 0 < len(key) <= ENGINE_KEY_BYTES_MAX
        try:
            found: bool = self._txn.delete(key, b"", self._dbs[cf])
        except lmdb.Error as error:
            raise _translate(error, "deleting") from error
        if found:
            self._bound.note(cf, 0)
        return found

    def dirty_bytes(self) -> int:
        """Upper estimate of what the next checkpoint must write."""
        return self._bound.estimate() * self._page_bytes

    # ---- checkpoints: the owner's half ----

    def checkpoint(self) -> None:
        """Commit the open transaction, synced, and open the next one. Blocks. Raises what the contract says."""
        self.begin_checkpoint(_nothing)
        self.finish_checkpoint()

    def begin_checkpoint(self, on_done: Callable[[], None]) -> None:
        """Start a checkpoint on the engine's thread, which calls `on_done` at its end."""
        self._assert_open()
        bytes_after = (self._last_page + 1 + self._bound.limit()) * self._page_bytes
        map_bytes = self._map_bytes
        if bytes_after + self._margin(bytes_after) > map_bytes:
            map_bytes = self._grown(bytes_after + self._margin(bytes_after))
            for snapshot in self._snapshots:
                snapshot._expire()
            self._snapshots.clear()
        # Nothing may touch the transaction while the other thread has it: not even by mistake.
        txn = self._take(AssertionError("a checkpoint is running"))
        self._running = self._thread.submit(self._run, txn, bytes_after, map_bytes)
        self._running.add_done_callback(lambda _: on_done())

    def finish_checkpoint(self) -> None:
        """End what `begin_checkpoint` started, waiting for it if need be, and raise what `checkpoint` would raise."""
        assert self._running is not None
        running, failure = self._running, self._running.exception()
        self._running = None
        if isinstance(failure, _NotCommittedError):
            self._use(failure.txn)
            raise failure.reason
        self._use(running.result())

    def _margin(self, used_bytes: int) -> int:
        """Free map a transaction must start with: the named margin, and what the list of free pages may take."""
        return self._margin_bytes + used_bytes // FREE_LIST_SHARE

    def _grown(self, needed_bytes: int) -> int:
        """The next size of the map."""
        return self._rounded(max(needed_bytes, self._map_bytes + max(self._step_bytes, self._map_bytes // 4)))

    # ---- checkpoints: the engine's thread ----

    def _open(self, map_bytes_initial: int, readers_max: int) -> Any:
        """Open the environment; the first transaction."""
        try:
            self._path.mkdir(exist_ok=True)
            existing = self._path / DATA_FILE
            file_bytes = existing.stat().st_size if existing.exists() else 0
            map_bytes = max(map_bytes_initial, self._rounded(file_bytes + self._margin(file_bytes)))
            self._env = lmdb.open(
                str(self._path),
                map_size=map_bytes,
                max_dbs=len(ColumnFamily),
                max_readers=readers_max,
                subdir=True,
                sync=True,
                metasync=True,
                writemap=False,
                map_async=False,
                lock=True,
            )
            self._env.reader_check()
            self._dbs = tuple(self._env.open_db(cf.name.lower().encode()) for cf in ColumnFamily)
            self._data_fd = os.open(existing, os.O_RDWR)
        except OSError as error:
            raise_os_error(error, f"opening {self._path}")
        except lmdb.Error as error:
            raise _translate(error, f"opening {self._path}") from error
        self._map_bytes = map_bytes
        self._page_bytes = int(self._env.stat()["psize"])
        # The whole file, not its end only: LMDB leaves holes where pages were never written.
        self._file_bytes = 0
        self._allocate(os.fstat(self._data_fd).st_size)
        return self._begin()

    def _run(self, txn: Any, bytes_after: int, map_bytes: int) -> Any:
        """One checkpoint; the next transaction."""
        try:
            self._allocate(bytes_after)
        except OutOfSpaceError as error:
            raise _NotCommittedError(txn, error) from error
        except StorageError:
            # Here, not wherever it would be collected: only this thread can give the writer mutex back.
            txn.abort()
            raise
        try:
            txn.commit()
            if map_bytes != self._map_bytes:
                self._env.set_mapsize(map_bytes)
                self._map_bytes = map_bytes
        except lmdb.Error as error:
            raise _translate(error, "committing a checkpoint") from error
        self._checkpoints += 1
        return self._begin()

    def _begin(self) -> Any:
        """Open the next transaction and learn the shape of what it starts from."""
        try:
            txn = self._env.begin(write=True, buffers=False)
            self._last_page = self._env.info()["last_pgno"]
            stats = [txn.stat(db) for db in self._dbs]
        except lmdb.Error as error:
            raise _translate(error, "beginning a transaction") from error
        shapes = [TreeShape(stat["depth"], stat["branch_pages"], stat["leaf_pages"]) for stat in stats]
        self._bound = PageBound(shapes, page_bytes=self._page_bytes, file_pages=self._last_page + 1)
        return txn

    def _allocate(self, needed_bytes: int) -> None:
        """Give the data file its blocks, so that no commit meets a full disk. On failure the file is as before."""
        if needed_bytes <= self._file_bytes:
            return
        target = -(-needed_bytes // self._preallocate_bytes) * self._preallocate_bytes
        # Asked first, because a refused allocation takes all that is left for a moment, and the log needs it.
        if free_bytes(self._path) < target - max(self._file_bytes, _allocated_bytes(self._data_fd)):
            raise OutOfSpaceError(f"no space left for {target} bytes of {self._path / DATA_FILE}")
        before = os.fstat(self._data_fd).st_size
        try:
            os.posix_fallocate(self._data_fd, self._file_bytes, target - self._file_bytes)
        except OSError as error:
            os.ftruncate(self._data_fd, before)
            raise_os_error(error, f"allocating {target} bytes for {self._path / DATA_FILE}")
        self._file_bytes = target

    def _rounded(self, map_bytes: int) -> int:
        return -(-map_bytes // self._step_bytes) * self._step_bytes

    # ---- the rest of the contract ----

    def snapshot(self) -> LmdbSnapshot:
        """A read transaction at the last checkpoint. At most `readers_max` at a time, or StorageError."""
        self._assert_open()
        try:
            snapshot = LmdbSnapshot(self, self._env.begin(buffers=False), self._dbs)
        except lmdb.Error as error:
            raise _translate(error, "opening a snapshot") from error
        self._snapshots.append(snapshot)
        return snapshot

    def _forget(self, snapshot: LmdbSnapshot) -> None:
        self._snapshots.remove(snapshot)

    def statistics(self) -> EngineStatistics:
        """Sizes of the file as of the last checkpoint, entries as of now."""
        self._assert_open()
        return EngineStatistics(
            map_bytes=self._map_bytes,
            used_bytes=(self._last_page + 1) * self._page_bytes,
            dirty_bytes=self.dirty_bytes(),
            checkpoints=self._checkpoints,
            entries=sum(self._txn.stat(db)["entries"] for db in self._dbs),
        )

    def close(self) -> None:
        """Drop the open transaction and release the files; idempotent. Waits for a checkpoint that is running."""
        if _REGISTRY.holds(self._path, self):
            if self._running is not None:
                self._await_and_forget_checkpoint()
            for snapshot in self._snapshots:
                snapshot._end(AssertionError("the engine is closed"))
            self._snapshots.clear()
            txn = self._take(AssertionError("the engine is closed"))
            if not isinstance(txn, _Gone):
                self._thread.submit(txn.abort).result()
            self._release()

    def _await_and_forget_checkpoint(self) -> None:
        """Take the transaction back from a checkpoint whose outcome nobody will ask for."""
        with suppress(StorageError):
            self.finish_checkpoint()

    def _assert_open(self) -> None:
        txn = self._txn
        assert not isinstance(txn, _Gone), txn._error

    def _release(self) -> None:
        self._thread.shutdown(wait=True)
        if self._env is not None:
            self._env.close()
            self._env = None
        if self._data_fd >= 0:
            os.close(self._data_fd)
            self._data_fd = -1
        _REGISTRY.discard(self._path)


class _NotCommittedError(Exception):
    """Carries the transaction that a full disk kept from being committed back to the owner's thread."""

    def __init__(self, txn: Any, reason: OutOfSpaceError) -> None:
        super().__init__(str(reason))
        self.txn = txn
        self.reason = reason


def _nothing() -> None:
    """Nobody to wake: the caller waits."""


def _allocated_bytes(handle: int) -> int:
    """Bytes of a file that have blocks on the disk (st_blocks counts 512-byte units everywhere)."""
    return os.fstat(handle).st_blocks * 512
