"""Writers that keep a ledger: the load of demos and fault tests.

Why: the same few lines of "put, and remember what was promised" belong to every test that breaks something meanwhile.
Keys are hashes of their number, in the three forms that the first cuts of a cluster assume (nokv.region.presplit), so
that every region gets its share.
Not here: what is broken, and the final check (nokv.testing.audit).
"""

import asyncio
import hashlib
import time
from collections.abc import Callable

import nokv
from nokv.testing.ledger import Ledger, encode_version

VALUE_BYTES = 128
PAUSE_AFTER_ERROR_S = 0.01
ALPHANUMERICS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def key_of(number: int) -> bytes:
    """The key with this number: hexadecimal text, alphanumeric text or plain bytes, evenly spread."""
    digest = hashlib.blake2b(b"%d" % number, digest_size=12).digest()
    if number % 3 == 0:
        return digest.hex().encode()
    if number % 3 == 1:
        return bytes(ALPHANUMERICS[byte % len(ALPHANUMERICS)] for byte in digest)
    return digest


class Writers:
    """`count` concurrent writers, each with `keys_each` keys of its own."""

    def __init__(
        self,
        db: "nokv.AsyncClient",
        ledger: Ledger,
        *,
        count: int,
        keys_each: int,
        on_ack: Callable[[bytes, float, float], None] | None = None,
    ) -> None:
        """`on_ack` gets the key and when the write began and ended, seconds of the monotonic clock."""
        self._db = db
        self._ledger = ledger
        self._count = count
        self._keys_each = keys_each
        self._on_ack = on_ack

        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.last_error: str = ""

    def start(self) -> None:
        """Begin writing."""
        for writer in range(self._count):
            keys = [key_of(writer * self._keys_each + at) for at in range(self._keys_each)]
            self._tasks.append(asyncio.create_task(self._write(keys)))

    async def stop(self) -> None:
        """Let every writer end its attempt, then stop. Raises what a writer died of."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self, keys: list[bytes]) -> None:
        at = 0
        while not self._stopping:
            key = keys[at % len(keys)]
            at += 1
            version = self._ledger.attempt(key)
            began = time.monotonic()
            try:
                await self._db.put(key, encode_version(version, VALUE_BYTES))
            except nokv.NokvError as error:
                self.last_error = f"{type(error).__name__}: {error}"
                if error.outcome == "unknown":
                    self._ledger.lose_sight(key, version)
                else:
                    self._ledger.refuse(key, version)
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
                continue
            self._ledger.acknowledge(key, version)
            if self._on_ack is not None:
                self._on_ack(key, began, time.monotonic())
