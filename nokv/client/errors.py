"""What a call can end with besides a result: one small tree of exceptions with fields.

Why: a program decides by class and field what to do next; the text is for people. Whether a write may have happened is
the one thing a caller cannot find out alone, so every error says it in `outcome`.
Invariants: every refusal of proto.errors has exactly one exception here; exceptions pickle with all their fields; an
error that carries `outcome == "not_applied"` left no trace in the store.
Not here: when an error is raised and when the call is tried again instead (retry.py, op.py).
"""

import builtins
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar, assert_never

from nokv.proto import errors as wire
from nokv.proto.region import printable

Outcome = Literal["not_applied", "unknown"]
"""Whether the call changed anything: surely not, or it cannot be told."""


E = TypeVar("E", bound="NokvError")


class NokvError(Exception):
    """Root of all errors of this package.

    Fields: `code` (stable text, e.g. "busy"), `retryable` (the same call may succeed later), `outcome`, `region` (id,
    0 if none was involved), `attempts` (requests sent), `elapsed` (seconds since the call began).
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str = "", outcome: Outcome = "not_applied", region: int = 0) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.retryable = self.default_retryable
        self.outcome: Outcome = outcome
        self.region = region
        self.attempts = 0
        self.elapsed = 0.0

    def copy(self) -> Self:
        """An equal error with the same cause, to raise to another caller without sharing a traceback."""
        twin = _rebuild(type(self), self.args, dict(self.__dict__))
        twin.__cause__ = self.__cause__
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(kind: type[E], args: tuple[object, ...], fields: Mapping[str, object]) -> E:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


# ---- the caller's own mistakes --------------------------------------------------------------------------------------


class UsageError(NokvError, ValueError):
    """The call cannot mean anything: an empty key, a limit of zero, a setting that does not exist."""

    default_code = "usage"


class ClientClosedError(UsageError):
    """The client was closed."""

    default_code = "client_closed"


class ClientForkedError(UsageError):
    """The process was forked after the client connected. Connect again in the child."""

    default_code = "client_forked"


class WrongThreadError(UsageError):
    """An iterator is used by another thread or task than the one that began it, or a client by another event loop."""

    default_code = "wrong_thread"


class CrossRegionError(UsageError):
    """The keys of a one-phase write lie in several regions, which cannot change together without a transaction."""

    default_code = "cross_region"


class WrongTypeError(UsageError):
    """An atomic operation met a value of another shape, e.g. `incr` on something that is no integer."""

    default_code = "wrong_type"

    def __init__(self, message: str, *, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key


class LimitError(NokvError):
    """A documented limit. `what` is its name in the node's configuration."""

    default_code = "limit"

    def __init__(self, what: str, limit: int, actual: int) -> None:
        super().__init__(f"{what} is {limit}, this has {actual}")
        self.what = what
        self.limit = limit
        self.actual = actual


# ---- trouble that passes --------------------------------------------------------------------------------------------


class TransientError(NokvError):
    """Nothing was written, and the same call may succeed later."""

    default_code = "transient"
    default_retryable = True


class ConflictError(TransientError):
    """Somebody else committed the key first. `other_ts` is that commit's timestamp, 0 if it is not known."""

    default_code = "conflict"

    def __init__(self, message: str, *, key: bytes = b"", other_ts: int = 0) -> None:
        super().__init__(message)
        self.key = key
        self.other_ts = other_ts


class LockedError(TransientError):
    """The key is locked by a transaction that is still alive. `ttl_left` in seconds."""

    default_code = "locked"

    def __init__(self, message: str, *, key: bytes = b"", ttl_left: float = 0.0) -> None:
        super().__init__(message)
        self.key = key
        self.ttl_left = ttl_left


class BusyError(TransientError):
    """A bounded queue is full. `retry_after` in seconds is the hint of whoever refused."""

    default_code = "busy"

    def __init__(self, message: str, *, code: str = "", retry_after: float = 0.0, region: int = 0) -> None:
        super().__init__(message, code=code, region=region)
        self.retry_after = retry_after


