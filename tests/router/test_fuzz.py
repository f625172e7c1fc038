"""Hostile bytes through the dispatcher: it never raises, never loses count, and never grows without bound."""

import itertools
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from nokv.proto.control import encode_body
from nokv.proto.frame import Kind, encode, split
from nokv.router.dispatch import Dispatcher
from tests.router.wire import PLACEMENT, dispatcher, get, hello, peer_hello, raft, routing, routing_message

FRAMES = 200_000
"""Of mutated valid traffic, over all three sockets."""

MEMORY_GROWTH_MAX = 8 << 20
"""The limits below allow 4 MiB of queues; the rest is overhead of small objects."""

TINY = {
    "worker_queue_bytes_max": 1 << 18,
    "worker_queue_frames_max": 500,
    "client_queue_bytes_max": 1 << 14,
    "clients_queue_bytes_max": 1 << 20,
    "flush_bytes": 1 << 12,
    "message_frames_max": 64,
}


def valid_frames(rng: random.Random) -> Iterator[bytes]:
    regions = [0, *PLACEMENT, 999, 2**64 - 1]
    while True:
        body = rng.randbytes(rng.choice((0, 0, 1, 5, 40, 300)))
        match rng.randrange(6):
            case 0:
                yield encode(rng.randrange(256), rng.getrandbits(64), rng.choice(regions), body)
            case 1:
                yield get(rng.getrandbits(64), rng.choice(regions), body)
            case 2:
                yield raft(rng.choice(regions), body)
            case 3:
                yield hello(rng.choice((0, 77, 5)), rng.choice((1, 2)))
            case 4:
                yield peer_hello(cluster=rng.choice((77, 5)), store=rng.choice((1, 2, 3)))
            case 5:
                yield encode(Kind.ROUTING, 0, 0, encode_body(routing()))


def mutate(rng: random.Random, message: bytes) -> bytes:
    data = bytearray(message)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + rng.choice((1, 4, 32))]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
            case 4:
                data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x20"))
    return bytes(data)


class Shell:
    """Plays the loop: some receivers are there, some are full, some are gone, and it changes."""

    def __init__(self, rng: random.Random, d: Dispatcher) -> None:
        self.rng, self.d = rng, d
        self.now_ms = 0
        self.delivered = 0

    def turn(self) -> None:
        self.now_ms += self.rng.choice((0, 1, 5, 400))
        d, rng = self.d, self.rng
        for identity, batches in d.take_links():
            sent = rng.choice((len(batches), 0))
            self.delivered += sum(batch.frames for batch in batches[:sent])
            if sent < len(batches):
                if rng.random() < 0.7:
                    d.link_full(identity, batches[sent:], self.now_ms)
                else:
                    d.link_gone(identity, batches[sent:])
        for identity, message in d.take_replies(self.now_ms):
            outcome = rng.random()
            if outcome < 0.3:
                d.client_full(identity, message, self.now_ms)
            elif outcome < 0.4:
                d.client_gone(identity, message)
        assert 0 <= d.wait_ms(self.now_ms, 1000) <= 1000


