"""Timestamps from group 0's oracle, many callers to one request.

Why: at thousands of writes a second the oracle must not see a request for each; the first caller's wait is time in
which others join.
Invariants: a timestamp is always issued after the call that uses it began: a batch serves only those who waited before
it was sent, and there is one batch under way at a time, so whoever comes meanwhile is in the next one.
Not here: how the oracle keeps its promise (nokv.control.tso). The twin for threads is blocking_oracle.py.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final

import msgspec

from nokv.client.async_net import AsyncNet
from nokv.client.errors import ClientClosedError, NokvError, TimeoutError, UnavailableError
from nokv.client.link import EXPIRY_SLACK_S
from nokv.client.op import Op
from nokv.proto.control import TsoReply, TsoRequest, encode_body
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts

if TYPE_CHECKING:
    from nokv.client._async.caller import Caller

BATCH_MAX: Final = 1024
"""Timestamps of one request."""

_decode: Final = msgspec.msgpack.Decoder(TsoReply).decode
_Waiting = tuple["asyncio.Future[Ts | None]", Op]


class AsyncOracle:
    """Hands out timestamps to the calls of one client."""

    def __init__(self, net: AsyncNet, caller: "Caller") -> None:
        self._net = net
        self._caller = caller
        self._waiting: list[_Waiting] = []
        self._batch: list[_Waiting] = []
        self._scheduled = False
        self._fetching: Op | None = None
        net.on_expiry(self._expire)

    async def fresh(self, op: Op) -> Ts:
        """A timestamp issued after this call.

        Raises:
            NokvError: none could be had within the budget.
        """
        loop = self._net.loop
        waiter: asyncio.Future[Ts | None] = loop.create_future()
        self._waiting.append((waiter, op))
        if not self._scheduled and not self._batch:
            # At the end of the loop's iteration, so that all calls made in it share the request.
            self._scheduled = True
            loop.call_soon(self._send)
        self._net.wake_at(op.deadline)
        ts = await waiter
        if ts is None:
            if self._fetching is not None:
                op.inherit(self._fetching)
            raise op.expired()
        return ts

    def _send(self) -> None:
        self._scheduled = False
        waiting = [entry for entry in self._waiting if not entry[0].done()]
        self._batch, self._waiting = waiting[:BATCH_MAX], waiting[BATCH_MAX:]
        if self._batch:
            self._net.keep_task(self._net.loop.create_task(self._fetch(self._batch)))

    async def _fetch(self, batch: list[_Waiting]) -> None:
        latest = max((op for _, op in batch), key=lambda op: op.deadline)
        op = self._fetching = latest.child("timestamp", self._net.now())
        try:
            reply = await self._caller.control(op, Kind.TSO, encode_body(TsoRequest(len(batch))), _decode)
        except asyncio.CancelledError:
            self._waiting, waiting = [], self._waiting
            _fail(batch + waiting, ClientClosedError("the client was closed"))
            raise
        except (TimeoutError, UnavailableError):
            _tell(batch, None)  # the latest of their deadlines has passed, so all have
        except NokvError as error:
            _fail(batch, error)
        else:
            ts = reply.first
            for waiter, _ in batch[: reply.count]:
                if not waiter.done():
                    waiter.set_result(ts)
                ts = Ts(ts + reply.step)
            self._waiting[:0] = batch[reply.count :]
        finally:
            self._batch = []
            self._send()

    def _expire(self, now: float) -> float:
        """End those whose budget is used up; the batch under way serves the others."""
        next_due = math.inf
        for entries in (self._waiting, self._batch):
            for waiter, op in entries:
                if waiter.done():
                    continue
                if op.deadline <= now + EXPIRY_SLACK_S:
                    waiter.set_result(None)
                else:
                    next_due = min(next_due, op.deadline)
        return next_due


def _tell(entries: list[_Waiting], ts: Ts | None) -> None:
    for waiter, _ in entries:
        if not waiter.done():
            waiter.set_result(ts)


def _fail(entries: list[_Waiting], error: NokvError) -> None:
    for waiter, _ in entries:
        if not waiter.done():
            # Each caller gets its own exception: one shared by many would gather all their tracebacks.
            waiter.set_exception(error.copy())
