"""The two kinds of socket a worker or manifest opens: its link to the router, and a pipe to another store's peer plane.

Invariants: every libzmq default that could hang, hide or hoard is replaced; nothing here blocks.
Not here: the router's own sockets (nokv.router.sockets), key files (nokv.router.curve).
"""

import zmq

from nokv.config import NodeConfig, link_endpoint
from nokv.proto.control import StoreInfo
from nokv.router.curve import KeyPair

MANIFEST_IDENTITY = b"m"
Context = zmq.Context[zmq.Socket[bytes]]


def worker_identity(worker_id: int) -> bytes:
    """The link identity of a worker."""
    return b"w%d" % worker_id


def open_link(context: Context, config: NodeConfig, identity: bytes) -> zmq.Socket[bytes]:
    """A DEALER connected to the router of this node. A restarted process takes its predecessor's identity over."""
    socket = context.socket(zmq.DEALER)
    socket.identity = identity
    socket.linger = config.router.linger_ms
    socket.sndhwm = socket.rcvhwm = config.router.link_hwm
    socket.reconnect_ivl = config.router.reconnect_ms
    socket.reconnect_ivl_max = config.router.reconnect_ms_max
    socket.immediate = 0  # queue while the router restarts: the queue is bounded by the high-water mark
    socket.connect(link_endpoint(config))
    return socket


def open_peer_sender(context: Context, config: NodeConfig, info: StoreInfo, keys: KeyPair | None) -> zmq.Socket[bytes]:
    """A DEALER connected to another store's peer plane; it drops what piles up while that store is away."""
    router = config.router
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.sndhwm = router.send_hwm
    socket.rcvhwm = 1  # nothing is ever answered on this connection
    socket.handshake_ivl = router.handshake_ms
    socket.heartbeat_ivl = router.heartbeat_ms
    socket.heartbeat_timeout = router.heartbeat_timeout_ms
    socket.reconnect_ivl = router.reconnect_ms
    socket.reconnect_ivl_max = router.reconnect_ms_max
    socket.connect_timeout = router.handshake_ms
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = router.keepalive_idle_s
    socket.immediate = 1  # no pipe, no queue: messages for a dead store are stale before it is back
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = info.server_key.encode()
    socket.connect(f"tcp://{info.peer_addr}")
    return socket
