"""Requests and replies of the data plane, one pair for each Kind.KV_*.

Why: a region's leader answers exactly what it was asked, in the order it was asked, with the client's own key order.
Invariants: every request starts with the epoch of the region its sender believes in (the region id itself is in the
frame header); keys are raw user keys, 1 to 400 bytes; an empty `end` means the end of the region; timestamps are Ts;
a refusal is an ERROR frame, so a reply holds results only.
Not here: the rules (nokv.mvcc), the limits (nokv.config), what lies in the log (command).
"""

from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from nokv.proto.errors import AlreadyExists, InvalidArgument, KeyIsLocked, LimitExceeded, WriteConflict
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts
from nokv.proto.region import RegionEpoch

# ---- reads ----------------------------------------------------------------------------------------------------------


class GetRequest(Struct, array_like=True, frozen=True, gc=False):
    """Read one key at `ts` (LATEST: the newest committed version, linearizable)."""

    epoch: RegionEpoch
    key: bytes
    ts: Ts


class GetReply(Struct, array_like=True, frozen=True, gc=False):
    """`value` None: not found. `commit_ts` is the version's, 0 where there is none."""

    value: bytes | None
    commit_ts: Ts = Ts(0)


class BatchGetRequest(Struct, array_like=True, frozen=True):
    """Read many keys of one region at `ts`, which must not be LATEST unless there is one key."""

    epoch: RegionEpoch
    keys: tuple[bytes, ...]
    ts: Ts


class BatchGetReply(Struct, array_like=True, frozen=True):
    """Values aligned with the request's keys, None where not found."""

    values: tuple[bytes | None, ...]


class ScanRequest(Struct, array_like=True, frozen=True, gc=False):
    """Read up to `limit` pairs of `start <= key < end` at `ts`; `reverse` starts at the high end of the same range."""

    epoch: RegionEpoch
    start: bytes
    end: bytes
    limit: int
    ts: Ts
    reverse: bool = False
    keys_only: bool = False


class ScanReply(Struct, array_like=True, frozen=True):
    """Pairs in scan order (value None when keys_only).

    `more`: a bound ended the page before the range did; a page may be empty and still have `more`. Then `resume` is the
    next request's `start`, or its `end` when reverse.
    """

    pairs: tuple[tuple[bytes, bytes | None], ...]
    more: bool = False
    resume: bytes = b""


# ---- writes ---------------------------------------------------------------------------------------------------------


class MutationOp(IntEnum):
    """What a mutation does to its key. Frozen values."""

    PUT = 0
    DELETE = 1
    LOCK = 2
    """Locks the key without changing it: what `lock()` and `for_update` write."""
    INSERT = 3
    """Put if the key has no value, else AlreadyExists."""
    CHECK_NOT_EXISTS = 4
    """AlreadyExists if the key has a value; writes and locks nothing."""


class Mutation(Struct, array_like=True, frozen=True, gc=False):
    """One key's change."""

    op: MutationOp
    key: bytes
    value: bytes = b""


class OnePhaseRequest(Struct, array_like=True, frozen=True):
    """Commit mutations of one region at once; the region's leader assigns the commit timestamp.

    `blind`: the caller has read nothing, so a version newer than `start_ts` is no conflict: the write goes above it as
    long as the leader can prove that its timestamp is below every start_ts still to be issued, else WriteConflict.
    Repeating the request with the same start_ts returns the first outcome.
    """

    epoch: RegionEpoch
    mutations: tuple[Mutation, ...]
    start_ts: Ts
    blind: bool = False


class OnePhaseReply(Struct, array_like=True, frozen=True, gc=False):
    """The mutations are durable and visible from `commit_ts` on."""

    commit_ts: Ts


class PrewriteRequest(Struct, array_like=True, frozen=True):
    """First phase: check and lock. `min_commit_ts` 0 = none; `txn_size` = number of keys, a hint for resolvers."""

    epoch: RegionEpoch
    mutations: tuple[Mutation, ...]
    primary: bytes
    start_ts: Ts
    lock_ttl_ms: int
    min_commit_ts: Ts = Ts(0)
    txn_size: int = 0


PrewriteError = KeyIsLocked | WriteConflict | AlreadyExists | InvalidArgument | LimitExceeded


class PrewriteReply(Struct, array_like=True, frozen=True):
    """`errors` empty: every key is locked. Otherwise nothing was changed; one detail for each refused key."""

    errors: tuple[PrewriteError, ...] = ()


