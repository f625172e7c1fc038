"""CURVE on live sockets: who gets in, who does not, and what is said about it."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import zmq

from nokv.proto.frame import Kind, encode
from nokv.router.curve import CLIENTS_ALLOW, PEERS_ALLOW, KeyPair, allow, make_node_dir, new_pair
from tests.router.rig import Rig, Socket, closed_by_router, receive_link, served, silent, wait_until
from tests.router.wire import get, hello, peer_hello, raft, routing, routing_message

CLIENT, PEER, STRANGER = new_pair(), new_pair(), new_pair()
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0"
"""What a ZMTP 3.0 connection begins with; the mechanism's name follows."""


pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "curve"
    make_node_dir(made)
    allow(made / CLIENTS_ALLOW, CLIENT.public.decode(), note="the client")
    allow(made / PEERS_ALLOW, PEER.public.decode(), note="store 2")
    return made


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    with Rig(str(folder), stats_ms=20, handshake_ms=500) as made:
        yield made


def refused(rig: Rig) -> int:
    """Connections that were refused. Who notices first that mechanisms differ decides how it is counted."""
    return rig.stats.auth_refused + rig.stats.handshakes_failed


def gets_in(rig: Rig, keys: KeyPair | None, **options: object) -> bool:
    """Whether a client with these keys is answered; if not, whether its refusal was counted."""
    before = refused(rig)
    client = rig.client(keys=keys, greet=False, sndtimeo=100, **options)  # type: ignore[arg-type]
    with contextlib.suppress(zmq.Again):  # refused before we have sent anything: libzmq has given the connection up
        client.send(hello(0))
    wait_until(lambda: client.poll(0) or refused(rig) > before, "an answer or a refusal")
    answered = bool(client.poll(0))
    client.close()
    return answered


def test_the_planes_speak_curve(rig: Rig) -> None:
    assert rig.keys is not None
    for plane, domain in ((rig.sockets.client, b"client"), (rig.sockets.peer, b"peer")):
        assert plane.mechanism == zmq.CURVE and plane.curve_server == 1
        assert plane.zap_domain == domain and plane.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1


def test_allowed_clients_get_in_and_the_node_itself(rig: Rig) -> None:
    rig.manifest()
    worker = rig.worker(0)
    assert served(rig.client(keys=CLIENT), worker, get(1, 1))
    assert served(rig.client(keys=rig.keys), worker, get(2, 1))
    assert rig.stats.auth_refused == 0


def test_everybody_else_is_refused_counted_and_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.manifest()
    worker, good = rig.worker(0), rig.client(keys=CLIENT)
    with caplog.at_level(logging.WARNING, "nokv.router"):
        for _ in range(3):
            assert not gets_in(rig, None), "a client without keys"
            for mechanism in (b"NULL", b"PLAIN"):
                with rig.raw() as connection:
                    connection.sendall(GREETING + mechanism.ljust(20, b"\0") + bytes(32))
                    assert closed_by_router(connection)
            assert not gets_in(rig, STRANGER), "unknown key"
            assert not gets_in(rig, PEER), "a peer's key is no client's key"
            assert not gets_in(rig, CLIENT, server_key=STRANGER.public), "another server's key"
        wait_until(lambda: len(caplog.messages) >= 3, "the log has caught up")
    assert len(caplog.messages) == len(set(caplog.messages)) == 3
    assert rig.stats.auth_refused >= 15
    assert sum("127.0.0.1" in line and "not allowed on the client plane" in line for line in caplog.messages) == 1
    assert sum("mechanism" in line for line in caplog.messages) == 1
    assert sum("public key" in line for line in caplog.messages) == 1
    for key in (STRANGER.public, STRANGER.secret, CLIENT.secret):
        assert key.decode() not in caplog.text
    assert served(good, worker, get(1, 1)), "nothing else changes"


