# Generated from _async/writes.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""Writes that commit in one phase: puts, deletes, and operations evaluated by the store.

Why: a change within one region needs no transaction, one log entry commits it; what it needs is a timestamp that names
it, so that a repeat after a lost answer finds the first outcome instead of writing twice.
Invariants: all attempts of one write carry the same start timestamp; a new one is taken only after the store has said
that the old one wrote nothing and never will (WriteConflict).
Not here: writes over several regions, which are transactions.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from nokv.client._sync.caller import Build, Caller, Decode, T
from nokv.client.blocking_oracle import BlockingOracle
from nokv.client.errors import ConflictError, CrossRegionError
from nokv.client.op import Op
from nokv.client.shared_region_cache import SharedRegionCache
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    AtomicOp,
    AtomicReply,
    AtomicRequest,
    Mutation,
    OnePhaseReply,
    OnePhaseRequest,
    encode_body,
)
from nokv.proto.region import Region

_decode_one_phase: Final = msgspec.msgpack.Decoder(OnePhaseReply).decode
_decode_atomic: Final = msgspec.msgpack.Decoder(AtomicReply).decode


class Writes:
    """One-phase writes of one client."""

    def __init__(self, caller: Caller, cache: SharedRegionCache, oracle: BlockingOracle) -> None:
        self._caller = caller
        self._cache = cache
        self._oracle = oracle

    def one_phase(self, op: Op, mutations: Sequence[Mutation]) -> Ts:
        """Commit mutations of distinct keys of one region, whatever those keys held before; their commit timestamp.

        Raises:
            CrossRegionError: the keys lie in several regions. NokvError: see Caller.call.
        """
        frozen = tuple(mutations)
        start_ts = Ts(0)

        def build(region: Region) -> bytes:
            if len(frozen) > 1 and not all(region.covers(mutation.key) for mutation in frozen):
                raise op.failed(CrossRegionError("the keys lie in several regions; only a transaction can write them"))
            return encode_body(OnePhaseRequest(region.epoch, frozen, start_ts, True))

        while True:
            start_ts = self._oracle.fresh(op)
            try:
                reply = self._send(op, Kind.KV_ONE_PHASE, frozen[0].key, build, _decode_one_phase)
            except ConflictError as conflict:
                self._begin_again(op, conflict)
            else:
                return reply.commit_ts

    def atomic(
        self, op: Op, operation: AtomicOp, key: bytes, operand: bytes | None, expect: bytes | None = None
    ) -> AtomicReply:
        """Read, change and write one key in one step at the store.

        Raises:
            WrongTypeError: the value is not what the operation needs. NokvError: see Caller.call.
        """
        start_ts = Ts(0)

        def build(region: Region) -> bytes:
            return encode_body(AtomicRequest(region.epoch, operation, key, operand, start_ts, expect))

        while True:
            start_ts = self._oracle.fresh(op)
            try:
                return self._send(op, Kind.KV_ATOMIC, key, build, _decode_atomic)
            except ConflictError as conflict:
                self._begin_again(op, conflict)

    def _send(self, op: Op, kind: int, key: bytes, build: Build, decode: Decode[T]) -> T:
        return self._caller.call(op, kind, self._cache.lookup, key, build, decode)

    def _begin_again(self, op: Op, conflict: ConflictError) -> None:
        """Nothing was written under the old timestamp: wait a little, then a new one is taken."""
        delay_s = op.backoff()
        op.retrying(conflict, delay_s)
        self._caller.pause(op, delay_s)
