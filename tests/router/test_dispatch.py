"""Every rule of the dispatcher, without a socket."""

import struct

import msgspec
import pytest

from nokv.config import NodeConfig, advertised_limits
from nokv.proto.control import HelloReply, RouterReport, encode_body
from nokv.proto.errors import (
    ClusterMismatch,
    EpochNotMatch,
    LimitExceeded,
    MalformedFrame,
    ProtocolMismatch,
    ServerIsBusy,
    UnknownKind,
)
from nokv.proto.frame import HEADER_BYTES, Kind, Plane, encode, plane_allows, split
from nokv.proto.ids import RegionId
from nokv.proto.stats import RouterStats
from nokv.router.counters import Counters
from nokv.router.dispatch import IDENTITY_BYTES_MAX, Dispatcher
from tests.router.wire import (
    CLUSTER,
    OTHER,
    STORE,
    dispatcher,
    get,
    hello,
    links,
    peer_hello,
    raft,
    replies,
    routing,
    routing_message,
)

ALICE, BOB = b"\0aaaa", b"\0bbbb"


# ---- clients --------------------------------------------------------------------------------------------------------


def test_a_message_for_one_worker_passes_unsplit() -> None:
    d = dispatcher()
    message = get(1, 1) + get(2, 2) + get(3, 1)
    d.from_client(ALICE, message)
    ((identity, (batch,)),) = d.take_links()
    assert (identity, batch.parts[0]) == (b"w0", b"C" + ALICE)
    assert batch.parts[1] is message, "not even copied"
    assert batch.frames == 3 and d.counters.client_frames == 3 and d.counters.client_messages == 1
    assert not d.take_replies(0)


def test_a_message_for_several_is_split_by_receiver_and_keeps_order() -> None:
    d = dispatcher()
    d.from_client(ALICE, get(1, 1) + get(2, 3) + get(3, 2) + get(4, 0) + get(5, 4) + get(6, 1))
    assert links(d) == {
        b"w0": [(b"C" + ALICE, get(1, 1) + get(3, 2) + get(6, 1))],
        b"w1": [(b"C" + ALICE, get(2, 3) + get(5, 4))],
        b"m": [(b"C" + ALICE, get(4, 0))],
    }


def test_all_messages_of_a_turn_for_one_worker_are_one_link_message() -> None:
    d = dispatcher()
    for i in range(10):
        d.from_client(ALICE if i % 2 else BOB, get(i, 1))
    d.from_peer(peer_hello() + raft(2))
    ((identity, batches),) = d.take_links()
    assert identity == b"w0" and len(batches) == 1 and batches[0].frames == 11
    assert links(d) == {}, "taken is sent"


def test_link_messages_are_cut_by_bytes() -> None:
    d = dispatcher(flush_bytes=1000)
    for i in range(10):
        d.from_client(ALICE, get(i, 1, b"x" * 368))
    ((_, batches),) = d.take_links()
    assert [batch.frames for batch in batches] == [3, 3, 3, 1]
    assert b"".join(b"".join(batch.parts[1::2]) for batch in batches) == b"".join(
        get(i, 1, b"x" * 368) for i in range(10)
    )


def test_unknown_region_is_answered_not_met_with_silence() -> None:
    d = dispatcher()
    d.from_client(ALICE, get(8, 999))
    assert replies(d) == {ALICE: [(8, 999, EpochNotMatch(RegionId(999)))]}
    assert d.counters.unknown_region == 1 and not links(d)


def test_good_frames_around_a_bad_one_are_served() -> None:
    d = dispatcher()
    d.from_client(ALICE, get(1, 1) + get(2, 999) + encode(Kind.RAFT, 3, 1) + get(4, 2))
    assert links(d) == {b"w0": [(b"C" + ALICE, get(1, 1) + get(4, 2))]}
    assert replies(d) == {ALICE: [(2, 999, EpochNotMatch(RegionId(999))), (3, 1, UnknownKind(Kind.RAFT))]}


def test_before_any_routing_everything_but_ping_is_busy() -> None:
    d = Dispatcher(NodeConfig(), "9.9")
    busy = ServerIsBusy("starting", NodeConfig().router.retry_after_ms)
    d.from_client(ALICE, get(1, 1) + hello(0) + encode(Kind.PING, 3, 0))
    assert replies(d) == {ALICE: [(1, 1, busy), (1, 0, busy), (3, 0, None)]}
    d.from_client(ALICE, encode(Kind.STATUS, 4, 0))
    assert links(d) == {b"m": [(b"C" + ALICE, encode(Kind.STATUS, 4, 0))]}, "the manifest is asked in any case"


