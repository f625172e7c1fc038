"""A FakeCluster behind real ZeroMQ sockets on loopback, served by one thread.

Invariants: `kill` closes the store's socket at once and `revive` binds the same port again; `stall` keeps the socket
open and answers nothing, as a stopped process would.
"""

import threading
from types import TracebackType

import zmq
from zmq.utils import z85

from nokv.proto.control import StoreInfo
from nokv.proto.ids import StoreId
from tests.client.fake_cluster import FakeCluster


class FakeNodes:
    """Context manager: every store of the cluster listens on a free port."""

    def __init__(
        self,
        cluster: FakeCluster,
        *,
        listen_at: str = "tcp://127.0.0.1:*",
        curve: tuple[bytes, bytes, bytes] | None = None,
    ) -> None:
        """`curve`: the nodes' public and secret key, and the one client key that is let in."""
        self.cluster = cluster
        self._listen_at = listen_at
        self._curve = curve
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[StoreId, zmq.Socket[bytes]] = {}
        self._commands: list[tuple[str, StoreId]] = []
        self._stalled: set[StoreId] = set()
        self._done = threading.Event()
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "FakeNodes":
        for store_id in self.cluster.stores:
            self._bind(store_id, self._listen_at)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._order("stop", StoreId(0))
        self._thread.join(10)
        self._context.destroy(0)

    @property
    def url(self) -> str:
        """All nodes as seeds, with budgets that a busy test machine cannot use up."""
        seeds = ",".join(store.client_addr for store in self.cluster.stores.values())
        return f"nokv://{seeds}?connect_timeout=15s&timeout=20s"

    def address(self, store_id: int) -> str:
        """Where a store listens."""
        return self.cluster.stores[StoreId(store_id)].client_addr

    def kill(self, store_id: int) -> None:
        """Close the store's socket: connections break, new ones are refused."""
        self._order("kill", StoreId(store_id))

    def revive(self, store_id: int) -> None:
        """Listen on the same port again."""
        self._order("revive", StoreId(store_id))

    def stall(self, store_id: int) -> None:
        """Accept everything, answer nothing."""
        self._stalled.add(StoreId(store_id))

    def _bind(self, store_id: StoreId, where: str) -> None:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if self._curve is not None:
            public, secret, _ = self._curve
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret
            socket.setsockopt(zmq.ZAP_DOMAIN, b"client")
        socket.bind(where)
        address = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(address, bytes)
        text = address.decode().removeprefix("tcp://").rstrip("\0")
        self.cluster.stores[store_id] = StoreInfo(store_id, text, f"peer{store_id}:1")
        self._sockets[store_id] = socket

    def _order(self, command: str, store_id: StoreId) -> None:
        self._done.clear()
        self._commands.append((command, store_id))
        self._wake_thread()
        assert self._done.wait(10)

    def _wake_thread(self) -> None:
        self._wake.send(b"")

    def _serve(self) -> None:
        zap = self._context.socket(zmq.REP)
        zap.bind("inproc://zeromq.zap.01")
        woken = self._context.socket(zmq.PAIR)
        woken.connect("inproc://wake")
        while True:
            poller = zmq.Poller()
            poller.register(woken, zmq.POLLIN)
            poller.register(zap, zmq.POLLIN)
            for socket in self._sockets.values():
                poller.register(socket, zmq.POLLIN)
            ready = dict(poller.poll())
            if woken in ready:
                woken.recv()
                if self._obey():
                    woken.close(0)
                    zap.close(0)
                    return
            if zap in ready:
                self._authenticate(zap)
            for store_id, socket in list(self._sockets.items()):
                if socket in ready:
                    self._answer_all(store_id, socket)

    def _authenticate(self, zap: "zmq.Socket[bytes]") -> None:
        """Answer one ZAP request (RFC 27): the allowed key gets in."""
        _, request_id, *_, key = zap.recv_multipart()
        allowed = self._curve is not None and key == z85.decode(self._curve[2])
        status = (b"200", b"OK") if allowed else (b"400", b"unknown key")
        zap.send_multipart((b"1.0", request_id, *status, b"", b""))

    def _obey(self) -> bool:
        """Carry out waiting commands; True: stop."""
        stop = False
        while self._commands:
            command, store_id = self._commands.pop(0)
            if command == "kill":
                self._sockets.pop(store_id).close(0)
            elif command == "revive":
                self._bind(store_id, f"tcp://{self.address(store_id)}")
            else:
                for socket in self._sockets.values():
                    socket.close(0)
                stop = True
            self._done.set()
        return stop

    def _answer_all(self, store_id: StoreId, socket: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                client, message = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if store_id in self._stalled:
                continue
            reply = self.cluster.receive(store_id, message)
            if reply:
                try:
                    socket.send_multipart((client, reply), zmq.NOBLOCK)
                except zmq.ZMQError:
                    continue  # the client has gone
