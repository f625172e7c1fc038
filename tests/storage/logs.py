"""What the tests of the log share: entries, small logs, disks with given files."""

import random

from nokv.proto.ids import LogIndex, PeerId, RegionId, Term
from nokv.proto.raft import ConfState, Entry, EntryType, HardState, SnapshotMetadata
from nokv.raft.errors import SnapshotTemporarilyUnavailable, StorageReadError
from nokv.raft.storage import Storage
from nokv.storage.disk import Disk, MemoryDisk
from nokv.storage.wal import SEGMENT_BYTES_MIN, Wal

NO_LIMIT = 1 << 60


def entry(index: int, term: int = 1, data: bytes = b"data", kind: EntryType = EntryType.NORMAL) -> Entry:
    return Entry(Term(term), LogIndex(index), kind, data)


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    """Entries first <= index <= last whose data tells their index and term."""
    return [entry(index, term, (b"%d@%d " % (index, term) * size)[:size]) for index in range(first, last + 1)]


def hard_state(term: int, vote: int = 0, commit: int = 0) -> HardState:
    return HardState(Term(term), PeerId(vote), LogIndex(commit))


def conf_state(*voters: int) -> ConfState:
    return ConfState(voters=tuple(PeerId(voter) for voter in voters))


def metadata(index: int, term: int = 1, *voters: int) -> SnapshotMetadata:
    return SnapshotMetadata(conf_state(*voters), LogIndex(index), Term(term))


def region(number: int) -> RegionId:
    return RegionId(number)


def small_wal(disk: Disk, *, cache_bytes: int = 1 << 20) -> Wal:
    """A log with the smallest segments."""
    return Wal(disk, segment_bytes=SEGMENT_BYTES_MIN, cache_bytes=cache_bytes)


def save(wal: Wal) -> None:
    """Flush and sync."""
    position = wal.flush()
    assert wal.sync() == position


def contents(disk: Disk) -> dict[str, bytes]:
    """All files of a disk."""
    return {name: disk.read(name, 0, disk.size(name)) for name in disk.names()}


def disk_with(files: dict[str, bytes]) -> MemoryDisk:
    """A disk that durably holds these files."""
    disk = MemoryDisk()
    for name, data in files.items():
        disk.create(name)
        disk.append(name, data)
        disk.sync(name)
    disk.sync_directory()
    return disk


State = tuple[HardState, ConfState, LogIndex, Term | None, tuple[Entry, ...]]


def state_of(log: Storage) -> State:
    """Everything a group's log can be asked."""
    first, last = log.first_index(), log.last_index()
    found = tuple(log.entries(first, LogIndex(last + 1), NO_LIMIT)) if first <= last else ()
    assert [log.term(one.index) for one in found] == [one.term for one in found]
    hard, conf = log.initial_state()
    try:
        base_term: Term | None = log.term(LogIndex(first - 1))
    except StorageReadError:
        base_term = None
    return hard, conf, first, base_term, found


def no_snapshot_yet() -> None:
    raise SnapshotTemporarilyUnavailable


def payload(rng: random.Random, size_max: int) -> bytes:
    """Random bytes, sometimes zeros, which a torn tail may look like."""
    size = rng.randint(0, size_max)
    return bytes(size) if rng.random() < 0.2 else rng.randbytes(size)
