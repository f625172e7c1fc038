"""Dispatch: what becomes of every message, decided without a clock, a socket or a look into a request's body.

Why: the router takes a share of every request, so its decisions are few and flat; and a simulator must be able to run
these very decisions.
Use: feed messages (`from_client`, `from_peer`, `from_link`); send what `take_links`, then what `take_replies` returns,
and hand back what did not go out (`link_full`, `link_gone`, `client_full`, `client_gone`). What was taken and not
handed back counts as sent.
Invariants: a client's request is forwarded once or answered once with a typed error; one-way frames are forwarded or
counted as dropped; nothing that arrives makes a method raise; memory is bounded by the queues' limits.
Not here: queues (queues.py), greetings (greeting.py), sockets and time (loop.py).
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from nokv.config import WORKERS_MAX, NodeConfig, advertised_limits
from nokv.proto.control import HelloReply, RouterReport, Routing, encode_body
from nokv.proto.errors import (
    EpochNotMatch,
    ErrorDetail,
    LimitExceeded,
    MalformedFrame,
    ProtocolMismatch,
    ServerIsBusy,
    UnknownKind,
    encode_error,
)
from nokv.proto.frame import HEADER, HEADER_BYTES, MAGIC, VERSION, Kind, encode
from nokv.proto.ids import GROUP_ZERO, RegionId
from nokv.proto.stats import RouterStats
from nokv.router.counters import Counters
from nokv.router.framing import (
    FIELDS,
    FROM_CLIENTS,
    FROM_PEERS,
    MANIFEST,
    PREFIX,
    Stray,
    count_frames,
    gather,
    hello_end,
    join,
    process_name,
    walk,
    worker_identity,
    worker_index,
)
from nokv.router.greeting import BLOCKED, DECODE_ERRORS, FINE, PeerVerdicts, answer_hello
from nokv.router.queues import Batch, LinkQueue, SlowClients

IDENTITY_BYTES_MAX: Final = 255
"""Longest routing id of ZMTP. libzmq takes the first message of a connection whose id is in use for its id, of
whatever length; such a connection is not served, or each of its messages would carry that much with it."""

_routing_decoder: Final = msgspec.msgpack.Decoder(Routing)


class Dispatcher:
    """All decisions of one router."""

    def __init__(self, config: NodeConfig, version: str) -> None:
        """A router that knows only its manifest. `version` is what clients are told."""
        self._limits: Final = config.router
        self._advertised: Final = advertised_limits(config)
        self._version: Final = version

        # What the manifest told last
        self.routing: Routing | None = None
        self._routing_bytes = b""
        self._verdicts: Final = PeerVerdicts()

        # Volatile
        self._queues: dict[bytes, LinkQueue] = {}
        self._replies: dict[bytes, list[bytes]] = {}
        self._slow: Final = SlowClients(config.router)
        self.counters: Final = Counters()

        # Derived: region id -> queue of the process that serves it
        self._manifest: Final = self._queue(MANIFEST)
        self._routes: dict[int, LinkQueue] = {GROUP_ZERO: self._manifest}

    # ---- input ------------------------------------------------------------------------------------------------------

    def from_client(self, identity: bytes, message: bytes) -> None:
        """One message of the client plane: forward each request, or answer it."""
        counters = self.counters
        counters.client_messages += 1
        if len(message) >= HEADER_BYTES:
            # The common case, kept flat: one frame for a region we serve.
            prefix, kind, body_bytes, _request_id, region_id = FIELDS.unpack_from(message, 0)
            if body_bytes + HEADER_BYTES == len(message) and prefix == PREFIX and FROM_CLIENTS[kind]:
                queue = self._routes.get(region_id)
                if queue is not None and not queue.full and len(identity) <= IDENTITY_BYTES_MAX:
                    counters.client_frames += 1
                    queue.add(b"C" + identity, message, 1)
                    return
        self._split(identity, message)

    def from_client_in_parts(self, identity: bytes) -> None:
        """A message of several ZeroMQ parts, e.g. from a REQ socket: not looked at, and answered with a refusal."""
        self.counters.client_messages += 1
        self.counters.malformed += 1
        if len(identity) <= IDENTITY_BYTES_MAX:
            body = encode_error(MalformedFrame("a message is one part of frames"))
            self._reply(identity, encode(Kind.ERROR, 0, GROUP_ZERO, body))

    def from_peer(self, message: bytes) -> str:
        """One message of the peer plane. Returns why it was refused, "" if it was not or is not worth a log line."""
        counters = self.counters
        counters.peer_messages += 1
        end = hello_end(message)
        if not end:
            counters.malformed += 1
            return "its message does not begin with a hello"
        verdict = self._verdicts.of(message[:end])
        if verdict == FINE:
            return self._route_one_way(message, end)
        if verdict == BLOCKED:
            counters.blocked += 1
            return ""
        counters.refused_plane += 1
        return verdict

    def from_link(self, parts: Sequence[bytes]) -> None:
        """One message of a worker or the manifest: its link identity, then (address, frames) pairs."""
        sender = parts[0] if parts else b""
        own_address = b"M" if sender == MANIFEST else b"W" + sender[1:]
        if len(parts) % 2 == 0 or (sender != MANIFEST and worker_index(own_address) is None):
            self.counters.malformed += 1
            return
        for at in range(1, len(parts), 2):
            address, frames = parts[at], parts[at + 1]
            tag = address[:1]
            if tag == b"C":
                self._reply(address[1:], frames)
                self.counters.replies += count_frames(frames)
            elif address == b"P":
                self.counters.peer_messages += 1
                self._route_one_way(frames, 0)
            elif address == b"R":
                self._from_own(sender, frames)
            elif address == b"M":
                self._add_local(self._manifest, own_address, frames)
            elif tag == b"W" and (index := worker_index(address)) is not None:
                self._add_local(self._queue(worker_identity(index)), own_address, frames)
            else:
                self.counters.malformed += 1

    # ---- output -----------------------------------------------------------------------------------------------------

    def take_links(self) -> list[tuple[bytes, list[Batch]]]:
        """Messages for the link, by link identity. To be sent before `take_replies`: refusals become replies."""
        return [(queue.identity, queue.take()) for queue in self._queues.values() if queue.waiting_frames]

    def link_full(self, identity: bytes, unsent: Sequence[Batch], now_ms: int) -> None:
        """The pipe took none of `unsent`, the tail of what was taken."""
        queue = self._queues[identity]
        for batch in queue.put_back(unsent, now_ms):
            self._refuse_batch(batch, f"{process_name(identity)} does not keep up")

    def link_gone(self, identity: bytes, unsent: Sequence[Batch]) -> None:
        """Nobody with this identity is connected."""
        for batch in unsent:
            self._refuse_batch(batch, f"{process_name(identity)} is down")

    def take_replies(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """(client identity, message) pairs to send now, one message for each client as far as sizes allow."""
        taken = self._slow.take_due(now_ms) if self._slow else []
        replies, self._replies = self._replies, {}
        for identity, pieces in replies.items():
            if len(pieces) == 1:
                taken.append((identity, pieces[0]))
            else:
                taken += [(identity, message) for message in join(pieces, self._limits.flush_bytes)]
        return taken

    def client_full(self, identity: bytes, message: bytes, now_ms: int) -> None:
        """The client's pipe is full: it does not read."""
        if not self._slow.put_back(identity, message, now_ms):
            self.counters.dropped_reply += count_frames(message)

    def client_gone(self, identity: bytes, message: bytes) -> None:
        """The client has disconnected; its replies are of no use to anybody."""
        self.counters.dropped_reply += count_frames(message) + sum(map(count_frames, self._slow.drop(identity)))

    def wait_ms(self, now_ms: int, most_ms: int) -> int:
        """How long nothing needs to be tried again, at most `most_ms`."""
        if any(queue.waiting_frames for queue in self._queues.values()):
            return min(1, most_ms)
        due_ms = self._slow.next_due_ms()
        return most_ms if due_ms is None else max(0, min(most_ms, due_ms - now_ms))

    def statistics(self) -> RouterStats:
        """All counters, as the manifest gets them."""
        self.counters.queued_frames = sum(queue.waiting_frames for queue in self._queues.values())
        return self.counters.statistics()

    def report(self, pid: int) -> None:
        """Queue the router's report for the manifest."""
        body = encode_body(RouterReport(pid, self.statistics()))
        self._add_local(self._manifest, b"R", encode(Kind.ROUTER_STATS, 0, GROUP_ZERO, body))

    # ---- frames -----------------------------------------------------------------------------------------------------

    def _split(self, identity: bytes, message: bytes) -> None:
        """A client's message that may hold anything: forward what can be, answer the rest."""
        if len(identity) > IDENTITY_BYTES_MAX:
            self.counters.malformed += 1
            return
        found = walk(message, 0, self._routes, FROM_CLIENTS, self._limits.message_frames_max)
        self.counters.client_frames += found.frames
        for queue, frames, count in gather(message, found.runs):
            if queue.full:
                self._refuse(identity, frames, f"the queue of {process_name(queue.identity)} is full")
            else:
                queue.add(b"C" + identity, frames, count)
        for stray in found.strays:
            self._answer(identity, stray, message[stray.body_start : stray.end])
        if found.end < len(message) or not message:
            too_many = found.frames == self._limits.message_frames_max
            self._answer_malformed(identity, message, found.end, too_many=too_many)

    def _route_one_way(self, message: bytes, at: int) -> str:
        """Forward the peers' frames from `at` on; returns what was wrong with them, "" if nothing was."""
        counters = self.counters
        found = walk(message, at, self._routes, FROM_PEERS, len(message))
        counters.peer_frames += found.frames
        for queue, frames, count in gather(message, found.runs):
            if queue.full:
                counters.dropped_peer += count
            else:
                queue.add(b"P", frames, count)
        for stray in found.strays:
            if FROM_PEERS[stray.kind]:
                counters.unknown_region += 1
            else:
                counters.refused_plane += 1
        if found.end < len(message):
            counters.malformed += 1
            return "its message is malformed"
        return ""

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _answer(self, identity: bytes, stray: Stray, body: bytes) -> None:
        """Answer a well-formed frame that is not forwarded."""
        kind, request_id, region_id = stray.kind, stray.request_id, stray.region_id
        detail: HelloReply | ErrorDetail
        if kind == Kind.PING:
            self._reply(identity, encode(Kind.OK, request_id, region_id))
            return
        if kind == Kind.HELLO:
            busy = ServerIsBusy("starting", self._limits.retry_after_ms)
            detail = answer_hello(body, self.routing, busy, version=self._version, limits=self._advertised)
            if isinstance(detail, HelloReply):
                self._reply(identity, encode(Kind.OK, request_id, region_id, encode_body(detail)))
                return
        elif not FROM_CLIENTS[kind]:
            self.counters.refused_plane += 1
            detail = UnknownKind(kind)
        elif self.routing is None:
            self.counters.busy_replies += 1
            detail = ServerIsBusy("starting", self._limits.retry_after_ms)
        else:
            self.counters.unknown_region += 1
            detail = EpochNotMatch(RegionId(region_id))
        self._reply(identity, encode(Kind.ERROR, request_id, region_id, encode_error(detail)))

    def _answer_malformed(self, identity: bytes, message: bytes, at: int, *, too_many: bool) -> None:
        """Answer what is at `at`, which is no frame or one too many. The rest of the message is dropped."""
        self.counters.malformed += 1
        left = len(message) - at
        request_id = region_id = 0
        detail: ErrorDetail
        if left < HEADER_BYTES:
            detail = MalformedFrame(f"{left} bytes, a header has {HEADER_BYTES}")
        else:
            header = HEADER.unpack_from(message, at)
            magic, version, _kind, _flags, body_bytes, _deadline_ms, request_id, region_id = header
            if magic != MAGIC:
                request_id = region_id = 0
                detail = MalformedFrame("bad magic")
            elif version != VERSION:
                detail = ProtocolMismatch(ours=VERSION, theirs=version)
            elif too_many:
                frames_max = self._limits.message_frames_max
                detail = LimitExceeded("message_frames_max", frames_max, frames_max + 1)
            else:
                detail = MalformedFrame(f"{left - HEADER_BYTES} bytes of a body of {body_bytes}")
        self._reply(identity, encode(Kind.ERROR, request_id, region_id, encode_error(detail)))

    def _refuse(self, identity: bytes, frames: bytes, reason: str) -> None:
        """Answer forwarded requests that did not get through with ServerIsBusy. They were well-formed."""
        body = encode_error(ServerIsBusy(reason, self._limits.retry_after_ms))
        answers, at = [], 0
        while at < len(frames):
            _prefix, _kind, body_bytes, request_id, region_id = FIELDS.unpack_from(frames, at)
            answers.append(encode(Kind.ERROR, request_id, region_id, body))
            at += HEADER_BYTES + body_bytes
        self.counters.busy_replies += len(answers)
        self._reply(identity, b"".join(answers))

    def _refuse_batch(self, batch: Batch, reason: str) -> None:
        """What could not be delivered: requests are answered, everything else is counted."""
        for address, frames in zip(batch.parts[::2], batch.parts[1::2], strict=True):
            if address[:1] == b"C":
                self._refuse(address[1:], frames, reason)
            elif address == b"P":
                self.counters.dropped_peer += count_frames(frames)
            else:
                self.counters.dropped_local += count_frames(frames)

    def _reply(self, identity: bytes, frames: bytes) -> None:
        slow = self._slow
        if slow and identity in slow:
            if not slow.add(identity, frames):
                self.counters.dropped_reply += count_frames(frames)
            return
        pieces = self._replies.get(identity)
        if pieces is None:
            self._replies[identity] = [frames]
        else:
            pieces.append(frames)

    # ---- inside the node --------------------------------------------------------------------------------------------

    def _from_own(self, sender: bytes, frames: bytes) -> None:
        """A frame for the router itself: ROUTING from the manifest, and nothing else."""
        if len(frames) < HEADER_BYTES or sender != MANIFEST:
            self.counters.malformed += 1
            return
        prefix, kind, body_bytes, _request_id, _region_id = FIELDS.unpack_from(frames, 0)
        if prefix != PREFIX or kind != Kind.ROUTING or len(frames) != HEADER_BYTES + body_bytes:
            self.counters.malformed += 1
            return
        body = frames[HEADER_BYTES:]
        if body == self._routing_bytes:  # pushed again, for a router that may have restarted
            return
        try:
            routing = _routing_decoder.decode(body)
        except DECODE_ERRORS:
            self.counters.malformed += 1
            return
        self._adopt(routing)
        self._routing_bytes = body

    def _adopt(self, routing: Routing) -> None:
        routes: dict[int, LinkQueue] = {}
        for region_id, worker_id in routing.placement:
            if 0 <= worker_id < WORKERS_MAX:
                routes[region_id] = self._queue(worker_identity(worker_id))
        routes[GROUP_ZERO] = self._manifest
        self._routes = routes
        self._verdicts.set_routing(routing)
        self.routing = routing

    def _add_local(self, queue: LinkQueue, address: bytes, frames: bytes) -> None:
        if queue.full:
            self.counters.dropped_local += count_frames(frames)
        else:
            queue.add(address, frames, max(1, count_frames(frames)))

    def _queue(self, identity: bytes) -> LinkQueue:
        queue = self._queues.get(identity)
        if queue is None:
            queue = self._queues[identity] = LinkQueue(identity, self._limits)
        return queue
