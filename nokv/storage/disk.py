"""Disk: what the log needs from a directory, and nothing else.

Why: durability is decided by a handful of calls. Behind one small contract a simulator can lose unsynced bytes, tear
the last record and fill the disk, and the log above cannot tell.
Invariants: an append happens whole or not at all; bytes count as durable only after `sync`, names only after
`sync_directory`; a failed sync is never retried, because the kernel may have dropped the pages it failed to write.
Not here: what the files contain (wal_records.py), when to sync (the owner of the log).
"""

import errno
import os
import random
import threading
from pathlib import Path
from typing import Final, NoReturn, Protocol

from nokv.storage.engine import OutOfSpaceError, StorageError

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Disk(Protocol):
    """Append-only files in one directory. Names are plain file names.

    Every method raises StorageError when the disk fails, OutOfSpaceError where said. All calls come from one thread,
    except that `sync` may run in another one at the same time.
    """

    def names(self) -> list[str]:
        """Names of all files, sorted."""
        ...

    def size(self, name: str) -> int:
        """Length of a file in bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""
        ...

    def create(self, name: str) -> None:
        """Make an empty file, which must not exist yet. Raises OutOfSpaceError."""
        ...

    def append(self, name: str, chunk: bytes | bytearray) -> None:
        """Add bytes at the end of a file. Raises OutOfSpaceError, and then nothing was added."""
        ...

    def sync(self, name: str) -> None:
        """Make everything appended to a file before this call durable. The file may be appended to meanwhile."""
        ...

    def truncate(self, name: str, length: int) -> None:
        """Cut a file to its first `length` bytes."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing a file of that name, atomically."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file."""
        ...

    def sync_directory(self) -> None:
        """Make created, renamed and removed names durable."""
        ...

    def free_bytes(self) -> int:
        """Bytes that an unprivileged process may still write on this file system."""
        ...

    def close(self) -> None:
        """Release what is open. Syncs nothing."""
        ...


# ---- the real one ---------------------------------------------------------------------------------------------------


def raise_os_error(error: OSError, doing: str) -> NoReturn:
    """Raise the storage error for one of the operating system's."""
    if error.errno in _NO_SPACE:
        raise OutOfSpaceError(f"no space left while {doing}") from error
    raise StorageError(f"{doing}: {error.strerror}") from error


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that an unprivileged process may still write on the file system of `path`. Raises StorageError."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise_os_error(error, f"asking {path} for free space")
    return status.f_bavail * status.f_frsize


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable. Raises StorageError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise_os_error(error, f"syncing directory {path}")


