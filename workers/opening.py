"""Opening a process's part of the data directory: stamp and lock, log, engine, and the limits they are run with.

Why: worker and manifest open the same three things from the same settings.
Not here: what they hold (nokv.storage), which regions (starting.py).
"""

from pathlib import Path

from msgspec import Struct

from nokv.config import NodeConfig
from nokv.mvcc.limits import Limits
from nokv.storage.datadir import DataDir, Holds
from nokv.storage.disk import RealDisk
from nokv.storage.lmdb_engine import LmdbEngine
from nokv.storage.wal import Wal


class Opened(Struct):
    """What a process owns on disk."""

    directory: DataDir
    disk: RealDisk
    wal: Wal
    engine: LmdbEngine


def open_part(config: NodeConfig, name: str, holds: Holds) -> Opened:
    """Open, or make, the part `name` of the node's data directory.

    Raises:
        DataDirRefusedError: locked, foreign or of another format; nothing was touched.
        CorruptionError: the log has a bad record in the middle, or the engine is damaged.
        StorageError: the file system failed.
    """
    storage = config.storage
    directory = DataDir.open(Path(config.node.data_dir) / name, holds)
    engine = LmdbEngine(
        directory.part("lmdb"),
        map_bytes_initial=storage.map_bytes_initial,
        map_bytes_step=storage.map_bytes_step,
        preallocate_bytes=storage.preallocate_bytes,
        readers_max=storage.readers_max,
    )
    disk = RealDisk(directory.part("wal"))
    wal = Wal(disk, segment_bytes=storage.segment_bytes, cache_bytes=storage.entry_cache_bytes)
    return Opened(directory, disk, wal, engine)


def mvcc_limits(config: NodeConfig) -> Limits:
    """The limits of the data plane as nokv.mvcc wants them."""
    limits = config.limits
    return Limits(
        key_bytes_max=limits.key_bytes_max,
        value_bytes_max=limits.value_bytes_max,
        request_keys_max=min(limits.txn_keys_max, limits.batch_keys_max),
        txn_bytes_max=limits.txn_bytes_max,
        ttl_ms_max=limits.lock_ttl_ms_max,
        scan_pairs_max=limits.scan_page_keys_max,
        scan_bytes_max=limits.scan_page_bytes,
    )
