# Generated from _async/resolver.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""Locks in the way: ask the primary's region what became of their transaction, and finish it if it is over.

Why: a client that dies between the phases of its commit leaves locks behind; whoever meets one clears it, so nobody has
to wait for a cleaner (Percolator, section 2.2).
Invariants: a transaction is rolled back only when the primary's region says so, which decides it once and for all;
locks of a living transaction are left alone.
Not here: the rules of the decision (nokv.mvcc), waiting for a living transaction (caller.py).
"""

from typing import TYPE_CHECKING, Final

import msgspec

from nokv.client.blocking_net import BlockingNet
from nokv.client.blocking_oracle import BlockingOracle
from nokv.client.op import Op
from nokv.client.shared_region_cache import SharedRegionCache
from nokv.proto.errors import KeyIsLocked
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    CheckTxnStatusReply,
    CheckTxnStatusRequest,
    ResolveLockReply,
    ResolveLockRequest,
    encode_body,
)
from nokv.proto.region import Region

if TYPE_CHECKING:
    from nokv.client._sync.caller import Caller

_decode_status: Final = msgspec.msgpack.Decoder(CheckTxnStatusReply).decode
_decode_resolved: Final = msgspec.msgpack.Decoder(ResolveLockReply).decode

SMALL_TXN_KEYS: Final = 16
"""Up to this many keys only the lock that was met is finished; of larger transactions all locks of the region are."""


class Resolver:
    """Looks after the locks that calls of one client meet."""

    def __init__(self, net: BlockingNet, caller: "Caller", cache: SharedRegionCache, oracle: BlockingOracle) -> None:
        self._net = net
        self._caller = caller
        self._cache = cache
        self._oracle = oracle

    def resolve(self, op: Op, lock: KeyIsLocked) -> float:
        """Clear the lock if its transaction is over; else return how long it may still live (seconds, > 0).

        Raises:
            NokvError: the budget ended, or the primary's region refused for good.
        """
        child = op.child(f"{op.name}/resolve", self._net.now())
        now_ts = self._oracle.fresh(child)
        status = self._status(child, lock, caller_start_ts=op.read_ts, now_ts=now_ts)
        if status.lock_ttl_ms:
            return status.lock_ttl_ms / 1000
        self._finish(child, lock, status.commit_ts)
        return 0.0

    def _status(self, op: Op, lock: KeyIsLocked, *, caller_start_ts: Ts, now_ts: Ts) -> CheckTxnStatusReply:
        def build(region: Region) -> bytes:
            request = CheckTxnStatusRequest(region.epoch, lock.primary, lock.start_ts, caller_start_ts, now_ts)
            return encode_body(request)

        lookup = self._cache.lookup
        return self._caller.call(op, Kind.KV_CHECK_TXN_STATUS, lookup, lock.primary, build, _decode_status)

    def _finish(self, op: Op, lock: KeyIsLocked, commit_ts: Ts) -> None:
        """Commit (commit_ts > 0) or roll back the lock, and its siblings in the region where there are many."""
        keys = (lock.key,) if 0 < lock.txn_size <= SMALL_TXN_KEYS else ()

        start = b""

        def build(region: Region) -> bytes:
            return encode_body(ResolveLockRequest(region.epoch, lock.start_ts, commit_ts, keys, start))

        more = True
        while more:
            lookup = self._cache.lookup
            reply = self._caller.call(op, Kind.KV_RESOLVE_LOCK, lookup, lock.key, build, _decode_resolved)
            more, start = reply.more, reply.resume
