"""Durable identity of a store: who it is, of which cluster, with how many workers. Decided once, at the first start.

Why: a data directory started under another store's id would vote twice, and one started in another cluster would mix
two histories. Neither can be undone, so both are refused before anything is opened or sent.
Invariants: written once, in the same checkpoint as the first catalog; never changed by a setting or a file.
Not here: the lock and the format stamp of the data directory (nokv.storage.datadir), the first start (bootstrap.py).
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from nokv.proto.ids import ClusterId, StoreId
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine, Reader
from nokv.storage.keys import STORE_IDENTITY_KEY

IDENTITY_FORMAT: Final = 1
"""Format of everything the manifest process keeps in its engine: identity, catalog and group 0's state."""


class StoreIdentity(Struct, array_like=True, frozen=True):
    """What a data directory belongs to. `format` comes first in every version, so that it can always be read."""

    format: int
    cluster_id: ClusterId
    store_id: StoreId
    workers: int

    def describe(self) -> str:
        """One line for logs: `store 1 of cluster 77, 2 workers`."""
        return f"store {self.store_id} of cluster {self.cluster_id}, {self.workers} workers"


class IdentityError(Exception):
    """The data directory is not what this node was started as. Nothing was touched; the text says what to do."""


class UnknownFormatError(IdentityError):
    """The records were written in a format that this version does not read."""

    def __init__(self, *, found: int) -> None:
        super().__init__(
            f"the manifest's records have format {found}, this version reads {IDENTITY_FORMAT}: "
            + ("use the version of nokv that wrote them" if found > IDENTITY_FORMAT else "they need an upgrade first")
        )
        self.found = found


class OtherStoreError(IdentityError):
    """The directory belongs to another store."""

    def __init__(self, *, stored: StoreId, wanted: StoreId) -> None:
        super().__init__(
            f"the data directory belongs to store {stored}, but this node was started as store {wanted}: "
            "give it its own data directory or its own store id"
        )
        self.stored = stored
        self.wanted = wanted


class OtherClusterError(IdentityError):
    """The directory belongs to a store of another cluster."""

    def __init__(self, *, stored: ClusterId, wanted: ClusterId) -> None:
        super().__init__(
            f"the data directory belongs to cluster {stored}, but the topology names cluster {wanted}: "
            "use the topology file of its cluster, or an empty data directory"
        )
        self.stored = stored
        self.wanted = wanted


class OtherWorkersError(IdentityError):
    """The directory was laid out for another number of workers."""

    def __init__(self, *, stored: int, wanted: int) -> None:
        super().__init__(
            f"the data directory was laid out for {stored} workers, but this node was started with {wanted}: "
            f"start it with --workers {stored}; regions cannot yet be moved to another number of workers"
        )
        self.stored = stored
        self.wanted = wanted


def read_identity(reader: Reader) -> StoreIdentity | None:
    """The stored identity, None if the engine was never started.

    Raises:
        UnknownFormatError: another version's records; nothing else in the engine may be interpreted.
        CorruptionError: the record is not what was written.
    """
    data = reader.get(ColumnFamily.META, STORE_IDENTITY_KEY)
    if data is None:
        return None
    try:
        fields: Any = msgspec.msgpack.decode(data)
        if not isinstance(fields, list) or not fields or not isinstance(fields[0], int):
            raise CorruptionError("the store identity is no identity")
        if fields[0] != IDENTITY_FORMAT:
            raise UnknownFormatError(found=fields[0])
        return msgspec.msgpack.decode(data, type=StoreIdentity)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"the store identity is no identity: {error}") from error


def write_identity(engine: Engine, identity: StoreIdentity) -> None:
    """Put the identity into the open transaction. Requires: there is none yet."""
    assert identity.format == IDENTITY_FORMAT
    assert identity.cluster_id > 0 and identity.store_id > 0 and identity.workers > 0
    assert engine.get(ColumnFamily.META, STORE_IDENTITY_KEY) is None, "an identity is decided once"
    engine.put(ColumnFamily.META, STORE_IDENTITY_KEY, msgspec.msgpack.encode(identity))


def verify(stored: StoreIdentity, *, store_id: StoreId, cluster_id: ClusterId, workers: int) -> None:
    """Check what this node was started as against what its data directory is. `cluster_id` 0: whatever is stored.

    Raises:
        OtherStoreError, OtherClusterError, OtherWorkersError: the first difference found, gravest first.
    """
    if stored.store_id != store_id:
        raise OtherStoreError(stored=stored.store_id, wanted=store_id)
    if cluster_id and stored.cluster_id != cluster_id:
        raise OtherClusterError(stored=stored.cluster_id, wanted=cluster_id)
    if stored.workers != workers:
        raise OtherWorkersError(stored=stored.workers, wanted=workers)
