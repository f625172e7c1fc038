"""Status: what became of a transaction, asked at its primary; and the heartbeat that keeps it alive.

Why: the primary decides for the whole transaction. A reader that met one of its locks learns here whether to commit
or roll that lock back, and may settle the question itself once the owner has been silent for longer than its TTL.
Invariants: an answer "committed" or "rolled back" is final; TTLs are compared in physical milliseconds of oracle
timestamps that came with the request, never with a clock (M33, M54); only the asked key changes.
Not here: finishing the other locks (resolve.py).
"""

from nokv.mvcc.lookup import NEVER, fate_of
from nokv.mvcc.records import NO_TS, LockRecord, decode_lock, encode_lock
from nokv.mvcc.rollback import mark, rollback_lock
from nokv.mvcc.site import locked
from nokv.proto.errors import KeyIsLocked, TxnNotFound
from nokv.proto.ids import LATEST, Ts, physical_ms
from nokv.proto.kv import (
    CheckTxnStatusReply,
    CheckTxnStatusRequest,
    TxnAction,
    TxnHeartbeatReply,
    TxnHeartbeatRequest,
)
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import encode_key


def check_txn_status(engine: Engine, request: CheckTxnStatusRequest) -> CheckTxnStatusReply | TxnNotFound | KeyIsLocked:
    """Tell, and where it is due decide, the fate of the transaction `lock_ts` on `primary`.

    An expired lock is rolled back. A live one that has a min_commit_ts gets it raised above the caller, so that the
    caller may read past it. A transaction nobody has heard of is rolled back if the caller asks for that, so that its
    prewrite can never succeed later; otherwise TxnNotFound, or KeyIsLocked with a foreign lock on the key. KeyIsLocked
    also if the lock is the transaction's but its primary is another key: a secondary cannot decide.

    REQUIRES: validate(request) found nothing.
    """
    encoded = encode_key(request.primary)
    raw = engine.get(ColumnFamily.LOCK, encoded)
    lock = None if raw is None else decode_lock(raw)
    if lock is not None and lock.start_ts == request.lock_ts:
        if lock.primary != request.primary:
            return locked(request.primary, lock)
        if expired(lock, request.current_ts):
            rollback_lock(engine, encoded, lock)
            return CheckTxnStatusReply(TxnAction.TTL_EXPIRE_ROLLBACK, NO_TS, 0)
        return _alive(engine, encoded, lock, request)
    fate = fate_of(engine, encoded, request.lock_ts)
    if fate == NEVER:
        return CheckTxnStatusReply(TxnAction.LOCK_NOT_EXIST_ROLLBACK, NO_TS, 0)
    if fate is not None:
        return CheckTxnStatusReply(TxnAction.NONE, fate, 0)
    if request.rollback_if_not_exist:
        mark(engine, encoded, request.lock_ts)
        return CheckTxnStatusReply(TxnAction.LOCK_NOT_EXIST_ROLLBACK, NO_TS, 0)
    return TxnNotFound(request.primary, request.lock_ts) if lock is None else locked(request.primary, lock)


def expired(lock: LockRecord, current_ts: Ts) -> bool:
    """Whether the lock's owner has been silent for longer than it promised."""
    return physical_ms(lock.start_ts) + lock.ttl_ms < physical_ms(current_ts)


def _alive(engine: Engine, encoded: bytes, lock: LockRecord, request: CheckTxnStatusRequest) -> CheckTxnStatusReply:
    """The answer for a live lock, after raising its min_commit_ts where that helps the caller.

    A lock without min_commit_ts is left alone: its owner was not told that its commit timestamp could be refused.
    LATEST as caller cannot be overtaken, and need not: it reads past a lock on its own primary.
    """
    caller = request.caller_start_ts
    min_commit_ts = lock.min_commit_ts
    if min_commit_ts and min_commit_ts <= caller < LATEST:
        min_commit_ts = Ts(max(caller + 1, request.current_ts))
        pushed = LockRecord(
            lock.kind, lock.primary, lock.start_ts, lock.ttl_ms, min_commit_ts, lock.txn_size, lock.value
        )
        engine.put(ColumnFamily.LOCK, encoded, encode_lock(pushed))
    action = TxnAction.MIN_COMMIT_TS_PUSHED if min_commit_ts > caller > 0 else TxnAction.NONE
    return CheckTxnStatusReply(action, NO_TS, lock.ttl_ms, min_commit_ts)


def heartbeat(engine: Engine, request: TxnHeartbeatRequest) -> TxnHeartbeatReply | TxnNotFound:
    """Raise the lock's TTL to the advised one; never lower it.

    REQUIRES: validate(request) found nothing.
    """
    encoded = encode_key(request.primary)
    raw = engine.get(ColumnFamily.LOCK, encoded)
    lock = None if raw is None else decode_lock(raw)
    if lock is None or lock.start_ts != request.start_ts:
        return TxnNotFound(request.primary, request.start_ts)
    if request.advise_ttl_ms <= lock.ttl_ms:
        return TxnHeartbeatReply(lock.ttl_ms)
    longer = LockRecord(
        lock.kind, lock.primary, lock.start_ts, request.advise_ttl_ms, lock.min_commit_ts, lock.txn_size, lock.value
    )
    engine.put(ColumnFamily.LOCK, encoded, encode_lock(longer))
    return TxnHeartbeatReply(request.advise_ttl_ms)
