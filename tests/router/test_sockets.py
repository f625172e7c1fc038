"""The router on real sockets: options, planes, full and missing pipes, hostile connections."""

import time
from collections.abc import Iterator

import msgspec
import pytest
import zmq

from nokv.proto.control import RouterReport
from nokv.proto.errors import EpochNotMatch, MalformedFrame, ProtocolMismatch, ServerIsBusy
from nokv.proto.frame import Kind, Plane, encode, plane_allows, split
from nokv.proto.ids import RegionId
from nokv.router.sockets import KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, LINK_PART_BYTES_MAX
from tests.router.rig import (
    Rig,
    closed_by_router,
    greeted,
    open_descriptors,
    receive,
    receive_link,
    served,
    silent,
    wait_until,
)
from tests.router.wire import PLACEMENT, answers, get, peer_hello, raft, routing

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made


def test_no_option_is_left_to_chance() -> None:
    rig = Rig()
    limits, sockets = rig.config.router, rig.sockets
    for plane in (sockets.client, sockets.peer):
        assert plane.type == zmq.ROUTER
        assert plane.maxmsgsize == limits.message_bytes_max
        assert plane.handshake_ivl == limits.handshake_ms == 3000
        assert plane.heartbeat_ivl == limits.heartbeat_ms
        assert plane.heartbeat_timeout == plane.heartbeat_ttl == limits.heartbeat_timeout_ms
        assert plane.linger == limits.linger_ms
        assert plane.rcvhwm == limits.receive_hwm
        assert plane.backlog == limits.backlog
        assert plane.ipv6 == 0
        assert plane.tcp_keepalive == 1
        assert plane.tcp_keepalive_idle == limits.keepalive_idle_s
        assert (plane.tcp_keepalive_intvl, plane.tcp_keepalive_cnt) == (KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES)
        assert plane.tcp_maxrt == limits.stall_ms
        assert (plane.reconnect_ivl, plane.reconnect_ivl_max) == (limits.reconnect_ms, limits.reconnect_ms_max)
        assert plane.curve_server == 0 and plane.mechanism == zmq.NULL
        assert plane.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
    assert (sockets.client.zap_domain, sockets.peer.zap_domain) == (b"client", b"peer")
    assert sockets.client.sndhwm == limits.client_send_hwm
    assert sockets.peer.sndhwm == 1
    assert sockets.link.maxmsgsize == LINK_PART_BYTES_MAX
    assert (sockets.link.sndhwm, sockets.link.rcvhwm) == (limits.link_send_hwm, limits.receive_hwm)
    assert sockets.link.linger == limits.linger_ms
    with rig:
        pass


def test_a_request_goes_to_its_worker_and_its_answer_comes_back(rig: Rig) -> None:
    rig.manifest()
    workers = [rig.worker(0), rig.worker(1)]
    client = rig.client()
    for region_id, index in PLACEMENT.items():
        assert served(client, workers[index], get(region_id, region_id))
    assert greeted(client)
    assert rig.stats.clients == 1 and rig.stats.replies == len(PLACEMENT)


def test_unknown_region_bad_version_and_garbage_are_answered(rig: Rig) -> None:
    rig.manifest()
    worker, client = rig.worker(0), rig.client()
    alien = bytearray(get(5, 1))
    alien[2] = 9
    for message, expected in (
        (get(4, 999), (4, 999, EpochNotMatch(RegionId(999)))),
        (bytes(alien), (5, 1, ProtocolMismatch(ours=1, theirs=9))),
        (b"x" * 40, (0, 0, MalformedFrame("bad magic"))),
    ):
        client.send(message)
        assert list(answers(receive(client))) == [expected]
    client.send_multipart([b"", get(1, 1)])
    ((_, _, detail),) = answers(receive(client))
    assert isinstance(detail, MalformedFrame)
    client.send_multipart([b"part"] * 10_000)
    ((_, _, detail),) = answers(receive(client))
    assert isinstance(detail, MalformedFrame)
    assert served(client, worker, get(6, 1)), "the connection lives"


