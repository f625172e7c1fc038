"""A ZeroMQ connection on an event loop: raw sockets watched through their file descriptors.

Why: `zmq.asyncio` makes a future for every message and halves the throughput; here one callback takes everything that
has arrived.
Invariants: ZeroMQ's descriptor is edge-triggered, so every wake-up drains until nothing is left, and every send looks
again, since sending may have consumed the edge. Works on asyncio and uvloop alike.
Not here: what messages mean (link.py), when to connect (async_net.py).
"""

import asyncio

import zmq

from nokv.client.connection import Listener
from nokv.client.endpoint import Endpoint
from nokv.client.zmq_socket import (
    POLLIN,
    POLLOUT,
    CurveKey,
    close_socket,
    descriptor_of,
    events_of,
    open_socket,
    read_end,
)


class ZmqDialer:
    """Opens connections on one loop; see connection.Dial."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, connect_timeout_s: float, curve: CurveKey | None = None
    ) -> None:
        self._loop = loop
        self._connect_ms = max(1, int(connect_timeout_s * 1000))
        self._curve = curve

    def __call__(self, endpoint: Endpoint, listener: Listener) -> "ZmqConnection":
        """Begin to connect.

        Raises:
            zmq.ZMQError: the address cannot be one.
        """
        dealer, monitor = open_socket(endpoint, connect_ms=self._connect_ms, curve=self._curve)
        return ZmqConnection(self._loop, dealer, monitor, listener)


class ZmqConnection:
    """One DEALER and its monitor."""

    __slots__ = ("_closed", "_dealer", "_dealer_fd", "_listener", "_loop", "_monitor", "_monitor_fd", "_waits_to_write")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dealer: "zmq.Socket[bytes]",
        monitor: "zmq.Socket[bytes]",
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._dealer = dealer
        self._monitor = monitor
        self._listener = listener
        self._dealer_fd = descriptor_of(dealer)
        self._monitor_fd = descriptor_of(monitor)
        self._closed = False
        self._waits_to_write = False
        loop.add_reader(self._dealer_fd, self._drain)
        loop.add_reader(self._monitor_fd, self._drain_monitor)
        # What happened before the descriptors were watched raised no edge.
        loop.call_soon(self._drain)
        loop.call_soon(self._drain_monitor)

    def send(self, message: bytes) -> bool:
        """Hand over one message; False: the pipe is full."""
        if self._closed:
            return True  # `lost` has been told, or the owner closed it: nobody waits for this any more
        try:
            self._dealer.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self._waits_to_write = True
            return False
        if events_of(self._dealer) & POLLIN:
            self._loop.call_soon(self._drain)
        return True

    def close(self) -> None:
        """Stop listening and close the sockets."""
        if self._closed:
            return
        self._closed = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._dealer_fd)
            self._loop.remove_reader(self._monitor_fd)
        close_socket(self._dealer, self._monitor)

    def _drain(self) -> None:
        if self._closed:
            return
        dealer, received = self._dealer, self._listener.received
        events = events_of(dealer)
        while events & POLLIN:
            received(dealer.recv(zmq.NOBLOCK))
            # What was received may have made the owner give up and close.
            events = 0 if dealer.closed else events_of(dealer)
        if self._waits_to_write and events & POLLOUT:
            self._waits_to_write = False
            self._listener.writable()

    def _drain_monitor(self) -> None:
        if self._closed:
            return
        end = read_end(self._monitor)
        if end is not None:
            self._drain()  # replies that came before the end still count
            self.close()
            self._listener.lost(end.reason, refused_key=end.refused_key)
