"""After an attempt that brought no result: what it taught, and what to do next.

Why: "send it again" is right, useless or dangerous depending on one table (proto.errors.REMEDY) and on whether the
answer came from a leader; this is the only place that decides.
Invariants: a wrong belief costs an immediate second try only FREE_REDIRECTS times per call and region, then every try
waits; a store that failed is asked again only after all others; a write whose answer is missing is repeated with the
very same bytes, so the store recognises it.
Not here: the waiting and sending (caller.py), how long a call may go on (op.py).
"""

import logging
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from nokv.client.errors import ConnectError, NokvError, ProtocolError, error_of
from nokv.client.link import LOST_ANSWER, NO_ANSWER, UNSENT, Answer
from nokv.client.op import Op, Trail, Why
from nokv.client.region_cache import RegionCache
from nokv.proto.control import RegionRoute
from nokv.proto.errors import (
    REMEDY,
    DeadlineExceeded,
    EpochNotMatch,
    ErrorDetail,
    KeyIsLocked,
    NotLeader,
    Remedy,
    ServerIsBusy,
    ShuttingDown,
    decode_error,
)
from nokv.proto.frame import Kind
from nokv.proto.ids import StoreId
from nokv.proto.kv import WRITE_KINDS

FREE_REDIRECTS: Final = 3
"""Immediate tries after a refusal that names somebody better; two nodes that name each other must not spin."""
BUSY_PATIENCE: Final = 3
"""Busy answers after which other stores are asked who leads. A node says busy for a worker that is dead or stuck, too,
and the regions of that worker have other leaders soon."""

net_log: Final = logging.getLogger("nokv.net")
txn_log: Final = logging.getLogger("nokv.txn")
for _log in (net_log, txn_log):
    _log.addHandler(logging.NullHandler())


class Then(Enum):
    """What to do before the next attempt."""

    AGAIN = "nothing"
    REFRESH = "ask any node for the routes"
    RESOLVE = "look after the lock that is in the way"


class Verdict(NamedTuple):
    """What to do, and how long to wait first (seconds)."""

    then: Then
    delay_s: float = 0.0
    lock: KeyIsLocked | None = None


def judge(op: Op, cache: RegionCache, *, kind: int, route: RegionRoute, store_id: StoreId, answer: Answer) -> Verdict:
    """Learn from an attempt at `store_id` that brought no result, and say what comes next.

    Raises:
        NokvError: trying again cannot help.
    """
    code, body = answer
    op.region = route.region.id
    op.nodes_seen[store_id] = None
    trail = op.trail(route.region.id)
    if code in (UNSENT, NO_ANSWER, LOST_ANSWER):
        verdict, cause = _silence(op, cache, kind=kind, route=route, store_id=store_id, trail=trail, answer=answer)
    elif code == Kind.ERROR:
        detail = _detail(op, body)
        if not isinstance(detail, NotLeader | EpochNotMatch | ShuttingDown):
            op.met_leader = True
        cause = error_of(detail)
        verdict = _refusal(op, cache, route=route, store_id=store_id, trail=trail, detail=detail, cause=cause)
    else:
        raise op.failed(ProtocolError(f"a reply of kind {code} makes no sense"))
    op.retrying(cause, verdict.delay_s)
    log = txn_log if verdict.lock is not None else net_log
    log.debug(
        "%s: attempt %d, region %d at store %d: %s; %s, next in %.3f s",
        op.name, op.attempts, route.region.id, store_id, type(cause).__name__ + "/" + cause.code,
        verdict.then.value, verdict.delay_s,
    )  # fmt: skip
    return verdict


def _silence(
    op: Op, cache: RegionCache, *, kind: int, route: RegionRoute, store_id: StoreId, trail: Trail, answer: Answer
) -> tuple[Verdict, NokvError]:
    code, reason = answer
    cause = ConnectError(reason.decode(errors="replace"))
    if code != UNSENT:
        if kind in WRITE_KINDS:
            op.maybe = True
            cause.outcome = "unknown"
        op.met_leader = True  # as far as we can know: it took the request
    if code == NO_ANSWER:
        op.silences += 1
    cache.silent(route, store_id)
    trail.avoid[store_id] = Why.SILENT
    return _elsewhere(op, cache, route, trail), cause