def test_hello_is_answered_from_the_latest_routing() -> None:
    d = dispatcher()
    for cluster in (0, CLUSTER):
        d.from_client(ALICE, hello(cluster))
        ((_, _, answer),) = replies(d)[ALICE]
        assert answer == HelloReply(1, CLUSTER, STORE, "9.9", advertised_limits(NodeConfig()))
    d.from_link(routing_message(routing(limits={"value_bytes_max": 5})))
    d.from_client(ALICE, hello(0))
    ((_, _, answer),) = replies(d)[ALICE]
    assert isinstance(answer, HelloReply) and answer.limits == {"value_bytes_max": 5}


@pytest.mark.parametrize(
    ("frame", "detail"),
    [
        (hello(CLUSTER + 1), ClusterMismatch(ours=CLUSTER, theirs=CLUSTER + 1)),
        (hello(0, protocol=2), ProtocolMismatch(ours=1, theirs=2)),
        (encode(Kind.HELLO, 1, 0), MalformedFrame("the body is no Hello")),
        (encode(Kind.HELLO, 1, 0, b"\x91" * 5000), MalformedFrame("the body is no Hello")),
        (encode(Kind.HELLO, 1, 0, b"\x93\x01\x00\xa2\xff\xfe"), MalformedFrame("the body is no Hello")),
    ],
)
def test_a_hello_that_does_not_fit_is_told_why(frame: bytes, detail: object) -> None:
    d = dispatcher()
    d.from_client(ALICE, frame)
    assert replies(d) == {ALICE: [(1, 0, detail)]}


@pytest.mark.parametrize("kind", range(256))
def test_only_client_kinds_pass_the_client_plane(kind: int) -> None:
    d = dispatcher()
    d.from_client(ALICE, encode(kind, 5, 1, b"body"))
    answered, forwarded = replies(d), links(d)
    if kind in (Kind.HELLO, Kind.PING):
        assert not forwarded and answered
    elif plane_allows(Plane.CLIENT, kind):
        assert forwarded == {b"w0": [(b"C" + ALICE, encode(kind, 5, 1, b"body"))]} and not answered
    else:
        assert not forwarded and answered == {ALICE: [(5, 1, UnknownKind(kind))]}
        assert d.counters.refused_plane == 1


def test_wrong_version_names_both_and_echoes_the_ids() -> None:
    d = dispatcher()
    alien = bytearray(get(9, 2))
    alien[2] = 7
    d.from_client(ALICE, get(1, 1) + bytes(alien) + get(3, 1))
    assert links(d) == {b"w0": [(b"C" + ALICE, get(1, 1))]}, "the rest of the message is dropped"
    assert replies(d) == {ALICE: [(9, 2, ProtocolMismatch(ours=1, theirs=7))]}
    assert d.counters.malformed == 1


@pytest.mark.parametrize(
    ("message", "ids"),
    [
        (b"", (0, 0)),
        (b"x", (0, 0)),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", (0, 0)),
        (get(5, 1)[: HEADER_BYTES - 1], (0, 0)),
        (get(5, 1, b"long")[:-1], (5, 1)),
        (struct.pack(">2sBBIIIQQ", b"NK", 1, 16, 0, 2**32 - 1, 0, 5, 1), (5, 1)),
    ],
)
def test_malformed_is_answered_once_and_the_connection_lives(message: bytes, ids: tuple[int, int]) -> None:
    d = dispatcher()
    d.from_client(ALICE, message)
    ((request_id, region_id, detail),) = replies(d)[ALICE]
    assert (request_id, region_id) == ids and isinstance(detail, MalformedFrame)
    assert d.counters.malformed == 1 and not links(d)
    d.from_client(ALICE, get(6, 1))
    assert links(d) == {b"w0": [(b"C" + ALICE, get(6, 1))]}


def test_reserved_flags_and_unknown_bodies_are_not_the_routers_business() -> None:
    d = dispatcher()
    frame = struct.pack(">2sBBIIIQQ", b"NK", 1, 16, 0xFFFF, 3, 0, 2**64 - 1, 1) + b"\xc1\xc1\xc1"
    d.from_client(ALICE, frame)
    assert links(d) == {b"w0": [(b"C" + ALICE, frame)]}


