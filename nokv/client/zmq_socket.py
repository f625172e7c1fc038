"""ZeroMQ sockets as a client needs them: one socket is one connection, and its end is an event.

Why: libzmq reconnects silently and queues without limit by default; then a request could reach a node long after its
caller was told that it failed. Here a socket connects once, and a monitor tells how that went.
Invariants: one context for each process, never terminated: terminating waits for sockets, and a client that was
dropped without being closed must not hang the garbage collector. RECONNECT_IVL -1 and LINGER 0 on every socket.
Heartbeats are libzmq's own, so a half-open connection ends within HEARTBEAT_TIMEOUT_MS even while the program is busy.
Not here: event loops (zmq_connection.py), blocking use (blocking_net.py), what messages mean (link.py).
"""

import os
from threading import Lock
from typing import Final, NamedTuple

import zmq

from nokv.client.endpoint import Endpoint
from nokv.proto.frame import FRAME_BYTES_MAX

HEARTBEAT_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 6_000
"""Three missed heartbeats."""
SEND_HWM: Final = 4_096
"""Messages in the pipe; requests are bounded by max_inflight long before."""
RECEIVE_HWM: Final = 4_096
KEEPALIVE_IDLE_S: Final = 30

POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
"""As plain numbers: flags of an enum cost a microsecond for each `&`."""

_ENDS: Final = {
    zmq.Event.DISCONNECTED: "connection closed by the node",
    zmq.Event.CLOSED: "connection refused",
    zmq.Event.CLOSE_FAILED: "connection refused",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "handshake failed",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "handshake failed: not the same security on both sides",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "the node does not accept our key",
}
_MONITORED: Final = sum(int(event) for event in _ENDS)
_REFUSED_KEY: Final = (zmq.Event.HANDSHAKE_FAILED_AUTH, zmq.Event.HANDSHAKE_FAILED_PROTOCOL)


SOCKETS_MAX: Final = 32_768
"""Of all clients of the process: two for each connection."""

_contexts: "Final[dict[int, zmq.Context[zmq.Socket[bytes]]]]" = {}
_contexts_lock: Final = Lock()


class CurveKey(NamedTuple):
    """Our own CURVE pair, Z85 encoded."""

    public: bytes
    secret: bytes


class Ended(NamedTuple):
    """Why a connection is over."""

    reason: str
    refused_key: bool


def shared_context() -> "zmq.Context[zmq.Socket[bytes]]":
    """This process's context; a forked child gets one of its own."""
    with _contexts_lock:
        context = _contexts.get(os.getpid())
        if context is None:
            context = _contexts[os.getpid()] = zmq.Context()
            context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        return context


def open_socket(
    endpoint: Endpoint, *, connect_ms: int, curve: CurveKey | None
) -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes]]":
    """A DEALER that begins to connect, and the PAIR its end is told on. The caller closes both."""
    dealer = shared_context().socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, connect_ms)
    dealer.setsockopt(zmq.HANDSHAKE_IVL, connect_ms)
    dealer.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    dealer.setsockopt(zmq.SNDHWM, SEND_HWM)
    dealer.setsockopt(zmq.RCVHWM, RECEIVE_HWM)
    dealer.setsockopt(zmq.MAXMSGSIZE, 2 * FRAME_BYTES_MAX)
    dealer.setsockopt(zmq.TCP_KEEPALIVE, 1)
    dealer.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    if endpoint.address.startswith("["):
        dealer.setsockopt(zmq.IPV6, 1)
    if curve is not None:
        dealer.curve_serverkey = endpoint.server_key.encode()
        dealer.curve_publickey = curve.public
        dealer.curve_secretkey = curve.secret
    monitor = dealer.get_monitor_socket(_MONITORED)
    monitor.setsockopt(zmq.LINGER, 0)
    try:
        dealer.connect(f"tcp://{endpoint.address}")
    except zmq.ZMQError:
        close_socket(dealer, monitor)
        raise
    return dealer, monitor


def close_socket(dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]") -> None:
    """Close both; unsent messages are dropped."""
    if not dealer.closed:
        dealer.disable_monitor()
    monitor.close(0)
    dealer.close(0)


def events_of(socket: "zmq.Socket[bytes]") -> int:
    """What the socket is ready for: POLLIN, POLLOUT."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return events


def descriptor_of(socket: "zmq.Socket[bytes]") -> int:
    """The edge-triggered file descriptor to watch."""
    descriptor = socket.getsockopt(zmq.FD)
    assert isinstance(descriptor, int)
    return descriptor


def read_end(monitor: "zmq.Socket[bytes]") -> Ended | None:
    """What the monitor has to tell, without waiting; None: nothing."""
    if not events_of(monitor) & POLLIN:
        return None
    head, *_ = monitor.recv_multipart(zmq.NOBLOCK)
    event = zmq.Event(int.from_bytes(head[:2], "little"))
    return Ended(_ENDS.get(event, "connection ended"), event in _REFUSED_KEY)
