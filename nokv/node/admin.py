"""Asking nodes about themselves: blocking requests over the client plane, to one address or to many at once.

Why: status, readiness and replica checks must work while a cluster is half dead, where the client's retries and
routing would only hide what is wrong. So: one question, one address, one deadline, no retry.
Invariants: every address asked gets an answer object: the reply, or an AskError; nothing waits past the deadline.
Not here: data requests (nokv.client).
"""

import itertools
import time
from collections.abc import Hashable, Mapping
from math import ceil
from typing import Final, TypeVar

import msgspec
import zmq
from msgspec import Struct

from nokv.proto import frame
from nokv.proto.control import (
    ReplicaHashRequest,
    RoutesReply,
    RoutesRequest,
    StatusReply,
    StatusRequest,
)
from nokv.proto.errors import ErrorDetail, decode_error
from nokv.proto.frame import Kind
from nokv.proto.ids import GROUP_ZERO, RegionId
from nokv.router.curve import KeyPair, new_pair

TIMEOUT_MS: Final = 1000
"""A local node answers status from memory; a cluster call may take three times this."""

Reply = TypeVar("Reply", bound=Struct)
Key = TypeVar("Key", bound=Hashable)


class Address(Struct, frozen=True):
    """Where a node's client plane is: "host:port", and its CURVE public key, "" without CURVE."""

    host_port: str
    server_key: str = ""


class AskError(Exception):
    """No usable answer. `detail` is the node's refusal, None when there was no answer at all."""

    def __init__(self, reason: str, detail: ErrorDetail | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Question(Struct, frozen=True):
    """One request for one node."""

    address: Address
    kind: Kind
    body: bytes
    region_id: RegionId = GROUP_ZERO


class Asker:
    """Sends questions and gathers answers. One thread; close it, or use it as a context manager."""

    def __init__(self, keys: KeyPair | None = None) -> None:
        self._keys = keys
        self._context = zmq.Context()
        self._request_ids = itertools.count(1)

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the context; idempotent."""
        self._context.destroy(linger=0)

    def ask_all(
        self, questions: Mapping[Key, Question], reply_type: type[Reply], *, timeout_ms: int = TIMEOUT_MS
    ) -> dict[Key, Reply | AskError]:
        """The answer to each question under its key, after at most `timeout_ms`."""
        poller = zmq.Poller()
        pending: dict[zmq.Socket[bytes], tuple[Key, int]] = {}
        answers: dict[Key, Reply | AskError] = {}
        deadline = time.monotonic() + timeout_ms / 1000
        for key, question in questions.items():
            request_id = next(self._request_ids)
            socket = self._connect(question.address)
            socket.send(
                frame.encode(question.kind, request_id, question.region_id, question.body, deadline_ms=timeout_ms)
            )
            pending[socket] = (key, request_id)
            poller.register(socket, zmq.POLLIN)
        while pending and (left := deadline - time.monotonic()) > 0:
            for socket, _event in poller.poll(ceil(left * 1000)):
                key, request_id = pending[socket]
                answer = _answer(socket.recv(), request_id, reply_type)
                if answer is None:
                    continue
                answers[key] = answer
                poller.unregister(socket)
                del pending[socket]
                socket.close(linger=0)
        for socket, (key, _request_id) in pending.items():
            socket.close(linger=0)
            answers[key] = AskError(f"no answer from {questions[key].address.host_port} within {timeout_ms} ms")
        return answers

    def ask(self, question: Question, reply_type: type[Reply], *, timeout_ms: int = TIMEOUT_MS) -> Reply:
        """The one answer.

        Raises:
            AskError: no answer in time, or a refusal.
        """
        answer = self.ask_all({0: question}, reply_type, timeout_ms=timeout_ms)[0]
        if isinstance(answer, AskError):
            raise answer
        return answer

    # ---- the questions there are ----

    def status(self, address: Address, *, regions: bool = False, timeout_ms: int = TIMEOUT_MS) -> StatusReply:
        """A node's own view of itself.

        Raises:
            AskError: no answer in time, or a refusal.
        """
        return self.ask(status_question(address, regions=regions), StatusReply, timeout_ms=timeout_ms)

    def routes(self, address: Address, *, timeout_ms: int = TIMEOUT_MS) -> RoutesReply:
        """The whole directory as a node knows it.

        Raises:
            AskError: no answer in time, or a refusal.
        """
        start = b""
        pages: list[RoutesReply] = []
        while True:
            body = msgspec.msgpack.encode(RoutesRequest(start))
            page = self.ask(Question(address, Kind.ROUTES, body), RoutesReply, timeout_ms=timeout_ms)
            pages.append(page)
            if not page.more or not page.regions:
                break
            start = page.regions[-1].region.end
        regions = tuple(route for page in pages for route in page.regions)
        return RoutesReply(pages[-1].cluster_id, pages[-1].stores, regions)

    def _connect(self, address: Address) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, frame.FRAME_BYTES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        if address.server_key:
            keys = self._keys or new_pair()  # an anonymous key meets the node's allow-list like any other
            socket.setsockopt(zmq.CURVE_SERVERKEY, address.server_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.connect(f"tcp://{address.host_port}")
        return socket


def status_question(address: Address, *, regions: bool = False) -> Question:
    """Ask a node's manifest how the node is."""
    return Question(address, Kind.STATUS, msgspec.msgpack.encode(StatusRequest(regions)))


def hash_question(address: Address, region_id: RegionId, cursor: bytes = b"") -> Question:
    """Ask the replica of a region on one node for the hash of a page of its data; answered by a ReplicaHashReply."""
    body = msgspec.msgpack.encode(ReplicaHashRequest(cursor))
    return Question(address, Kind.REPLICA_HASH, body, region_id)


def _answer(message: bytes, request_id: int, reply_type: type[Reply]) -> Reply | AskError | None:
    """The reply in a message, or None where it answers something else."""
    try:
        for part in frame.split(message):
            if part.request_id != request_id:
                continue
            if part.kind == Kind.OK:
                return msgspec.msgpack.decode(part.body, type=reply_type)
            if part.kind == Kind.ERROR:
                detail = decode_error(part.body)
                return AskError(f"refused: {detail}", detail)
    except (frame.FrameError, msgspec.DecodeError) as error:
        return AskError(f"not our protocol: {error}")
    return None
