"""Connections: who may answer, how fast a wrong address is found out, encryption, forks and loops."""

import asyncio
import gc
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import nokv
from nokv.proto.control import HelloReply, encode_body
from nokv.proto.errors import ProtocolMismatch, ServerIsBusy, encode_error
from nokv.proto.frame import HEADER, MAGIC, VERSION, Kind, encode
from nokv.proto.ids import ClusterId, StoreId
from nokv.router.curve import make_key_file
from tests.client.both import Db
from tests.client.fake_cluster import FakeCluster
from tests.client.fake_nodes import FakeNodes


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A TCP server that accepts and says nothing: a wrong port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield int(server.getsockname()[1])


class Speaker:
    """A ROUTER that answers every message with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._answer = answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(50):
                client, _ = self._socket.recv_multipart()
                self._socket.send_multipart((client, self._answer))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(0)


def timed(db: Db, error: type[nokv.NokvError], text: str = ".") -> float:
    began = time.monotonic()
    with pytest.raises(error, match=text):
        db.connect()
    return time.monotonic() - began


def test_nobody_listens(kind: str, free_port: int) -> None:
    db = Db(kind, f"nokv://127.0.0.1:{free_port}?connect_timeout=300ms")
    assert 0.25 < timed(db, nokv.ConnectError, "refused") < 3.0
    with pytest.raises(nokv.ConnectError) as caught:
        db.put(b"k", b"v")
    assert caught.value.outcome == "not_applied"
    assert isinstance(caught.value, ConnectionError)
    db.end()


def test_wrong_port_fails_in_two_seconds(silent_port: int) -> None:
    db = Db("blocking", f"nokv://127.0.0.1:{silent_port}")
    assert 1.9 < timed(db, nokv.ConnectError) < 4.0
    db.end()


def test_wrong_port_fails_within_connect_timeout(kind: str, silent_port: int) -> None:
    db = Db(kind, f"nokv://127.0.0.1:{silent_port}?connect_timeout=300ms")
    assert 0.25 < timed(db, nokv.ConnectError) < 3.0
    db.end()


def test_one_good_seed_among_wrong_ones(kind: str, silent_port: int, free_port: int, nodes: FakeNodes) -> None:
    url = f"nokv://127.0.0.1:{silent_port},127.0.0.1:{free_port},{nodes.address(2)}"
    db = Db(kind, url)
    began = time.monotonic()
    db.put(b"k", b"v")
    assert db.get(b"k") == b"v"
    assert time.monotonic() - began < 4.5
    db.end()


def test_node_may_be_started_after_the_client(kind: str, free_port: int) -> None:
    cluster = FakeCluster(store_count=1)
    db = Db(kind, f"nokv://127.0.0.1:{free_port}?connect_timeout=5s")
    nodes = FakeNodes(cluster, listen_at=f"tcp://127.0.0.1:{free_port}")
    starter = threading.Timer(0.3, nodes.__enter__)
    starter.start()
    db.connect()
    db.put(b"k", b"v")
    db.end()
    starter.join()
    nodes.__exit__(None, None, None)


HELLO_OF_A_STRANGER = encode(Kind.OK, 1, 0, encode_body(HelloReply(VERSION, ClusterId(99), StoreId(1), "x")))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (encode(Kind.ERROR, 1, 0, encode_error(ProtocolMismatch(VERSION + 1, VERSION))), "protocol 2"),
        (HEADER.pack(MAGIC, VERSION + 1, Kind.OK, 0, 0, 0, 1, 0), "protocol 2"),
        (HELLO_OF_A_STRANGER, "cluster 99, not to 5"),
        (b"* OK IMAP4 ready, this is no database at all", "no NoKV node"),
    ],
)
def test_node_that_does_not_fit(kind: str, answer: bytes, text: str) -> None:
    """A mismatch is told at once, not after connect_timeout."""
    speaker = Speaker(answer)
    db = Db(kind, f"nokv://127.0.0.1:{speaker.port}?cluster_id=5")
    try:
        assert timed(db, nokv.ProtocolError, text) < 1.9
    finally:
        db.end()
        speaker.close()


def test_node_that_is_still_starting(kind: str) -> None:
    speaker = Speaker(encode(Kind.ERROR, 1, 0, encode_error(ServerIsBusy("starting"))))
    db = Db(kind, f"nokv://127.0.0.1:{speaker.port}?connect_timeout=300ms")
    try:
        assert 0.25 < timed(db, nokv.ConnectError, "starting") < 3.0
    finally:
        db.end()
        speaker.close()


def test_cluster_of_another_id_is_refused_by_the_node(kind: str, nodes: FakeNodes) -> None:
    db = Db(kind, nodes.url + "&cluster_id=5")
    timed(db, nokv.ProtocolError, "belongs to cluster 77, not to 5")
    db.end()


def test_address_that_cannot_be_resolved(kind: str) -> None:
    db = Db(kind, "nokv://no-such-host.invalid?connect_timeout=300ms")
    timed(db, nokv.ConnectError)
    db.end()


# ---- CURVE ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[FakeNodes, str, Path]]:
    """One encrypted node that lets in a single key: (nodes, URL with the server's key, the client's key file)."""
    pair = make_key_file(tmp_path / "client.key")
    public, secret = zmq.curve_keypair()
    nodes = FakeNodes(FakeCluster(store_count=1), curve=(public, secret, pair.public))
    with nodes:
        quoted = "".join(f"%{byte:02x}" for byte in public)
        yield (
            nodes,
            f"nokv+curve://{nodes.address(1)}?connect_timeout=500ms&server_key={quoted}",
            tmp_path / "client.key",
        )


def test_encrypted(kind: str, secure: tuple[FakeNodes, str, Path]) -> None:
    _, url, key = secure
    db = Db(kind, f"{url}&key={key}")
    db.put(b"k", b"v")
    assert db.get(b"k") == b"v"
    db.end()


def test_client_key_that_is_not_let_in(kind: str, secure: tuple[FakeNodes, str, Path]) -> None:
    _, url, _ = secure
    db = Db(kind, url)
    assert timed(db, nokv.AuthError, "key") < 3.0
    db.end()


def test_plain_client_at_an_encrypted_node(kind: str, secure: tuple[FakeNodes, str, Path]) -> None:
    nodes, _, _ = secure
    db = Db(kind, f"nokv://{nodes.address(1)}?connect_timeout=300ms")
    assert timed(db, nokv.ConnectError) < 3.0
    db.end()


def test_wrong_server_key(kind: str, secure: tuple[FakeNodes, str, Path]) -> None:
    nodes, _, key = secure
    other, _ = zmq.curve_keypair()
    db = Db(kind, f"nokv+curve://{nodes.address(1)}?connect_timeout=300ms&key={key}", server_key=other.decode())
    assert timed(db, nokv.ConnectError) < 3.0
    db.end()


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o644, None, "lets others in"),
        (0o600, "public x\n", "1 characters"),
        (0o600, "public " + "0" * 40 + "\nsecret " + "0" * 40 + "\n", "do not belong"),
        (0o600, "public " + '"' * 40 + "\nsecret " + '"' * 40 + "\n", "Z85"),
    ],
)
def test_bad_key_files(kind: str, tmp_path: Path, mode: int, text: str | None, reason: str) -> None:
    path = tmp_path / "k"
    make_key_file(path)
    if text is not None:
        path.write_text(text)
    path.chmod(mode)
    with pytest.raises(nokv.UsageError, match=reason):
        Db(kind, f"nokv+curve://h?server_key={'0' * 40}&key={path}").connect()


# ---- forks, threads, loops ------------------------------------------------------------------------------------------


def in_child(work: Any) -> str:
    """What `work` returns in a forked child."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(write_end, work().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_forked_child_is_told_and_can_connect_again(nodes: FakeNodes) -> None:
    db = nokv.Client(nodes.url)
    db.put(b"k", b"v")

    def child() -> str:
        try:
            db.get(b"k")
        except nokv.ClientForkedError as error:
            db.close()
            with nokv.Client(db.config) as own:
                return f"{error.code} {own.get(b'k')!r}"
        return "not noticed"

    assert in_child(child) == "client_forked b'v'"
    assert db.get(b"k") == b"v", "the parent's connections are untouched"
    db.close()