def test_no_kind_crosses_to_the_other_plane(rig: Rig) -> None:
    """All 256 kinds on both planes: what a plane may not carry reaches no process of the node."""
    rig.manifest()
    worker, client, peer = rig.worker(0), rig.client(), rig.peer()
    for kind in range(256):
        client.send(encode(kind, kind, 1, b"client"))
        peer.send(peer_hello() + encode(kind, kind, 1, b"peer"))
    expected = {(b"C", kind) for kind in range(16, 80) if plane_allows(Plane.CLIENT, kind)}
    expected |= {(b"P", kind) for kind in range(96, 112) if plane_allows(Plane.PEER, kind)}
    arrived: set[tuple[bytes, int]] = set()
    while len(arrived) < len(expected):
        for address, frames in receive_link(worker):
            for frame in split(frames):
                assert frame.body == (b"client" if address[:1] == b"C" else b"peer")
                arrived.add((address[:1], frame.kind))
    refused_client = sum(not plane_allows(Plane.CLIENT, kind) for kind in range(256))
    refused_peer = 256 - sum(96 <= kind < 112 for kind in range(256))
    wait_until(lambda: rig.stats.refused_plane == refused_client + refused_peer, "all kinds are judged")
    assert arrived == expected and silent(worker)
    assert silent(peer), "a peer is never answered"


def test_peers_of_another_cluster_or_store_reach_nobody(rig: Rig) -> None:
    rig.manifest(routing(blocked=(9,)))
    worker, peer = rig.worker(0), rig.peer()
    for greeting in (peer_hello(cluster=1), peer_hello(to=5), peer_hello(protocol=3), peer_hello(store=1), b""):
        peer.send(greeting + raft(1, b"bad"))
    peer.send(peer_hello(store=9) + raft(1, b"blocked"))
    peer.send_multipart([peer_hello(), raft(1, b"in parts")])
    peer.send(peer_hello() + raft(1, b"good"))
    assert receive_link(worker) == [(b"P", raft(1, b"good"))]
    assert (rig.stats.refused_plane, rig.stats.blocked) == (4, 1)


def test_a_missing_worker_is_busy_and_a_restarted_one_is_served(rig: Rig) -> None:
    rig.manifest()
    client = rig.client()
    client.send(get(1, 3))
    assert list(answers(receive(client))) == [(1, 3, ServerIsBusy("worker 1 is down", 20))]
    first = rig.worker(1, reconnect_ivl=-1)  # as good as dead, but the router cannot know yet
    assert served(client, first, get(2, 3))
    second = rig.worker(1)
    assert served(client, second, get(3, 3)) and silent(first)
    second.close()

    def down() -> bool:
        client.send(get(4, 3))
        if silent(client):  # handed to the pipe before its end was noticed: lost with the worker
            return False
        ((_, _, detail),) = answers(receive(client))
        return detail == ServerIsBusy("worker 1 is down", 20)

    wait_until(down, "its end is noticed")


def test_a_worker_that_does_not_read_is_busy_and_nobody_else_notices() -> None:
    with Rig(link_send_hwm=1, worker_queue_frames_max=20, worker_queue_ms_max=100_000) as rig:
        rig.manifest()
        stuck, other = rig.worker(0, rcvhwm=1), rig.worker(1)
        client, neighbour = rig.client(rcvhwm=100_000), rig.client()
        sent = 0
        while silent(client, 0):  # fills the kernel's buffers, both pipes and the queue
            assert sent < 5000
            client.send(get(sent, 1, b"x" * 60_000))
            assert served(neighbour, other, get(sent, 3))
            sent += 1
        ((_, _, detail),) = answers(receive(client))
        assert detail == ServerIsBusy("the queue of worker 0 is full", 20)
        assert served(neighbour, other, get(sent, 3))

        arrived = 0
        while stuck.poll(500):
            arrived += sum(sum(1 for _ in split(frames)) for _, frames in receive_link(stuck))
        refused = 1 + sum(1 for _ in iter(lambda: client.poll(0) and client.recv(), 0))
        assert arrived + refused == sent, "no request is lost"
        assert served(client, stuck, get(sent, 1)), "and it goes on"


