"""Validation: what can be known to be wrong about a request without looking at any data.

Why: a command that cannot be applied must be refused before it is proposed; once in the log it must have a result on
every replica.
Invariants: pure; a request that passes can be evaluated on any state without breaking an assertion of this package.
Not here: epoch and range checks (nokv.workers), for which `keys_of` and `range_of` name what a request touches.
"""

from collections.abc import Sequence
from typing import assert_never

from nokv.mvcc.atomic import INTEGER_OPS, integer_of
from nokv.mvcc.limits import Limits
from nokv.mvcc.records import NO_TS, TXN_SIZE_MAX
from nokv.proto.errors import CommitTsTooLow, InvalidArgument, LimitExceeded
from nokv.proto.ids import LATEST, Ts
from nokv.proto.kv import (
    AtomicOp,
    AtomicRequest,
    BatchGetRequest,
    BatchRollbackRequest,
    CheckTxnStatusRequest,
    CommitRequest,
    DeleteRangeRequest,
    GcRequest,
    GetRequest,
    KvRequest,
    Mutation,
    OnePhaseRequest,
    PrewriteRequest,
    ResolveLockRequest,
    ScanRequest,
    TxnHeartbeatRequest,
)

Refusal = InvalidArgument | LimitExceeded | CommitTsTooLow


def validate(request: KvRequest, limits: Limits) -> Refusal | None:
    """The first thing wrong with the request, or None. Fields are named as `mutations[3].key`."""
    match request:
        case GetRequest():
            return _key("key", request.key, limits) or _read_ts(request.ts)
        case BatchGetRequest():
            return _keys(request.keys, limits) or _read_ts(request.ts, snapshot=len(request.keys) > 1)
        case ScanRequest():
            return (
                _bounds(request.start, request.end, limits)
                or _at_least("limit", request.limit, 0)
                or _read_ts(request.ts, snapshot=True)
            )
        case OnePhaseRequest():
            # Without a record to find, a repeated request could not be told from a new one.
            return (
                _at_least("mutations", len(request.mutations), 1)
                or _mutations(request.mutations, limits)
                or _ts("start_ts", request.start_ts)
            )
        case PrewriteRequest():
            return _prewrite(request, limits)
        case CommitRequest():
            return (
                _keys(request.keys, limits)
                or _ts("start_ts", request.start_ts)
                or _ts("commit_ts", request.commit_ts)
                or _commit_ts(request.keys, request.start_ts, request.commit_ts)
            )
        case BatchRollbackRequest():
            return _keys(request.keys, limits) or _ts("start_ts", request.start_ts)
        case ResolveLockRequest():
            return _resolve(request, limits)
        case CheckTxnStatusRequest():
            return (
                _key("primary", request.primary, limits)
                or _ts("lock_ts", request.lock_ts)
                or _ts("caller_start_ts", request.caller_start_ts, least=0, most=LATEST)
                or _ts("current_ts", request.current_ts, least=0)
            )
        case TxnHeartbeatRequest():
            return (
                _key("primary", request.primary, limits)
                or _ts("start_ts", request.start_ts)
                or _ttl("advise_ttl_ms", request.advise_ttl_ms, limits)
            )
        case AtomicRequest():
            return _key("key", request.key, limits) or _ts("start_ts", request.start_ts) or _atomic(request, limits)
        case DeleteRangeRequest():
            return (
                _bounds(request.start, request.end, limits)
                or _at_least("limit", request.limit, 1)
                or _ts("start_ts", request.start_ts)
            )
        case GcRequest():
            return (
                _bounds(request.start, b"", limits)
                or _at_least("limit", request.limit, 1)
                or _ts("safe_point", request.safe_point)
            )
        case _:
            assert_never(request)


def keys_of(request: KvRequest) -> tuple[bytes, ...]:
    """The keys that must lie in the region for the request to be served; empty for one that names a range."""
    match request:
        case GetRequest() | AtomicRequest():
            return (request.key,)
        case BatchGetRequest() | CommitRequest() | BatchRollbackRequest() | ResolveLockRequest():
            return request.keys
        case OnePhaseRequest() | PrewriteRequest():
            return tuple(mutation.key for mutation in request.mutations)
        case CheckTxnStatusRequest() | TxnHeartbeatRequest():
            return (request.primary,)
        case ScanRequest() | DeleteRangeRequest() | GcRequest():
            return ()
        case _:
            assert_never(request)


def range_of(request: KvRequest) -> tuple[bytes, bytes] | None:
    """start <= key < end (b"": the region's own bound) of a request that names a range, else None."""
    match request:
        case ScanRequest() | DeleteRangeRequest():
            return request.start, request.end
        case GcRequest():
            return request.start, b""
        case ResolveLockRequest() if not request.keys:
            return request.start, b""
        case _:
            return None


def observed_ts(request: KvRequest) -> Ts:
    """The timestamp at which the request looks at data; 0 if none must be remembered.

    The region's leader counts it as read at when it serves or proposes the request: commit timestamps it assigns later
    lie above it. For writes that matters because a checked absence, or a delete_range, must stay true at start_ts.
    """
    match request:
        case GetRequest() | BatchGetRequest() | ScanRequest():
            return request.ts if request.ts != LATEST else NO_TS
        case OnePhaseRequest() | PrewriteRequest() | AtomicRequest() | DeleteRangeRequest():
            return request.start_ts
        case _:
            return NO_TS


