"""Refusals: the closed set of typed errors a node answers with, each with its remedy.

Why: a caller must be able to decide by type what to do next; a text is for humans only.
Invariants: every detail has a remedy; a detail is added only if some caller will react differently; tags are frozen.
Not here: the SDK's exception classes (nokv.client.errors), which are made from these.
"""

from enum import Enum
from typing import Final, get_args

import msgspec
from msgspec import Struct

from nokv.proto.ids import PeerId, RegionId, StoreId, Ts
from nokv.proto.region import Region


class Remedy(Enum):
    """What the caller of a refused request should do."""

    REROUTE = "refresh the region's leader or range and send it again"
    BACK_OFF = "wait and send it again"
    RESOLVE = "look at the lock's transaction, finish it, then send it again"
    RETRY_SAME = "outcome unknown: send it again with the same start_ts, which finds what happened"
    RETRY_TXN = "nothing was written: begin again with a new start_ts"
    FAIL = "sending it again cannot help"


# ---- routing: the request met the wrong place. Nothing was written. -------------------------------------------------


class NotLeader(Struct, array_like=True, frozen=True, tag=1):
    """This replica does not lead the region. Zero ids mean that the leader is not known here."""

    region_id: RegionId
    leader_store: StoreId = StoreId(0)
    leader_peer: PeerId = PeerId(0)


class EpochNotMatch(Struct, array_like=True, frozen=True, tag=2):
    """The caller's view of the region is wrong.

    `regions` holds what this node knows instead; empty: it has no such region.
    """

    region_id: RegionId
    regions: tuple[Region, ...] = ()


class StaleCommand(Struct, array_like=True, frozen=True, tag=3):
    """The command was committed under another epoch than it was made for, and had no effect."""

    region_id: RegionId


# ---- load and life cycle: nothing was written. ----------------------------------------------------------------------


class ServerIsBusy(Struct, array_like=True, frozen=True, tag=4):
    """A bounded queue is full, or a part of the node is not ready. `reason` names which."""

    reason: str
    retry_after_ms: int = 10


class DeadlineExceeded(Struct, array_like=True, frozen=True, tag=5):
    """The request's budget ended before it was proposed or read. Nothing was written."""

    where: str


class DiskFull(Struct, array_like=True, frozen=True, tag=6):
    """The store's disk is (nearly) full: writes are refused, reads and deletes are served. Clears by itself."""

    store_id: StoreId
    free_bytes: int
    needed_bytes: int


class ShuttingDown(Struct, array_like=True, frozen=True, tag=7):
    """The node drains: leaders are moving away."""

    store_id: StoreId


# ---- unknown outcome ------------------------------------------------------------------------------------------------


class OutcomeUnknown(Struct, array_like=True, frozen=True, tag=8):
    """The command was proposed, and this replica lost the leadership (or time) before it learned the outcome."""

    region_id: RegionId


# ---- bad input: nothing was written, sending it again cannot help. --------------------------------------------------


class InvalidArgument(Struct, array_like=True, frozen=True, tag=16):
    """A field of the request is wrong."""

    field: str
    reason: str


class MalformedFrame(Struct, array_like=True, frozen=True, tag=17):
    """The bytes are no frame, or the body is not what the kind says."""

    reason: str


class ProtocolMismatch(Struct, array_like=True, frozen=True, tag=18):
    """The other side speaks another protocol version."""

    ours: int
    theirs: int


class UnknownKind(Struct, array_like=True, frozen=True, tag=19):
    """The kind is not served, or not on this plane."""

    kind: int


class LimitExceeded(Struct, array_like=True, frozen=True, tag=20):
    """A documented limit. `what` is its name in nokv.config."""

    what: str
    limit: int
    actual: int


class EntryTooLarge(Struct, array_like=True, frozen=True, tag=21):
    """The write does not fit into one Raft entry."""

    region_id: RegionId
    limit_bytes: int
    actual_bytes: int


class DuplicateRequest(Struct, array_like=True, frozen=True, tag=22):
    """A request with this id is still pending on the same connection."""

    request_id: int


class ClusterMismatch(Struct, array_like=True, frozen=True, tag=23):
    """The other side belongs to another cluster."""

    ours: int
    theirs: int


class ServerFault(Struct, array_like=True, frozen=True, tag=24):
    """The node found something wrong with itself, e.g. a value that fails its checksum. The log has the rest."""

    code: str
    message: str


# ---- transactions ---------------------------------------------------------------------------------------------------


class KeyIsLocked(Struct, array_like=True, frozen=True, tag=32):
    """Another transaction's lock is in the way."""

    key: bytes
    primary: bytes
    start_ts: Ts
    ttl_ms: int
    kind: int
    min_commit_ts: Ts
    txn_size: int = 0


