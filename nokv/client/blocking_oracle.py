"""Timestamps for threads: each call asks for its own.

Why: a thread that waits cannot gather others without waking them again, which costs more than the request.
Invariants: a timestamp is issued after the call that uses it began.
Not here: the batching twin for event loops (async_oracle.py).
"""

from typing import TYPE_CHECKING, Final

import msgspec

from nokv.client.blocking_net import BlockingNet
from nokv.client.op import Op
from nokv.proto.control import TsoReply, TsoRequest, encode_body
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts

if TYPE_CHECKING:
    from nokv.client._sync.caller import Caller

_decode: Final = msgspec.msgpack.Decoder(TsoReply).decode
_BODY: Final = encode_body(TsoRequest(1))


class BlockingOracle:
    """Hands out timestamps to the calls of one client."""

    def __init__(self, net: BlockingNet, caller: "Caller") -> None:
        self._net = net
        self._caller = caller

    def fresh(self, op: Op) -> Ts:
        """A timestamp issued after this call.

        Raises:
            NokvError: none could be had within the budget.
        """
        return self._caller.control(op.child("timestamp", self._net.now()), Kind.TSO, _BODY, _decode).first