def test_too_many_frames_in_one_message() -> None:
    d = dispatcher(message_frames_max=10)
    d.from_client(ALICE, b"".join(get(i, 1) for i in range(10)))
    assert not replies(d) and links(d)
    d.from_client(ALICE, b"".join(get(i, 1) for i in range(12)))
    assert replies(d) == {ALICE: [(10, 1, LimitExceeded("message_frames_max", 10, 11))]}
    assert links(d) == {b"w0": [(b"C" + ALICE, b"".join(get(i, 1) for i in range(10)))]}


def test_a_message_in_parts_is_refused() -> None:
    d = dispatcher()
    d.from_client_in_parts(ALICE)
    ((_, _, detail),) = replies(d)[ALICE]
    assert isinstance(detail, MalformedFrame) and d.counters.malformed == 1


def test_an_absurd_identity_is_not_carried_around() -> None:
    d = dispatcher()
    longest = b"i" * IDENTITY_BYTES_MAX
    d.from_client(longest, get(1, 1))
    assert links(d) == {b"w0": [(b"C" + longest, get(1, 1))]}
    for message in (get(1, 1), b"", get(1, 999)):
        d.from_client(longest + b"i", message)
    d.from_client_in_parts(longest + b"i")
    assert not links(d) and not replies(d) and d.counters.malformed == 4


# ---- a worker that does not keep up, or is gone ---------------------------------------------------------------------


def test_a_full_queue_answers_busy_and_the_queue_stays_as_it_was() -> None:
    d = dispatcher(worker_queue_frames_max=4)
    d.from_client(ALICE, b"".join(get(i, 1) for i in range(4)))
    d.from_client(BOB, get(7, 1) + get(8, 3) + get(9, 2))
    assert replies(d) == {BOB: [(i, r, ServerIsBusy("the queue of worker 0 is full", 20)) for i, r in ((7, 1), (9, 2))]}
    assert d.counters.busy_replies == 2
    d.from_peer(peer_hello() + raft(1) + raft(2) + raft(3))
    assert d.counters.dropped_peer == 2
    d.from_link([b"m", b"W0", encode(Kind.STORES, 0, 0)])
    assert d.counters.dropped_local == 1
    assert links(d) == {
        b"w0": [(b"C" + ALICE, b"".join(get(i, 1) for i in range(4)))],
        b"w1": [(b"C" + BOB, get(8, 3)), (b"P", raft(3))],
    }


def test_a_single_request_meets_a_full_queue() -> None:
    d = dispatcher(worker_queue_bytes_max=10)
    d.from_client(ALICE, get(1, 1))
    d.from_client(ALICE, get(2, 1))
    assert [request_id for request_id, _, _ in replies(d)[ALICE]] == [2]


def test_frames_wait_for_a_full_pipe_then_are_refused_then_at_once() -> None:
    d = dispatcher(worker_queue_ms_max=500)
    d.from_client(ALICE, get(1, 1))
    ((identity, batches),) = d.take_links()
    d.link_full(identity, batches, now_ms=1000)
    assert not replies(d) and d.wait_ms(1000, 900) == 1, "it waits, and is tried again soon"

    d.from_client(BOB, get(2, 1))
    ((_, batches),) = d.take_links()
    assert [batch.parts for batch in batches] == [[b"C" + ALICE, get(1, 1)], [b"C" + BOB, get(2, 1)]]
    d.link_full(identity, batches, now_ms=1499)
    assert not replies(d)

    ((_, batches),) = d.take_links()
    d.link_full(identity, batches, now_ms=1500)
    busy = ServerIsBusy("worker 0 does not keep up", 20)
    assert replies(d) == {ALICE: [(1, 1, busy)], BOB: [(2, 1, busy)]}
    assert not links(d) and d.wait_ms(1500, 900) == 900

    d.from_client(ALICE, get(3, 1))
    ((_, batches),) = d.take_links()
    d.link_full(identity, batches, now_ms=9000)
    assert replies(d) == {ALICE: [(3, 1, busy)]}, "as long as the pipe has not moved"

    d.from_client(ALICE, get(4, 1))
    assert links(d), "goes through"
    d.from_client(ALICE, get(5, 1))
    ((_, batches),) = d.take_links()
    d.link_full(identity, batches, now_ms=9100)
    assert not replies(d), "it has moved: waiting is worth a try again"


