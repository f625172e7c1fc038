"""What type checkers see of the public surface. Not run: `mypy --strict` reads it in test_surface.py."""

from collections.abc import Iterator
from typing import assert_type

import nokv
from nokv.proto.control import RegionRoute, StoreInfo


def blocking(db: nokv.Client) -> None:
    assert_type(db.get(b"k"), bytes | None)
    assert_type(db.get(b"k", b"d"), bytes)
    assert_type(db.get(b"k", 5), bytes | int)
    assert_type(db.get_many([b"k"]), dict[bytes, bytes])
    assert_type(db.exists(b"k"), bool)
    assert_type(db.scan(), nokv.Scan)
    assert_type(next(db.scan()), nokv.KV)
    assert_type([key for key, _ in db.scan()], list[bytes])
    assert_type(db.cas(b"k", None, b"v"), nokv.CasResult)
    assert_type(db.cas(b"k", None, b"v").current, bytes | None)
    assert_type(db.incr(b"k"), int)
    assert_type(db.now(), int)
    assert_type(db.cluster.nodes(), tuple[StoreInfo, ...])
    assert_type(db.cluster.regions(), tuple[RegionRoute, ...])
    assert_type(db.cluster.status(), nokv.ClusterStatus)
    with db.snapshot() as snapshot, nokv.deadline(1):
        assert_type(snapshot, nokv.Snapshot)
        assert_type(snapshot.ts, int)
        assert_type(snapshot.get(b"k", "none"), bytes | str)
        assert_type(snapshot.scan(), nokv.Scan)
    pairs: Iterator[nokv.KV] = db.scan()
    db.put_many(pairs)
    db.put_many({b"k": b"v"})
    db.put_many({b"k": bytearray(b"v")})


async def asynchronous(db: nokv.AsyncClient) -> None:
    assert_type(await db.get(b"k"), bytes | None)
    assert_type(await db.get(b"k", b"d"), bytes)
    assert_type(await db.get_many([b"k"]), dict[bytes, bytes])
    assert_type(db.scan(), nokv.AsyncScan)
    assert_type([pair async for pair in db.scan()], list[nokv.KV])
    assert_type(await db.cas(b"k", None, b"v"), nokv.CasResult)
    assert_type(await db.cluster.status(), nokv.ClusterStatus)
    async with db.snapshot(at=5) as snapshot:
        assert_type(snapshot, nokv.AsyncSnapshot)
        assert_type(await snapshot.get(b"k"), bytes | None)
    async with nokv.AsyncClient() as same:
        assert_type(same, nokv.AsyncClient)


def mistakes(db: nokv.Client) -> None:
    db.get("text")  # type: ignore[call-overload]
    db.put(b"k", "text")  # type: ignore[arg-type]
    db.put(b"k", b"v", ttl=5)  # type: ignore[call-arg]


def errors(error: nokv.NokvError) -> None:
    assert_type(error.retryable, bool)
    assert_type(error.elapsed, float)
    if isinstance(error, nokv.BusyError):
        assert_type(error.retry_after, float)