def test_forked_async_client(nodes: FakeNodes) -> None:
    async def parent() -> str:
        async with nokv.AsyncClient(nodes.url) as db:
            await db.put(b"k", b"v")

            def child() -> str:
                try:
                    db.get(b"k").send(None)
                except nokv.ClientForkedError:
                    return "told"
                return "not noticed"

            found = in_child(child)
            assert await db.get(b"k") == b"v"
            return found

    assert asyncio.run(parent()) == "told"


def test_async_client_belongs_to_one_loop(nodes: FakeNodes) -> None:
    db = nokv.AsyncClient(nodes.url)

    async def use() -> bytes | None:
        return await db.get(b"k")

    async def use_and_close() -> None:
        await use()
        await db.close()

    with asyncio.Runner() as runner:
        runner.run(use())
        with asyncio.Runner() as other, pytest.raises(nokv.WrongThreadError, match="loop"):
            other.run(use())
        runner.run(use_and_close())


def test_scan_belongs_to_one_task(nodes: FakeNodes) -> None:
    async def story() -> None:
        async with nokv.AsyncClient(nodes.url) as db:
            for i in range(3):
                await db.put(b"%d" % i, b"v")
            scan = db.scan()
            await anext(scan)
            with pytest.raises(nokv.WrongThreadError):
                await asyncio.ensure_future(anext(scan))
            assert len([pair async for pair in scan]) == 2

    asyncio.run(story())


