"""Rollback: undo a transaction on its keys and make sure that it stays undone.

Why: messages are delayed and repeated; a prewrite that arrives after its transaction was given up must be refused, so
a rollback leaves a mark even where nothing was prewritten.
Invariants: a committed key is never rolled back, and then no other key of the request is either; a foreign lock is
never touched. The mark lies at (key, start_ts) among the traces, where no commit record can ever lie, so the two
cannot overwrite each other even when another transaction's commit_ts equals this start_ts.
Not here: when a lock counts as expired (status.py).
"""

from nokv.mvcc.lookup import NEVER, fate_of
from nokv.mvcc.records import ROLLED_BACK, LockRecord, decode_lock
from nokv.proto.errors import AlreadyCommitted
from nokv.proto.ids import Ts
from nokv.proto.kv import BatchRollbackReply, BatchRollbackRequest
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import encode_key, encode_ts


def rollback(engine: Engine, request: BatchRollbackRequest) -> BatchRollbackReply | AlreadyCommitted:
    """Roll the transaction back on its keys, or on none if it is committed on one.

    REQUIRES: validate(request) found nothing.
    """
    held: list[tuple[bytes, LockRecord]] = []
    unmarked: list[bytes] = []
    for key in dict.fromkeys(request.keys):
        encoded = encode_key(key)
        raw = engine.get(ColumnFamily.LOCK, encoded)
        lock = None if raw is None else decode_lock(raw)
        if lock is not None and lock.start_ts == request.start_ts:
            held.append((encoded, lock))
            continue
        fate = fate_of(engine, encoded, request.start_ts)
        if fate is None:
            unmarked.append(encoded)
        elif fate != NEVER:
            return AlreadyCommitted(key, request.start_ts, fate)
    for encoded, lock in held:
        rollback_lock(engine, encoded, lock)
    for encoded in unmarked:
        mark(engine, encoded, request.start_ts)
    return BatchRollbackReply()


def rollback_lock(engine: Engine, encoded: bytes, lock: LockRecord) -> None:
    """Remove the lock and its value, and leave the mark."""
    mark(engine, encoded, lock.start_ts)
    held = engine.delete(ColumnFamily.LOCK, encoded)
    assert held


def mark(engine: Engine, encoded: bytes, start_ts: Ts) -> None:
    """Leave the mark of a rollback; it takes the place of a long value.

    REQUIRES: the transaction is not committed on this key.
    """
    engine.put(ColumnFamily.DEFAULT, encoded + encode_ts(start_ts), ROLLED_BACK)
