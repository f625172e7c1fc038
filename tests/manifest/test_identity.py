"""Identity: decided once, and every difference refused by name."""

from typing import Any

import msgspec
import pytest

from nokv.manifest.identity import (
    IDENTITY_FORMAT,
    IdentityError,
    OtherClusterError,
    OtherStoreError,
    OtherWorkersError,
    StoreIdentity,
    UnknownFormatError,
    read_identity,
    verify,
    write_identity,
)
from nokv.proto.ids import ClusterId, StoreId
from nokv.storage.engine import ColumnFamily, CorruptionError
from nokv.storage.keys import STORE_IDENTITY_KEY
from nokv.storage.memory_engine import MemoryEngine

OURS = StoreIdentity(IDENTITY_FORMAT, ClusterId(77), StoreId(1), 2)


def test_an_identity_survives_a_checkpoint_and_nothing_less() -> None:
    engine = MemoryEngine()
    assert read_identity(engine) is None
    write_identity(engine, OURS)
    engine.crash()
    assert read_identity(engine) is None
    write_identity(engine, OURS)
    engine.checkpoint()
    engine.crash()
    assert read_identity(engine) == OURS


def test_an_identity_is_written_once() -> None:
    engine = MemoryEngine()
    write_identity(engine, OURS)
    with pytest.raises(AssertionError):
        write_identity(engine, OURS)


def test_the_same_node_is_let_in() -> None:
    verify(OURS, store_id=StoreId(1), cluster_id=ClusterId(77), workers=2)
    verify(OURS, store_id=StoreId(1), cluster_id=ClusterId(0), workers=2)


@pytest.mark.parametrize(
    ("store_id", "cluster_id", "workers", "error", "text"),
    [
        (2, 77, 2, OtherStoreError, "belongs to store 1, but this node was started as store 2"),
        (1, 78, 2, OtherClusterError, "belongs to cluster 77, but the topology names cluster 78"),
        (1, 77, 3, OtherWorkersError, "start it with --workers 2"),
        (2, 78, 3, OtherStoreError, "store 2"),
        (1, 78, 3, OtherClusterError, "cluster 78"),
    ],
)
def test_another_node_is_refused_with_the_gravest_reason(
    store_id: int, cluster_id: int, workers: int, error: type[IdentityError], text: str
) -> None:
    with pytest.raises(error, match=text):
        verify(OURS, store_id=StoreId(store_id), cluster_id=ClusterId(cluster_id), workers=workers)


@pytest.mark.parametrize(("record", "remedy"), [([2, "anything"], "use the version"), ([0], "upgrade")])
def test_an_unknown_format_is_refused_before_anything_else_is_read(record: list[Any], remedy: str) -> None:
    engine = MemoryEngine()
    engine.put(ColumnFamily.META, STORE_IDENTITY_KEY, msgspec.msgpack.encode(record))
    with pytest.raises(UnknownFormatError, match=remedy):
        read_identity(engine)


@pytest.mark.parametrize(
    "data", [b"\xc1", msgspec.msgpack.encode([]), msgspec.msgpack.encode({}), msgspec.msgpack.encode([1, "x", 1, 1])]
)
def test_a_damaged_identity_is_corruption(data: bytes) -> None:
    engine = MemoryEngine()
    engine.put(ColumnFamily.META, STORE_IDENTITY_KEY, data)
    with pytest.raises(CorruptionError):
        read_identity(engine)


def test_describe_is_one_line() -> None:
    assert OURS.describe() == "store 1 of cluster 77, 2 workers"
