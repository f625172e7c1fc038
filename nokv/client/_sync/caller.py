# Generated from _async/caller.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""The way of one request: find the region's leader, send, and try again until it is answered or the budget ends.

Why: reads, writes, timestamps and lock resolution all travel alike, so routing and retrying exist once.
Invariants: every attempt carries the epoch of the route it was made for; a repeated attempt carries the same bytes
otherwise; between attempts the caller sleeps as retry.py says and never beyond the deadline.
Not here: what an answer teaches (retry.py), moving bytes (net), which requests make up a call (client.py).
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from nokv.client._sync.resolver import Resolver
from nokv.client.blocking_net import BlockingNet
from nokv.client.endpoint import Endpoint
from nokv.client.errors import BusyError, ConnectError, NokvError, ProtocolError, TimeoutError, UnavailableError
from nokv.client.link import NOT_YET, Answer
from nokv.client.net import BUSY
from nokv.client.op import ATTEMPT_S, Op
from nokv.client.shared_region_cache import SharedRegionCache
from nokv.client.retry import Then, judge, net_log
from nokv.proto.control import RegionRoute, RoutesReply, RoutesRequest, encode_body
from nokv.proto.errors import KeyIsLocked, decode_error
from nokv.proto.frame import Kind
from nokv.proto.ids import GROUP_ZERO, StoreId
from nokv.proto.region import Region

T = TypeVar("T")

Locate = Callable[[bytes], RegionRoute | None]
Build = Callable[[Region], bytes]
Decode = Callable[[bytes], T]

_OK: Final = int(Kind.OK)
_TSO: Final = int(Kind.TSO)
_decode_routes: Final = msgspec.msgpack.Decoder(RoutesReply).decode


