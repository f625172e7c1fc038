"""A snapshot: reads that all see the store as it was at one timestamp.

Why: several reads that belong together must not see different moments.
Invariants: a snapshot never changes, whoever writes meanwhile; its timestamp may be handed to another process, which
sees the same.
Not here: how long old versions are kept (nokv.mvcc.gc); a snapshot that is too old raises SnapshotTooOldError.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar, overload

from nokv.client._async.reads import Reads
from nokv.client._async.scan import AsyncScan
from nokv.client.async_oracle import AsyncOracle
from nokv.client.errors import UsageError
from nokv.client.key_range import range_of
from nokv.client.limits import BytesLike, checked_key, checked_page
from nokv.client.link import Session
from nokv.client.op import Op
from nokv.proto.ids import LATEST, Ts

D = TypeVar("D")


class AsyncSnapshot:
    """Read-only view at `ts`; made by `client.snapshot()`, used in a `with` block."""

    def __init__(
        self, begin: Callable[[str], Op], reads: Reads, oracle: AsyncOracle, session: Session, at: int | None
    ) -> None:
        if at is not None and not 0 < at < LATEST:
            raise UsageError(f"{at} is no timestamp")
        self._begin = begin
        self._reads = reads
        self._oracle = oracle
        self._session = session
        self._ts = None if at is None else Ts(at)

    @property
    def ts(self) -> int:
        """The timestamp.

        Raises:
            UsageError: the block has not been entered yet.
        """
        return self._fixed()

    async def __aenter__(self) -> "AsyncSnapshot":
        if self._ts is None:
            with self._begin("snapshot") as op:
                self._ts = await self._oracle.fresh(op)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: a snapshot is a number."""

    @overload
    async def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    async def get(self, key: BytesLike, default: D) -> bytes | D: ...
    async def get(self, key: BytesLike, default: D | None = None) -> bytes | D | None:
        """The value of a key, `default` if it had none.

        Raises:
            NokvError.
        """
        ts, key = self._fixed(), checked_key(key, self._session.limits)
        with self._begin("get") as op:
            value = await self._reads.get(op, key, ts)
        return default if value is None else value

    async def get_many(self, keys: Iterable[BytesLike]) -> dict[bytes, bytes]:
        """Values by key, in the order asked for; keys without a value are left out.

        Raises:
            NokvError.
        """
        ts = self._fixed()
        distinct = list(dict.fromkeys(checked_key(key, self._session.limits) for key in keys))
        with self._begin("get_many") as op:
            return await self._reads.get_many(op, distinct, ts)

    def scan(
        self,
        start: BytesLike = b"",
        end: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        page: int = 1000,
    ) -> AsyncScan:
        """Pairs of `start <= key < end` (or all with `prefix`) in key order; see the client's `scan`."""
        return AsyncScan(
            self._begin,
            self._reads,
            self._oracle,
            range_of(start, end, prefix, self._session.limits),
            ts=self._fixed(),
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            page=checked_page(page, limit, self._session.limits),
        )

    def _fixed(self) -> Ts:
        if self._ts is None:
            raise UsageError("a snapshot is taken when its with block is entered")
        return self._ts
