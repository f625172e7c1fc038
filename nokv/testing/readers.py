"""Readers that check each answer against the ledger while writers go on: no read may show what was overwritten.

Rule: a read that began after a version was acknowledged, or after another read had shown it, must show that version, a
newer one, or one whose outcome is unknown: that one may have been applied late.
Why: a stale read leaves no trace in the data, so the check at the end of a run cannot find it.
Not here: writing (writers.py).
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

import nokv
from nokv.testing.ledger import Ledger, decode_version

PAUSE_AFTER_ERROR_S = 0.01


class StaleRead(Struct, frozen=True):
    """An answer that was older than it may be."""

    key: bytes
    at_least: int
    found: int


class Readers:
    """`count` concurrent readers over keys that have a writer."""

    def __init__(self, db: "nokv.AsyncClient", ledger: Ledger, keys: Sequence[bytes], *, count: int) -> None:
        assert keys
        self._db = db
        self._ledger = ledger
        self._keys = keys
        self._count = count

        self._stopping = False
        self._shown: dict[bytes, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

        self.reads = 0
        self.failed = 0
        self.stale: list[StaleRead] = []

    def start(self) -> None:
        """Begin reading."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._read(reader)) for reader in range(self._count)]

    async def stop(self) -> None:
        """Let every reader end its read, then stop. Raises what a reader died of."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _read(self, reader: int) -> None:
        at = reader
        while not self._stopping:
            await self._read_one(self._keys[at % len(self._keys)])
            at += self._count

    async def _read_one(self, key: bytes) -> None:
        at_least = max(self._ledger.acknowledged_version(key), self._shown.get(key, 0))
        try:
            found = decode_version(await self._db.get(key))
        except nokv.NokvError:
            self.failed += 1
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
            return
        self.reads += 1
        if found < at_least and not self._ledger.is_unknown(key, found):
            self.stale.append(StaleRead(key, at_least, found))
        self._shown[key] = max(found, self._shown.get(key, 0))
