"""The error tree: every refusal has its exception, and every exception survives a trip to another process."""

import builtins
import pickle
from typing import get_args

import pytest

import nokv
from nokv.client import errors
from nokv.client.errors import NokvError, error_of
from nokv.proto import errors as wire
from nokv.proto.ids import PeerId, RegionId, StoreId, Ts

DETAILS: list[wire.ErrorDetail] = [
    wire.NotLeader(RegionId(1), StoreId(2), PeerId(3)),
    wire.EpochNotMatch(RegionId(1)),
    wire.StaleCommand(RegionId(1)),
    wire.ServerIsBusy("queue", 30),
    wire.DeadlineExceeded("queue"),
    wire.DiskFull(StoreId(1), 1, 2),
    wire.ShuttingDown(StoreId(1)),
    wire.OutcomeUnknown(RegionId(1)),
    wire.InvalidArgument("ts", "is 0"),
    wire.MalformedFrame("short"),
    wire.ProtocolMismatch(2, 1),
    wire.UnknownKind(99),
    wire.LimitExceeded("key_bytes_max", 400, 401),
    wire.EntryTooLarge(RegionId(1), 10, 11),
    wire.DuplicateRequest(7),
    wire.ClusterMismatch(2, 1),
    wire.ServerFault("bad", "worse"),
    wire.KeyIsLocked(b"k", b"p", Ts(5), 1500, 0, Ts(0)),
    wire.WriteConflict(b"k", b"p", Ts(5), Ts(6), Ts(7)),
    wire.AlreadyExists(b"k"),
    wire.LockNotFound(b"k", Ts(5)),
    wire.RolledBack(b"k", Ts(5)),
    wire.AlreadyCommitted(b"k", Ts(5), Ts(6)),
    wire.CommitTsTooLow(b"k", Ts(5), Ts(6), Ts(7)),
    wire.TxnNotFound(b"p", Ts(5)),
    wire.SnapshotTooOld(Ts(5), Ts(6)),
    wire.TypeMismatch(b"k", "no integer"),
]


def test_the_list_above_is_complete() -> None:
    assert {type(detail) for detail in DETAILS} == set(get_args(wire.ErrorDetail))


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: type(detail).__name__)
def test_every_refusal_has_an_exception_that_pickles(detail: wire.ErrorDetail) -> None:
    error = error_of(detail)
    error.attempts, error.elapsed, error.region = 3, 1.25, 9
    for twin in (pickle.loads(pickle.dumps(error)), error.copy()):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)
    assert error.code
    assert error.outcome in ("not_applied", "unknown")


def test_fields_come_from_the_wire() -> None:
    locked = error_of(wire.KeyIsLocked(b"k", b"p", Ts(5), 1500, 0, Ts(0)))
    assert isinstance(locked, nokv.LockedError)
    assert (locked.key, locked.ttl_left) == (b"k", 1.5)
    conflict = error_of(wire.WriteConflict(b"k", b"p", Ts(5), Ts(6), Ts(7)))
    assert isinstance(conflict, nokv.ConflictError)
    assert conflict.other_ts == 7
    busy = error_of(wire.ServerIsBusy("queue", 30))
    assert isinstance(busy, nokv.BusyError)
    assert busy.retry_after == 0.03
    limit = error_of(wire.LimitExceeded("key_bytes_max", 400, 401))
    assert isinstance(limit, nokv.LimitError)
    assert (limit.what, limit.limit, limit.actual) == ("key_bytes_max", 400, 401)
    mismatch = error_of(wire.ProtocolMismatch(ours=2, theirs=1))
    assert isinstance(mismatch, nokv.ProtocolError)
    assert (mismatch.ours, mismatch.theirs) == (1, 2), "seen from our side"
    assert error_of(wire.OutcomeUnknown(RegionId(1))).outcome == "unknown"


def test_places_in_the_tree() -> None:
    assert issubclass(nokv.TimeoutError, builtins.TimeoutError)
    assert issubclass(nokv.ConnectError, builtins.ConnectionError)
    assert issubclass(nokv.AuthError, nokv.ConnectError)
    assert issubclass(nokv.UsageError, ValueError)
    for usage in ("ClientClosedError", "ClientForkedError", "WrongThreadError", "CrossRegionError", "WrongTypeError"):
        assert issubclass(getattr(nokv, usage), nokv.UsageError)
    for transient in ("ConflictError", "LockedError", "BusyError"):
        assert issubclass(getattr(nokv, transient), nokv.TransientError)
        assert getattr(nokv, transient)("x").retryable
    assert not nokv.AuthError("x").retryable


def test_all_public_errors_are_exported() -> None:
    defined = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, NokvError)}
    assert defined <= set(dir(nokv))


def test_keys_in_texts_are_escaped() -> None:
    assert "hex:00ff" in str(error_of(wire.AlreadyExists(b"\x00\xff")))