class CommitRequest(Struct, array_like=True, frozen=True):
    """Second phase for keys of one region."""

    epoch: RegionEpoch
    keys: tuple[bytes, ...]
    start_ts: Ts
    commit_ts: Ts


class CommitReply(Struct, array_like=True, frozen=True, gc=False):
    """The keys are committed. `commit_ts` is the one that stands: the first that succeeded."""

    commit_ts: Ts


class BatchRollbackRequest(Struct, array_like=True, frozen=True):
    """Undo the transaction on the keys and leave a mark, so that a late prewrite is refused."""

    epoch: RegionEpoch
    keys: tuple[bytes, ...]
    start_ts: Ts


class BatchRollbackReply(Struct, array_like=True, frozen=True, gc=False):
    """Rolled back (or never prewritten) on every key."""


class ResolveLockRequest(Struct, array_like=True, frozen=True):
    """Finish a transaction's locks: commit_ts 0 rolls back, else commits.

    `keys` empty: all its locks in the region, from the key `start` on.
    """

    epoch: RegionEpoch
    start_ts: Ts
    commit_ts: Ts
    keys: tuple[bytes, ...] = ()
    start: bytes = b""


class ResolveLockReply(Struct, array_like=True, frozen=True, gc=False):
    """`resolved`: locks finished now. `more`: a bound per request was reached, ask again with `resume` as `start`."""

    resolved: int
    more: bool = False
    resume: bytes = b""


class TxnAction(IntEnum):
    """What CheckTxnStatus did. Frozen values."""

    NONE = 0
    TTL_EXPIRE_ROLLBACK = 1
    LOCK_NOT_EXIST_ROLLBACK = 2
    MIN_COMMIT_TS_PUSHED = 3


class CheckTxnStatusRequest(Struct, array_like=True, frozen=True, gc=False):
    """Ask the primary's region what became of the transaction `lock_ts`."""

    epoch: RegionEpoch
    primary: bytes
    lock_ts: Ts
    caller_start_ts: Ts
    current_ts: Ts
    rollback_if_not_exist: bool = True


class CheckTxnStatusReply(Struct, array_like=True, frozen=True, gc=False):
    """commit_ts > 0: committed. lock_ttl_ms > 0: alive. Both 0: rolled back. min_commit_ts: the live lock's."""

    action: TxnAction
    commit_ts: Ts
    lock_ttl_ms: int
    min_commit_ts: Ts = Ts(0)


class TxnHeartbeatRequest(Struct, array_like=True, frozen=True, gc=False):
    """Raise the primary lock's TTL to at least `advise_ttl_ms`."""

    epoch: RegionEpoch
    primary: bytes
    start_ts: Ts
    advise_ttl_ms: int


class TxnHeartbeatReply(Struct, array_like=True, frozen=True, gc=False):
    """The TTL now in force, in milliseconds."""

    lock_ttl_ms: int


class AtomicOp(IntEnum):
    """Operations evaluated at apply. Frozen values. Integers are signed 64-bit decimal text, as in Redis."""

    ADD = 0
    MIN = 1
    MAX = 2
    APPEND = 3
    COMPARE_AND_SET = 4


class AtomicRequest(Struct, array_like=True, frozen=True, gc=False):
    """One read-modify-write of one key in one log entry.

    `operand`: the decimal integer, the bytes to append, or the new value (None = delete). `expect`: COMPARE_AND_SET
    only, the value the key must have (None = must be absent). Repeating it with the same start_ts returns the first
    answer; WriteConflict says that it had no effect and, with this start_ts, never will.
    """

    epoch: RegionEpoch
    op: AtomicOp
    key: bytes
    operand: bytes | None
    start_ts: Ts
    expect: bytes | None = None


class AtomicReply(Struct, array_like=True, frozen=True, gc=False):
    """`swapped` False only for a failed COMPARE_AND_SET, which has no commit_ts; `current` is the key's value then."""

    swapped: bool
    current: bytes | None
    commit_ts: Ts = Ts(0)


class DeleteRangeRequest(Struct, array_like=True, frozen=True, gc=False):
    """Delete up to `limit` keys of `start <= key < end` that were visible at start_ts and not committed since."""

    epoch: RegionEpoch
    start: bytes
    end: bytes
    start_ts: Ts
    limit: int


