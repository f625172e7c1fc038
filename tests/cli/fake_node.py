"""A node's client plane that answers STATUS, ROUTES and REPLICA_HASH from given replies: real sockets, in a thread."""

import threading
from collections.abc import Callable

import msgspec
import zmq

from nokv.proto import frame
from nokv.proto.control import RegionRoute, RoutesReply, RoutesRequest, StatusReply, StoreInfo
from nokv.proto.errors import ErrorDetail, ServerIsBusy, encode_error
from nokv.proto.frame import Kind
from nokv.proto.ids import ClusterId

Answer = msgspec.Struct | ErrorDetail | None
PAGE = 2
"""Regions of one ROUTES page: small, so that paging is used."""


class FakeNode:
    """Answers with what `status` and `stores`/`routes` hold when a request comes; None answers nothing."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"127.0.0.1:{port}"
        self.status: StatusReply | None = None
        self.stores: tuple[StoreInfo, ...] = ()
        self.routes: tuple[RegionRoute, ...] | None = None
        self.refusal: ErrorDetail | None = None
        self.raw: bytes | None = None
        self.other: Callable[[frame.Frame], Answer] = lambda _request: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            client, message = self._socket.recv_multipart()
            for request in frame.split(message):
                if self.raw is not None:
                    self._socket.send_multipart([client, self.raw])
                    continue
                reply = self._reply(request)
                if reply is not None:
                    self._socket.send_multipart([client, reply])

    def _reply(self, request: frame.Frame) -> bytes | None:
        if self.refusal is not None:
            return frame.encode(Kind.ERROR, request.request_id, request.region_id, encode_error(self.refusal))
        answer: Answer = self.other(request)
        if request.kind == Kind.STATUS:
            answer = self.status
        elif request.kind == Kind.ROUTES and self.routes is not None:
            answer = self._page(msgspec.msgpack.decode(request.body, type=RoutesRequest))
        if answer is None:
            return None
        return frame.encode(Kind.OK, request.request_id, request.region_id, msgspec.msgpack.encode(answer))

    def _page(self, request: RoutesRequest) -> RoutesReply:
        assert self.routes is not None
        rest = [route for route in self.routes if not route.region.end or route.region.end > request.start]
        return RoutesReply(ClusterId(1), self.stores, tuple(rest[:PAGE]), more=len(rest) > PAGE)


BUSY = ServerIsBusy("starting")
