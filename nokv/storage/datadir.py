"""Data directory: whose it is, which format it has, and that only one process uses it.

Layout of a node's directory (each part is made when it is first asked for):

    LOCK          flock(2) is held while the owner lives; holds its process id as text
    VERSION       the stamp below
    manifest/     the manifest process: LOCK VERSION wal/ lmdb/
    worker-00/    shard worker 0: LOCK VERSION wal/ lmdb/
    worker-01/    ...

Stamp: text lines, ASCII, in this order; the last two are missing until the store has joined a cluster:

    nokv data directory
    format 1
    holds node            (or: manifest, worker)
    cluster 123
    store 1

Why: a second process on the same files destroys them, and a newer or older program misreads them; both happen in
practice (a copied unit file, a restored backup), and both must end in one line that says what to do.
Invariants: nothing is made or changed in a directory that is refused; the stamp is durable before anything else is made
below it, so a directory with files and without a stamp was not left by a crash of ours.
Not here: what is in the parts, and which exit code a refusal ends with.
"""

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path
from typing import Final

from msgspec import Struct

from nokv.proto.ids import ClusterId, StoreId, WorkerId
from nokv.storage.disk import raise_os_error, sync_directory

FORMAT: Final = 1
"""Version of everything below the directory. Raised when a program of the release before could misread it."""
FORMAT_OLDEST: Final = 1
"""Oldest format this program still reads."""

LOCK_FILE: Final = "LOCK"
STAMP_FILE: Final = "VERSION"
STAMP_FILE_NEW: Final = "VERSION.new"
STAMP_TITLE: Final = "nokv data directory"
STAMP_BYTES_MAX: Final = 4096
_WORTHLESS: Final = frozenset({LOCK_FILE, STAMP_FILE_NEW, "lost+found"})
"""What a crash between making the directory and stamping it leaves, and what a fresh file system has at its root."""


class Holds(Enum):
    """What a stamped directory is for."""

    NODE = "node"
    """A whole store: the parts of its processes."""
    MANIFEST = "manifest"
    """The manifest process's log and engine."""
    WORKER = "worker"
    """One shard worker's log and engine."""


class Stamp(Struct, frozen=True):
    """Contents of VERSION. Zero ids: the store has not joined a cluster yet."""

    format: int
    holds: Holds
    cluster_id: ClusterId = ClusterId(0)
    store_id: StoreId = StoreId(0)


class DataDirRefusedError(Exception):
    """The directory must not be used. Nothing in it was touched. The text is one line and says what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"data directory {path}: {reason}")
        self.path = path
        self.reason = reason


class DataDirLockedError(DataDirRefusedError):
    """Another process uses it. `pid` 0: it did not say who it is."""

    def __init__(self, path: Path, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(path, f"in use by {who}; stop it first or choose another directory")
        self.pid = pid


class FormatTooNewError(DataDirRefusedError):
    """Written by a newer program."""

    def __init__(self, path: Path, found: int) -> None:
        super().__init__(path, f"has format {found}, this program knows {FORMAT}; install a newer nokv")
        self.found = found


class FormatTooOldError(DataDirRefusedError):
    """Written by a program older than any this one can read the data of."""

    def __init__(self, path: Path, found: int) -> None:
        reason = f"has format {found}, this program reads {FORMAT_OLDEST} to {FORMAT}; upgrade through an older nokv"
        super().__init__(path, reason)
        self.found = found


class ForeignDirectoryError(DataDirRefusedError):
    """Not ours: no stamp but files, a stamp nobody of us wrote, or another cluster's or store's."""


# ---- the directory --------------------------------------------------------------------------------------------------


class DataDir:
    """A stamped directory that this process holds the lock of, from `open` to `close`."""

    __slots__ = ("_lock_handle", "_stamp", "path")

    def __init__(self, path: Path, lock_handle: int, stamp: Stamp) -> None:
        self.path: Final = path
        self._lock_handle = lock_handle
        self._stamp = stamp

    @classmethod
    def open(cls, path: str | os.PathLike[str], holds: Holds = Holds.NODE) -> "DataDir":
        """Take the directory, and make it if it is missing, empty, or was left half made by a crash.

        Raises:
            DataDirRefusedError: one of its subclasses; nothing was touched.
            StorageError: the file system failed.
        """
        where = Path(path).absolute()
        found = inspect(where, holds)
        try:
            if found is None:
                where.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(where.parent)
            handle = _take_lock(where)
        except OSError as error:
            raise_os_error(error, f"opening {where}")
        try:
            # Again: another process may have made or upgraded it before we got the lock.
            stamp = inspect(where, holds)
            if stamp is None:
                stamp = Stamp(FORMAT, holds)
                write_stamp(where, stamp)
            return cls(where, handle, stamp)
        except BaseException:
            os.close(handle)
            raise

    @property
    def stamp(self) -> Stamp:
        """What VERSION says."""
        return self._stamp

    def claim(self, cluster_id: ClusterId, store_id: StoreId) -> None:
        """Bind the directory to a store of a cluster, for ever; no change if it is bound to it already.

        Raises:
            ForeignDirectoryError: it is bound to another one.
            StorageError: the file system failed.
        """
        assert cluster_id > 0
        assert store_id > 0
        ours = Stamp(self._stamp.format, self._stamp.holds, cluster_id, store_id)
        if self._stamp == ours:
            return
        if self._stamp.cluster_id:
            theirs = f"cluster {self._stamp.cluster_id} store {self._stamp.store_id}"
            reason = f"belongs to {theirs}, not to cluster {cluster_id} store {store_id}; choose another directory"
            raise ForeignDirectoryError(self.path, reason)
        write_stamp(self.path, ours)
        self._stamp = ours

    def part(self, name: str) -> Path:
        """A directory below this one, made durably if it is missing. Raises StorageError."""
        path = self.path / name
        try:
            if not path.is_dir():
                path.mkdir(mode=0o700)
                sync_directory(self.path)
        except OSError as error:
            raise_os_error(error, f"making {path}")
        return path

    def manifest(self) -> Path:
        """The manifest process's directory, which that process opens as Holds.MANIFEST."""
        return self.part("manifest")

    def worker(self, worker_id: WorkerId) -> Path:
        """A shard worker's directory, which that process opens as Holds.WORKER."""
        return self.part(worker_directory(worker_id))

    def workers(self) -> list[WorkerId]:
        """Workers that have a directory here, in order: those of earlier runs with other counts too."""
        try:
            names = [entry.name for entry in os.scandir(self.path) if entry.is_dir()]
        except OSError as error:
            raise_os_error(error, f"listing {self.path}")
        return sorted(WorkerId(int(name[7:])) for name in names if name.startswith("worker-") and name[7:].isdigit())

    def close(self) -> None:
        """Give the lock back; idempotent. LOCK stays: removing it would let two processes lock two files."""
        if self._lock_handle >= 0:
            os.close(self._lock_handle)
            self._lock_handle = -1


