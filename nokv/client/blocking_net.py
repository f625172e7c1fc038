"""Requests over connections of the calling thread.

Why: ZeroMQ sockets belong to one thread; with a set of its own, a thread sends and waits without a loop, a lock or a
hand-over to another thread.
Invariants: every request ends by answer, loss or expiry, and is forgotten when its caller leaves, whatever made it
leave; never more than max_inflight are under way over all threads; a closed net wakes every waiting thread.
Not here: meaning (link.py), retries (caller.py). The twin for event loops is async_net.py.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import zmq

from nokv.client.backoff import BACKOFF_S_MAX, Backoff
from nokv.client.endpoint import Endpoint
from nokv.client.errors import AuthError, ClientClosedError, ClientForkedError, NokvError
from nokv.client.fork_guard import watch_fork
from nokv.client.link import UNSENT, Answer, Link, LinkState, Session
from nokv.client.net import BUSY, NetSettings, Request
from nokv.client.zmq_socket import POLLIN, POLLOUT, CurveKey, close_socket, events_of, open_socket, read_end

WAIT_SLICE_MS: Final = 100
"""A waiting thread looks this often whether the client was closed; there is no other way to wake it."""

_log: Final = logging.getLogger("nokv.net")


class BlockingNet:
    """The connections of one Client: a set for each thread that uses it."""

    def __init__(self, settings: NetSettings, session: Session) -> None:
        # Constant
        self._settings = settings
        self._session = session

        # Shared by all threads
        self.forked = False
        self._curve = settings.curve_key()
        self._closing = threading.Event()
        self._permits = threading.BoundedSemaphore(settings.max_inflight)
        self._guard = threading.Lock()
        self._idle = threading.Condition(self._guard)
        self._draining = False
        self._ops = 0
        self._sets: list[_SocketSet] = []
        self._flights: dict[str, threading.Lock] = {}

        # One for each thread
        self._local = threading.local()
        watch_fork(self)

    # ---- guards and clock -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the client may be used.

        Raises:
            ClientClosedError, ClientForkedError.
        """
        if self.forked:
            raise ClientForkedError("this process was forked after the client was made; make a new one here")
        if self._draining:
            raise ClientClosedError("the client is closed")

    def now(self) -> float:
        """The monotonic clock, in seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait, or less if the client is closed meanwhile."""
        self._closing.wait(seconds)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def request(
        self, endpoint: Endpoint, kind: int, region_id: int, body: bytes, *, due: float, unbounded: bool = False
    ) -> Answer:
        """Send one request and wait for its answer until `due`. `unbounded` requests do not count as in flight."""
        if unbounded:
            return self._exchange(((endpoint, kind, region_id, body, due),))[0]
        if not self._permits.acquire(timeout=max(0.0, due - time.monotonic())):
            return BUSY, b"max_inflight requests are under way"
        try:
            return self._exchange(((endpoint, kind, region_id, body, due),))[0]
        finally:
            self._permits.release()

    def request_many(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests together and wait for all their answers, in their order."""
        return self._exchange(requests)

    def _exchange(self, requests: Sequence[Request]) -> list[Answer]:
        with self._own_set() as sockets:
            return sockets.exchange(requests)

    def refusal(self, endpoint: Endpoint) -> NokvError | None:
        """Why the node at `endpoint` cannot be used at all (protocol, cluster, key); None: no such reason."""
        sockets: _SocketSet | None = getattr(self._local, "sockets", None)
        return sockets.refusal(endpoint) if sockets is not None else None

    @contextmanager
    def _own_set(self) -> "Iterator[_SocketSet]":
        """This thread's sockets, in use until the block ends.

        Raises:
            ClientClosedError: the client was closed before or meanwhile.
        """
        with self._guard:
            if self.forked or self._closing.is_set():
                raise ClientClosedError("the client was closed")
            sockets: _SocketSet | None = getattr(self._local, "sockets", None)
            if sockets is None:
                sockets = self._local.sockets = _SocketSet(self._settings, self._session, self._curve, self._closing)
                self._sets = [kept for kept in self._sets if kept.owner.is_alive()] + [sockets]
            sockets.busy = True
        try:
            yield sockets
        finally:
            with self._guard:
                sockets.busy = False
                if self._closing.is_set():
                    sockets.close()

    # ---- shared work and the end ------------------------------------------------------------------------------------

    def once(self, name: str, work: Callable[[], None], *, due: float) -> None:
        """Run `work`, unless another thread is at it: then wait for its end or for `due`, whichever comes first.

        Raises:
            NokvError: what `work` raised.
        """
        lock = self._flights.setdefault(name, threading.Lock())
        if lock.acquire(blocking=False):
            try:
                work()
            finally:
                lock.release()
        elif lock.acquire(timeout=max(0.0, due - time.monotonic())):
            lock.release()

    def op_began(self) -> None:
        """A call of the user has begun."""
        with self._guard:
            self._ops += 1

    def op_ended(self) -> None:
        """A call of the user has ended."""
        with self._guard:
            self._ops -= 1
            if not self._ops:
                self._idle.notify_all()

    def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for calls under way, then end them. Closing twice is fine."""
        if self.forked:
            return
        with self._guard:
            if self._draining:
                return
            self._draining = True
            self._idle.wait_for(lambda: not self._ops, timeout_s)
            self._closing.set()
            # A set that is not in use may be closed from here: its thread cannot take it again. The others are closed
            # by their threads, which look at `closing` every WAIT_SLICE_MS.
            for sockets in self._sets:
                if not sockets.busy:
                    sockets.close()

    @property
    def is_open(self) -> bool:
        """Whether connections were made and not closed again."""
        return not self._draining and not self.forked and bool(self._sets)


class _Slot:
    """Waits for one answer; the blocking counterpart of a future."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: Answer | None = None

    def done(self) -> bool:
        return self.answer is not None

    def set_result(self, answer: Answer, /) -> None:
        self.answer = answer


class _Node:
    """One node as a thread sees it: the link, its sockets and when to try the next ones."""

    __slots__ = ("backoff", "dealer", "link", "monitor", "retry_at", "unsent")

    def __init__(self, link: Link, dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", backoff: Backoff) -> None:
        self.link = link
        self.dealer = dealer
        self.monitor = monitor
        self.backoff = backoff
        self.retry_at = 0.0
        self.unsent: list[bytes] = []


class _SocketSet:
    """The connections of one thread."""

    def __init__(
        self,
        settings: NetSettings,
        session: Session,
        curve: CurveKey | None,
        closing: threading.Event,
    ) -> None:
        # Constant
        self.owner = threading.current_thread()
        self._closing = closing
        self._settings = settings
        self._session = session
        self._curve = curve

        # Volatile; `busy` is guarded by the net's lock, the rest belongs to whoever is inside
        self.busy = False
        self._nodes: dict[str, _Node] = {}
        self._poller = zmq.Poller()
        self._of_socket: dict[object, _Node] = {}
        self._next_id = 0

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests and wait for all their answers."""
        slots: list[_Slot] = []
        started: list[tuple[Link, int]] = []
        last_due = 0.0
        try:
            for endpoint, kind, region_id, body, due in requests:
                slot = _Slot()
                slots.append(slot)
                node = self._node(endpoint)
                if node is None:
                    slot.set_result((UNSENT, self._refusal_text(endpoint)))
                    continue
                self._next_id += 1
                deadline_ms = max(1, int((due - time.monotonic()) * 1000))
                node.link.add(
                    self._next_id, kind, region_id, body, waiter=slot, due=due, deadline_ms=deadline_ms
                )  # fmt: skip
                started.append((node.link, self._next_id))
                last_due = max(last_due, due)
            self._flush()
            for slot in slots:
                while slot.answer is None:
                    self._turn(last_due)
        finally:
            for link, request_id in started:
                link.forget(request_id)
        return [slot.answer for slot in slots if slot.answer is not None]

    def refusal(self, endpoint: Endpoint) -> NokvError | None:
        """Why a node cannot be used at all."""
        node = self._nodes.get(endpoint.address)
        return node.link.refusal if node is not None and node.link.state is LinkState.REFUSED else None

    def close(self) -> None:
        """Close all sockets; for their thread, or for another once that has left."""
        for node in self._nodes.values():
            if node.link.usable():
                node.link.lose("the client was closed")
                close_socket(node.dealer, node.monitor)
        self._nodes.clear()
        self._of_socket.clear()

    # ---- one turn ---------------------------------------------------------------------------------------------------

    def _turn(self, until: float) -> None:
        """Wait for the next event, no longer than until something is due, and deal with it."""
        now = time.monotonic()
        wake_at = until
        for node in self._nodes.values():
            if node.link.usable():
                wake_at = min(wake_at, node.link.expire(now))
                if not node.link.usable():
                    self._ended(node)
                    return
        if self._closing.is_set():
            raise ClientClosedError("the client was closed")
        wait_ms = min(WAIT_SLICE_MS, max(0, math.ceil((wake_at - now) * 1000)))
        for socket, events in self._poller.poll(wait_ms):
            entry = self._of_socket.get(socket)
            if entry is None:
                continue  # its partner in this very batch of events has just ended the connection
            if socket is entry.monitor:
                self._monitor_event(entry)
            else:
                self._dealer_event(entry, events)
        self._flush()

    def _dealer_event(self, node: _Node, events: int) -> None:
        while events & POLLIN and node.link.usable():
            node.link.feed(node.dealer.recv(zmq.NOBLOCK))
            events = events_of(node.dealer)
        if not node.link.usable():
            self._ended(node)
        elif node.link.state is LinkState.READY:
            node.backoff = Backoff(self._settings.random)

    def _monitor_event(self, node: _Node) -> None:
        end = read_end(node.monitor)
        if end is None:
            return
        self._dealer_event(node, events_of(node.dealer))  # replies that came before the end still count
        address = node.link.address
        if not node.link.usable():
            return
        if end.refused_key:
            node.link.refuse(AuthError(f"{address}: {end.reason}", address=address))
        else:
            node.link.lose(end.reason)
        self._ended(node)

    def _flush(self) -> None:
        """Send what waits; what finds no room waits for the next turn."""
        for node in self._nodes.values():
            if node.link.sendable or node.unsent:
                node.unsent += node.link.take()
                while node.unsent:
                    try:
                        node.dealer.send(node.unsent[0], zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    del node.unsent[0]
                self._poller.modify(node.dealer, POLLIN | POLLOUT if node.unsent else POLLIN)

    # ---- connections ------------------------------------------------------------------------------------------------

    def _node(self, endpoint: Endpoint) -> _Node | None:
        """The connection to a node, made if need be; None if the last one ended so recently that it is left alone."""
        node = self._nodes.get(endpoint.address)
        if node is not None and node.link.usable():
            return node
        now = time.monotonic()
        if node is not None and now < node.retry_at:
            return None
        self._next_id += 1
        greet_due = now + self._settings.connect_timeout_s
        link = Link(endpoint.address, self._session, hello_id=self._next_id, greet_due=greet_due)
        connect_ms = max(1, int(self._settings.connect_timeout_s * 1000))
        try:
            dealer, monitor = open_socket(endpoint, connect_ms=connect_ms, curve=self._curve)
        except zmq.ZMQError as error:
            _log.info("no connection to a node: %s cannot be dialled: %s", endpoint.address, error)
            return None
        fresh = _Node(link, dealer, monitor, node.backoff if node is not None else Backoff(self._settings.random))
        self._nodes[endpoint.address] = fresh
        for socket in (dealer, monitor):
            self._poller.register(socket, POLLIN)
            self._of_socket[socket] = fresh
        # Where the connection was refused before this, there is no room; the monitor tells why.
        with suppress(zmq.Again):
            dealer.send(link.greeting(), zmq.NOBLOCK)
        return fresh

    def _ended(self, node: _Node) -> None:
        """A link has become useless: close its sockets and leave the node alone for a while."""
        _log.info("no connection to a node: %s", node.link.refusal)
        pause_s = BACKOFF_S_MAX if node.link.state is LinkState.REFUSED else node.backoff.next()
        node.retry_at = time.monotonic() + pause_s
        node.unsent.clear()
        for socket in (node.dealer, node.monitor):
            if self._of_socket.pop(socket, None) is not None:
                self._poller.unregister(socket)
        close_socket(node.dealer, node.monitor)

    def _refusal_text(self, endpoint: Endpoint) -> bytes:
        node = self._nodes.get(endpoint.address)
        if node is None or node.link.refusal is None:
            return f"{endpoint.address}: no connection".encode()
        return str(node.link.refusal).encode()


def current_owner() -> object:
    """Who runs this code: the current thread. Iterators compare it with their first user."""
    return threading.current_thread()
