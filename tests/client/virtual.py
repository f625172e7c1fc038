"""The real AsyncClient on virtual time over a network of function calls: no sockets, no waiting, same seed same run.

Why: deadlines and backoffs of seconds are tested in milliseconds, and a failing run replays exactly.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

from nokv import AsyncClient, NokvError
from nokv.client.connection import Listener
from nokv.client.endpoint import Endpoint
from nokv.client.hooks import Hooks
from nokv.proto.ids import StoreId
from tests.client.fake_cluster import FakeCluster

T = TypeVar("T")

LATENCY_S = 0.0005


class _Clock(selectors.SelectSelector):
    """A selector that waits by moving a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits and nothing is due: a deadlock"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when everybody waits."""

    def __init__(self) -> None:
        self.clock = _Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


class VirtualNet:
    """Connections to a FakeCluster. Stores can be `down` (refused), `gone` (silent at connecting) or `stalled`."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.down: set[StoreId] = set()
        self.gone: set[StoreId] = set()
        self.stalled: set[StoreId] = set()
        self.connections: list[_VirtualConnection] = []
        self.full = False

    def __call__(self, endpoint: Endpoint, listener: Listener) -> "_VirtualConnection":
        by_address = {store.client_addr: store.id for store in self.cluster.stores.values()}
        connection = _VirtualConnection(self, by_address.get(endpoint.address), listener)
        self.connections.append(connection)
        return connection

    def crash(self, store_id: int) -> None:
        """The store's connections break, and new ones are refused."""
        self.down.add(StoreId(store_id))
        for connection in self.connections:
            if connection.store_id == store_id:
                connection.break_soon("connection closed by the node")

    def revive(self, store_id: int) -> None:
        """The store listens again."""
        self.down.discard(StoreId(store_id))

    def make_room(self) -> None:
        """Pipes that were full are writable again."""
        self.full = False
        for connection in self.connections:
            connection.tell_writable()


class _VirtualConnection:
    def __init__(self, net: VirtualNet, store_id: StoreId | None, listener: Listener) -> None:
        self._net = net
        self.store_id = store_id
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.sent: list[bytes] = []
        if store_id is None or store_id in net.down:
            self.break_soon("connection refused")

    def send(self, message: bytes) -> bool:
        if self._net.full and len(self.sent) >= 1:  # the greeting always finds room
            return False
        self.sent.append(message)
        self._loop.call_later(LATENCY_S, self._arrive, message)
        return True

    def close(self) -> None:
        self._open = False

    def break_soon(self, reason: str) -> None:
        self._loop.call_soon(self._break, reason)

    def tell_writable(self) -> None:
        if self._open:
            self._loop.call_soon(self._listener.writable)

    def _arrive(self, message: bytes) -> None:
        net, store_id = self._net, self.store_id
        if not self._open or store_id is None or store_id in net.down | net.gone | net.stalled:
            return
        reply = net.cluster.receive(store_id, message)
        if reply:
            self._loop.call_later(LATENCY_S, self._reply, reply)

    def _reply(self, reply: bytes) -> None:
        if self._open and self.store_id not in self._net.stalled:
            self._listener.received(reply)

    def _break(self, reason: str) -> None:
        if self._open:
            self._open = False
            self._listener.lost(reason)


class World:
    """A cluster, its network and a client, on a virtual loop."""

    def __init__(self, cluster: FakeCluster | None = None, *, seed: int = 1) -> None:
        self.cluster = cluster if cluster is not None else FakeCluster()
        self.net = VirtualNet(self.cluster)
        self.random = Random(seed)
        self.loop = VirtualLoop()

    def client(self, *, hooks: tuple[Hooks, ...] = (), url: str = "", **options: Any) -> AsyncClient:
        """A client that knows all stores as seeds."""
        seeds = ",".join(store.client_addr for store in self.cluster.stores.values())
        return AsyncClient(url or f"nokv://{seeds}", dial=self.net, random=self.random, hooks=hooks, **options)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end; afterwards no task of the client may be left."""
        try:
            result = self.loop.run_until_complete(work)
            assert not asyncio.all_tasks(self.loop), "the client left a task behind"
            return result
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, NokvError):
                    self.loop.run_until_complete(task)
            self.loop.close()

    def now(self) -> float:
        """Virtual time."""
        return self.loop.time()
