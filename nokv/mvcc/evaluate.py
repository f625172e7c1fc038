"""Evaluation: one function for every request, called for reads on a snapshot and for writes at apply.

Why: an applied command must give the same result on every replica, so there is one way in and nothing else decides.
Invariants: a result depends on the engine's state and the arguments alone: no clock, no randomness, no hash order, and
no node's configuration; a refusal of `evaluate` is a result like any other.
Not here: who assigns commit_ts and ts_limit, and the checks before proposing (nokv.workers, validate.py).
"""

from typing import Final, assert_never

from nokv.mvcc.atomic import atomic
from nokv.mvcc.commit import commit
from nokv.mvcc.delete_range import delete_range
from nokv.mvcc.gc import gc
from nokv.mvcc.limits import APPLY_LIMITS, LIMITS, ApplyLimits, Limits
from nokv.mvcc.one_phase import one_phase
from nokv.mvcc.prewrite import prewrite
from nokv.mvcc.reader import batch_get, get
from nokv.mvcc.records import NO_TS
from nokv.mvcc.resolve import resolve
from nokv.mvcc.rollback import rollback
from nokv.mvcc.scan import scan
from nokv.mvcc.status import check_txn_status, heartbeat
from nokv.mvcc.validate import keys_of, observed_ts, range_of, validate
from nokv.proto.errors import ErrorDetail, SnapshotTooOld
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    AtomicRequest,
    BatchGetRequest,
    BatchRollbackRequest,
    CheckTxnStatusRequest,
    CommitRequest,
    DeleteRangeRequest,
    GcRequest,
    GetRequest,
    KvReply,
    OnePhaseRequest,
    PrewriteRequest,
    ReadRequest,
    ResolveLockRequest,
    ScanRequest,
    TxnHeartbeatRequest,
    WriteRequest,
)
from nokv.storage.engine import Engine, Reader

__all__ = ["ASSIGNED", "evaluate", "evaluate_read", "keys_of", "observed_ts", "range_of", "validate"]

ASSIGNED: Final = frozenset({OnePhaseRequest, AtomicRequest, DeleteRangeRequest})
"""Requests whose commit timestamp the region's leader assigns when it proposes them."""


def evaluate(
    engine: Engine,
    request: WriteRequest,
    *,
    commit_ts: Ts = NO_TS,
    ts_limit: Ts = NO_TS,
    safe_point: Ts = NO_TS,
    region_start: bytes = b"",
    region_end: bytes = b"",
    limits: ApplyLimits = APPLY_LIMITS,
) -> KvReply | ErrorDetail:
    """Apply one write request.

    Args:
        commit_ts: assigned by the leader for the requests in ASSIGNED, above start_ts and every timestamp read at.
        ts_limit: how far a blind write or an atomic operation may be moved up, so that it stays below every start_ts
            still to be issued.
        safe_point: the region's, from its own log. Below it new writes are refused: their duplicates could no longer
            be recognised.
        region_start, region_end: the region's bounds (b"": none), for requests that name no keys.
        limits: the same on every replica.

    REQUIRES: validate(request) found nothing on the node that proposed it.
    """
    match request:
        case OnePhaseRequest():
            return one_phase(engine, request, commit_ts=commit_ts, ts_limit=ts_limit, safe_point=safe_point)
        case PrewriteRequest():
            return prewrite(engine, request, safe_point=safe_point)
        case CommitRequest():
            return commit(engine, request)
        case BatchRollbackRequest():
            return rollback(engine, request)
        case ResolveLockRequest():
            return resolve(engine, request, region_start=region_start, region_end=region_end, limits=limits)
        case CheckTxnStatusRequest():
            return check_txn_status(engine, request)
        case TxnHeartbeatRequest():
            return heartbeat(engine, request)
        case AtomicRequest():
            return atomic(engine, request, commit_ts=commit_ts, ts_limit=ts_limit, limits=limits, safe_point=safe_point)
        case DeleteRangeRequest():
            return delete_range(
                engine,
                request,
                commit_ts=commit_ts,
                region_start=region_start,
                region_end=region_end,
                limits=limits,
                safe_point=safe_point,
            )
        case GcRequest():
            return gc(engine, request, region_start=region_start, region_end=region_end, limits=limits)
        case _:
            assert_never(request)


def evaluate_read(
    reader: Reader,
    request: ReadRequest,
    *,
    safe_point: Ts = NO_TS,
    region_start: bytes = b"",
    region_end: bytes = b"",
    limits: Limits = LIMITS,
) -> KvReply | ErrorDetail:
    """Answer one read request at the state of `reader`; ranges are clipped to the region.

    REQUIRES: validate(request, limits) found nothing; this replica may answer.
    """
    if request.ts < safe_point:
        return SnapshotTooOld(request.ts, safe_point)
    match request:
        case GetRequest():
            return get(reader, request.key, request.ts)
        case BatchGetRequest():
            return batch_get(reader, request.keys, request.ts, bytes_max=limits.batch_get_bytes_max)
        case ScanRequest():
            return scan(
                reader,
                max(request.start, region_start),
                min(request.end or region_end, region_end or request.end),
                request.ts,
                min(request.limit, limits.scan_pairs_max),
                bytes_max=limits.scan_bytes_max,
                visited_max=limits.scan_visited_max,
                reverse=request.reverse,
                keys_only=request.keys_only,
            )
        case _:
            assert_never(request)
