"""One connection to one node: greeting, requests under way, and what becomes of them.

Why: replies may come in any order, late or never; each request must end exactly once, and a new connection must not
inherit anything from an old one.

States::

    GREETING ── HelloReply fits ──► READY ── connection lost ──► LOST
        │                             (requests flow)             ▲
        ├── does not fit ──► REFUSED                              │
        └── no reply in time, connection lost, "starting" ────────┘

Invariants: nothing but the greeting is sent before the greeting was answered; a request that was not sent ends UNSENT,
one that was sent and never answered ends NO_ANSWER or LOST_ANSWER; a forgotten request is neither sent nor answered.
A link is one connection: LOST and REFUSED are final, a new connection is a new link.
Not here: sockets (zmq_socket.py), when to try again (caller.py).
"""

import math
from enum import Enum
from typing import Final, Protocol

import msgspec

from nokv.client.errors import ConnectError, NokvError, ProtocolError, error_of
from nokv.client.limits import Limits
from nokv.proto.control import Hello, HelloReply, encode_body
from nokv.proto.errors import ClusterMismatch, ProtocolMismatch, decode_error
from nokv.proto.frame import HEADER, HEADER_BYTES, MAGIC, VERSION, Kind, encode
from nokv.proto.ids import ClusterId

Answer = tuple[int, bytes]
"""What a request ended with: Kind.OK or Kind.ERROR and the body, or one of the three below and a reason in UTF-8."""

UNSENT: Final = -1
"""It never left this process."""
NO_ANSWER: Final = -2
"""It was sent, and its time ran out."""
LOST_ANSWER: Final = -3
"""It was sent, and the connection broke."""

NOT_YET: Final = b"not connected yet"
"""The reason of an UNSENT request whose time ran out before the greeting was answered."""

MESSAGE_BYTES_MAX: Final = 1 << 20
"""Requests are gathered into messages of at most about this size; one larger request travels alone."""
EXPIRY_SLACK_S: Final = 0.001
"""Timers of event loops fire up to a millisecond early; what is due that soon is due."""

_OK: Final = int(Kind.OK)
_ERROR: Final = int(Kind.ERROR)
_decode_hello_reply: Final = msgspec.msgpack.Decoder(HelloReply).decode


class Waiter(Protocol):
    """Whoever waits for an answer; asyncio.Future is one."""

    def done(self) -> bool:
        """Whether it has ended already, e.g. by cancellation."""

    def set_result(self, answer: Answer, /) -> None:
        """End it."""


class Session:
    """What all links of a client agree on: which cluster this is and which limits it has."""

    def __init__(self, *, client_name: str = "", cluster_id: int = 0) -> None:
        self.client_name = client_name
        self.cluster_id = cluster_id
        self.limits = Limits()

    def hello(self) -> bytes:
        """The body of our greeting."""
        return encode_body(Hello(VERSION, ClusterId(self.cluster_id), self.client_name))

    def accept(self, reply: HelloReply) -> ProtocolError | None:
        """Take in a node's greeting; the error says why it does not fit."""
        if reply.protocol != VERSION:
            text = f"the node speaks protocol {reply.protocol}, we speak {VERSION}"
            return ProtocolError(text, ours=VERSION, theirs=reply.protocol)
        if self.cluster_id and reply.cluster_id != self.cluster_id:
            text = f"the node belongs to cluster {reply.cluster_id}, not to {self.cluster_id}"
            return ProtocolError(text, code="cluster_mismatch", ours=self.cluster_id, theirs=reply.cluster_id)
        self.cluster_id = reply.cluster_id
        self.limits = Limits.told(reply.limits)
        return None


class LinkState(Enum):
    """Where a connection is in its life; the diagram is in the module's docstring."""

    GREETING = "waiting for the node's greeting"
    READY = "requests flow"
    REFUSED = "the node does not fit: another protocol, cluster or key"
    LOST = "the connection is gone"