def test_only_the_unsent_tail_is_put_back_in_order() -> None:
    d = dispatcher(flush_bytes=1)
    for i in range(3):
        d.from_client(ALICE, get(i, 1))
    ((identity, batches),) = d.take_links()
    d.link_full(identity, batches[1:], now_ms=0)
    d.from_client(ALICE, get(3, 1))
    assert links(d) == {b"w0": [(b"C" + ALICE, get(i, 1)) for i in (1, 2, 3)]}


def test_a_worker_that_is_gone_is_told_at_once() -> None:
    d = dispatcher()
    d.from_client(ALICE, get(1, 3) + get(2, 4))
    d.from_peer(peer_hello() + raft(3) + raft(4))
    d.from_link([b"m", b"W1", encode(Kind.STORES, 0, 0)])
    ((identity, batches),) = d.take_links()
    d.link_gone(identity, batches)
    busy = ServerIsBusy("worker 1 is down", 20)
    assert replies(d) == {ALICE: [(1, 3, busy), (2, 4, busy)]}
    assert (d.counters.dropped_peer, d.counters.dropped_local) == (2, 1)
    assert not links(d)


def test_a_manifest_that_is_gone_is_told_too() -> None:
    d = dispatcher()
    d.from_client(ALICE, encode(Kind.TSO, 1, 0))
    ((identity, batches),) = d.take_links()
    d.link_gone(identity, batches)
    assert replies(d) == {ALICE: [(1, 0, ServerIsBusy("the manifest is down", 20))]}


# ---- replies --------------------------------------------------------------------------------------------------------


def ok(request_id: int, body: bytes = b"") -> bytes:
    return encode(Kind.OK, request_id, 1, body)


def test_replies_of_all_workers_to_one_client_are_one_message() -> None:
    d = dispatcher()
    d.from_link([b"w0", b"C" + ALICE, ok(1) + ok(2), b"C" + BOB, ok(3)])
    d.from_link([b"w1", b"C" + ALICE, ok(4)])
    d.from_client(ALICE, encode(Kind.PING, 5, 1))
    assert d.take_replies(0) == [(ALICE, ok(1) + ok(2) + ok(4) + ok(5)), (BOB, ok(3))]
    assert d.counters.replies == 4
    assert not d.take_replies(0)


def test_long_replies_are_several_messages() -> None:
    d = dispatcher(flush_bytes=100)
    for i in range(5):
        d.from_link([b"w0", b"C" + ALICE, ok(i, b"x" * 20)])
    assert [len(message) for _, message in d.take_replies(0)] == [104, 104, 52]


def test_a_client_that_does_not_read_waits_in_a_bounded_queue() -> None:
    d = dispatcher(client_queue_bytes_max=200, slow_retry_ms=1, slow_retry_ms_max=8)
    d.from_link([b"w0", b"C" + ALICE, ok(0, b"x" * 68)])
    ((_, message),) = d.take_replies(10)
    d.client_full(ALICE, message, 10)
    d.from_link([b"w0", b"C" + ALICE, ok(1, b"x" * 68)])
    d.from_link([b"w0", b"C" + ALICE, ok(2) + ok(3)])
    assert d.counters.dropped_reply == 2, "200 bytes are taken"
    assert not d.take_replies(10) and d.wait_ms(10, 50) == 1

    # Tried again with growing distance
    tried_at = []
    for now_ms in range(11, 60):
        for identity, waiting in d.take_replies(now_ms):
            tried_at.append(now_ms)
            d.client_full(identity, waiting, now_ms)
    assert tried_at == [11, 13, 17, 25, 33, 41, 49, 57]

    assert d.take_replies(65) == [(ALICE, ok(0, b"x" * 68) + ok(1, b"x" * 68))]
    assert not d.take_replies(66), "not put back: it went through"
    d.from_link([b"w0", b"C" + ALICE, ok(4)])
    assert d.take_replies(67) == [(ALICE, ok(4))]


def test_slow_clients_together_are_bounded_and_do_not_disturb_others() -> None:
    d = dispatcher(client_queue_bytes_max=1000, clients_queue_bytes_max=1000)
    for name in (b"1", b"2", b"3"):
        d.from_link([b"w0", b"C" + name, ok(0, b"x" * 368)])
    for identity, message in d.take_replies(0):
        d.client_full(identity, message, 0)
    assert d.counters.dropped_reply == 1, "two of 400 bytes fit"
    d.from_link([b"w0", b"C" + BOB, ok(9)])
    assert (BOB, ok(9)) in d.take_replies(0)