class RealDisk:
    """Disk of the contract on a directory of the operating system. The directory must exist."""

    __slots__ = ("_handles", "_lock", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = Path(path)
        # Handles of files that are appended to. The lock keeps one from being closed, and its number from being
        # given to another file, between the moment that `sync` finds it and the moment that it owns a duplicate.
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of all files, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file(follow_symlinks=False))
        except OSError as error:
            raise_os_error(error, f"listing {self.path}")

    def size(self, name: str) -> int:
        """Length of a file in bytes."""
        try:
            return os.stat(self.path / name).st_size
        except OSError as error:
            raise_os_error(error, f"looking at {self.path / name}")

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        assert offset >= 0
        assert length >= 0
        try:
            handle = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read_fully(handle, offset, length)
            finally:
                os.close(handle)
        except OSError as error:
            raise_os_error(error, f"reading {self.path / name}")

    def create(self, name: str) -> None:
        """Make an empty file, which must not exist yet."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._handles[name] = os.open(self.path / name, flags, 0o600)
        except OSError as error:
            raise_os_error(error, f"creating {self.path / name}")

    def append(self, name: str, chunk: bytes | bytearray) -> None:
        """Add bytes at the end of a file; what a full disk took of them is cut off again."""
        try:
            handle = self._handle(name)
            written = os.write(handle, chunk)
            if written != len(chunk):
                self._append_rest(handle, memoryview(chunk)[written:], written)
        except OSError as error:
            raise_os_error(error, f"appending to {self.path / name}")

    def _append_rest(self, handle: int, rest: memoryview, written: int) -> None:
        """Go on after a short write, which is what a nearly full disk answers before it refuses."""
        before = os.fstat(handle).st_size - written
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            os.ftruncate(handle, before)
            raise

    def sync(self, name: str) -> None:
        """Make everything appended to a file before this call durable."""
        try:
            with self._lock:
                handle = os.dup(self._handle(name))
            try:
                os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            # Not OutOfSpaceError, even if the errno says so: what could not be written is lost, not refused.
            raise StorageError(f"syncing {self.path / name}: {error.strerror}") from error

    def truncate(self, name: str, length: int) -> None:
        """Cut a file to its first `length` bytes."""
        try:
            os.truncate(self.path / name, length)
        except OSError as error:
            raise_os_error(error, f"truncating {self.path / name}")

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, atomically."""
        try:
            os.replace(self.path / old, self.path / new)
        except OSError as error:
            raise_os_error(error, f"renaming {self.path / old}")
        self._release(new)
        self._release(old)

    def remove(self, name: str) -> None:
        """Delete a file."""
        try:
            os.unlink(self.path / name)
        except OSError as error:
            raise_os_error(error, f"removing {self.path / name}")
        self._release(name)

    def sync_directory(self) -> None:
        """Make created, renamed and removed names durable."""
        sync_directory(self.path)

    def free_bytes(self) -> int:
        """Bytes that an unprivileged process may still write on this file system."""
        return free_bytes(self.path)

    def close(self) -> None:
        """Release the handles."""
        for name in list(self._handles):
            self._release(name)

    def _handle(self, name: str) -> int:
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return handle

    def _release(self, name: str) -> None:
        with self._lock:
            handle = self._handles.pop(name, None)
            if handle is not None:
                os.close(handle)


def _read_fully(handle: int, offset: int, length: int) -> bytes:
    """What pread gives for the whole range; one call of it may stop short."""
    first = os.pread(handle, length, offset)
    if len(first) in (0, length):
        return first
    parts = [first]
    have = len(first)
    while have < length:
        part = os.pread(handle, length - have, offset + have)
        if not part:
            break
        parts.append(part)
        have += len(part)
    return b"".join(parts)


# ---- the one that forgets -------------------------------------------------------------------------------------------


class _MemoryFile:
    """Bytes as a process sees them, how many a power cut leaves for certain, and durable ones it may bring back."""

    __slots__ = ("cut", "data", "durable_bytes")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable_bytes = 0
        self.cut = b""