class Link:
    """The requests of one connection. The owner moves the bytes, this object knows what they mean."""

    __slots__ = (
        "_first_unsent",
        "_has_stale",
        "_outbox",
        "_pending",
        "_session",
        "address",
        "greet_due",
        "hello_id",
        "refusal",
        "state",
    )

    def __init__(self, address: str, session: Session, *, hello_id: int, greet_due: float) -> None:
        # Constant
        self.address = address
        self.hello_id = hello_id
        self.greet_due = greet_due
        self._session = session

        # Volatile
        self.state = LinkState.GREETING
        self.refusal: NokvError | None = None
        self._pending: dict[int, tuple[Waiter, float]] = {}
        self._outbox: list[bytes] = []
        # Ids rise, so everything from this one on is still in the outbox.
        self._first_unsent: float = math.inf
        self._has_stale = False

    def usable(self) -> bool:
        """Whether requests may be given to it."""
        return self.state is LinkState.READY or self.state is LinkState.GREETING

    @property
    def sendable(self) -> bool:
        """Whether `take` would return something."""
        return self.state is LinkState.READY and bool(self._outbox)

    def __len__(self) -> int:
        """How many requests are under way."""
        return len(self._pending)

    def greeting(self) -> bytes:
        """The message that opens the conversation."""
        return encode(Kind.HELLO, self.hello_id, 0, self._session.hello())

    # ---- requests ---------------------------------------------------------------------------------------------------

    def add(
        self, request_id: int, kind: int, region_id: int, body: bytes, *, waiter: Waiter, due: float, deadline_ms: int
    ) -> None:
        """A request to send with the next `take`. Ids must rise from call to call."""
        self._outbox.append(HEADER.pack(MAGIC, VERSION, kind, 0, len(body), deadline_ms, request_id, region_id) + body)
        if self._first_unsent > request_id:
            self._first_unsent = request_id
        self._pending[request_id] = (waiter, due)

    def forget(self, request_id: int) -> None:
        """Nobody waits for this answer any more; a request that was not sent yet never will be."""
        if self._pending.pop(request_id, None) is not None and request_id >= self._first_unsent:
            self._has_stale = True

    def take(self) -> list[bytes]:
        """Everything waiting to be sent, as few messages. They count as sent from here on."""
        if not self.sendable:
            return []
        frames = self._without_stale() if self._has_stale else self._outbox
        self._outbox = []
        self._first_unsent = math.inf
        if len(frames) == 1:
            return frames
        if sum(map(len, frames)) <= MESSAGE_BYTES_MAX:
            return [b"".join(frames)] if frames else []
        return _packed(frames)

    def _without_stale(self) -> list[bytes]:
        self._has_stale = False
        return [frame for frame in self._outbox if HEADER.unpack_from(frame)[6] in self._pending]

    # ---- what happens to them ---------------------------------------------------------------------------------------

    def feed(self, message: bytes) -> bool:
        """Take in one message of the node; returns whether the link's state changed.

        Late replies and frames that are no replies are dropped. Bytes that are no frames end the link.
        """
        before = self.state
        pending = self._pending
        unpack = HEADER.unpack_from
        at, size = 0, len(message)
        while size - at >= HEADER_BYTES:
            magic, version, kind, _, body_bytes, _, request_id, _ = unpack(message, at)
            start = at + HEADER_BYTES
            at = start + body_bytes
            if magic != MAGIC or version != VERSION or at > size:
                self._not_a_node(version if magic == MAGIC else 0)
                return True
            entry = pending.pop(request_id, None)
            if entry is not None:
                if not entry[0].done():
                    entry[0].set_result((kind, message[start:at]))
            elif request_id == self.hello_id and self.state is LinkState.GREETING:
                self._greeted(kind, message[start:at])
        return self.state is not before

    def expire(self, now: float) -> float:
        """End what is due; returns when the next thing is (inf: nothing)."""
        now += EXPIRY_SLACK_S
        next_due = math.inf
        if self.state is LinkState.GREETING:
            if self.greet_due <= now:
                self.lose("no greeting from the node in time: not running, or not a NoKV port")
                return math.inf
            next_due = self.greet_due
        for request_id, (waiter, due) in list(self._pending.items()):
            if due > now:
                next_due = min(next_due, due)
                continue
            unsent = request_id >= self._first_unsent
            self.forget(request_id)
            if not waiter.done():
                waiter.set_result((UNSENT, NOT_YET) if unsent else (NO_ANSWER, b"no answer in time"))
        return next_due

    def lose(self, reason: str) -> None:
        """The connection is gone: every request ends now."""
        self._end(LinkState.LOST, ConnectError(f"{self.address}: {reason}", address=self.address))

    def refuse(self, refusal: NokvError) -> None:
        """The node does not fit, and asking again will not change that."""
        self._end(LinkState.REFUSED, refusal)

    def _end(self, state: LinkState, refusal: NokvError) -> None:
        if not self.usable():
            return
        self.state = state
        self.refusal = refusal
        ended, self._pending = self._pending, {}
        reason = str(refusal).encode()
        for request_id, (waiter, _due) in ended.items():
            if not waiter.done():
                waiter.set_result((UNSENT if request_id >= self._first_unsent else LOST_ANSWER, reason))
        self._outbox = []
        self._first_unsent = math.inf

    def _greeted(self, kind: int, body: bytes) -> None:
        try:
            if kind == _OK:
                refusal: NokvError | None = self._session.accept(_decode_hello_reply(body))
            elif kind == _ERROR:
                detail = decode_error(body)
                refusal = error_of(detail)
                if not isinstance(detail, ProtocolMismatch | ClusterMismatch):
                    self.lose(str(refusal))  # e.g. busy because it is still starting
                    return
            else:
                refusal = ProtocolError(f"the greeting was answered by a frame of kind {kind}")
        except msgspec.MsgspecError as error:
            refusal = ProtocolError(f"unreadable greeting: {error}")
        if refusal is not None:
            self.refuse(refusal)
        else:
            self.state = LinkState.READY

    def _not_a_node(self, version: int) -> None:
        if version:
            text = f"the node speaks protocol {version}, we speak {VERSION}"
            self.refuse(ProtocolError(text, ours=VERSION, theirs=version))
        else:
            self.refuse(ProtocolError("what answers there is no NoKV node"))


def _packed(frames: list[bytes]) -> list[bytes]:
    """Frames joined, in order, into messages of at most about MESSAGE_BYTES_MAX."""
    messages: list[bytes] = []
    group: list[bytes] = []
    group_bytes = 0
    for frame in frames:
        if group and group_bytes + len(frame) > MESSAGE_BYTES_MAX:
            messages.append(b"".join(group))
            group, group_bytes = [], 0
        group.append(frame)
        group_bytes += len(frame)
    if group:
        messages.append(b"".join(group))
    return messages