def _refusal(
    op: Op,
    cache: RegionCache,
    *,
    route: RegionRoute,
    store_id: StoreId,
    trail: Trail,
    detail: ErrorDetail,
    cause: NokvError,
) -> Verdict:
    match REMEDY[type(detail)]:
        case Remedy.REROUTE:
            return _reroute(op, cache, route=route, store_id=store_id, trail=trail, detail=detail)
        case Remedy.BACK_OFF:
            if isinstance(detail, ServerIsBusy):
                _note_busy(cache, route, store_id, trail)
            return Verdict(Then.AGAIN, op.backoff(getattr(cause, "retry_after", 0.0)))
        case Remedy.RESOLVE:
            assert isinstance(detail, KeyIsLocked)
            return Verdict(Then.RESOLVE, lock=detail)
        case Remedy.RETRY_SAME:
            op.maybe = True
            cache.silent(route, store_id)
            return Verdict(Then.AGAIN, op.backoff())
        case Remedy.RETRY_TXN:
            # The store looked for this very write, found it absent, and made sure that it stays so.
            op.maybe = False
            raise op.failed(cause)
        case Remedy.FAIL:
            if isinstance(detail, DeadlineExceeded):
                return Verdict(Then.AGAIN, op.backoff())
            raise op.failed(cause)


def _note_busy(cache: RegionCache, route: RegionRoute, store_id: StoreId, trail: Trail) -> None:
    """After a few of these the leader is in doubt; a follower will name it, which leads straight back if it lives."""
    trail.busy += 1
    if trail.busy % BUSY_PATIENCE == 0:
        cache.silent(route, store_id)
        trail.avoid[store_id] = Why.BUSY


def _reroute(
    op: Op, cache: RegionCache, *, route: RegionRoute, store_id: StoreId, trail: Trail, detail: ErrorDetail
) -> Verdict:
    match detail:
        case NotLeader(leader_store=leader):
            cache.not_leader(route, store_id, detail)
            trail.avoid[store_id] = Why.NOT_LEADER
            if leader and trail.avoid.get(leader) in (Why.NOT_LEADER, Why.BUSY):
                del trail.avoid[leader]  # it may have been elected since it said no
        case EpochNotMatch():
            cache.epoch_not_match(detail)
            latest = cache.current(route)
            if detail.regions and (latest is None or latest.region.epoch != route.region.epoch):
                return Verdict(Then.AGAIN, _redirect_delay(op, trail))
            # The node knows less than we do: it has no such region, or an older one.
            trail.avoid[store_id] = Why.NO_REGION
        case ShuttingDown():
            cache.silent(route, store_id)
            trail.avoid[store_id] = Why.NOT_LEADER
        case _:  # StaleCommand: the next attempt is checked against the new epoch and told about it
            return Verdict(Then.AGAIN, _redirect_delay(op, trail))
    return _elsewhere(op, cache, route, trail)


def _elsewhere(op: Op, cache: RegionCache, route: RegionRoute, trail: Trail) -> Verdict:
    """Go to the next store; once all have failed, ask for fresh routes and begin the round anew."""
    latest = cache.current(route)
    if latest is not None and cache.pick(latest, trail):
        return Verdict(Then.AGAIN, _redirect_delay(op, trail))
    if Why.NO_REGION in trail.avoid.values():
        cache.forget(route)
    trail.avoid.clear()
    return Verdict(Then.REFRESH, op.backoff())


def _redirect_delay(op: Op, trail: Trail) -> float:
    trail.redirects += 1
    return 0.0 if trail.redirects <= FREE_REDIRECTS else op.backoff()


def _detail(op: Op, body: bytes) -> ErrorDetail:
    try:
        return decode_error(body)
    except msgspec.MsgspecError as error:
        raise op.failed(ProtocolError(f"unreadable refusal: {error}")) from error
