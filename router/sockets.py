"""Every socket of the router, with every option that matters set by name.

Why: libzmq's defaults drop in silence, wait 30 s for a greeting, linger for ever, take messages of any length and
never notice a dead connection. Nothing is left to them, and a test reads the options back from the live sockets.
Invariants: sends and receives never block; a plane's socket never takes over a routing id that is in use
(ROUTER_HANDOVER off: the first connection keeps its name), the link's does (a restarted worker is its predecessor);
the link and its folder are for this user only.
Known weakness: a connection may choose a routing id that libzmq was about to make up for another one, and libzmq
aborts the process when they meet. The ids start at a random 32-bit number that nobody is told; the supervisor starts
the router again.
Not here: reading and writing (loop.py), who is let in (auth.py), the workers' ends (nokv.workers.sockets).
"""

import os
import stat
from pathlib import Path
from typing import Final

import zmq

from nokv.config import ConfigError, NodeConfig, RouterSection, link_endpoint
from nokv.proto.frame import FRAME_BYTES_MAX
from nokv.router.auth import CLIENT_DOMAIN, PEER_DOMAIN
from nokv.router.curve import KeyPair

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

IO_THREADS: Final = 1
"""libzmq's threads for reading, writing and encryption. One moves more than the dispatcher can decide about."""
SOCKETS_MAX: Final = 64
"""Sockets of the context; we open seven, libzmq some of its own. Connections are limited by descriptors instead."""
LINK_PART_BYTES_MAX: Final = 4 * FRAME_BYTES_MAX
"""Longest part of a link message: replies for one client that a worker coalesced in one turn."""
KEEPALIVE_PROBES: Final = 3
KEEPALIVE_INTERVAL_S: Final = 10
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
"""Where libzmq asks; fixed by RFC 27."""

_WATCHED: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class BindRefused(Exception):
    """An address that cannot be bound: taken, not ours, or not allowed. The text names it and says why."""


class Sockets:
    """All sockets of one router."""

    def __init__(self, config: NodeConfig, keys: KeyPair | None) -> None:
        """Open and bind everything.

        Raises:
            BindRefused: one of the three addresses cannot be bound; nothing stays open.
            ConfigError: the run directory is open to other users.
        """
        _check_run_dir(config)
        self.context: Final = Context(io_threads=IO_THREADS)
        self.context.max_sockets = SOCKETS_MAX
        try:
            # The handler must be there before the first connection asks for it.
            self.zap: Final = _open_zap(self.context)
            self.link: Final = _open_link(self.context, config)
            self.client: Final = _open_plane(self.context, config.router, keys, CLIENT_DOMAIN)
            self.client.sndhwm = config.router.client_send_hwm
            self.peer: Final = _open_plane(self.context, config.router, keys, PEER_DOMAIN)
            self.peer.sndhwm = 1  # nothing is ever answered on the peer plane
            self.client_events: Final = _watch(self.context, self.client, "client")
            self.peer_events: Final = _watch(self.context, self.peer, "peer")
            _bind(self.link, link_endpoint(config), "run directory")
            _bind(self.client, f"tcp://{config.listen.client}", "client plane")
            _bind(self.peer, f"tcp://{config.listen.peer}", "peer plane")
        except BaseException:
            self.context.destroy(linger=0)
            raise

    def close(self) -> None:
        """Close everything; what was sent has `linger_ms` to leave."""
        self.client.disable_monitor()
        self.peer.disable_monitor()
        self.context.destroy()


def _check_run_dir(config: NodeConfig) -> None:
    directory = Path(config.node.run_dir)
    try:
        found = directory.stat()
    except OSError as error:
        raise ConfigError("node.run_dir", f"{directory}: {error.strerror}") from error
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigError("node.run_dir", f"{directory}: mode {mode:04o} lets other users in, chmod 0700")
    if found.st_uid != os.geteuid():
        raise ConfigError("node.run_dir", f"{directory}: belongs to user {found.st_uid}")


def _open_plane(context: Context, limits: RouterSection, keys: KeyPair | None, domain: bytes) -> Socket:
    """A ROUTER towards the world, not yet bound."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = limits.linger_ms
    socket.maxmsgsize = limits.message_bytes_max
    socket.rcvhwm = limits.receive_hwm
    socket.backlog = limits.backlog
    socket.ipv6 = 0

    socket.router_mandatory = 1  # a full or missing pipe is an error we see, not a silent drop
    socket.router_handover = 0
    socket.immediate = 1

    socket.handshake_ivl = limits.handshake_ms
    socket.heartbeat_ivl = limits.heartbeat_ms
    socket.heartbeat_timeout = limits.heartbeat_timeout_ms
    socket.heartbeat_ttl = limits.heartbeat_timeout_ms
    socket.reconnect_ivl = limits.reconnect_ms
    socket.reconnect_ivl_max = limits.reconnect_ms_max
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = limits.keepalive_idle_s
    socket.tcp_keepalive_intvl = KEEPALIVE_INTERVAL_S
    socket.tcp_keepalive_cnt = KEEPALIVE_PROBES
    socket.tcp_maxrt = limits.stall_ms

    socket.zap_domain = domain  # without CURVE too: it makes libzmq refuse ZMTP 1 and 2, whose handshakes never end
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    if keys is not None:
        socket.curve_server = 1
        socket.curve_secretkey = keys.secret
    return socket


def _open_link(context: Context, config: NodeConfig) -> Socket:
    """The ROUTER towards workers and manifest, not yet bound. No heartbeats: a dead process closes its end."""
    limits = config.router
    socket = context.socket(zmq.ROUTER)
    socket.linger = limits.linger_ms
    socket.maxmsgsize = LINK_PART_BYTES_MAX
    socket.sndhwm = limits.link_send_hwm
    socket.rcvhwm = limits.receive_hwm
    socket.backlog = limits.backlog
    socket.router_mandatory = 1
    socket.router_handover = 1
    socket.immediate = 1
    socket.handshake_ivl = limits.handshake_ms
    socket.heartbeat_ivl = 0
    return socket


def _open_zap(context: Context) -> Socket:
    """The handler that libzmq asks about each connection. A ROUTER, so that one lost asker blocks nobody."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.router_mandatory = 0  # an asker that has gone meanwhile needs no answer
    socket.bind(ZAP_ENDPOINT)
    return socket


def _watch(context: Context, socket: Socket, name: str) -> Socket:
    """Events of a plane: connections that come, go, or fail before they are one.

    Without a limit on our end: libzmq's thread would block on a full pipe. What it can hold is bounded by how many
    connections come between two turns.
    """
    endpoint = f"inproc://events-{name}"
    socket.monitor(endpoint, _WATCHED)
    events = context.socket(zmq.PAIR)
    events.linger = 0
    events.rcvhwm = 0
    events.connect(endpoint)
    return events


def _bind(socket: Socket, endpoint: str, what: str) -> None:
    umask = os.umask(0o077)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        taken = error.errno == zmq.EADDRINUSE
        reason = "is already in use" if taken else f"cannot be bound: {os.strerror(error.errno or 0)}"
        raise BindRefused(f"{what}: {endpoint} {reason}") from error
    finally:
        os.umask(umask)