def worker_directory(worker_id: WorkerId) -> str:
    """Name of a worker's part: worker-00, worker-01, ..."""
    return f"worker-{worker_id:02d}"


def inspect(path: str | os.PathLike[str], holds: Holds) -> Stamp | None:
    """The stamp of a directory, None if there is no directory or nothing of value in it. Touches nothing.

    Raises:
        DataDirRefusedError: it is not for us.
        StorageError: the file system failed.
    """
    where = Path(path).absolute()
    try:
        names = set(os.listdir(where))
        if STAMP_FILE not in names:
            if names <= _WORTHLESS:
                return None
            found = sorted(names - _WORTHLESS)[0]
            reason = f"holds {found!r} but no {STAMP_FILE}: not made by nokv, or damaged; choose an empty directory"
            raise ForeignDirectoryError(where, reason)
        with open(where / STAMP_FILE, "rb") as file:
            text = file.read(STAMP_BYTES_MAX)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise ForeignDirectoryError(where, "is not a directory; choose another path") from None
    except OSError as error:
        raise_os_error(error, f"looking at {where}")
    stamp = parse_stamp(where, text)
    if stamp.holds is not holds:
        reason = f"holds data of a {stamp.holds.value}, not of a {holds.value}; choose another directory"
        raise ForeignDirectoryError(where, reason)
    return stamp


# ---- lock -----------------------------------------------------------------------------------------------------------


def _take_lock(path: Path) -> int:
    """Handle that holds the lock. Raises DataDirLockedError, OSError."""
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 32, 0)
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise DataDirLockedError(path, int(holder) if holder.strip().isdigit() else 0) from None
        raise
    os.ftruncate(handle, 0)
    os.pwrite(handle, b"%d\n" % os.getpid(), 0)
    return handle


# ---- stamp ----------------------------------------------------------------------------------------------------------


def format_stamp(stamp: Stamp) -> bytes:
    """VERSION's bytes."""
    lines = [STAMP_TITLE, f"format {stamp.format}", f"holds {stamp.holds.value}"]
    if stamp.cluster_id:
        lines += [f"cluster {stamp.cluster_id}", f"store {stamp.store_id}"]
    return "".join(line + "\n" for line in lines).encode()


def parse_stamp(path: Path, text: bytes) -> Stamp:
    """VERSION's meaning. Raises FormatTooNewError, FormatTooOldError, ForeignDirectoryError."""
    foreign = ForeignDirectoryError(
        path, f"{STAMP_FILE} is damaged or not ours; restore it or choose another directory"
    )
    lines = text.decode("ascii", "replace").splitlines()
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    if not lines or lines[0] != STAMP_TITLE or not _is_number(fields.get("format", "")):
        raise foreign
    found = int(fields["format"])
    # Before anything else is looked at: another format may say the rest differently.
    if found > FORMAT:
        raise FormatTooNewError(path, found)
    if found < FORMAT_OLDEST:
        raise FormatTooOldError(path, found)
    cluster, store = fields.get("cluster", "0"), fields.get("store", "0")
    if fields.get("holds") not in {holds.value for holds in Holds} or not _is_number(cluster) or not _is_number(store):
        raise foreign
    stamp = Stamp(found, Holds(fields["holds"]), ClusterId(int(cluster)), StoreId(int(store)))
    if format_stamp(stamp) != text:
        raise foreign
    return stamp


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Replace VERSION atomically and durably. Raises StorageError, OutOfSpaceError."""
    try:
        with open(path / STAMP_FILE_NEW, "wb") as file:
            file.write(format_stamp(stamp))
            file.flush()
            os.fsync(file.fileno())
        os.replace(path / STAMP_FILE_NEW, path / STAMP_FILE)
    except OSError as error:
        raise_os_error(error, f"writing {path / STAMP_FILE}")
    sync_directory(path)