def test_scan_belongs_to_one_thread(nodes: FakeNodes) -> None:
    with nokv.Client(nodes.url) as db:
        for i in range(3):
            db.put(b"%d" % i, b"v")
        scan = db.scan()
        next(scan)
        caught: list[BaseException] = []

        def other() -> None:
            try:
                next(scan)
            except nokv.NokvError as error:
                caught.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert [type(error) for error in caught] == [nokv.WrongThreadError]
        assert len(list(scan)) == 2


def test_one_client_for_many_threads(nodes: FakeNodes, cluster: FakeCluster) -> None:
    """Each thread has sockets of its own; sums and leaders stay right while borders and leaders move."""
    errors: list[BaseException] = []
    with nokv.Client(nodes.url, timeout=20) as db:

        def work(number: int) -> None:
            try:
                for i in range(25):
                    db.incr(b"sum")
                    db.put(b"%c%d" % (97 + (number * 7 + i) % 26, i), b"v")
                    assert len(db.get_many([b"sum"])) == 1
            except (nokv.NokvError, AssertionError) as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for at, cut in enumerate((b"c", b"t", b"k")):
            cluster.split(cut)
            cluster.lead(at, at % 3 + 1)
        for thread in threads:
            thread.join()
        assert errors == []
        assert db.get(b"sum") == b"200"


def test_close_wakes_threads_that_wait(nodes: FakeNodes) -> None:
    db = nokv.Client(nodes.url, timeout=60)
    db.put(b"a", b"v")
    for store in (1, 2, 3):
        nodes.stall(store)
    ended: list[nokv.NokvError] = []

    def work() -> None:
        try:
            db.get(b"a")
        except nokv.NokvError as error:
            ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    db.close(timeout=0.2)
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 10.0
    assert [type(error) for error in ended] == [nokv.ClientClosedError] * 4


def test_max_inflight_counts_all_threads(nodes: FakeNodes) -> None:
    db = nokv.Client(nodes.url, max_inflight=1, timeout=1.0)
    db.put(b"a", b"v")
    for store in (1, 2, 3):
        nodes.stall(store)

    def block() -> None:
        with pytest.raises(nokv.NokvError):
            db.get(b"a")

    blocker = threading.Thread(target=block)
    blocker.start()
    time.sleep(0.1)
    with nokv.deadline(0.2), pytest.raises(nokv.BusyError):
        db.get(b"a")
    db.close(timeout=0)
    blocker.join()


def test_unclosed_clients_warn_and_vanish(nodes: FakeNodes) -> None:
    """Dropping a client is a leak worth a warning, never a hang."""

    def drop() -> None:
        db = nokv.Client(nodes.url)
        db.put(b"k", b"v")
        db.self_reference = db  # type: ignore[attr-defined]

    with pytest.warns(ResourceWarning, match="Client was not closed"):
        drop()
        gc.collect()


def test_threads_that_end_take_their_sockets_along(nodes: FakeNodes) -> None:
    with nokv.Client(nodes.url) as db:
        for _ in range(20):
            thread = threading.Thread(target=db.get, args=(b"k",))
            thread.start()
            thread.join()
        assert len(db._net._sets) <= 2