class TimeoutError(NokvError, builtins.TimeoutError):
    """The budget of the call ended first. `__cause__` is the last failure it met, if it met one."""

    default_code = "timeout"
    default_retryable = True


class UnavailableError(NokvError):
    """Until the deadline nobody was found who leads the region. `nodes_seen`: ids of the stores that were tried."""

    default_code = "unavailable"
    default_retryable = True

    def __init__(self, message: str, *, region: int = 0, nodes_seen: tuple[int, ...] = ()) -> None:
        super().__init__(message, region=region)
        self.nodes_seen = nodes_seen


# ---- the connection -------------------------------------------------------------------------------------------------


class ConnectError(NokvError, builtins.ConnectionError):
    """No connection to a node, or it broke. `address` is "host:port"."""

    default_code = "connect"
    default_retryable = True

    def __init__(self, message: str, *, address: str = "", outcome: Outcome = "not_applied") -> None:
        super().__init__(message, outcome=outcome)
        self.address = address


class AuthError(ConnectError):
    """The node refused our key, or its key is not the expected one."""

    default_code = "auth"
    default_retryable = False


class ProtocolError(NokvError):
    """The other side speaks another protocol version, or belongs to another cluster: `ours` and `theirs`."""

    default_code = "protocol"

    def __init__(self, message: str, *, code: str = "", ours: int = 0, theirs: int = 0) -> None:
        super().__init__(message, code=code)
        self.ours = ours
        self.theirs = theirs


# ---- what the store says --------------------------------------------------------------------------------------------


class SnapshotTooOldError(NokvError):
    """The timestamp is below the garbage collector's safe point."""

    default_code = "snapshot_too_old"

    def __init__(self, message: str, *, ts: int = 0, safepoint: int = 0) -> None:
        super().__init__(message)
        self.ts = ts
        self.safepoint = safepoint