def test_replies_to_a_client_that_is_gone_are_dropped_and_counted() -> None:
    d = dispatcher()
    for _ in range(2):
        d.from_link([b"w0", b"C" + ALICE, ok(1) + ok(2)])
        for identity, message in d.take_replies(0):
            d.client_full(identity, message, 0)
    ((identity, message),) = d.take_replies(5)
    d.client_gone(identity, message)
    assert d.counters.dropped_reply == 4
    d.from_link([b"w0", b"C" + ALICE, ok(3)])
    assert d.take_replies(5) == [(ALICE, ok(3))], "the name may belong to somebody else by now"


# ---- peers ----------------------------------------------------------------------------------------------------------


def test_peer_frames_are_routed_without_their_hello() -> None:
    d = dispatcher()
    assert d.from_peer(peer_hello() + raft(1) + raft(3) + raft(2) + encode(Kind.STORE_HEARTBEAT, 0, 0)) == ""
    assert links(d) == {
        b"w0": [(b"P", raft(1) + raft(2))],
        b"w1": [(b"P", raft(3))],
        b"m": [(b"P", encode(Kind.STORE_HEARTBEAT, 0, 0))],
    }
    assert (d.counters.peer_messages, d.counters.peer_frames) == (1, 4)


def test_a_hello_alone_is_fine() -> None:
    d = dispatcher()
    assert d.from_peer(peer_hello()) == "" and not links(d) and d.counters.malformed == 0


@pytest.mark.parametrize("kind", range(256))
def test_only_peer_kinds_pass_the_peer_plane(kind: int) -> None:
    d = dispatcher()
    assert d.from_peer(peer_hello() + encode(kind, 5, 1, b"body") + raft(3)) == ""
    expected = {b"w1": [(b"P", raft(3))]}
    if plane_allows(Plane.PEER, kind) and kind != Kind.HELLO:
        expected = {b"w0": [(b"P", encode(kind, 5, 1, b"body"))], **expected}
    else:
        assert d.counters.refused_plane == 1
    assert links(d) == expected
    assert not d.take_replies(0), "a peer is never answered"


def test_unknown_regions_are_dropped_and_counted() -> None:
    d = dispatcher()
    assert d.from_peer(peer_hello() + raft(999) + raft(1)) == ""
    assert links(d) == {b"w0": [(b"P", raft(1))]} and d.counters.unknown_region == 1


@pytest.mark.parametrize(
    ("greeting", "word"),
    [
        (peer_hello(protocol=2), "protocol 2"),
        (peer_hello(cluster=5), "cluster 5"),
        (peer_hello(to=3), "store 3"),
        (peer_hello(store=STORE), "claims"),
        (encode(Kind.HELLO, 0, 0, b"\xc1"), "malformed"),
        (b"", "hello"),
        (raft(1), "hello"),
        (peer_hello()[:-1], "store 78"),
        (encode(Kind.HELLO, 0, 0, b"x" * 2000), "hello"),
    ],
)
def test_a_peer_that_does_not_fit_reaches_nobody(greeting: bytes, word: str) -> None:
    d = dispatcher()
    for _ in range(2):
        assert word in d.from_peer(greeting + raft(1))
    assert not links(d) and not d.take_replies(0)
    assert d.counters.refused_plane + d.counters.malformed == 2


def test_before_any_routing_peers_are_refused() -> None:
    d = Dispatcher(NodeConfig(), "9.9")
    assert "starting" in d.from_peer(peer_hello() + raft(1))
    d.from_link(routing_message(routing()))
    assert d.from_peer(peer_hello() + raft(1)) == "", "the verdict of before is forgotten"


def test_blocked_stores_are_dropped_without_a_word() -> None:
    d = dispatcher(routing(blocked=(OTHER,)))
    assert d.from_peer(peer_hello() + raft(1)) == "" and not links(d)
    assert d.counters.blocked == 1
    assert d.from_peer(peer_hello(store=3) + raft(1)) == "" and links(d)
    d.from_link(routing_message(routing()))
    assert d.from_peer(peer_hello() + raft(1)) == "" and links(d), "healed"


def test_frames_in_front_of_garbage_are_used() -> None:
    d = dispatcher()
    assert "malformed" in d.from_peer(peer_hello() + raft(1) + b"garbage")
    assert links(d) == {b"w0": [(b"P", raft(1))]} and d.counters.malformed == 1


