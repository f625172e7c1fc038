"""Frames: a fixed header that routes, a body that only its receiver decodes.

Why: the router must forward by region without decoding a body, and one ZeroMQ message must carry many requests.

Grammar (all integers big-endian)::

    message := frame+                         one ZeroMQ message part; frames follow each other without padding
    frame   := header body
    header  := magic "NK"   2 bytes
               version      1   protocol version, VERSION
               kind         1   what the body is, Kind
               flags        4   0; reserved
               body_bytes   4   length of the body
               deadline_ms  4   remaining budget of the request when it was sent; 0 = the kind has no deadline
               request_id   8   echoed by the reply
               region_id    8   which Raft group must handle it; 0 = the node's manifest (group 0)

Invariants: a frame is at most FRAME_BYTES_MAX long; a reader checks magic, version and length before it looks at
anything else and answers a violation with a typed error, never by dropping the connection.
Not here: which kinds a plane may carry is stated by `plane_of`; what bodies hold (kv, raft, control, ...).
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

from nokv.proto.ids import U64_MAX

MAGIC: Final = b"NK"
VERSION: Final = 1
HEADER: Final = Struct(">2sBBIIIQQ")
HEADER_BYTES: Final = HEADER.size
FRAME_BYTES_MAX: Final = 64 << 20
"""Longest frame, in bytes. A transaction is at most 16 MiB and a Raft append at most 1 MiB; the rest is room for
one oversized entry, which must travel whole."""

assert HEADER_BYTES == 32


class Kind(IntEnum):
    """What a frame's body is. Frozen values; the ranges decide which plane may carry a kind (see `Plane`)."""

    # -- any plane: 1..15
    HELLO = 1
    PING = 2
    OK = 3
    """Reply: the body is the result type of the request's kind."""
    ERROR = 4
    """Reply: the body is an errors.ErrorDetail."""

    # -- client plane, region's leader: 16..47
    KV_GET = 16
    KV_BATCH_GET = 17
    KV_SCAN = 18
    KV_ONE_PHASE = 19
    KV_PREWRITE = 20
    KV_COMMIT = 21
    KV_BATCH_ROLLBACK = 22
    KV_RESOLVE_LOCK = 23
    KV_CHECK_TXN_STATUS = 24
    KV_TXN_HEARTBEAT = 25
    KV_ATOMIC = 26
    KV_DELETE_RANGE = 27
    KV_GC = 28

    # -- client plane, manifest (region id 0): 48..79
    TSO = 48
    ROUTES = 49
    STATUS = 50
    ALLOC_IDS = 51
    TRANSFER_LEADER = 52
    CHAOS = 53
    REPLICA_HASH = 54

    # -- peer plane: 96..111, one-way, never answered on the connection they came by
    RAFT = 96
    PEER_TSO = 97
    """A region leader, or a manifest on its behalf, asks group 0's leader for timestamps."""
    PEER_TSO_GRANT = 98
    STORE_HEARTBEAT = 99
    SNAPSHOT_CHUNK = 100
    SNAPSHOT_ACK = 101

    # -- inside a node, ipc only: 112..127
    REGISTER = 112
    ASSIGN = 113
    ROUTING = 114
    WORKER_HEARTBEAT = 115
    ROUTER_STATS = 116
    STORES = 117
    DRAIN = 118
    DRAINED = 119


class Plane(IntEnum):
    """Where a message came from: three different kinds of trust."""

    CLIENT = 0
    PEER = 1
    LOCAL = 2


class FrameError(ValueError):
    """The bytes are not a frame of this protocol. `theirs` is the version byte when that is what differs."""

    def __init__(self, reason: str, *, theirs: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.theirs = theirs


def plane_allows(plane: Plane, kind: int) -> bool:
    """Whether `kind` may arrive over `plane`: a client can never speak Raft, a peer can never read data."""
    if plane is Plane.CLIENT:
        return kind == Kind.HELLO or kind == Kind.PING or 16 <= kind < 80
    if plane is Plane.PEER:
        return kind == Kind.HELLO or 96 <= kind < 112
    return True


def encode(kind: int, request_id: int, region_id: int, body: bytes = b"", *, deadline_ms: int = 0) -> bytes:
    """One frame as bytes. `deadline_ms` is the remaining budget of a request in milliseconds, 0 where none applies."""
    assert len(body) <= FRAME_BYTES_MAX - HEADER_BYTES
    return HEADER.pack(MAGIC, VERSION, kind, 0, len(body), deadline_ms, request_id, region_id) + body


class Frame:
    """One decoded header and where the frame lies in its message. `body` copies the body's bytes out."""

    __slots__ = ("deadline_ms", "end", "kind", "message", "region_id", "request_id", "start")

    def __init__(
        self, message: bytes, start: int, end: int, kind: int, deadline_ms: int, request_id: int, region_id: int
    ) -> None:
        self.message = message
        self.start = start
        self.end = end
        self.kind = kind
        self.deadline_ms = deadline_ms
        self.request_id = request_id
        self.region_id = region_id

    @property
    def body(self) -> bytes:
        """The body's bytes."""
        return self.message[self.start + HEADER_BYTES : self.end]

    @property
    def whole(self) -> bytes:
        """Header and body, as they were sent."""
        return self.message[self.start : self.end]


def split(message: bytes) -> Iterator[Frame]:
    """Yield the frames of one message in order.

    Raises:
        FrameError: at the first violation; frames before it have been yielded.
    """
    at, size = 0, len(message)
    unpack = HEADER.unpack_from
    while at < size:
        if size - at < HEADER_BYTES:
            raise FrameError(f"{size - at} bytes left, a header has {HEADER_BYTES}")
        magic, version, kind, _flags, body_bytes, deadline_ms, request_id, region_id = unpack(message, at)
        if magic != MAGIC:
            raise FrameError("bad magic")
        if version != VERSION:
            raise FrameError("protocol version", theirs=version)
        end = at + HEADER_BYTES + body_bytes
        if end > size:
            raise FrameError(f"body of {body_bytes} bytes is cut short")
        yield Frame(message, at, end, kind, deadline_ms, request_id, region_id)
        at = end


assert HEADER.unpack(HEADER.pack(MAGIC, VERSION, 1, 0, 0, 0, U64_MAX, U64_MAX))[6] == U64_MAX