def feed(rng: random.Random, d: Dispatcher, shell: Shell, frames: int) -> None:
    source, fed = valid_frames(rng), 0
    identities = [bytes((0, i)) for i in range(50)] + [b"", b"x" * 300]
    while fed < frames:
        count = rng.choice((1, 1, 2, 5, 20, 70))
        fed += count
        message = b"".join(next(source) for _ in range(count))
        match rng.randrange(4):
            case 0 | 1:
                d.from_client(rng.choice(identities), mutate(rng, message))
            case 2:
                d.from_peer(mutate(rng, rng.choice((peer_hello(), b"")) + message))
            case 3:
                addresses = [b"P", b"M", b"R", b"W0", b"W1", b"", b"W77777", b"C", b"C\0\1", rng.randbytes(3)]
                parts = [rng.choice((b"m", b"w0", b"w1", b"", b"junk", rng.randbytes(2)))]
                for _ in range(rng.randrange(4)):
                    parts += [rng.choice(addresses), mutate(rng, message)]
                d.from_link(parts[: rng.choice((len(parts), len(parts), len(parts) - 1))])
        if rng.random() < 0.2:
            shell.turn()


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_traffic_harms_nobody(seed: int) -> None:
    rng = random.Random(seed)
    d = dispatcher(**TINY)
    shell = Shell(rng, d)
    feed(rng, d, shell, FRAMES // 10)
    d.from_link(routing_message(routing()))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    feed(rng, d, shell, FRAMES // 2 - FRAMES // 10)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < MEMORY_GROWTH_MAX

    stats = d.statistics()
    assert all(value >= 0 for value in (getattr(stats, name) for name in stats.__struct_fields__))
    assert stats.malformed and stats.refused_plane and stats.unknown_region and stats.dropped_peer
    assert stats.dropped_reply and stats.busy_replies and shell.delivered

    # And it works as on the first day.
    d.from_link(routing_message(routing()))
    while d.take_links() or d.take_replies(shell.now_ms):
        shell.now_ms += 200
    d.from_client(b"good", get(1, 1))
    ((identity, (batch,)),) = d.take_links()
    assert (identity, batch.parts) == (b"w0", [b"Cgood", get(1, 1)])
    d.from_link([b"w0", b"Cgood", encode(Kind.OK, 1, 1)])
    assert d.take_replies(shell.now_ms) == [(b"good", encode(Kind.OK, 1, 1))]


def test_the_same_seed_gives_the_same_run() -> None:
    def fingerprint() -> tuple[object, int]:
        rng = random.Random(9)
        d = dispatcher(**TINY)
        shell = Shell(rng, d)
        feed(rng, d, shell, 5_000)
        return d.statistics(), shell.delivered

    assert fingerprint() == fingerprint()


@pytest.mark.parametrize("seed", range(5))
def test_every_request_is_forwarded_once_or_answered_once(seed: int) -> None:
    """Valid requests of clients that read, to workers that are full or gone at times: none is lost, none is doubled."""
    rng = random.Random(seed)
    d = dispatcher(**{**TINY, "client_queue_bytes_max": 1 << 20})
    now_ms = 0
    pending: set[tuple[bytes, int]] = set()
    forwarded: list[tuple[bytes, int]] = []
    answered: list[tuple[bytes, int]] = []

    def collect(identity: bytes, message: bytes) -> None:
        answered.extend((identity, request_id) for request_id in ids_in(message))

    ids_used = itertools.count()
    for _ in range(3000):
        for _ in range(rng.randrange(3)):
            identity = bytes((rng.randrange(5),))
            ids = list(itertools.islice(ids_used, rng.choice((1, 3, 30))))
            pending.update((identity, i) for i in ids)
            d.from_client(identity, b"".join(get(i, rng.choice((0, 1, 2, 3, 4, 999))) for i in ids))
        now_ms += rng.choice((0, 1, 100))
        for identity, batches in d.take_links():
            sent = rng.randrange(len(batches) + 1)
            for batch in batches[:sent]:
                for address, frames in zip(batch.parts[::2], batch.parts[1::2], strict=True):
                    forwarded.extend((address[1:], request_id) for request_id in ids_in(frames))
            if sent < len(batches):
                rng.choice((d.link_full, lambda i, b, _now: d.link_gone(i, b)))(identity, batches[sent:], now_ms)
        for identity, message in d.take_replies(now_ms):
            if rng.random() < 0.1:
                d.client_full(identity, message, now_ms)
            else:
                collect(identity, message)
    for _ in range(200):
        now_ms += 100
        for identity, batches in d.take_links():
            d.link_gone(identity, batches)
        for identity, message in d.take_replies(now_ms):
            collect(identity, message)
    assert d.counters.dropped_reply == 0
    outcomes = forwarded + answered
    assert len(outcomes) == len(set(outcomes)) and set(outcomes) == pending
    assert forwarded and answered


def ids_in(frames: bytes) -> list[int]:
    return [frame.request_id for frame in split(frames)]