class MemoryDisk:
    """Disk of the contract in memory: it forgets what was not synced when it is told to crash.

    Args:
        capacity_bytes: bytes of all files together; an append beyond it raises OutOfSpaceError. None: no limit. The
            owner may change it at any time.
    """

    __slots__ = ("_failure", "_files", "_names_left", "appends", "capacity_bytes", "syncs")

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.appends = 0
        self.syncs = 0
        self._files: dict[str, _MemoryFile] = {}
        # Directories that a power cut may leave: the synced one, and what each change after it made of it. A file
        # system's journal keeps the order of such changes.
        self._names_left: list[dict[str, _MemoryFile]] = [{}]
        self._failure: tuple[str, StorageError] | None = None

    def names(self) -> list[str]:
        """Names of all files, sorted."""
        return sorted(self._files)

    def size(self, name: str) -> int:
        """Length of a file in bytes."""
        return len(self._file(name).data)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        self._maybe_fail("read")
        return bytes(self._file(name).data[offset : offset + length])

    def create(self, name: str) -> None:
        """Make an empty file, which must not exist yet."""
        self._maybe_fail("create")
        if name in self._files:
            raise StorageError(f"creating {name}: File exists")
        self._files[name] = _MemoryFile()
        self._names_left.append(dict(self._files))

    def append(self, name: str, chunk: bytes | bytearray) -> None:
        """Add bytes at the end of a file."""
        self._maybe_fail("append")
        if len(chunk) > self.free_bytes():
            raise OutOfSpaceError(f"no space left while appending to {name}")
        self._file(name).data += chunk
        self.appends += 1

    def sync(self, name: str) -> None:
        """Make everything appended to a file before this call durable."""
        self._maybe_fail("sync")
        file = self._file(name)
        file.durable_bytes = len(file.data)
        file.cut = b""
        self.syncs += 1

    def truncate(self, name: str, length: int) -> None:
        """Cut a file to its first `length` bytes."""
        self._maybe_fail("truncate")
        file = self._file(name)
        if length < file.durable_bytes:
            file.cut = bytes(file.data[length : file.durable_bytes]) + file.cut
            file.durable_bytes = length
        del file.data[length:]

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing a file of that name."""
        self._maybe_fail("rename")
        self._files[new] = self._file(old)
        del self._files[old]
        self._names_left.append(dict(self._files))

    def remove(self, name: str) -> None:
        """Delete a file."""
        self._maybe_fail("remove")
        self._file(name)
        del self._files[name]
        self._names_left.append(dict(self._files))

    def sync_directory(self) -> None:
        """Make created, renamed and removed names durable."""
        self._maybe_fail("sync_directory")
        self._names_left = [dict(self._files)]

    def free_bytes(self) -> int:
        """Bytes left of the capacity."""
        if self.capacity_bytes is None:
            return 1 << 62
        return max(0, self.capacity_bytes - sum(len(file.data) for file in self._files.values()))

    def close(self) -> None:
        """Nothing is open."""

    # ---- faults ----

    def crash(self, rng: random.Random, *, tear: bool = True) -> None:
        """Cut the power. Afterwards the files are what a disk may hold then.

        Of the bytes that were not synced a file keeps nothing, or, with `tear`, any prefix; or whole sectors of it and
        then zeros, where the file system had written the new length but not the data. An unsynced cut happened or not.
        Of the changes of names that were not synced the first few happened.
        """
        self._failure = None
        self._files = rng.choice(self._names_left)
        self._names_left = [dict(self._files)]
        for name in sorted(self._files):
            _lose_unsynced(self._files[name], rng, tear=tear)

    def fail_next(self, operation: str, error: StorageError) -> None:
        """Let the next call of the method named `operation` raise `error`."""
        assert hasattr(self, operation)
        self._failure = (operation, error)

    def overwrite(self, name: str, offset: int, chunk: bytes) -> None:
        """Change stored bytes behind everybody's back, as a rotting disk does."""
        data = self._file(name).data
        assert offset + len(chunk) <= len(data)
        data[offset : offset + len(chunk)] = chunk

    def _maybe_fail(self, operation: str) -> None:
        if self._failure is not None and self._failure[0] == operation:
            _, error = self._failure
            self._failure = None
            raise error

    def _file(self, name: str) -> _MemoryFile:
        file = self._files.get(name)
        if file is None:
            raise StorageError(f"{name}: No such file")
        return file


def _lose_unsynced(file: _MemoryFile, rng: random.Random, *, tear: bool) -> None:
    """What a power cut leaves of one file."""
    durable = file.durable_bytes
    end = rng.randint(durable, len(file.data)) if tear else durable
    zeros = 0
    if tear and rng.random() < 0.25:
        end = max(durable, end - end % SECTOR_BYTES)
        zeros = rng.randint(0, len(file.data) - end)
    back = file.cut if rng.random() < 0.5 else b""
    if back:
        end, zeros = durable, 0
    del file.data[end:]
    file.data += back + bytes(zeros)
    file.cut = b""
    file.durable_bytes = len(file.data)
