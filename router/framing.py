"""Frames as the router sees them: headers to route by, and runs of bytes to pass on.

Why: the body is not ours to read; a message for one receiver must pass as it came, without a copy.
Invariants: `walk` looks at each header once and never at a body; it stops at the first byte that is no frame.
Not here: what happens to what `walk` finds (dispatch.py), the header's grammar (proto.frame).
"""

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple

from nokv.config import WORKERS_MAX
from nokv.proto.frame import HEADER, HEADER_BYTES, MAGIC, VERSION, Kind, Plane, plane_allows
from nokv.router.queues import LinkQueue

MANIFEST: Final = b"m"
"""Link identity of the manifest; that of worker i is b"w<i>"."""

HELLO_BYTES_MAX: Final = 1024
"""Longest hello frame of a peer; it becomes a dictionary key, so it must be small."""

PREFIX: Final = MAGIC + bytes((VERSION,))
FIELDS: Final = Struct(">3sB4xI4xQQ")
"""The header as the hot loops read it: magic and version at once, kind, body length, request id, region id."""
assert FIELDS.size == HEADER_BYTES
assert FIELDS.unpack(HEADER.pack(MAGIC, VERSION, 7, 1, 2, 3, 4, 5)) == (PREFIX, 7, 2, 4, 5)

_BODY_BYTES: Final = Struct(">8xI")
_ANSWERED_HERE: Final = frozenset({Kind.HELLO, Kind.PING})

FROM_CLIENTS: Final = bytes(plane_allows(Plane.CLIENT, k) and k not in _ANSWERED_HERE for k in range(256))
FROM_PEERS: Final = bytes(plane_allows(Plane.PEER, k) and k not in _ANSWERED_HERE for k in range(256))
"""Tables by kind: 1 = forwarded. A second HELLO inside a peer's message is none of the kinds that groups handle."""


class Stray(NamedTuple):
    """A well-formed frame that has no receiver: its kind is not forwarded, or nobody serves its region."""

    kind: int
    request_id: int
    region_id: int
    body_start: int
    end: int


Run = tuple[LinkQueue, int, int, int]
"""Neighbouring frames for one receiver: the queue, where they begin and end, how many they are."""


class Walk(NamedTuple):
    """What a message holds. `end` is where it stops being frames or there are too many: its length, if all is well."""

    runs: list[Run]
    strays: list[Stray]
    end: int
    frames: int


def walk(message: bytes, at: int, routes: Mapping[int, LinkQueue], kinds: bytes, frames_max: int) -> Walk:
    """Find the receivers of the frames from `at` on, at most `frames_max`; `kinds` tells which are forwarded."""
    size = len(message)
    unpack, header_bytes, prefix = FIELDS.unpack_from, HEADER_BYTES, PREFIX
    start = at
    total = count = 0
    current: LinkQueue | None = None
    runs: list[Run] = []
    strays: list[Stray] = []
    while size - at >= header_bytes and total < frames_max:
        found, kind, body_bytes, request_id, region_id = unpack(message, at)
        end = at + header_bytes + body_bytes
        if found != prefix or end > size:
            break
        queue = routes.get(region_id) if kinds[kind] else None
        if queue is not current:
            if current is not None:
                runs.append((current, start, at, count))
            current, start, count = queue, at, 0
        if queue is None:
            strays.append(Stray(kind, request_id, region_id, at + header_bytes, end))
        count += 1
        total += 1
        at = end
    if current is not None:
        runs.append((current, start, at, count))
    return Walk(runs, strays, at, total)


def gather(message: bytes, runs: Sequence[Run]) -> list[tuple[LinkQueue, bytes, int]]:
    """One (queue, frames, count) for each receiver, in order of first appearance."""
    if len(runs) == 1:
        queue, start, end, count = runs[0]
        return [(queue, message[start:end], count)]  # the whole of a bytes object is itself: no copy
    pieces: dict[LinkQueue, list[bytes]] = {}
    counts: dict[LinkQueue, int] = {}
    for queue, start, end, count in runs:
        pieces.setdefault(queue, []).append(message[start:end])
        counts[queue] = counts.get(queue, 0) + count
    return [(queue, b"".join(found), counts[queue]) for queue, found in pieces.items()]


def join(pieces: Sequence[bytes], flush_bytes: int) -> list[bytes]:
    """The pieces as few messages of about `flush_bytes`."""
    messages: list[bytes] = []
    first = size = 0
    for at, piece in enumerate(pieces):
        size += len(piece)
        if size >= flush_bytes or at + 1 == len(pieces):
            messages.append(b"".join(pieces[first : at + 1]))
            first, size = at + 1, 0
    return messages


def count_frames(frames: bytes) -> int:
    """How many frames these are, as far as they can be told apart."""
    size = len(frames)
    count = at = 0
    while size - at >= HEADER_BYTES:
        at += HEADER_BYTES + _BODY_BYTES.unpack_from(frames, at)[0]
        count += 1
    return count


def hello_end(message: bytes) -> int:
    """Where the HELLO frame at the beginning of a peer's message ends; 0: there is none."""
    if len(message) < HEADER_BYTES:
        return 0
    prefix, kind, body_bytes, _request_id, _region_id = FIELDS.unpack_from(message, 0)
    end: int = HEADER_BYTES + body_bytes
    fits = end <= len(message) and end <= HELLO_BYTES_MAX
    return end if prefix == PREFIX and kind == Kind.HELLO and fits else 0


def worker_identity(index: int) -> bytes:
    """The link identity of a worker."""
    return b"w%d" % index


def worker_index(name: bytes) -> int | None:
    """The index in a worker's identity (b"w3") or address (b"W3"), None if it is none."""
    digits = name[1:]
    if not digits.isdigit() or len(digits) > 4 or (digits[:1] == b"0" and len(digits) > 1):
        return None
    index = int(digits)
    return index if index < WORKERS_MAX else None


def process_name(identity: bytes) -> str:
    """A link identity for human eyes."""
    return "the manifest" if identity == MANIFEST else f"worker {identity[1:].decode()}"
