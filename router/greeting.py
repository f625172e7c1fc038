"""Who may talk to this node: the first frame of a client, and of every message of another store.

Why: a client of another cluster must learn so at once, and a peer of another cluster, store or protocol must never
reach a Raft group; peers are one-way, so each of their messages carries its proof.
Invariants: before the first ROUTING nobody is served, since the router does not know who it is; a peer's verdict
depends on the raw bytes of its hello frame and on the routing only, so it may be remembered until the routing changes.
Not here: encryption and keys (auth.py), which kinds a plane carries (proto.frame.plane_allows).
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nokv.proto.control import Hello, HelloReply, PeerHello, Routing
from nokv.proto.errors import ClusterMismatch, ErrorDetail, MalformedFrame, ProtocolMismatch, ServerIsBusy
from nokv.proto.frame import HEADER_BYTES, VERSION

VERDICTS_MAX: Final = 1024
"""Verdicts remembered; there is one for each store of the cluster, so only garbage reaches this."""
FINE: Final = ""
"""The verdict on a peer that may talk."""
BLOCKED: Final = "blocked by fault injection"
"""The verdict on a store that is cut off on purpose: dropped, counted, and not worth a line in the log."""

_hello: Final = msgspec.msgpack.Decoder(Hello)
_peer_hello: Final = msgspec.msgpack.Decoder(PeerHello)
DECODE_ERRORS: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""What hostile bytes make msgspec raise: a wrong shape, bad UTF-8 in a text, arrays nested too deep to be skipped."""


def answer_hello(
    body: bytes, routing: Routing | None, busy: ServerIsBusy, *, version: str, limits: Mapping[str, int]
) -> HelloReply | ErrorDetail:
    """The answer to a client's HELLO; `busy` without a routing. `limits` are told unless the routing brings some."""
    try:
        hello = _hello.decode(body)
    except DECODE_ERRORS:
        return MalformedFrame("the body is no Hello")
    if hello.protocol != VERSION:
        return ProtocolMismatch(ours=VERSION, theirs=hello.protocol)
    if routing is None:
        return busy
    if hello.cluster_id not in (0, routing.cluster_id):
        return ClusterMismatch(ours=routing.cluster_id, theirs=hello.cluster_id)
    return HelloReply(VERSION, routing.cluster_id, routing.store_id, version, routing.limits or dict(limits))


class PeerVerdicts:
    """Remembered verdicts on peers, by the raw bytes of their hello frames."""

    __slots__ = ("_routing", "_verdicts")

    def __init__(self) -> None:
        """Nothing is known yet, so everybody is refused."""
        self._routing: Routing | None = None
        self._verdicts: dict[bytes, str] = {}

    def set_routing(self, routing: Routing) -> None:
        """Judge by this routing from now on."""
        self._routing = routing
        self._verdicts.clear()

    def of(self, hello_frame: bytes) -> str:
        """FINE, BLOCKED, or why messages that begin with this HELLO frame are refused."""
        verdict = self._verdicts.get(hello_frame)
        if verdict is None:
            verdict = self._judge(hello_frame)
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[hello_frame] = verdict
        return verdict

    def _judge(self, hello_frame: bytes) -> str:
        routing = self._routing
        if routing is None:
            return "this node is still starting"
        try:
            hello = _peer_hello.decode(memoryview(hello_frame)[HEADER_BYTES:])
        except DECODE_ERRORS:
            return "its hello is malformed"
        if hello.protocol != VERSION:
            return f"it speaks protocol {hello.protocol}, we speak {VERSION}"
        if hello.cluster_id != routing.cluster_id:
            return f"it belongs to cluster {hello.cluster_id}, we to {routing.cluster_id}"
        if hello.to_store_id != routing.store_id:
            return f"it looks for store {hello.to_store_id}, we are store {routing.store_id}"
        if hello.store_id == routing.store_id:
            return f"it claims to be store {hello.store_id}, which is us"
        return BLOCKED if hello.store_id in routing.blocked else FINE