# ---- inside the node ------------------------------------------------------------------------------------------------


def test_local_messages_say_where_they_came_from() -> None:
    d = dispatcher()
    d.from_link([b"w1", b"M", encode(Kind.REGISTER, 0, 0), b"W0", encode(Kind.DRAINED, 0, 0)])
    d.from_link([b"m", b"W1", encode(Kind.ASSIGN, 0, 0), b"W9", encode(Kind.STORES, 0, 0), b"M", encode(119, 0, 0)])
    assert links(d) == {
        b"m": [(b"W1", encode(Kind.REGISTER, 0, 0)), (b"M", encode(119, 0, 0))],
        b"w0": [(b"W1", encode(Kind.DRAINED, 0, 0))],
        b"w1": [(b"M", encode(Kind.ASSIGN, 0, 0))],
        b"w9": [(b"M", encode(Kind.STORES, 0, 0))],
    }


def test_our_own_store_needs_no_hello() -> None:
    d = dispatcher()
    d.from_link([b"w0", b"P", raft(3) + encode(Kind.PEER_TSO, 0, 0), b"P", get(1, 1)])
    assert links(d) == {b"w1": [(b"P", raft(3))], b"m": [(b"P", encode(Kind.PEER_TSO, 0, 0))]}
    assert d.counters.refused_plane == 1, "a worker may not pass requests off as peers'"


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"w0"],
        [b"w0", b"M"],
        [b"x", b"M", raft(1)],
        [b"w", b"M", raft(1)],
        [b"w-1", b"M", raft(1)],
        [b"w01", b"M", raft(1)],
        [b"w256", b"M", raft(1)],
        [b"w0", b"", raft(1)],
        [b"w0", b"X", raft(1)],
        [b"w0", b"W", raft(1)],
        [b"w0", b"W999", raft(1)],
        [b"w0", b"R", encode(Kind.ROUTING, 0, 0, encode_body(routing({1: 9})))],
        [b"m", b"R", encode(Kind.STORES, 0, 0, encode_body(routing({1: 9})))],
        [b"m", b"R", b""],
        [b"m", b"R", encode(Kind.ROUTING, 0, 0, b"\xc1")],
        [b"m", b"R", encode(Kind.ROUTING, 0, 0, encode_body(routing({1: 9}))) + b"tail"],
    ],
)
def test_nonsense_on_the_link_is_counted_and_changes_nothing(parts: list[bytes]) -> None:
    d = dispatcher()
    d.from_link(parts)
    assert d.counters.malformed == (0 if parts == [b"w0"] else 1)
    assert not links(d)
    d.from_client(ALICE, get(1, 1))
    assert set(links(d)) == {b"w0"}


def test_a_new_routing_moves_regions_and_forgets_old_ones() -> None:
    d = dispatcher()
    d.from_link(routing_message(routing({1: 1, 7: 0, 8: 5000})))
    d.from_client(ALICE, get(1, 1) + get(2, 7) + get(3, 2) + get(4, 8) + get(5, 0))
    assert links(d) == {
        b"w1": [(b"C" + ALICE, get(1, 1))],
        b"w0": [(b"C" + ALICE, get(2, 7))],
        b"m": [(b"C" + ALICE, get(5, 0))],
    }
    assert [region_id for _, region_id, _ in replies(d)[ALICE]] == [2, 8]


def test_the_same_routing_again_costs_nothing() -> None:
    d = dispatcher()
    before = d.routing
    d.from_link(routing_message(routing()))
    assert d.routing is before


def test_group_zero_cannot_be_placed_on_a_worker() -> None:
    d = dispatcher(routing({0: 1, 1: 1}))
    d.from_client(ALICE, get(1, 0))
    assert set(links(d)) == {b"m"}


def test_the_report_carries_every_counter() -> None:
    d = dispatcher()
    d.from_client(ALICE, get(1, 1) + get(2, 999))
    d.counters.clients = 3
    d.report(pid=42)
    ((address, frame),) = links(d)[b"m"]
    (found,) = split(frame)
    report = msgspec.msgpack.decode(found.body, type=RouterReport)
    assert (address, found.kind, report.pid) == (b"R", Kind.ROUTER_STATS, 42)
    assert report.stats == RouterStats(client_messages=1, client_frames=2, clients=3, unknown_region=1, queued_frames=1)
    assert Counters.__struct_fields__ == RouterStats.__struct_fields__
