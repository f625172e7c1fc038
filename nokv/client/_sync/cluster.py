# Generated from _async/cluster.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""What the client can say about the cluster: nodes, regions, and whether all is well.

Why: a program that starts, and a person at the command line, ask this first.
Invariants: every known node is listed, with an error where it does not answer; these questions go to the manifest
processes and never pass through a worker.
Not here: changing anything.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from nokv.client._sync.caller import Caller
from nokv.client.blocking_net import BlockingNet
from nokv.client.endpoint import Endpoint
from nokv.client.errors import error_of
from nokv.client.net import Request
from nokv.client.op import Op
from nokv.client.results import ClusterStatus, NodeView
from nokv.proto.control import RegionRoute, StatusReply, StatusRequest, StoreInfo, encode_body
from nokv.proto.errors import decode_error
from nokv.proto.frame import Kind
from nokv.proto.ids import GROUP_ZERO

STATUS_S: Final = 3.0
"""A node that has not told its status by then is shown as not answering."""

_decode_status: Final = msgspec.msgpack.Decoder(StatusReply).decode


class Cluster:
    """`client.cluster`."""

    def __init__(self, begin: Callable[[str], Op], net: BlockingNet, caller: Caller) -> None:
        self._begin = begin
        self._net = net
        self._caller = caller

    def nodes(self) -> tuple[StoreInfo, ...]:
        """All nodes, in id order.

        Raises:
            ConnectError: no node answers.
        """
        with self._begin("nodes") as op:
            return tuple(sorted((self._caller.directory(op)).stores, key=lambda store: store.id))

    def regions(self) -> tuple[RegionRoute, ...]:
        """All regions in key order, with their leaders as the first node that answers knows them.

        Raises:
            ConnectError: no node answers.
        """
        with self._begin("regions") as op:
            return (self._caller.directory(op)).regions

    def status(self) -> ClusterStatus:
        """Every node's own view of itself, asked together; nodes that do not answer are listed with the reason.

        Raises:
            ConnectError: no node answers.
        """
        with self._begin("status") as op:
            directory = self._caller.directory(op)
            stores = sorted(directory.stores, key=lambda store: store.id)
            due = min(op.deadline, self._net.now() + STATUS_S)
            body = encode_body(StatusRequest())
            asked: list[Request] = [
                (Endpoint(store.client_addr, store.server_key), Kind.STATUS, GROUP_ZERO, body, due) for store in stores
            ]
            answers = self._net.request_many(asked)
        nodes = tuple(_view(store, code, reply) for store, (code, reply) in zip(stores, answers, strict=True))
        leaderless = sum(not route.leader_store for route in directory.regions)
        answering = sum(node.status is not None for node in nodes)
        state = "healthy" if answering == len(nodes) and not leaderless else "degraded" if answering else "unavailable"
        return ClusterStatus(state, nodes, len(directory.regions), leaderless)


def _view(store: StoreInfo, code: int, body: bytes) -> NodeView:
    try:
        if code == Kind.OK:
            return NodeView(store, status=_decode_status(body).node)
        if code == Kind.ERROR:
            return NodeView(store, error=str(error_of(decode_error(body))))
    except msgspec.MsgspecError as error:
        return NodeView(store, error=f"unreadable answer: {error}")
    return NodeView(store, error=body.decode(errors="replace"))