class WriteConflict(Struct, array_like=True, frozen=True, tag=33):
    """The key has a newer commit than `start_ts`, or this transaction was rolled back on it (conflict_commit_ts 0)."""

    key: bytes
    primary: bytes
    start_ts: Ts
    conflict_start_ts: Ts
    conflict_commit_ts: Ts


class AlreadyExists(Struct, array_like=True, frozen=True, tag=34):
    """An insert, or a check that a key is absent, found a value."""

    key: bytes


class LockNotFound(Struct, array_like=True, frozen=True, tag=35):
    """Commit: the transaction has no lock on the key and never committed it."""

    key: bytes
    start_ts: Ts


class RolledBack(Struct, array_like=True, frozen=True, tag=36):
    """Commit: the transaction was rolled back on the key."""

    key: bytes
    start_ts: Ts


class AlreadyCommitted(Struct, array_like=True, frozen=True, tag=37):
    """Rollback: the transaction is committed on the key."""

    key: bytes
    start_ts: Ts
    commit_ts: Ts


class CommitTsTooLow(Struct, array_like=True, frozen=True, tag=38):
    """Commit: the timestamp is not above start_ts, or below the lock's min_commit_ts."""

    key: bytes
    start_ts: Ts
    commit_ts: Ts
    min_commit_ts: Ts


class TxnNotFound(Struct, array_like=True, frozen=True, tag=39):
    """Status or heartbeat: no lock of the transaction here (and, for status, no record of it either)."""

    primary: bytes
    start_ts: Ts


class SnapshotTooOld(Struct, array_like=True, frozen=True, tag=40):
    """The read timestamp is below the garbage collector's safe point."""

    ts: Ts
    safe_point: Ts


class TypeMismatch(Struct, array_like=True, frozen=True, tag=41):
    """An atomic operation met a value of another shape: add on something that is no integer, or an overflow."""

    key: bytes
    reason: str


ErrorDetail = (
    NotLeader
    | EpochNotMatch
    | StaleCommand
    | ServerIsBusy
    | DeadlineExceeded
    | DiskFull
    | ShuttingDown
    | OutcomeUnknown
    | InvalidArgument
    | MalformedFrame
    | ProtocolMismatch
    | UnknownKind
    | LimitExceeded
    | EntryTooLarge
    | DuplicateRequest
    | ClusterMismatch
    | ServerFault
    | KeyIsLocked
    | WriteConflict
    | AlreadyExists
    | LockNotFound
    | RolledBack
    | AlreadyCommitted
    | CommitTsTooLow
    | TxnNotFound
    | SnapshotTooOld
    | TypeMismatch
)

REMEDY: Final[dict[type, Remedy]] = {
    NotLeader: Remedy.REROUTE,
    EpochNotMatch: Remedy.REROUTE,
    StaleCommand: Remedy.REROUTE,
    ServerIsBusy: Remedy.BACK_OFF,
    DeadlineExceeded: Remedy.FAIL,
    DiskFull: Remedy.BACK_OFF,
    ShuttingDown: Remedy.REROUTE,
    OutcomeUnknown: Remedy.RETRY_SAME,
    InvalidArgument: Remedy.FAIL,
    MalformedFrame: Remedy.FAIL,
    ProtocolMismatch: Remedy.FAIL,
    UnknownKind: Remedy.FAIL,
    LimitExceeded: Remedy.FAIL,
    EntryTooLarge: Remedy.FAIL,
    DuplicateRequest: Remedy.FAIL,
    ClusterMismatch: Remedy.FAIL,
    ServerFault: Remedy.FAIL,
    KeyIsLocked: Remedy.RESOLVE,
    WriteConflict: Remedy.RETRY_TXN,
    AlreadyExists: Remedy.FAIL,
    LockNotFound: Remedy.FAIL,
    RolledBack: Remedy.RETRY_TXN,
    AlreadyCommitted: Remedy.FAIL,
    CommitTsTooLow: Remedy.FAIL,
    TxnNotFound: Remedy.FAIL,
    SnapshotTooOld: Remedy.FAIL,
    TypeMismatch: Remedy.FAIL,
}
assert set(REMEDY) == set(get_args(ErrorDetail)), "every refusal has a remedy"

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(ErrorDetail)


def encode_error(detail: ErrorDetail) -> bytes:
    """The body of a Kind.ERROR frame."""
    return _encoder.encode(detail)


def decode_error(body: bytes) -> ErrorDetail:
    """The detail in the body of a Kind.ERROR frame.

    Raises:
        msgspec.DecodeError: the bytes are no known detail.
    """
    detail: ErrorDetail = _decoder.decode(body)
    return detail