def test_only_peer_keys_reach_the_peer_plane(rig: Rig) -> None:
    rig.manifest()
    worker = rig.worker(0)
    for keys in (CLIENT, STRANGER, rig.keys, None):
        before = refused(rig)
        peer = rig.peer(keys=keys)
        with contextlib.suppress(zmq.Again):
            peer.send(peer_hello() + raft(1, b"bad"))
        wait_until(lambda before=before: refused(rig) > before, "it is refused")  # type: ignore[misc]
    wrong_server = rig.peer(keys=PEER, server_key=STRANGER.public)
    wrong_server.send(peer_hello() + raft(1, b"bad"))
    rig.peer(keys=PEER).send(peer_hello() + raft(1, b"good"))
    assert receive_link(worker) == [(b"P", raft(1, b"good"))] and silent(worker)


def test_a_peer_that_is_allowed_later_gets_through_without_a_restart(rig: Rig, folder: Path) -> None:
    rig.manifest()
    worker, peer = rig.worker(0), rig.peer(keys=STRANGER)
    peer.send(peer_hello() + raft(1))
    wait_until(lambda: rig.stats.auth_refused >= 2, "it is refused, and tries again")
    allow(folder / PEERS_ALLOW, STRANGER.public.decode())
    assert receive_link(worker) == [(b"P", raft(1))]


def test_keys_come_and_go_without_a_restart(rig: Rig, folder: Path) -> None:
    manifest = rig.manifest()
    assert not gets_in(rig, STRANGER)
    allow(folder / CLIENTS_ALLOW, STRANGER.public.decode())
    wait_until(lambda: gets_in(rig, STRANGER), "the file is read again")

    (folder / CLIENTS_ALLOW).write_text("# nobody\n")
    wait_until(lambda: not gets_in(rig, CLIENT), "it is read again")
    manifest.send_multipart(routing_message(routing(client_keys=(CLIENT.public.decode(),)))[1:])
    wait_until(lambda: gets_in(rig, CLIENT), "pushed keys count too")
    assert not gets_in(rig, STRANGER)


def test_a_damaged_list_changes_nothing(rig: Rig, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig.manifest()
    (folder / CLIENTS_ALLOW).write_text("garbage\n")
    wait_until(lambda: "not changed" in caplog.text, "it is noticed")
    assert gets_in(rig, CLIENT)


def test_an_expired_key_is_refused(rig: Rig, folder: Path) -> None:
    rig.manifest()
    (folder / CLIENTS_ALLOW).write_text("")
    allow(folder / CLIENTS_ALLOW, CLIENT.public.decode(), until=date(2020, 1, 1))
    allow(folder / CLIENTS_ALLOW, STRANGER.public.decode(), until=date(2100, 1, 1))
    wait_until(lambda: gets_in(rig, STRANGER), "the list is read")
    assert not gets_in(rig, CLIENT)


def test_a_thief_of_an_identity_needs_a_key_and_gains_nothing_with_one(rig: Rig) -> None:
    rig.manifest()
    worker = rig.worker(0)
    owner = rig.client(identity=b"alice", keys=CLIENT)
    thieves: list[Socket] = [
        rig.client(identity=b"alice", greet=False),
        rig.client(identity=b"alice", keys=STRANGER, greet=False),
        rig.client(identity=b"alice", keys=rig.keys, greet=False),
    ]
    for thief in thieves:
        thief.sndtimeo = 100
        with contextlib.suppress(zmq.Again):
            thief.send(encode(Kind.PING, 1, 0))
    wait_until(lambda: refused(rig) >= 2, "two of them are refused")
    for i in range(20):
        assert served(owner, worker, get(i, 1))
    assert all(silent(thief, 10) for thief in thieves), "not one answer goes astray"


def test_garbage_is_dropped_here_too(rig: Rig) -> None:
    rig.manifest()
    worker, good = rig.worker(0), rig.client(keys=CLIENT)
    greeting = GREETING + b"CURVE".ljust(20, b"\0") + bytes(32)
    hello_command = b"\4\xc8\5HELLO" + bytes(194)
    connections = []
    for opening in (b"", greeting, greeting + hello_command, greeting + b"\4\xff" + b"\xff" * 255, bytes(500)) * 10:
        connections.append(rig.raw())
        connections[-1].sendall(opening)
    for connection in connections:
        assert closed_by_router(connection)
        connection.close()
    wait_until(lambda: rig.stats.clients == 1, "only the good client is left")
    assert served(good, worker, get(1, 1))
