# Generated from _async/reads.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""Reads at a timestamp: one key, many keys, one page of a scan.

Why: the client and its snapshots read alike; only the timestamp differs.
Invariants: LATEST is used for single keys only; many keys and pages are read at a timestamp of the oracle, so all of
them come from one snapshot whatever regions they lie in.
Not here: iterating over pages (scan.py), where timestamps come from (the oracle).
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from nokv.client._sync.caller import Caller, Locate
from nokv.client.blocking_net import BlockingNet
from nokv.client.errors import LimitError
from nokv.client.key_range import Cursor, KeyRange
from nokv.client.link import Session
from nokv.client.net import Request
from nokv.client.op import Op
from nokv.client.shared_region_cache import SharedRegionCache
from nokv.proto.control import RegionRoute
from nokv.proto.frame import Kind
from nokv.proto.ids import LATEST, RegionId, StoreId, Ts
from nokv.proto.kv import (
    BatchGetReply,
    BatchGetRequest,
    GetReply,
    GetRequest,
    ScanReply,
    ScanRequest,
    encode_body,
)
from nokv.proto.region import Region

BATCH_KEYS: Final = 1024
"""Keys asked for in one request; keeps a node's turn short. Halved when the node says that a reply got too long."""

_decode_get: Final = msgspec.msgpack.Decoder(GetReply).decode
_decode_batch: Final = msgspec.msgpack.Decoder(BatchGetReply).decode
_decode_scan: Final = msgspec.msgpack.Decoder(ScanReply).decode


class Reads:
    """Reads of one client."""

    def __init__(self, net: BlockingNet, caller: Caller, cache: SharedRegionCache, session: Session) -> None:
        self._net = net
        self._caller = caller
        self._cache = cache
        self._session = session

    def get(self, op: Op, key: bytes, ts: Ts) -> bytes | None:
        """The value of a key, None if it has none.

        Raises:
            NokvError: see Caller.call.
        """

        def build(region: Region) -> bytes:
            return encode_body(GetRequest(region.epoch, key, ts))

        if ts != LATEST:
            op.read_ts = ts
        return (self._caller.call(op, Kind.KV_GET, self._cache.lookup, key, build, _decode_get)).value

    def get_many(self, op: Op, keys: Sequence[bytes], ts: Ts) -> dict[bytes, bytes]:
        """Values of distinct keys, in their order; keys without a value are left out.

        All regions are asked together; those that refuse are asked again, together, after what they said was learned.

        Raises:
            NokvError: see Caller.call.
        """
        assert ts != LATEST
        op.read_ts = ts
        found: dict[bytes, bytes | None] = {}
        wanted = list(keys)
        size = min(BATCH_KEYS, self._session.limits.batch_keys_max)
        while wanted:
            asked = self._ask(op, wanted, ts, size=size)
            wanted = []
            delay_s = 0.0
            for (route, store_id, group), answer in asked:
                if answer[0] == Kind.OK:
                    values = self._caller.decoded(op, _decode_batch, answer[1]).values
                    found.update(zip(group, values, strict=True))
                    continue
                wanted += group
                try:
                    wait_s = self._caller.settle(op, Kind.KV_BATCH_GET, route, store_id, answer)
                    delay_s = max(delay_s, wait_s)
                except LimitError:
                    if len(group) == 1:
                        raise
                    size = min(size, len(group) // 2)  # the values were too much for one reply
            if wanted and delay_s:
                self._caller.pause(op, delay_s)
        return {key: value for key in keys if (value := found[key]) is not None}

    def page(self, op: Op, cursor: Cursor, *, limit: int, ts: Ts, keys_only: bool) -> ScanReply:
        """The next page, at most `limit` pairs, from one region; the cursor has moved behind it.

        Raises:
            NokvError: see Caller.call.
        """
        op.read_ts = ts
        asked = KeyRange(cursor.start, cursor.end)

        def build(region: Region) -> bytes:
            nonlocal asked
            asked = cursor.clip(region)
            request = ScanRequest(region.epoch, asked.start, asked.end, limit, ts, cursor.reverse, keys_only)
            return encode_body(request)

        locate = self._cache.lookup_below if cursor.reverse else self._cache.lookup
        at = cursor.end if cursor.reverse else cursor.start
        reply = self._caller.call(op, Kind.KV_SCAN, locate, at, build, _decode_scan)
        cursor.advance(asked, reply)
        return reply

    def _ask(
        self, op: Op, keys: Sequence[bytes], ts: Ts, *, size: int
    ) -> "list[tuple[tuple[RegionRoute, StoreId, list[bytes]], tuple[int, bytes]]]":
        """One attempt for all keys at once: requests of up to `size` keys to each region, paired with their answers."""
        grouped: dict[RegionId, tuple[RegionRoute, list[bytes]]] = {}
        for key in keys:
            route = self._cache.lookup(key)
            if route is None:
                route, _, _ = self._caller.whom(op, self._cache.lookup, key)
            grouped.setdefault(route.region.id, (route, []))[1].append(key)
        asked: list[tuple[RegionRoute, StoreId, list[bytes]]] = []
        requests: list[Request] = []
        for route, group in grouped.values():
            route, store_id, endpoint = self._caller.whom(op, _pinned(self._cache, route), b"")
            due = op.attempt_due(self._net.now())
            for chunk in _chunks(group, size):
                op.attempts += 1
                body = encode_body(BatchGetRequest(route.region.epoch, tuple(chunk), ts))
                asked.append((route, store_id, chunk))
                requests.append((endpoint, Kind.KV_BATCH_GET, route.region.id, body, due))
        return list(zip(asked, self._net.request_many(requests), strict=True))


def _pinned(cache: SharedRegionCache, route: RegionRoute) -> Locate:
    """Finds this very region with the newest known leader. Its keys were grouped by this epoch; if that is over, the
    store says so."""

    def locate(_key: bytes) -> RegionRoute:
        latest = cache.current(route)
        return latest if latest is not None and latest.region.epoch == route.region.epoch else route

    return locate


def _chunks(keys: list[bytes], size: int) -> Iterator[list[bytes]]:
    for at in range(0, len(keys), size):
        yield keys[at : at + size]
