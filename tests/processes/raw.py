"""Frames sent by hand to a live node: what the SDK would never send, and what exactly comes back.

Not here: requests that are meant to succeed as a user would make them (nokv.Client does that).
"""

import itertools
import time
from types import TracebackType

import msgspec
import zmq

from nokv.proto.control import TsoReply, TsoRequest, encode_body
from nokv.proto.errors import ErrorDetail, decode_error
from nokv.proto.frame import Frame, Kind, encode, split
from nokv.proto.ids import GROUP_ZERO, Ts
from nokv.router.curve import KeyPair

BUDGET_MS = 5000
"""Of a request that is meant to be answered."""


class NoAnswer(AssertionError):
    """Nothing came back in time."""


class RawClient:
    """One DEALER connection. A context manager."""

    def __init__(
        self,
        address: str,
        *,
        identity: bytes = b"",
        server_key: str = "",
        keys: KeyPair | None = None,
        kind: int = zmq.DEALER,
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.linger = 0
        if identity:
            self.socket.routing_id = identity
        if server_key:
            assert keys is not None
            self.socket.curve_serverkey = server_key.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        self.socket.connect(f"tcp://{address}")
        self._ids = itertools.count(1)

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, message: bytes) -> None:
        """One message, as it is."""
        self.socket.send(message)

    def receive(self, timeout_s: float = 10.0) -> list[Frame]:
        """The frames of the next message.

        Raises:
            NoAnswer: none came.
        """
        if not self.socket.poll(int(timeout_s * 1000)):
            raise NoAnswer(f"nothing within {timeout_s:g} s")
        return list(split(self.socket.recv()))

    def answers(self, count: int, timeout_s: float = 10.0) -> list[Frame]:
        """Frames until there are `count`, in order of arrival. Raises NoAnswer."""
        found: list[Frame] = []
        deadline = time.monotonic() + timeout_s
        while len(found) < count:
            found += self.receive(max(0.0, deadline - time.monotonic()))
        return found

    def ask(
        self, kind: int, region_id: int, body: bytes, *, deadline_ms: int = BUDGET_MS, timeout_s: float = 10.0
    ) -> Frame:
        """The one answer to a request. Raises NoAnswer."""
        request_id = next(self._ids)
        self.send(encode(kind, request_id, region_id, body, deadline_ms=deadline_ms))
        return self.answer_to(request_id, timeout_s)

    def answer_to(self, request_id: int, timeout_s: float = 10.0) -> Frame:
        """The answer with this id; others are dropped. Raises NoAnswer."""
        deadline = time.monotonic() + timeout_s
        while True:
            for frame in self.receive(max(0.0, deadline - time.monotonic())):
                if frame.request_id == request_id:
                    return frame

    def refusal(self, kind: int, region_id: int, body: bytes, *, deadline_ms: int = BUDGET_MS) -> ErrorDetail:
        """The typed refusal of a request that must not succeed."""
        return detail_of(self.ask(kind, region_id, body, deadline_ms=deadline_ms))

    def timestamp(self) -> Ts:
        """A fresh timestamp; the node must lead group 0."""
        reply = self.ask(Kind.TSO, GROUP_ZERO, encode_body(TsoRequest(1)))
        assert reply.kind == Kind.OK, detail_of(reply)
        return msgspec.msgpack.decode(reply.body, type=TsoReply).first


def detail_of(frame: Frame) -> ErrorDetail:
    """What an ERROR frame says."""
    assert frame.kind == Kind.ERROR, f"expected a refusal, got {Kind(frame.kind).name}: {frame.body!r}"
    return decode_error(frame.body)