# ---- requests -------------------------------------------------------------------------------------------------------


def _prewrite(request: PrewriteRequest, limits: Limits) -> Refusal | None:
    return (
        _mutations(request.mutations, limits)
        or _key("primary", request.primary, limits)
        or _ts("start_ts", request.start_ts)
        or _ts("min_commit_ts", request.min_commit_ts, least=0)
        or _ttl("lock_ttl_ms", request.lock_ttl_ms, limits)
        or _at_least("txn_size", request.txn_size, 0)
        or (LimitExceeded("txn_size", TXN_SIZE_MAX, request.txn_size) if request.txn_size > TXN_SIZE_MAX else None)
    )


def _resolve(request: ResolveLockRequest, limits: Limits) -> Refusal | None:
    refusal = (
        _keys(request.keys, limits)
        or _bounds(request.start, b"", limits)
        or _ts("start_ts", request.start_ts)
        or _ts("commit_ts", request.commit_ts, least=0)
    )
    if refusal is None and request.commit_ts:
        return _commit_ts(request.keys, request.start_ts, request.commit_ts)
    return refusal


def _atomic(request: AtomicRequest, limits: Limits) -> Refusal | None:
    if request.op is AtomicOp.COMPARE_AND_SET:
        return _value(request.operand or b"", limits) or _value(request.expect or b"", limits)
    if request.operand is None:
        return InvalidArgument("operand", f"{request.op.name} needs one")
    if request.expect is not None:
        return InvalidArgument("expect", f"{request.op.name} compares nothing")
    if request.op in INTEGER_OPS and integer_of(request.operand) is None:
        return InvalidArgument("operand", "not a canonical decimal integer of 64 bits")
    return _value(request.operand, limits)


# ---- fields ---------------------------------------------------------------------------------------------------------


def _mutations(mutations: Sequence[Mutation], limits: Limits) -> Refusal | None:
    if len(mutations) > limits.request_keys_max:
        return LimitExceeded("request_keys_max", limits.request_keys_max, len(mutations))
    seen: set[bytes] = set()
    total_bytes = 0
    for at, mutation in enumerate(mutations):
        refusal = _key(f"mutations[{at}].key", mutation.key, limits) or _value(mutation.value, limits)
        if refusal is not None:
            return refusal
        if mutation.key in seen:
            return InvalidArgument(f"mutations[{at}].key", "named twice")
        seen.add(mutation.key)
        total_bytes += len(mutation.key) + len(mutation.value)
    if total_bytes > limits.txn_bytes_max:
        return LimitExceeded("txn_bytes_max", limits.txn_bytes_max, total_bytes)
    return None


def _keys(keys: Sequence[bytes], limits: Limits) -> Refusal | None:
    if len(keys) > limits.request_keys_max:
        return LimitExceeded("request_keys_max", limits.request_keys_max, len(keys))
    for at, key in enumerate(keys):
        if not 0 < len(key) <= limits.key_bytes_max:
            return _key(f"keys[{at}]", key, limits)
    return None


def _key(field: str, key: bytes, limits: Limits) -> Refusal | None:
    if not key:
        return InvalidArgument(field, "empty")
    if len(key) > limits.key_bytes_max:
        return LimitExceeded("key_bytes_max", limits.key_bytes_max, len(key))
    return None


def _value(value: bytes, limits: Limits) -> Refusal | None:
    if len(value) > limits.value_bytes_max:
        return LimitExceeded("value_bytes_max", limits.value_bytes_max, len(value))
    return None


def _bounds(start: bytes, end: bytes, limits: Limits) -> Refusal | None:
    """A bound may be one byte longer than a key: the successor of the longest one."""
    longest = max(len(start), len(end))
    if longest > limits.key_bytes_max + 1:
        return LimitExceeded("key_bytes_max", limits.key_bytes_max + 1, longest)
    return None


def _ts(field: str, ts: Ts, *, least: int = 1, most: int = LATEST - 1) -> Refusal | None:
    if not least <= ts <= most:
        return InvalidArgument(field, f"timestamp out of range {least} to {most}")
    return None


def _read_ts(ts: Ts, *, snapshot: bool = False) -> Refusal | None:
    if snapshot and ts == LATEST:
        return InvalidArgument("ts", "LATEST reads one key; several need the timestamp of a snapshot")
    return _ts("ts", ts, least=0, most=LATEST)


def _commit_ts(keys: Sequence[bytes], start_ts: Ts, commit_ts: Ts) -> Refusal | None:
    if commit_ts <= start_ts:
        return CommitTsTooLow(keys[0] if keys else b"", start_ts, commit_ts, Ts(start_ts + 1))
    return None


def _ttl(field: str, ttl_ms: int, limits: Limits) -> Refusal | None:
    if ttl_ms > limits.ttl_ms_max:
        return LimitExceeded("ttl_ms_max", limits.ttl_ms_max, ttl_ms)
    return _at_least(field, ttl_ms, 0)


def _at_least(field: str, number: int, least: int) -> Refusal | None:
    return None if number >= least else InvalidArgument(field, f"{number} is below {least}")