class Caller:
    """Sends requests to whoever leads."""

    def __init__(self, net: BlockingNet, cache: SharedRegionCache, *, connect_timeout_s: float) -> None:
        self._net = net
        self._cache = cache
        self._connect_timeout_s = connect_timeout_s
        self._last_teller: Endpoint | None = None
        self.resolver: Resolver | None = None
        """Who looks after locks; set once by the client, since it sends requests itself."""

    def call(self, op: Op, kind: int, locate: Locate, at: bytes, build: Build, decode: Decode[T]) -> T:
        """Ask the leader of the region that `locate(at)` finds; `build` makes the body for the region as known.

        Raises:
            NokvError: a refusal that trying again cannot help, or the end of the budget.
        """
        net, cache = self._net, self._cache
        while True:
            route, store_id, endpoint = self.whom(op, locate, at)
            due = op.attempt_due(net.now())
            op.attempts += 1
            answer = net.request(
                endpoint, kind, route.region.id, build(route.region), due=due, unbounded=kind == _TSO
            )
            if answer[0] == _OK:
                if route.leader_store != store_id:
                    cache.answered(route, store_id)
                return self.decoded(op, decode, answer[1])
            delay_s = self.settle(op, kind, route, store_id, answer)
            if delay_s:
                self.pause(op, delay_s)

    def whom(self, op: Op, locate: Locate, at: bytes) -> tuple[RegionRoute, StoreId, Endpoint]:
        """Whom to ask about `at`: the region as known, a store that may lead it, and where that listens.

        Raises:
            NokvError: nobody could be found within the budget.
        """
        cache = self._cache
        while True:
            route = locate(at)
            if route is None:
                self._fill_gap(op, locate, at)
                continue
            store_id = route.leader_store
            if not store_id or op.trails is not None:
                store_id = cache.pick(route, op.trail(route.region.id))
            endpoint = cache.endpoint(store_id)
            if endpoint is not None:
                return route, store_id, endpoint
            # Nobody left to ask, or the address of the one to ask is not known.
            op.region = route.region.id
            op.trail(route.region.id).avoid.clear()
            self.refresh(op)
            self.pause(op, op.backoff())

    def control(self, op: Op, kind: int, body: bytes, decode: Decode[T]) -> T:
        """Ask the leader of group 0.

        Raises:
            NokvError: as `call`.
        """
        return self.call(op, kind, self._cache.control, b"", lambda _region: body, decode)

    def decoded(self, op: Op, decode: Decode[T], body: bytes) -> T:
        """The reply in a body.

        Raises:
            ProtocolError: it is none.
        """
        try:
            return decode(body)
        except msgspec.MsgspecError as error:
            raise op.failed(ProtocolError(f"unreadable reply: {error}")) from error

    def settle(self, op: Op, kind: int, route: RegionRoute, store_id: StoreId, answer: Answer) -> float:
        """Deal with an attempt that brought no result; returns how long to wait before the next one (seconds).

        Raises:
            NokvError: there is no next one.
        """
        if answer[0] == BUSY:
            raise op.failed(BusyError(answer[1].decode(), code="max_inflight"))
        verdict = judge(op, self._cache, kind=kind, route=route, store_id=store_id, answer=answer)
        if verdict.then is Then.REFRESH:
            self.refresh(op)
        elif verdict.lock is not None:
            return op.backoff() if self._still_locked(op, verdict.lock) else 0.0
        return verdict.delay_s

    def _still_locked(self, op: Op, lock: KeyIsLocked) -> bool:
        assert self.resolver is not None, "the client sets it before the first call"
        try:
            return self.resolver.resolve(op, lock) > 0
        except (TimeoutError, UnavailableError):
            raise op.expired() from op.last  # the lock is why the budget was used up

    def pause(self, op: Op, delay_s: float) -> None:
        """Sleep, at most until the deadline.

        Raises:
            NokvError: the budget is used up.
        """
        self._net.sleep(op.pause(delay_s, self._net.now()))

    # ---- learning the routes ----------------------------------------------------------------------------------------

    def connect(self, op: Op) -> None:
        """Reach any node and learn the routes, unless that was done before.

        Raises:
            ConnectError, AuthError, ProtocolError: no node answered within connect_timeout; the error is the most
            telling one that was met.
        """
        if not self._cache.knows_stores:
            self._net.once("connect", self._bootstrap, due=op.deadline)
            if not self._cache.knows_stores:
                op.last = ConnectError("not connected yet")
                op.attempt_due(self._net.now())  # raises where the deadline was what ended the wait

    def refresh(self, op: Op) -> None:
        """Learn the routes anew from any node; no error if nobody answers, the call goes on with what is known."""
        self._net.once("routes", self._refresh_all, due=op.deadline)

    def _fill_gap(self, op: Op, locate: Locate, at: bytes) -> None:
        """The key's region is not known."""
        if not self._cache.knows_stores:
            self.connect(op)
            return
        self.refresh(op)
        if locate(at) is None:
            delay_s = op.backoff()
            op.retrying(UnavailableError("no node knows a region for the key"), delay_s)
            self.pause(op, delay_s)

    def _bootstrap(self) -> None:
        """Ask the seeds in turn until one tells the routes or connect_timeout ends."""
        now = self._net.now()
        until = now + self._connect_timeout_s
        failures: dict[str, NokvError] = {}
        while now < until:
            endpoints = self._cache.endpoints()
            share_s = self._connect_timeout_s / len(endpoints)
            for endpoint in endpoints:
                failure = self._learn_from(endpoint, due=min(until, self._net.now() + share_s))
                if failure is None:
                    return
                if str(failure) != NOT_YET.decode() or endpoint.address not in failures:
                    failures[endpoint.address] = failure  # what happened says more than that nothing did yet
            if all(self._net.refusal(endpoint) is not None for endpoint in endpoints):
                break
            self._net.sleep(min(0.02, max(0.0, until - self._net.now())))
            now = self._net.now()
        raise _most_telling(failures)

    def _refresh_all(self) -> None:
        until = self._net.now() + self._connect_timeout_s
        for endpoint in self._tellers():
            now = self._net.now()
            if now >= until or self._learn_from(endpoint, due=min(until, now + ATTEMPT_S)) is None:
                return

    def _learn_from(self, endpoint: Endpoint, *, due: float) -> NokvError | None:
        """Take in a node's directory; the error says why that failed."""
        directory = self._directory_of(endpoint, due=due)
        if isinstance(directory, NokvError):
            return directory
        self._last_teller = endpoint
        self._cache.learn_routes(directory)
        net_log.debug("learned %d stores, %d regions", len(directory.stores), len(directory.regions))
        return None

    def _tellers(self) -> list[Endpoint]:
        """Everybody who could tell the routes, first who did so last."""
        return sorted(self._cache.endpoints(), key=lambda endpoint: endpoint != self._last_teller)

    def directory(self, op: Op) -> RoutesReply:
        """All stores and regions as the first node that answers knows them now.

        Raises:
            ConnectError: no node answers.
        """
        self.connect(op)
        failures: dict[str, NokvError] = {}
        for endpoint in self._tellers():
            directory = self._directory_of(endpoint, due=op.attempt_due(self._net.now()))
            if not isinstance(directory, NokvError):
                self._cache.learn_routes(directory)
                return directory
            failures[endpoint.address] = directory
        raise op.failed(_most_telling(failures))

    def _directory_of(self, endpoint: Endpoint, *, due: float) -> RoutesReply | NokvError:
        """All pages of a node's directory as one; the error says why that failed."""
        regions: list[RegionRoute] = []
        start = b""
        while True:
            body = encode_body(RoutesRequest(start))
            code, reply = self._net.request(endpoint, Kind.ROUTES, GROUP_ZERO, body, due=due, unbounded=True)
            if code != _OK:
                return self._net.refusal(endpoint) or _failure(endpoint, code, reply)
            try:
                page = _decode_routes(reply)
            except msgspec.MsgspecError as error:
                return ProtocolError(f"{endpoint.address}: unreadable routes: {error}")
            regions += page.regions
            if not page.more or not page.regions or not page.regions[-1].region.end:
                return RoutesReply(page.cluster_id, page.stores, tuple(regions))
            start = page.regions[-1].region.end


def _failure(endpoint: Endpoint, code: int, body: bytes) -> NokvError:
    if code != Kind.ERROR:
        return ConnectError(body.decode(errors="replace"), address=endpoint.address)
    try:
        text = str(decode_error(body))
    except msgspec.MsgspecError as error:
        return ProtocolError(f"{endpoint.address}: unreadable refusal: {error}")
    return ConnectError(f"{endpoint.address}: {text}", address=endpoint.address)


def _most_telling(failures: dict[str, NokvError]) -> NokvError:
    """A mismatch explains more than a silence."""
    ranked = sorted(
        failures.values(), key=lambda error: isinstance(error, ConnectError) + (type(error) is ConnectError)
    )
    if len(failures) == 1 or type(ranked[0]) is not ConnectError:
        return ranked[0]
    return ConnectError("no node answered: " + "; ".join(str(error) for error in failures.values()))
