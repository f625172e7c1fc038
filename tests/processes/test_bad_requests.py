"""Bad input over the public sockets of a live node: each kind gets its typed refusal, and nothing is lost by it.

One node serves all of these tests; the last fixture step reads back what was written before the first of them.
"""

import socket
from collections.abc import Iterator

import msgspec
import pytest
import zmq

import nokv
from nokv.proto import errors
from nokv.proto.control import PeerHello, Routing, StatusRequest, TsoRequest, encode_body
from nokv.proto.frame import FRAME_BYTES_MAX, HEADER, MAGIC, VERSION, Kind, Plane, encode, plane_allows
from nokv.proto.ids import LATEST, U64_MAX, ClusterId, PeerId, RegionId, StoreId, Term, Ts
from nokv.proto.kv import (
    BatchGetRequest,
    GetReply,
    GetRequest,
    Mutation,
    MutationOp,
    OnePhaseRequest,
    ScanRequest,
)
from nokv.proto.raft import Message, MessageType, encode_message
from nokv.proto.region import FIRST_EPOCH, Region, RegionEpoch
from nokv.testing.cluster import LocalCluster
from tests.processes.raw import NoAnswer, RawClient, detail_of
from tests.processes.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("bad_requests")]

SAFE = {b"%02x-safe" % number: b"value %d" % number for number in range(0, 256, 8)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One node with two workers and four regions, and data that must still be there when all tests are over."""
    with LocalCluster(nodes=1, workers=2, regions=4) as made, nokv.Client(made.url, timeout=20.0) as db:
        for key, value in SAFE.items():
            db.put(key, value)
        before = [child.pid for kind in ("router", "manifest", "worker") for child in made.nodes[0].children(kind)]
        yield made
        assert db.get_many(SAFE) == SAFE
        after = [child.pid for kind in ("router", "manifest", "worker") for child in made.nodes[0].children(kind)]
        assert after == before, "bad input ended a process"


@pytest.fixture
def raw(cluster: LocalCluster) -> Iterator[RawClient]:
    """A connection to the client plane."""
    with RawClient(cluster.nodes[0].client_addr) as client:
        yield client


@pytest.fixture
def region(cluster: LocalCluster) -> Region:
    """A region with a border on both sides."""
    return cluster.topology.regions[1]


def put_body(key: bytes, value: bytes, ts: int, epoch: RegionEpoch = FIRST_EPOCH) -> bytes:
    return encode_body(OnePhaseRequest(epoch, (Mutation(MutationOp.PUT, key, value),), Ts(ts), blind=True))


def get_body(key: bytes, ts: int = LATEST, epoch: RegionEpoch = FIRST_EPOCH) -> bytes:
    return encode_body(GetRequest(epoch, key, Ts(ts)))


# ---- the wrong place (S24) ------------------------------------------------------------------------------------------


def test_a_get_and_a_put_reach_each_region_through_the_one_port(cluster: LocalCluster, raw: RawClient) -> None:
    """S2: the router forwards by region id alone."""
    for region in cluster.topology.regions:
        key = region.start + b"0-one-port"
        reply = raw.ask(Kind.KV_ONE_PHASE, region.id, put_body(key, b"v%d" % region.id, raw.timestamp()))
        assert reply.kind == Kind.OK, detail_of(reply)
        found = raw.ask(Kind.KV_GET, region.id, get_body(key))
        assert msgspec.msgpack.decode(found.body, type=GetReply).value == b"v%d" % region.id


@pytest.mark.parametrize("unknown", [999, U64_MAX])
def test_an_unknown_region_is_named_not_met_with_silence(raw: RawClient, unknown: int) -> None:
    assert raw.refusal(Kind.KV_GET, unknown, get_body(b"k")) == errors.EpochNotMatch(RegionId(unknown))


def test_region_zero_serves_no_data(raw: RawClient) -> None:
    """S24: region id 0 is a hard error for data requests."""
    assert raw.refusal(Kind.KV_GET, 0, get_body(b"k")) == errors.UnknownKind(Kind.KV_GET)


@pytest.mark.parametrize("epoch", [RegionEpoch(0, 1), RegionEpoch(1, 0), RegionEpoch(2, 1), RegionEpoch(1, 2)])
def test_a_stale_or_future_epoch_brings_the_current_region(raw: RawClient, region: Region, epoch: RegionEpoch) -> None:
    wanted = errors.EpochNotMatch(region.id, (region,))
    key = region.start + b"k"
    assert raw.refusal(Kind.KV_GET, region.id, get_body(key, epoch=epoch)) == wanted
    assert raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(key, b"v", raw.timestamp(), epoch)) == wanted


def test_a_key_outside_the_range_brings_the_current_region(raw: RawClient, region: Region) -> None:
    wanted = errors.EpochNotMatch(region.id, (region,))
    for outside in (b"\x00", region.end, b"\xff\xff"):
        assert raw.refusal(Kind.KV_GET, region.id, get_body(outside)) == wanted
        assert raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(outside, b"v", raw.timestamp())) == wanted
    both = encode_body(BatchGetRequest(FIRST_EPOCH, (region.start, region.end), raw.timestamp()))
    assert raw.refusal(Kind.KV_BATCH_GET, region.id, both) == wanted
    beyond = encode_body(ScanRequest(FIRST_EPOCH, region.start, region.end + b"\x00", 10, raw.timestamp()))
    assert raw.refusal(Kind.KV_SCAN, region.id, beyond) == wanted


# ---- limits (I3) ----------------------------------------------------------------------------------------------------


def test_keys_of_every_length_at_the_limit(raw: RawClient, region: Region) -> None:
    ts = raw.timestamp
    longest = region.start.ljust(400, b"k")
    assert raw.ask(Kind.KV_ONE_PHASE, region.id, put_body(longest, b"v", ts())).kind == Kind.OK
    assert raw.ask(Kind.KV_GET, region.id, get_body(longest)).kind == Kind.OK
    too_long = errors.LimitExceeded("key_bytes_max", 400, 401)
    assert raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(longest + b"k", b"v", ts())) == too_long
    assert raw.refusal(Kind.KV_GET, region.id, get_body(longest + b"k")) == too_long


def test_an_empty_key_is_an_invalid_argument(raw: RawClient, cluster: LocalCluster) -> None:
    first = cluster.topology.regions[0].id
    for kind, body in ((Kind.KV_GET, get_body(b"")), (Kind.KV_ONE_PHASE, put_body(b"", b"v", raw.timestamp()))):
        refusal = raw.refusal(kind, first, body)
        assert isinstance(refusal, errors.InvalidArgument)
        assert "key" in refusal.field


def test_a_value_above_the_limit_is_refused_and_one_at_it_is_stored(raw: RawClient, region: Region) -> None:
    key, mib = region.start + b"big", 1 << 20
    assert raw.ask(Kind.KV_ONE_PHASE, region.id, put_body(key, b"x" * mib, raw.timestamp())).kind == Kind.OK
    refusal = raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(key, b"y" * (mib + 1), raw.timestamp()))
    assert refusal == errors.LimitExceeded("value_bytes_max", mib, mib + 1)
    found = msgspec.msgpack.decode(raw.ask(Kind.KV_GET, region.id, get_body(key)).body, type=GetReply)
    assert found.value == b"x" * mib


def test_too_many_or_too_many_bytes_of_mutations(raw: RawClient, region: Region) -> None:
    def body(count: int, value: bytes) -> bytes:
        mutations = tuple(Mutation(MutationOp.PUT, region.start + b"%06d" % at, value) for at in range(count))
        return encode_body(OnePhaseRequest(FIRST_EPOCH, mutations, raw.timestamp(), blind=True))

    refusal = raw.refusal(Kind.KV_ONE_PHASE, region.id, body(10_001, b""))
    assert isinstance(refusal, errors.LimitExceeded)
    assert (refusal.limit, refusal.actual) == (10_000, 10_001)
    refusal = raw.refusal(Kind.KV_ONE_PHASE, region.id, body(17, b"x" * (1 << 20)))
    assert isinstance(refusal, errors.LimitExceeded)
    assert (refusal.what, refusal.limit) == ("txn_bytes_max", 16 << 20)


@pytest.mark.parametrize("ts", [1 << 63, U64_MAX - 1])
def test_timestamps_nobody_issued_are_refused(raw: RawClient, region: Region, ts: int) -> None:
    """A read or write far in the future would push every later commit of its region there."""
    key = region.start + b"k"
    for kind, body in ((Kind.KV_ONE_PHASE, put_body(key, b"v", ts)), (Kind.KV_GET, get_body(key, ts))):
        refusal = raw.refusal(kind, region.id, body)
        assert isinstance(refusal, errors.InvalidArgument)
        assert refusal.field in ("ts", "start_ts")


def test_a_write_without_a_timestamp_is_refused(raw: RawClient, region: Region) -> None:
    refusal = raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(region.start + b"k", b"v", 0))
    assert isinstance(refusal, errors.InvalidArgument)
    assert refusal.field == "start_ts"


@pytest.mark.parametrize("limit", [0, (1 << 32) - 1])
def test_any_scan_limit_is_served_within_a_page(raw: RawClient, region: Region, limit: int) -> None:
    body = encode_body(ScanRequest(FIRST_EPOCH, region.start, region.end, limit, raw.timestamp()))
    assert raw.ask(Kind.KV_SCAN, region.id, body).kind == Kind.OK


@pytest.mark.parametrize("count", [0, -1, 65_537])
def test_the_oracle_refuses_senseless_counts(raw: RawClient, count: int) -> None:
    refusal = raw.refusal(Kind.TSO, 0, encode_body(TsoRequest(count)))
    assert isinstance(refusal, errors.InvalidArgument | errors.LimitExceeded)


def test_a_request_whose_time_is_over_is_not_begun(raw: RawClient, region: Region) -> None:
    key = region.start + b"late"
    refusal = raw.refusal(Kind.KV_ONE_PHASE, region.id, put_body(key, b"v", raw.timestamp()), deadline_ms=0)
    assert isinstance(refusal, errors.DeadlineExceeded)
    assert raw.refusal(Kind.KV_GET, region.id, get_body(key), deadline_ms=0) == refusal
    found = msgspec.msgpack.decode(raw.ask(Kind.KV_GET, region.id, get_body(key)).body, type=GetReply)
    assert found.value is None


def test_a_request_id_that_is_pending_is_refused_at_once(raw: RawClient, region: Region) -> None:
    """S43: of two with one id, one is done and the other one is a duplicate."""
    frames = [
        encode(Kind.KV_ONE_PHASE, 9001, region.id, put_body(region.start + b"twin", value, ts), deadline_ms=5000)
        for value, ts in ((b"first", raw.timestamp()), (b"second", raw.timestamp()))
    ]
    raw.send(b"".join(frames))
    answers = raw.answers(2)
    assert detail_of(next(frame for frame in answers if frame.kind == Kind.ERROR)) == errors.DuplicateRequest(9001)
    assert sum(frame.kind == Kind.OK for frame in answers) == 1
    found = raw.ask(Kind.KV_GET, region.id, get_body(region.start + b"twin"))
    assert msgspec.msgpack.decode(found.body, type=GetReply).value == b"first"


# ---- what is no frame -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b" " * 32, id="http"),
        pytest.param(b"NK\x01", id="half-a-header"),
        pytest.param(HEADER.pack(MAGIC, VERSION, Kind.PING, 0, 100, 0, 7, 0) + b"x", id="cut-short"),
        pytest.param(HEADER.pack(MAGIC, VERSION, Kind.PING, 0, (1 << 32) - 1, 0, 7, 0), id="length-of-4-GiB"),
    ],
)
def test_bytes_that_are_no_frame_are_refused_and_the_connection_lives(raw: RawClient, message: bytes) -> None:
    raw.send(message)
    (frame,) = raw.receive()
    assert isinstance(detail_of(frame), errors.MalformedFrame)
    raw.send(encode(Kind.PING, 11, 0))
    assert raw.answer_to(11).kind == Kind.OK


def test_another_protocol_version_is_told_both_versions(raw: RawClient) -> None:
    raw.send(HEADER.pack(MAGIC, 9, Kind.PING, 0, 0, 0, 5, 0))
    (frame,) = raw.receive()
    assert detail_of(frame) == errors.ProtocolMismatch(VERSION, 9)


def test_a_body_that_is_not_what_the_kind_says(raw: RawClient, region: Region) -> None:
    for kind, place in ((Kind.KV_GET, region.id), (Kind.KV_ONE_PHASE, region.id), (Kind.TSO, 0), (Kind.STATUS, 0)):
        for body in (b"\xc1", b"\xff" * 100, encode_body({"what": 1})):
            assert isinstance(raw.refusal(kind, place, body), errors.MalformedFrame)
    assert isinstance(raw.refusal(Kind.REPLICA_HASH, region.id, b"\xc1"), errors.MalformedFrame)


def test_good_frames_before_bad_bytes_are_served(raw: RawClient, region: Region) -> None:
    good = encode(Kind.KV_GET, 21, region.id, get_body(region.start + b"k"), deadline_ms=5000)
    raw.send(good + b"garbage that is no frame at all, and long enough for a header")
    kinds = {frame.request_id: frame.kind for frame in raw.answers(2)}
    assert kinds == {21: Kind.OK, 0: Kind.ERROR}


def test_many_frames_in_one_message_are_all_answered(raw: RawClient, region: Region) -> None:
    body = get_body(region.start + b"k")
    raw.send(b"".join(encode(Kind.KV_GET, at + 1, region.id, body, deadline_ms=20_000) for at in range(5000)))
    answers = raw.answers(5000, timeout_s=40.0)
    assert {frame.request_id for frame in answers} == set(range(1, 5001))
    assert {frame.kind for frame in answers} == {Kind.OK}


def test_a_message_above_the_limit_ends_its_own_connection_only(cluster: LocalCluster, raw: RawClient) -> None:
    address = cluster.nodes[0].client_addr
    with RawClient(address) as hostile:
        hostile.send(b"x" * (FRAME_BYTES_MAX + 1))
        with pytest.raises(NoAnswer):
            hostile.receive(timeout_s=0.5)
    raw.send(encode(Kind.PING, 12, 0))
    assert raw.answer_to(12).kind == Kind.OK


# ---- planes and identities (A2, A4) ---------------------------------------------------------------------------------


def test_no_kind_of_another_plane_is_taken_from_a_client(raw: RawClient, region: Region) -> None:
    """A2: all of the 256 kinds that the client plane does not carry, to a data region and to the manifest."""
    strange = [kind for kind in range(256) if not plane_allows(Plane.CLIENT, kind)]
    assert Kind.RAFT in strange and Kind.DRAIN in strange and Kind.ROUTING in strange
    for place in (region.id, 0):
        for kind in strange:
            assert raw.refusal(kind, place, b"") == errors.UnknownKind(kind)


def test_a_client_cannot_teach_the_router_routes(raw: RawClient, region: Region) -> None:
    body = encode_body(Routing(ClusterId(1), StoreId(1), ()))
    assert raw.refusal(Kind.ROUTING, 0, body) == errors.UnknownKind(Kind.ROUTING)
    assert raw.ask(Kind.KV_GET, region.id, get_body(region.start + b"k")).kind == Kind.OK


def test_faults_are_not_injected_unless_the_node_was_started_for_it(raw: RawClient) -> None:
    assert isinstance(raw.refusal(Kind.CHAOS, 0, encode_body(((),))), errors.InvalidArgument)


def test_the_owner_of_an_identity_keeps_it(cluster: LocalCluster, region: Region) -> None:
    """A4, M18: a second connection with the same routing id neither takes over nor sees the first one's replies."""
    address = cluster.nodes[0].client_addr
    with RawClient(address, identity=b"me") as first:
        assert first.ask(Kind.KV_GET, region.id, get_body(region.start + b"k")).kind == Kind.OK
        with RawClient(address, identity=b"me") as thief:
            thief.send(encode(Kind.PING, 77, 0))
            with pytest.raises(NoAnswer):
                thief.receive(timeout_s=0.5)
            for _ in range(20):
                assert first.ask(Kind.KV_GET, region.id, get_body(region.start + b"k")).kind == Kind.OK
            with pytest.raises(NoAnswer):
                thief.receive(timeout_s=0.1)


# ---- the peer plane -------------------------------------------------------------------------------------------------


def peer_message(cluster: LocalCluster, *frames: bytes, sender: int = 7, **fields: int) -> bytes:
    hello = {"protocol": VERSION, "cluster_id": cluster.topology.cluster_id, "store_id": sender, "to_store_id": 1}
    body = encode_body(PeerHello(**{**hello, **fields}))  # type: ignore[arg-type]  # ids are plain integers
    return encode(Kind.HELLO, 0, 0, body) + b"".join(frames)


def vote(region: Region, *, to: int, term: int) -> bytes:
    message = Message(MessageType.VOTE, PeerId(to), PeerId(99), Term(term))
    return encode(Kind.RAFT, 0, region.id, encode_message(message))


def test_raft_messages_for_nobody_are_counted_and_the_node_serves_on(
    cluster: LocalCluster, raw: RawClient, region: Region
) -> None:
    """S17, I5: unknown regions, unknown peers, terms of the far future, other clusters, other stores, no hello."""
    before = cluster.status(cluster.nodes[0]).node
    refused = before.router.refused_plane
    terms = {status.region.id: status.term for status in cluster.status(cluster.nodes[0]).regions}
    get = encode(Kind.KV_GET, 1, region.id, get_body(region.start + b"k"), deadline_ms=5000)
    with RawClient(cluster.topology.stores[0].peer_addr) as peer:
        peer.send(peer_message(cluster, vote(region, to=9999, term=U64_MAX)))
        peer.send(peer_message(cluster, encode(Kind.RAFT, 0, 999, b"?"), encode(Kind.RAFT, 0, region.id, b"\xc1?")))
        peer.send(peer_message(cluster, get))
        peer.send(peer_message(cluster, vote(region, to=region.peers[0].id, term=3), cluster_id=12345))
        peer.send(peer_message(cluster, vote(region, to=region.peers[0].id, term=3), to_store_id=2))
        peer.send(peer_message(cluster, protocol=9))
        peer.send(vote(region, to=region.peers[0].id, term=3))
        peer.send(b"garbage")
        with pytest.raises(NoAnswer):
            peer.receive(timeout_s=0.3)  # nothing is ever answered on the peer plane
    wait_until(lambda: cluster.status(cluster.nodes[0]).node.router.refused_plane >= refused + 4, "four refusals")
    after = cluster.status(cluster.nodes[0])
    assert after.node.router.unknown_region >= before.router.unknown_region + 1
    assert after.node.router.malformed >= before.router.malformed + 2
    assert {status.region.id: status.term for status in after.regions} == terms, "a stranger moved a term"
    assert raw.ask(Kind.KV_GET, region.id, get_body(region.start + b"k")).kind == Kind.OK


# ---- connections that never become one (I4) -------------------------------------------------------------------------


def test_handshakes_that_hang_are_dropped_in_seconds(cluster: LocalCluster) -> None:
    """I4: silence, half a greeting and garbage are gone after router.handshake_ms, and so are their descriptors."""
    (router,) = cluster.nodes[0].children("router")
    host, _, port = cluster.nodes[0].client_addr.rpartition(":")
    base = router.num_fds()
    hung = []
    for at in range(60):
        connection = socket.create_connection((host, int(port)))
        connection.sendall((b"", b"\xff\x00\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n")[at % 3])
        hung.append(connection)
    try:
        wait_until(lambda: router.num_fds() <= base + 2, "the descriptors to come back", timeout_s=20.0)
        with RawClient(cluster.nodes[0].client_addr) as client:
            client.send(encode(Kind.PING, 1, 0))
            assert client.answer_to(1).kind == Kind.OK
    finally:
        for connection in hung:
            connection.close()


def test_requests_in_several_parts_are_refused(cluster: LocalCluster) -> None:
    with RawClient(cluster.nodes[0].client_addr) as raw:
        raw.socket.send_multipart([b"", encode(Kind.PING, 1, 0)])
        (frame,) = raw.receive()
        assert isinstance(detail_of(frame), errors.MalformedFrame)


def test_another_kind_of_socket_is_no_client(cluster: LocalCluster) -> None:
    """ZMTP tells socket types; a SUB never becomes a connection of a ROUTER."""
    with RawClient(cluster.nodes[0].client_addr, kind=zmq.SUB) as stranger, pytest.raises(NoAnswer):
        stranger.receive(timeout_s=0.3)


# ---- after all of it ------------------------------------------------------------------------------------------------


def test_bad_input_is_counted(cluster: LocalCluster, raw: RawClient, region: Region) -> None:
    before = cluster.status(cluster.nodes[0]).node
    raw.send(b"garbage garbage garbage garbage garbage garbage")
    raw.receive()
    raw.refusal(Kind.KV_GET, region.id, get_body(b""))

    def counted() -> bool:
        now = cluster.status(cluster.nodes[0]).node
        bad = [sum(worker.stats.bad_input for worker in node.workers) for node in (before, now)]
        return now.router.malformed > before.router.malformed and bad[1] > bad[0]

    wait_until(counted, "the counters to rise")
    status = raw.ask(Kind.STATUS, 0, encode_body(StatusRequest()))
    assert status.kind == Kind.OK
