"""Both clients behind one face, so that one test holds them to the same behaviour over real sockets."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import uvloop

import nokv

KINDS = ("blocking", "asyncio", "uvloop")


class Db:
    """Calls a client's methods and waits where they are coroutines."""

    def __init__(self, kind: str, url: str | None, **options: Any) -> None:
        self.kind = kind
        self._runner: asyncio.Runner | None = None
        self.client: Any
        if kind == "blocking":
            self.client = nokv.Client(url, **options)
        else:
            loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = (
                uvloop.new_event_loop if kind == "uvloop" else None
            )
            self._runner = asyncio.Runner(loop_factory=loop_factory)
            self.client = nokv.AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self.wait(method(*args, **kwargs))

    def wait(self, result: Any) -> Any:
        """The result of a call, or the list of a scan."""
        if self._runner is None:
            return list(result) if isinstance(result, nokv.Scan) else result
        if isinstance(result, nokv.AsyncScan):
            return self._run(_collect(result))
        return self._run(_awaited(result)) if inspect.isawaitable(result) else result

    def snapshot_reads(self, at: int | None, *reads: Callable[[Any], Any]) -> list[Any]:
        """Enter a snapshot and do reads in it; the timestamp comes first in the result."""
        if self._runner is None:
            with self.client.snapshot(at) as snapshot:
                return [snapshot.ts, *(self.wait(read(snapshot)) for read in reads)]
        return self._run(self._snapshot_reads(at, reads))  # type: ignore[no-any-return]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        # A runner keeps the context of its first run; deadlines set around this call must count.
        assert self._runner is not None
        return self._runner.run(work, context=copy_context())

    async def _snapshot_reads(self, at: int | None, reads: tuple[Callable[[Any], Any], ...]) -> list[Any]:
        async with self.client.snapshot(at) as snapshot:
            results: list[Any] = [snapshot.ts]
            for read in reads:
                found = read(snapshot)
                results.append(await _collect(found) if isinstance(found, nokv.AsyncScan) else await found)
            return results

    def end(self) -> None:
        """Close the client and its loop."""
        self.wait(self.client.close())
        if self._runner is not None:
            self._runner.close()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _collect(scan: nokv.AsyncScan) -> list[nokv.KV]:
    return [pair async for pair in scan]