def test_a_client_that_does_not_read_costs_bounded_memory_and_nobody_else() -> None:
    with Rig(client_send_hwm=1, client_queue_bytes_max=1 << 20) as rig:
        rig.manifest()
        worker, good = rig.worker(0), rig.client()
        lazy = rig.client(rcvhwm=1)
        lazy.send(get(0, 1))
        ((address, _),) = receive_link(worker)
        page = encode(Kind.OK, 0, 1, b"x" * 100_000)
        sent = 0
        while not rig.stats.dropped_reply:
            assert sent < 5000
            worker.send_multipart([address, page])
            sent += 1
            if sent % 10 == 0:
                assert served(good, worker, get(sent, 1))
        assert rig.dispatcher._slow.bytes <= 1 << 20
        assert served(good, worker, get(1, 1))
        lazy.close()
        wait_until(lambda: rig.dispatcher._slow.bytes == 0, "its queue goes with it")


def test_a_stolen_identity_does_not_disturb_its_owner(rig: Rig) -> None:
    rig.manifest()
    worker = rig.worker(0)
    owner = rig.client(identity=b"alice")
    thief = rig.client(identity=b"alice", greet=False)
    for i in range(20):
        thief.send(get(1000 + i, 1))
        assert owner_is_served(owner, worker, get(i, 1))
    wait_until(lambda: rig.stats.clients == 2, "both are connected")
    for i in range(20, 40):
        assert owner_is_served(owner, worker, get(i, 1))
    thief.close()
    for i in range(40, 60):
        assert owner_is_served(owner, worker, get(i, 1))


def owner_is_served(owner: zmq.Socket[bytes], worker: zmq.Socket[bytes], request: bytes) -> bool:
    """As `served`, with requests of others in between, which are answered too."""
    owner.send(request)
    (wanted,) = split(request)
    while True:
        for address, frames in receive_link(worker):
            for frame in split(frames):
                worker.send_multipart([address, encode(Kind.OK, frame.request_id, 1)])
                if frame.request_id == wanted.request_id:
                    assert address == b"Calice"
                    return receive(owner) == encode(Kind.OK, wanted.request_id, 1)
                assert address != b"Calice", "a thief's request never carries the owner's name"


def test_garbage_handshakes_are_dropped_in_time() -> None:
    with Rig(handshake_ms=300) as rig:
        rig.manifest()
        worker, good = rig.worker(0), rig.client()
        base = open_descriptors()
        greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0"
        openings = [
            b"",
            b"\xff",
            greeting,
            greeting + b"NULL".ljust(20, b"\0") + bytes(32),
            greeting + b"CURVE".ljust(20, b"\0") + bytes(32),
            greeting + b"NULL".ljust(20, b"\0") + bytes(32) + b"\4\xff" + b"\5READY" + b"\xff" * 200,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
            bytes(1000),
            b"\xff" * 1000,
        ]
        connections = []
        for opening in openings * 20:
            connection = rig.raw()
            connection.sendall(opening)
            connections.append(connection)
        began = time.monotonic()
        for connection in connections:
            assert closed_by_router(connection)
            connection.close()
        assert time.monotonic() - began < 3
        wait_until(lambda: rig.stats.clients == 1, "only the good client is left")
        wait_until(lambda: open_descriptors() <= base, "descriptors are back")
        assert rig.stats.handshakes_failed >= 100
        assert served(good, worker, get(1, 1))


def test_a_message_above_the_limit_ends_its_connection_only() -> None:
    with Rig(message_bytes_max=1 << 20) as rig:
        rig.manifest()
        worker, good, greedy = rig.worker(0), rig.client(), rig.client()
        assert served(good, worker, get(1, 1, b"x" * ((1 << 20) - 32)))
        greedy.send(get(2, 1, b"x" * ((1 << 20) - 31)))
        assert silent(worker) and silent(greedy)
        assert served(good, worker, get(3, 1))


def test_the_manifest_gets_reports() -> None:
    with Rig(stats_ms=50) as rig:
        manifest = rig.manifest()
        client = rig.client()
        client.send(get(1, 999))
        receive(client)

        def reported() -> bool:
            for address, frames in receive_link(manifest):
                (frame,) = split(frames)
                assert (address, frame.kind) == (b"R", Kind.ROUTER_STATS)
                stats = _report(frame.body).stats
            return stats.unknown_region == 1 and stats.clients == 1

        wait_until(reported, "the counters arrive")


def _report(body: bytes) -> RouterReport:
    return msgspec.msgpack.decode(body, type=RouterReport)
