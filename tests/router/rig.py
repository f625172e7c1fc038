"""A router on real sockets in a thread of the test, and the other ends of its sockets."""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType

import msgspec
import zmq

from nokv.config import CurveSection, ListenSection, NodeConfig, NodeSection, link_endpoint
from nokv.proto.control import Routing
from nokv.proto.frame import Kind, encode, split
from nokv.proto.stats import RouterStats
from nokv.router.auth import Gate
from nokv.router.curve import KeyPair, node_keys
from nokv.router.dispatch import Dispatcher
from nokv.router.loop import Loop
from nokv.router.sockets import BindRefused, Sockets
from tests.router.wire import hello, routing, routing_message

DEADLINE_S = 10.0
"""Longest wait for anything that should happen soon."""

Socket = zmq.Socket[bytes]


def wait_until(holds: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition of another thread or process."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def node_config(run_dir: str, curve_dir: str = "", **router: object) -> NodeConfig:
    """A configuration on free ports; `router` overrides limits."""
    client, peer = free_ports(2)
    config = NodeConfig(
        node=NodeSection(run_dir=run_dir),
        listen=ListenSection(client=f"127.0.0.1:{client}", peer=f"127.0.0.1:{peer}"),
        curve=CurveSection(dir=curve_dir),
    )
    return msgspec.structs.replace(config, router=msgspec.structs.replace(config.router, **router))


class Rig:
    """Starts in `with`; every socket it hands out is closed at the end."""

    def __init__(self, curve_dir: str = "", **router: object) -> None:
        self.run_dir = tempfile.mkdtemp(prefix="nokv-router-", dir="/tmp")  # short: it holds a socket
        self.keys: KeyPair | None = node_keys(curve_dir)
        for attempt in range(5):
            self.config = node_config(self.run_dir, curve_dir, **router)
            try:
                self.sockets = Sockets(self.config, self.keys)
                break
            except BindRefused:
                if attempt == 4:
                    raise
        self.dispatcher = Dispatcher(self.config, "9.9")
        self.gate = Gate(self.keys.public if self.keys else None)
        self.loop = Loop(self.config, self.sockets, self.dispatcher, self.gate)
        self._thread = threading.Thread(target=self._run, name="router")
        self._failure: BaseException | None = None
        self.context = zmq.Context[Socket]()
        self._held: list[Socket] = []  # a socket nobody holds is closed at once

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self._failure = error
            raise

    def __enter__(self) -> "Rig":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.stop()
        self._thread.join(DEADLINE_S)
        alive = self._thread.is_alive()
        self.context.destroy(linger=0)
        self.sockets.close()
        shutil.rmtree(self.run_dir)
        assert not alive and self._failure is None

    @property
    def stats(self) -> RouterStats:
        return self.dispatcher.counters.statistics()

    # ---- the other ends ---------------------------------------------------------------------------------------------

    def link(self, identity: bytes, **options: int) -> Socket:
        """A worker's or the manifest's end."""
        made = self._dealer(identity, options)
        made.connect(link_endpoint(self.config))
        return made

    def manifest(self, table: Routing | None = None) -> Socket:
        """A manifest that has pushed a routing, which the router has taken in."""
        made = self.link(b"m")
        made.send_multipart(routing_message(table or routing())[1:])
        wait_until(lambda: self.dispatcher.routing is not None, "routing is taken in")
        return made

    def worker(self, index: int, **options: int) -> Socket:
        """A worker that the router knows to be connected."""
        made = self.link(b"w%d" % index, **options)
        before = self.dispatcher.counters.malformed
        made.send_multipart([b"X", b""])  # nonsense, which is counted
        wait_until(lambda: self.dispatcher.counters.malformed > before, f"worker {index} is connected")
        return made

    def client(
        self,
        *,
        identity: bytes = b"",
        keys: KeyPair | None = None,
        server_key: bytes | None = None,
        greet: bool = True,
        **options: int,
    ) -> Socket:
        """A client, connected and greeted unless told otherwise."""
        made = self._dealer(identity, options, keys, server_key)
        made.connect(f"tcp://{self.config.listen.client}")
        if greet:
            made.send(encode(Kind.PING, 0, 0))
            assert receive(made) == encode(Kind.OK, 0, 0)
        return made

    def peer(self, *, keys: KeyPair | None = None, server_key: bytes | None = None) -> Socket:
        """Another store's end of the peer plane."""
        made = self._dealer(b"", {"sndtimeo": 100}, keys, server_key)
        made.connect(f"tcp://{self.config.listen.peer}")
        return made

    def raw(self, address: str | None = None) -> socket.socket:
        """A bare TCP connection to the client plane."""
        host, port = (address or self.config.listen.client).split(":")
        return socket.create_connection((host, int(port)), timeout=DEADLINE_S)

    def _dealer(
        self,
        identity: bytes,
        options: dict[str, int],
        keys: KeyPair | None = None,
        server_key: bytes | None = None,
    ) -> Socket:
        made = self.context.socket(zmq.DEALER)
        self._held.append(made)
        made.linger = 0
        made.sndtimeo = int(DEADLINE_S * 1000)
        if identity:
            made.identity = identity
        for name, value in options.items():
            setattr(made, name, value)
        if keys is not None:
            made.curve_publickey, made.curve_secretkey = keys.public, keys.secret
            made.curve_serverkey = server_key or (self.keys or keys).public
        return made


def receive(source: Socket, deadline_s: float = DEADLINE_S) -> bytes:
    """One message of one part, or a failed test."""
    assert source.poll(int(deadline_s * 1000)), "no message in time"
    return source.recv()


def silent(source: Socket, wait_ms: int = 100) -> bool:
    """Whether nothing arrives in `wait_ms`."""
    return not source.poll(wait_ms)


def receive_link(source: Socket) -> list[tuple[bytes, bytes]]:
    """One link message as (address, frames) pairs."""
    assert source.poll(int(DEADLINE_S * 1000)), "no message in time"
    parts = source.recv_multipart()
    return list(zip(parts[::2], parts[1::2], strict=True))


def served(client: Socket, worker: Socket, request: bytes) -> bool:
    """Send a request through, answer it, and see the answer come back."""
    client.send(request)
    ((address, frames),) = receive_link(worker)
    assert frames == request and address[:1] == b"C"
    (frame,) = split(request)
    worker.send_multipart([address, encode(Kind.OK, frame.request_id, frame.region_id)])
    return receive(client) == encode(Kind.OK, frame.request_id, frame.region_id)


def greeted(client: Socket) -> bool:
    """Whether the router answers this client's HELLO within a second."""
    client.send(hello(0))
    return bool(client.poll(1000)) and next(iter(split(client.recv()))).kind == Kind.OK


def closed_by_router(connection: socket.socket) -> bool:
    """Whether the connection ends; what the router says before that is read away."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def open_descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))
