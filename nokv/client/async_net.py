"""Requests over connections on one event loop.

Why: thousands of calls share a few connections; a request must cost a future and two dictionary entries, not a task,
a timer and a message each.

How it goes: `request` puts a frame into the outbox of the node's link and waits; at the end of the loop's iteration one
callback sends every outbox as one message; replies wake their waiters by request id. One timer serves all deadlines: it
is set for the earliest one known, and when it fires it looks at everything that is pending. As budgets are alike, that
is about once a second, and a request pays one comparison.

Invariants: every request ends by answer, loss, expiry or cancellation, and is forgotten then; never more than
max_inflight are under way; everything runs on the loop of the first call.
Not here: meaning (link.py), retries (caller.py), sockets (zmq_connection.py). The twin for threads is blocking_net.py.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import zmq

from nokv.client.backoff import BACKOFF_S_MAX, Backoff
from nokv.client.connection import Connection, Dial
from nokv.client.endpoint import Endpoint
from nokv.client.errors import AuthError, ClientClosedError, ClientForkedError, NokvError, WrongThreadError
from nokv.client.fork_guard import watch_fork
from nokv.client.link import EXPIRY_SLACK_S, UNSENT, Answer, Link, LinkState, Session
from nokv.client.net import BUSY, NetSettings, Request
from nokv.client.zmq_connection import ZmqDialer

_log: Final = logging.getLogger("nokv.net")


class AsyncNet:
    """The connections of one AsyncClient."""

    def __init__(self, settings: NetSettings, session: Session, dial: Dial | None = None) -> None:
        # Constant
        self._settings = settings
        self._session = session
        self._max_inflight = settings.max_inflight

        # Bound at the first call
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dial = dial

        # Volatile
        self.forked = False
        self._draining = False
        self._closed = False
        self._ops = 0
        self._idle: asyncio.Future[None] | None = None
        self._peers: dict[str, _Peer] = {}
        self._next_id = 0
        self._inflight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._expirers: list[Callable[[float], float]] = []
        self._flights: dict[str, asyncio.Task[None]] = {}
        watch_fork(self)

    # ---- guards and clock -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the client may be used here and now.

        Raises:
            ClientClosedError, ClientForkedError, WrongThreadError.
        """
        if self.forked:
            raise ClientForkedError("this process was forked after the client was made; make a new one here")
        loop = asyncio.get_running_loop()
        if loop is self._loop and not self._draining:
            return
        if self._draining:
            raise ClientClosedError("the client is closed")
        if self._loop is not None:
            raise WrongThreadError("an AsyncClient belongs to the event loop of its first call")
        self._loop = loop
        if self._dial is None:
            timeout_s = self._settings.connect_timeout_s
            self._dial = ZmqDialer(loop, connect_timeout_s=timeout_s, curve=self._settings.curve_key())

    def now(self) -> float:
        """The loop's clock, in seconds."""
        assert self._loop is not None, "check() comes first"
        return self._loop.time()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the first call."""
        assert self._loop is not None, "check() comes first"
        return self._loop

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def request(
        self, endpoint: Endpoint, kind: int, region_id: int, body: bytes, *, due: float, unbounded: bool = False
    ) -> Answer:
        """Send one request and wait for its answer until `due`. `unbounded` requests do not count as in flight."""
        if self._inflight >= self._max_inflight and not unbounded and not await self._permit(due):
            return BUSY, b"max_inflight requests are under way"
        loop = self._loop
        assert loop is not None
        waiter: asyncio.Future[Answer] = loop.create_future()
        peer = self._start(endpoint, kind, region_id, body, waiter, due)
        if peer is None:
            return UNSENT, self.refusal_text(endpoint)
        request_id = self._next_id
        self._inflight += 1
        try:
            return await waiter
        except asyncio.CancelledError:
            peer.link.forget(request_id)
            raise
        finally:
            self._inflight -= 1
            if self._queue:
                self._admit_next()

    async def request_many(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests together and wait for all their answers, in their order. They count as one in flight."""
        assert self._loop is not None
        started: list[tuple[_Peer, int] | None] = []
        waiters: list[asyncio.Future[Answer]] = []
        for endpoint, kind, region_id, body, due in requests:
            waiter: asyncio.Future[Answer] = self._loop.create_future()
            peer = self._start(endpoint, kind, region_id, body, waiter, due)
            if peer is None:
                waiter.set_result((UNSENT, self.refusal_text(endpoint)))
            started.append((peer, self._next_id) if peer is not None else None)
            waiters.append(waiter)
        try:
            return [await waiter for waiter in waiters]
        except asyncio.CancelledError:
            for entry in started:
                if entry is not None:
                    entry[0].link.forget(entry[1])
            raise

    def _start(
        self, endpoint: Endpoint, kind: int, region_id: int, body: bytes, waiter: "asyncio.Future[Answer]", due: float
    ) -> "_Peer | None":
        """Put a request into the outbox of a link; None if there is no link to be had just now."""
        peer = self._peers.get(endpoint.address)
        if peer is None or not peer.link.usable():
            peer = self._connect(endpoint)
            if peer is None:
                return None
        assert self._loop is not None
        self._next_id = request_id = self._next_id + 1
        deadline_ms = int((due - self._loop.time()) * 1000)
        peer.link.add(
            request_id, kind, region_id, body, waiter=waiter, due=due, deadline_ms=deadline_ms if deadline_ms > 0 else 1
        )
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        if due < self._timer_due:
            self.wake_at(due)
        return peer

    def refusal(self, endpoint: Endpoint) -> NokvError | None:
        """Why the node at `endpoint` cannot be used at all (protocol, cluster, key); None: no such reason."""
        peer = self._peers.get(endpoint.address)
        return peer.link.refusal if peer is not None and peer.link.state is LinkState.REFUSED else None

    def refusal_text(self, endpoint: Endpoint) -> bytes:
        """Why no connection to `endpoint` is to be had just now, for the cause of an error."""
        peer = self._peers.get(endpoint.address)
        if peer is None or peer.link.refusal is None:
            return f"{endpoint.address}: no connection".encode()
        return str(peer.link.refusal).encode()

    # ---- in-flight permits ------------------------------------------------------------------------------------------

    async def _permit(self, due: float) -> bool:
        """Wait for a place; False if `due` came first."""
        assert self._loop is not None
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(waiter)
        handle = self._loop.call_at(due, _give_up, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._admit_next()  # it was our turn already: pass it on
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise
        except TimeoutError:
            self._queue.remove(waiter)
            return False
        finally:
            handle.cancel()
        return True

    def _admit_next(self) -> None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # ---- the loop's callbacks ---------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send every outbox at the end of this iteration of the loop."""
        if not self._flush_scheduled and self._loop is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        for peer in self._peers.values():
            if peer.link.sendable:
                peer.flush()

    def wake_at(self, due: float) -> None:
        """Look at everything pending no later than `due`."""
        if due >= self._timer_due or self._closed:
            return
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._expire)

    def on_expiry(self, expire: Callable[[float], float]) -> None:
        """Have `expire(now)` called with every tick of the shared timer; it returns when it wants the next one."""
        self._expirers.append(expire)

    def _expire(self) -> None:
        assert self._loop is not None
        self._timer, self._timer_due = None, math.inf
        now = self._loop.time()
        next_due = min((peer.expire(now) for peer in self._peers.values()), default=math.inf)
        for expire in self._expirers:
            next_due = min(next_due, expire(now))
        if next_due < math.inf:
            self.wake_at(max(next_due, now + EXPIRY_SLACK_S))

    # ---- connections ------------------------------------------------------------------------------------------------

    def _connect(self, endpoint: Endpoint) -> "_Peer | None":
        """A new connection, unless the last one ended so recently that the node is left alone for now.

        Raises:
            ClientClosedError: there will be no more connections.
        """
        if self._closed:
            raise ClientClosedError("the client was closed")
        assert self._loop is not None
        assert self._dial is not None
        now = self._loop.time()
        old = self._peers.get(endpoint.address)
        backoff = old.backoff if old is not None else Backoff(self._settings.random)
        if old is not None and now < old.retry_at:
            return None
        self._next_id += 1
        link = Link(
            endpoint.address,
            self._session,
            hello_id=self._next_id,
            greet_due=now + self._settings.connect_timeout_s,
        )
        peer = _Peer(self, link, backoff)
        self._peers[endpoint.address] = peer
        try:
            peer.connection = self._dial(endpoint, peer)
        except zmq.ZMQError as error:
            peer.lost(f"cannot be dialled: {error}")
            return None
        peer.connection.send(link.greeting())
        self.wake_at(link.greet_due)
        return peer

    # ---- shared work and the end ------------------------------------------------------------------------------------

    async def once(self, name: str, work: Callable[[], Awaitable[None]], *, due: float) -> None:
        """Run `work` unless it is running already, and wait for its end or for `due`, whichever comes first.

        Raises:
            NokvError: what `work` raised.
        """
        assert self._loop is not None
        task = self._flights.get(name)
        if task is None:
            task = self._loop.create_task(self._fly(name, work))
            task.add_done_callback(_retrieve)
            self._flights[name] = task
        # asyncio.wait leaves the task running when this caller is cancelled: others wait for it too.
        done, _ = await asyncio.wait((task,), timeout=max(0.0, due - self._loop.time()))
        if not done:
            return
        if task.cancelled():
            raise ClientClosedError("the client was closed")
        error = task.exception()
        if error is not None:
            raise error.copy() if isinstance(error, NokvError) else error

    async def _fly(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            del self._flights[name]

    def keep_task(self, task: "asyncio.Task[None]") -> None:
        """Own a background task: it is cancelled when the net is closed."""
        name = f"task {id(task)}"
        self._flights[name] = task
        task.add_done_callback(lambda _: self._flights.pop(name, None))

    def op_began(self) -> None:
        """A call of the user has begun."""
        self._ops += 1

    def op_ended(self) -> None:
        """A call of the user has ended."""
        self._ops -= 1
        if not self._ops and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for calls under way, then end everything. Closing twice is fine."""
        if self._draining or self.forked:
            return
        self._draining = True
        if self._loop is None:
            self._closed = True
            return
        if self._ops:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=timeout_s)
        self._closed = True
        self._end()
        await asyncio.sleep(0)  # lets those who were still waiting see the end

    def _end(self) -> None:
        for task in list(self._flights.values()):
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for peer in self._peers.values():
            peer.close("the client was closed")
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(ClientClosedError("the client was closed"))

    @property
    def is_open(self) -> bool:
        """Whether connections were made and not closed again."""
        return not self._draining and not self.forked and bool(self._peers)


class _Peer:
    """One node as the net sees it: the link, its connection and when to try the next one."""

    __slots__ = ("_net", "_unsent", "backoff", "connection", "link", "retry_at")

    def __init__(self, net: AsyncNet, link: Link, backoff: Backoff) -> None:
        self._net = net
        self.link = link
        self.connection: Connection | None = None
        self.backoff = backoff
        self.retry_at = 0.0
        self._unsent: list[bytes] = []

    def flush(self) -> None:
        """Send what waits, in as few messages as possible."""
        assert self.connection is not None
        if self._unsent:
            return  # goes on when the connection is writable again
        messages = self.link.take()
        for at, message in enumerate(messages):
            if not self.connection.send(message):
                self._unsent = messages[at:]
                return

    def received(self, message: bytes) -> None:
        """A message of the node."""
        if self.link.feed(message):
            self._changed()

    def writable(self) -> None:
        """There is room again."""
        assert self.connection is not None
        while self._unsent and self.connection.send(self._unsent[0]):
            del self._unsent[0]
        if not self._unsent and self.link.sendable:
            self.flush()

    def lost(self, reason: str, *, refused_key: bool = False) -> None:
        """The connection ended."""
        if refused_key:
            self.link.refuse(AuthError(f"{self.link.address}: {reason}", address=self.link.address))
        else:
            self.link.lose(reason)
        self._changed()

    def expire(self, now: float) -> float:
        """End what is due; when is the next."""
        if not self.link.usable():
            return math.inf
        next_due = self.link.expire(now)
        if not self.link.usable():
            self._changed()
        return next_due

    def close(self, reason: str) -> None:
        """End it for good."""
        self.link.lose(reason)
        if self.connection is not None:
            self.connection.close()

    def _changed(self) -> None:
        """The link has become ready or useless."""
        if self.link.state is LinkState.READY:
            _log.debug("connected to %s", self.link.address)
            self.backoff = Backoff(self._net._settings.random)
            self._net.flush_soon()
            return
        _log.info("no connection to a node: %s", self.link.refusal)
        pause_s = BACKOFF_S_MAX if self.link.state is LinkState.REFUSED else self.backoff.next()
        self.retry_at = self._net.now() + pause_s
        if self.connection is not None:
            self.connection.close()


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Everybody may have left before it failed; that is no reason for the loop to complain."""
    if not task.cancelled():
        task.exception()


def _give_up(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def current_owner() -> object:
    """Who runs this code: the current task. Iterators compare it with their first user."""
    return asyncio.current_task()
