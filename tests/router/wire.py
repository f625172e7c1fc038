"""Frames as tests write and read them."""

from collections.abc import Iterable

import msgspec

from nokv.config import NodeConfig
from nokv.proto.control import Hello, HelloReply, PeerHello, Routing, encode_body
from nokv.proto.errors import ErrorDetail, decode_error
from nokv.proto.frame import Kind, encode, split
from nokv.proto.ids import ClusterId, RegionId, StoreId, WorkerId
from nokv.router.dispatch import Dispatcher

CLUSTER, STORE, OTHER = ClusterId(77), StoreId(1), StoreId(2)
PLACEMENT = {1: 0, 2: 0, 3: 1, 4: 1}
"""Region -> worker in most tests."""


def routing(placement: dict[int, int] | None = None, **fields: object) -> Routing:
    pairs = tuple((RegionId(r), WorkerId(w)) for r, w in (PLACEMENT if placement is None else placement).items())
    return Routing(CLUSTER, STORE, pairs, **fields)  # type: ignore[arg-type]


def routing_message(table: Routing) -> list[bytes]:
    return [b"m", b"R", encode(Kind.ROUTING, 0, 0, encode_body(table))]


def dispatcher(table: Routing | None = None, /, **router: int) -> Dispatcher:
    """A dispatcher that has its routing; `router` overrides limits."""
    config = NodeConfig()
    config = msgspec.structs.replace(config, router=msgspec.structs.replace(config.router, **router))
    made = Dispatcher(config, "9.9")
    made.from_link(routing_message(routing() if table is None else table))
    return made


def get(request_id: int, region_id: int, body: bytes = b"k") -> bytes:
    return encode(Kind.KV_GET, request_id, region_id, body, deadline_ms=100)


def raft(region_id: int, body: bytes = b"r") -> bytes:
    return encode(Kind.RAFT, 0, region_id, body)


def hello(cluster: int = CLUSTER, protocol: int = 1) -> bytes:
    return encode(Kind.HELLO, 1, 0, encode_body(Hello(protocol, ClusterId(cluster), "test")))


def peer_hello(
    protocol: int = 1, cluster: int = CLUSTER, store: int = OTHER, to: int = STORE, region_id: int = 0
) -> bytes:
    body = encode_body(PeerHello(protocol, ClusterId(cluster), StoreId(store), StoreId(to)))
    return encode(Kind.HELLO, 0, region_id, body)


def links(made: Dispatcher) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """What goes to each process now, as (address, frames) pairs."""
    return {
        identity: [pair for batch in batches for pair in zip(batch.parts[::2], batch.parts[1::2], strict=True)]
        for identity, batches in made.take_links()
    }


def replies(made: Dispatcher, now_ms: int = 0) -> dict[bytes, list[tuple[int, int, ErrorDetail | HelloReply | None]]]:
    """What goes to each client now, as (request id, region id, error, hello reply or None) triples."""
    found: dict[bytes, list[tuple[int, int, ErrorDetail | HelloReply | None]]] = {}
    for identity, message in made.take_replies(now_ms):
        found.setdefault(identity, []).extend(answers(message))
    return found


def answers(message: bytes) -> Iterable[tuple[int, int, ErrorDetail | HelloReply | None]]:
    for frame in split(message):
        body: ErrorDetail | HelloReply | None = None
        if frame.kind == Kind.ERROR:
            body = decode_error(frame.body)
        elif frame.body:
            body = msgspec.msgpack.decode(frame.body, type=HelloReply)
        yield frame.request_id, frame.region_id, body