class AlreadyExistsError(NokvError):
    """An insert found a value under the key."""

    default_code = "already_exists"

    def __init__(self, message: str, *, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key


class ServerError(NokvError):
    """The node found something wrong, with itself or with the order of our requests; `code` names it."""

    default_code = "server"


# ---- from the wire --------------------------------------------------------------------------------------------------


def error_of(detail: wire.ErrorDetail) -> NokvError:
    """The exception that tells a refusal. For refusals that are tried again it becomes the cause of a later error."""
    match detail:
        case wire.NotLeader() | wire.EpochNotMatch() | wire.StaleCommand():
            return TransientError(_routing_text(detail), code="routing", region=detail.region_id)
        case wire.ServerIsBusy() | wire.DiskFull() | wire.ShuttingDown():
            return _busy(detail)
        case wire.DeadlineExceeded():
            return TimeoutError(f"the node dropped it: budget ended in {detail.where}")
        case wire.OutcomeUnknown():
            return TransientError(
                "proposed, but its replica lost track of it", code="unknown", outcome="unknown", region=detail.region_id
            )
        case wire.InvalidArgument():
            return UsageError(f"{detail.field}: {detail.reason}")
        case wire.MalformedFrame() | wire.ProtocolMismatch() | wire.UnknownKind() | wire.ClusterMismatch():
            return _protocol(detail)
        case wire.DuplicateRequest():
            return ProtocolError(f"request id {detail.request_id} is still pending", code="duplicate_request")
        case wire.LimitExceeded():
            return LimitError(detail.what, detail.limit, detail.actual)
        case wire.EntryTooLarge():
            return LimitError("entry_bytes_max", detail.limit_bytes, detail.actual_bytes)
        case wire.ServerFault():
            return ServerError(detail.message, code=detail.code)
        case wire.SnapshotTooOld():
            text = f"timestamp {detail.ts} is below the safe point {detail.safe_point}"
            return SnapshotTooOldError(text, ts=detail.ts, safepoint=detail.safe_point)
        case _:
            return _of_transaction(detail)


TransactionDetail = (
    wire.KeyIsLocked
    | wire.WriteConflict
    | wire.AlreadyExists
    | wire.LockNotFound
    | wire.RolledBack
    | wire.AlreadyCommitted
    | wire.CommitTsTooLow
    | wire.TxnNotFound
    | wire.TypeMismatch
)


def _of_transaction(detail: TransactionDetail) -> NokvError:
    match detail:
        case wire.KeyIsLocked():
            text = f"{_name(detail.key)} is locked by transaction {detail.start_ts}"
            return LockedError(text, key=detail.key, ttl_left=detail.ttl_ms / 1000)
        case wire.WriteConflict():
            text = f"{_name(detail.key)} has a commit newer than {detail.start_ts}"
            return ConflictError(text, key=detail.key, other_ts=detail.conflict_commit_ts)
        case wire.RolledBack():
            return ConflictError(f"transaction {detail.start_ts} was rolled back", key=detail.key)
        case wire.AlreadyExists():
            return AlreadyExistsError(f"{_name(detail.key)} has a value already", key=detail.key)
        case wire.TypeMismatch():
            return WrongTypeError(f"{_name(detail.key)}: {detail.reason}", key=detail.key)
        case wire.LockNotFound():
            return ServerError(f"transaction {detail.start_ts} holds no lock here", code="lock_not_found")
        case wire.AlreadyCommitted():
            return ServerError(f"committed at {detail.commit_ts}", code="already_committed")
        case wire.CommitTsTooLow():
            text = f"commit timestamp {detail.commit_ts}, at least {detail.min_commit_ts} is needed"
            return ServerError(text, code="commit_ts_too_low")
        case wire.TxnNotFound():
            return ServerError(f"nothing is known of transaction {detail.start_ts}", code="txn_not_found")
        case _:
            assert_never(detail)


def _busy(detail: wire.ServerIsBusy | wire.DiskFull | wire.ShuttingDown) -> BusyError:
    match detail:
        case wire.ServerIsBusy():
            return BusyError(f"the node is busy: {detail.reason}", retry_after=detail.retry_after_ms / 1000)
        case wire.DiskFull():
            text = f"store {detail.store_id} has {detail.free_bytes} bytes free, {detail.needed_bytes} needed"
            return BusyError(text, code="disk_full", retry_after=1.0)
        case wire.ShuttingDown():
            return BusyError(f"store {detail.store_id} shuts down", code="shutting_down")
        case _:
            assert_never(detail)


def _protocol(
    detail: wire.MalformedFrame | wire.ProtocolMismatch | wire.UnknownKind | wire.ClusterMismatch,
) -> ProtocolError:
    match detail:
        case wire.MalformedFrame():
            return ProtocolError(f"the node could not read our frame: {detail.reason}", code="malformed")
        case wire.UnknownKind():
            return ProtocolError(f"the node does not serve requests of kind {detail.kind}", code="unknown_kind")
        case wire.ProtocolMismatch():
            # The detail was written by the node: its "ours" is our "theirs".
            text = f"the node speaks protocol {detail.ours}, we speak {detail.theirs}"
            return ProtocolError(text, ours=detail.theirs, theirs=detail.ours)
        case wire.ClusterMismatch():
            text = f"the node belongs to cluster {detail.ours}, not to {detail.theirs}"
            return ProtocolError(text, code="cluster_mismatch", ours=detail.theirs, theirs=detail.ours)
        case _:
            assert_never(detail)


def _routing_text(detail: wire.NotLeader | wire.EpochNotMatch | wire.StaleCommand) -> str:
    match detail:
        case wire.NotLeader():
            where = f"store {detail.leader_store} does" if detail.leader_store else "nobody known does"
            return f"the replica asked does not lead region {detail.region_id}, {where}"
        case wire.EpochNotMatch():
            return f"region {detail.region_id} has changed, or is not on that node"
        case wire.StaleCommand():
            return f"region {detail.region_id} changed while the write was under way"
        case _:
            assert_never(detail)


def _name(key: bytes) -> str:
    return f"key {printable(key)}" if key else "a key"
