"""The catalog of a stopped node, read from its data directory.

Why: when a node will not start, the first question is what it holds. The engine is only read: nothing is committed.
Invariants: a node that runs is refused (its directory is locked): what LMDB has on disk is its last checkpoint, and
the node itself knows better.
Not here: the catalog's records (nokv.manifest.catalog).
"""

from pathlib import Path

from nokv.cli.entry import CommandError
from nokv.config import StorageSection
from nokv.exitcodes import EXIT_DATA_DIR, EXIT_UNEXPECTED
from nokv.manifest.catalog import read_offline
from nokv.manifest.identity import UnknownFormatError
from nokv.proto.region import Region
from nokv.storage.datadir import DataDir, DataDirRefusedError, Holds, inspect
from nokv.storage.engine import CorruptionError, StorageError
from nokv.storage.lmdb_engine import LmdbEngine


def read_catalog(data_dir: Path) -> list[tuple[Region, str]]:
    """Every region the node knew at its last checkpoint with its state here ("elsewhere": no replica), in key order.

    Raises:
        CommandError: not a node's directory, in use, of another format, or damaged.
    """
    try:
        if inspect(data_dir, Holds.NODE) is None or inspect(data_dir / "manifest", Holds.MANIFEST) is None:
            return []
        directory = DataDir.open(data_dir / "manifest", Holds.MANIFEST)
        try:
            return _read(directory.path / "lmdb")
        finally:
            directory.close()
    except (DataDirRefusedError, UnknownFormatError) as error:
        raise CommandError(str(error), EXIT_DATA_DIR) from error
    except (CorruptionError, StorageError) as error:
        raise CommandError(f"{data_dir}: {error}", EXIT_UNEXPECTED) from error


def _read(path: Path) -> list[tuple[Region, str]]:
    if not path.is_dir():
        return []
    storage = StorageSection()
    engine = LmdbEngine(
        path,
        map_bytes_initial=storage.map_bytes_initial,
        map_bytes_step=storage.map_bytes_step,
        preallocate_bytes=storage.preallocate_bytes,
        readers_max=storage.readers_max,
    )
    try:
        catalog = read_offline(engine)
    finally:
        engine.close()
    if catalog is None:
        return []
    found = [(entry.region, entry.region.state.name.lower()) for entry in catalog.entries]
    found += [(region, "elsewhere") for region in catalog.elsewhere]
    return sorted(found, key=lambda pair: (pair[0].start, pair[0].id))