class DeleteRangeReply(Struct, array_like=True, frozen=True, gc=False):
    """`deleted` keys; `more`: a bound ended it, go on from `resume`. `commit_ts` 0: nothing was deleted."""

    deleted: int
    more: bool
    resume: bytes
    commit_ts: Ts


class GcRequest(Struct, array_like=True, frozen=True, gc=False):
    """Drop versions that no read at or above `safe_point` can see, up to `limit` keys from `start`."""

    epoch: RegionEpoch
    safe_point: Ts
    start: bytes
    limit: int


class GcReply(Struct, array_like=True, frozen=True, gc=False):
    """`removed` commits and rollback marks; `resume` b"" when the region is done."""

    removed: int
    resume: bytes


# ---- tables ---------------------------------------------------------------------------------------------------------

KvRequest = (
    GetRequest
    | BatchGetRequest
    | ScanRequest
    | OnePhaseRequest
    | PrewriteRequest
    | CommitRequest
    | BatchRollbackRequest
    | ResolveLockRequest
    | CheckTxnStatusRequest
    | TxnHeartbeatRequest
    | AtomicRequest
    | DeleteRangeRequest
    | GcRequest
)
ReadRequest = GetRequest | BatchGetRequest | ScanRequest
WriteRequest = (
    OnePhaseRequest
    | PrewriteRequest
    | CommitRequest
    | BatchRollbackRequest
    | ResolveLockRequest
    | CheckTxnStatusRequest
    | TxnHeartbeatRequest
    | AtomicRequest
    | DeleteRangeRequest
    | GcRequest
)
KvReply = (
    GetReply
    | BatchGetReply
    | ScanReply
    | OnePhaseReply
    | PrewriteReply
    | CommitReply
    | BatchRollbackReply
    | ResolveLockReply
    | CheckTxnStatusReply
    | TxnHeartbeatReply
    | AtomicReply
    | DeleteRangeReply
    | GcReply
)

REQUEST_OF: Final[dict[int, type]] = {
    Kind.KV_GET: GetRequest,
    Kind.KV_BATCH_GET: BatchGetRequest,
    Kind.KV_SCAN: ScanRequest,
    Kind.KV_ONE_PHASE: OnePhaseRequest,
    Kind.KV_PREWRITE: PrewriteRequest,
    Kind.KV_COMMIT: CommitRequest,
    Kind.KV_BATCH_ROLLBACK: BatchRollbackRequest,
    Kind.KV_RESOLVE_LOCK: ResolveLockRequest,
    Kind.KV_CHECK_TXN_STATUS: CheckTxnStatusRequest,
    Kind.KV_TXN_HEARTBEAT: TxnHeartbeatRequest,
    Kind.KV_ATOMIC: AtomicRequest,
    Kind.KV_DELETE_RANGE: DeleteRangeRequest,
    Kind.KV_GC: GcRequest,
}
REPLY_OF: Final[dict[int, type]] = {
    Kind.KV_GET: GetReply,
    Kind.KV_BATCH_GET: BatchGetReply,
    Kind.KV_SCAN: ScanReply,
    Kind.KV_ONE_PHASE: OnePhaseReply,
    Kind.KV_PREWRITE: PrewriteReply,
    Kind.KV_COMMIT: CommitReply,
    Kind.KV_BATCH_ROLLBACK: BatchRollbackReply,
    Kind.KV_RESOLVE_LOCK: ResolveLockReply,
    Kind.KV_CHECK_TXN_STATUS: CheckTxnStatusReply,
    Kind.KV_TXN_HEARTBEAT: TxnHeartbeatReply,
    Kind.KV_ATOMIC: AtomicReply,
    Kind.KV_DELETE_RANGE: DeleteRangeReply,
    Kind.KV_GC: GcReply,
}
READ_KINDS: Final = frozenset({Kind.KV_GET, Kind.KV_BATCH_GET, Kind.KV_SCAN})
WRITE_KINDS: Final = frozenset(REQUEST_OF) - READ_KINDS

encode_body: Final = msgspec.msgpack.Encoder().encode
REQUEST_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[KvRequest]]] = {
    kind: msgspec.msgpack.Decoder(body) for kind, body in REQUEST_OF.items()
}
REPLY_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[KvReply]]] = {
    kind: msgspec.msgpack.Decoder(body) for kind, body in REPLY_OF.items()
}
WRITE_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[WriteRequest]]] = {
    kind: msgspec.msgpack.Decoder(REQUEST_OF[kind]) for kind in sorted(WRITE_KINDS)
}
