"""What is refused before it is proposed, and what requests say about themselves."""

from typing import get_args

import pytest

from nokv.mvcc.evaluate import ASSIGNED, evaluate, evaluate_read, keys_of, observed_ts, range_of, validate
from nokv.mvcc.limits import APPLY_LIMITS, LIMITS, ApplyLimits, Limits
from nokv.proto.errors import CommitTsTooLow, InvalidArgument, LimitExceeded
from nokv.proto.ids import LATEST, U64_MAX, Ts
from nokv.proto.kv import (
    AtomicOp,
    BatchGetRequest,
    CheckTxnStatusRequest,
    DeleteRangeRequest,
    GcRequest,
    GetRequest,
    KvRequest,
    OnePhaseRequest,
    PrewriteRequest,
    ReadRequest,
    ResolveLockRequest,
    ScanRequest,
    WriteRequest,
)
from nokv.proto.region import FIRST_EPOCH
from nokv.storage.memory_engine import MemoryEngine
from tests.mvcc.ask import (
    absent,
    atomic,
    check,
    collect,
    commit_keys,
    delete_range,
    get,
    heartbeat,
    insert,
    ms,
    one_phase,
    prewrite,
    put,
    resolve,
    rollback,
    scan,
)

SMALL = Limits(key_bytes_max=4, value_bytes_max=300, request_keys_max=2, ttl_ms_max=1000, batch_get_bytes_max=300)
E = FIRST_EPOCH
LONG_KEY = LimitExceeded("key_bytes_max", 4, 5)
LONG_BOUND = LimitExceeded("key_bytes_max", 5, 6)
LONG_VALUE = LimitExceeded("value_bytes_max", 300, 301)
MANY = LimitExceeded("request_keys_max", 2, 3)
VALUE = b"v" * 301

FINE: list[KvRequest] = [
    get(b"k", 10),
    GetRequest(E, b"kkkk", LATEST),
    GetRequest(E, b"k", Ts(0)),
    BatchGetRequest(E, (), ms(1)),
    BatchGetRequest(E, (b"k", b"k"), ms(1)),
    scan(10, b"kkkkk", b"kkkkk", 0),
    one_phase(10, put(b"k", b"v" * 300), absent(b"kkkk")),
    prewrite(10, primary=b"p", ttl=1),
    prewrite(10, put(b"k", b""), ttl=0),
    prewrite(10, put(b"k"), primary=b"p", ttl=1000, min_commit=1),
    commit_keys(10, 11, b"k"),
    commit_keys(10, 11),
    rollback(10),
    rollback(10, b"k", b"k"),
    resolve(10, 0),
    resolve(10, 11, b"k"),
    resolve(10, 11, begin=b"kkkkk"),
    check(b"k", 10),
    CheckTxnStatusRequest(E, b"k", ms(1), LATEST, ms(1)),
    heartbeat(b"k", 10, 0),
    heartbeat(b"k", 10, 1000),
    atomic(AtomicOp.ADD, b"k", b"1", 10),
    atomic(AtomicOp.COMPARE_AND_SET, b"k", None, 10, None),
    atomic(AtomicOp.APPEND, b"k", b"", 10),
    delete_range(10),
    delete_range(10, b"kkkkk", b"kkkkk", 1),
    collect(10),
    collect(10, b"kkkkk"),
]


@pytest.mark.parametrize("request_", FINE, ids=lambda request: type(request).__name__)
def test_what_passes_can_be_evaluated(request_: KvRequest) -> None:
    """On an empty store, where every assumption that is not checked would show."""
    assert validate(request_, SMALL) is None
    if isinstance(request_, ReadRequest):
        evaluate_read(MemoryEngine(), request_)
    else:
        evaluate(MemoryEngine(), request_, commit_ts=ms(100))


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (get(b"", 1), InvalidArgument("key", "empty")),
        (get(b"kkkkk", 1), LONG_KEY),
        (BatchGetRequest(E, (b"k", b""), ms(1)), InvalidArgument("keys[1]", "empty")),
        (BatchGetRequest(E, (b"k", b"kkkkk"), ms(1)), LONG_KEY),
        (BatchGetRequest(E, (b"k", b"k", b"k"), ms(1)), MANY),
        (scan(1, b"kkkkkk"), LONG_BOUND),
        (scan(1, b"", b"kkkkkk"), LONG_BOUND),
        (scan(1, limit=-1), InvalidArgument("limit", "-1 is below 0")),
        (one_phase(1), InvalidArgument("mutations", "0 is below 1")),
        (one_phase(1, put(b"a"), put(b"")), InvalidArgument("mutations[1].key", "empty")),
        (one_phase(1, put(b"a"), insert(b"a")), InvalidArgument("mutations[1].key", "named twice")),
        (one_phase(1, put(b"kkkkk")), LONG_KEY),
        (one_phase(1, put(b"k", VALUE)), LONG_VALUE),
        (one_phase(1, put(b"a"), put(b"b"), put(b"c")), MANY),
        (prewrite(1, put(b"")), InvalidArgument("mutations[0].key", "empty")),
        (prewrite(1, put(b"a"), absent(b"a")), InvalidArgument("mutations[1].key", "named twice")),
        (prewrite(1, put(b"k", VALUE)), LONG_VALUE),
        (prewrite(1, put(b"k"), primary=b""), InvalidArgument("primary", "empty")),
        (prewrite(1, put(b"k"), primary=b"kkkkk"), LONG_KEY),
        (prewrite(1, put(b"k"), ttl=1001), LimitExceeded("ttl_ms_max", 1000, 1001)),
        (prewrite(1, put(b"k"), ttl=-1), InvalidArgument("lock_ttl_ms", "-1 is below 0")),
        (
            PrewriteRequest(E, (put(b"k"),), b"k", ms(1), 1, Ts(0), 1 << 32),
            LimitExceeded("txn_size", (1 << 32) - 1, 1 << 32),
        ),
        (
            PrewriteRequest(E, (put(b"k"),), b"k", ms(1), 1, Ts(0), -1),
            InvalidArgument("txn_size", "-1 is below 0"),
        ),
        (commit_keys(1, 2, b""), InvalidArgument("keys[0]", "empty")),
        (commit_keys(1, 2, b"a", b"b", b"c"), MANY),
        (commit_keys(2, 2, b"k"), CommitTsTooLow(b"k", ms(2), ms(2), Ts(ms(2) + 1))),
        (commit_keys(2, 1), CommitTsTooLow(b"", ms(2), ms(1), Ts(ms(2) + 1))),
        (rollback(1, b"k", b""), InvalidArgument("keys[1]", "empty")),
        (rollback(1, b"kkkkk"), LONG_KEY),
        (resolve(1, 0, b""), InvalidArgument("keys[0]", "empty")),
        (resolve(1, 0, begin=b"kkkkkk"), LONG_BOUND),
        (resolve(2, 2, b"k"), CommitTsTooLow(b"k", ms(2), ms(2), Ts(ms(2) + 1))),
        (check(b"", 1), InvalidArgument("primary", "empty")),
        (heartbeat(b"", 1, 1), InvalidArgument("primary", "empty")),
        (heartbeat(b"k", 1, 1001), LimitExceeded("ttl_ms_max", 1000, 1001)),
        (heartbeat(b"k", 1, -1), InvalidArgument("advise_ttl_ms", "-1 is below 0")),
        (atomic(AtomicOp.ADD, b"", b"1", 1), InvalidArgument("key", "empty")),
        (atomic(AtomicOp.ADD, b"k", None, 1), InvalidArgument("operand", "ADD needs one")),
        (atomic(AtomicOp.APPEND, b"k", None, 1), InvalidArgument("operand", "APPEND needs one")),
        (
            atomic(AtomicOp.MAX, b"k", b"1x", 1),
            InvalidArgument("operand", "not a canonical decimal integer of 64 bits"),
        ),
        (atomic(AtomicOp.ADD, b"k", b"1", 1, b"1"), InvalidArgument("expect", "ADD compares nothing")),
        (atomic(AtomicOp.APPEND, b"k", VALUE, 1), LONG_VALUE),
        (atomic(AtomicOp.COMPARE_AND_SET, b"k", VALUE, 1), LONG_VALUE),
        (atomic(AtomicOp.COMPARE_AND_SET, b"k", b"", 1, VALUE), LONG_VALUE),
        (delete_range(1, limit=0), InvalidArgument("limit", "0 is below 1")),
        (delete_range(1, b"kkkkkk"), LONG_BOUND),
        (collect(1, limit=0), InvalidArgument("limit", "0 is below 1")),
        (collect(1, b"kkkkkk"), LONG_BOUND),
    ],
)
def test_what_is_refused(request_: KvRequest, refusal: object) -> None:
    assert validate(request_, SMALL) == refusal


@pytest.mark.parametrize("bad", [Ts(0), Ts(-1), LATEST, Ts(U64_MAX + 1)])
def test_timestamps_of_writes_are_in_range(bad: Ts) -> None:
    """Zero means none and the last one has no successor, so neither can name a transaction."""
    requests: list[tuple[str, KvRequest]] = [
        ("start_ts", OnePhaseRequest(E, (put(b"k"),), bad)),
        ("start_ts", PrewriteRequest(E, (put(b"k"),), b"k", bad, 1)),
        ("start_ts", type(commit_keys(1, 2))(E, (b"k",), bad, ms(9))),
        ("commit_ts", type(commit_keys(1, 2))(E, (b"k",), ms(1), bad)),
        ("start_ts", type(rollback(1))(E, (b"k",), bad)),
        ("start_ts", ResolveLockRequest(E, bad, ms(9))),
        ("lock_ts", CheckTxnStatusRequest(E, b"k", bad, ms(1), ms(1))),
        ("start_ts", type(heartbeat(b"k", 1, 1))(E, b"k", bad, 1)),
        ("start_ts", type(atomic(AtomicOp.ADD, b"k", b"1", 1))(E, AtomicOp.ADD, b"k", b"1", bad)),
        ("start_ts", DeleteRangeRequest(E, b"", b"", bad, 1)),
        ("safe_point", GcRequest(E, bad, b"", 1)),
    ]
    for field, request in requests:
        refusal = validate(request, LIMITS)
        assert isinstance(refusal, InvalidArgument), request
        assert refusal.field == field


@pytest.mark.parametrize("bad", [Ts(-1), Ts(U64_MAX + 1)])
def test_other_timestamps_are_in_range(bad: Ts) -> None:
    requests: list[KvRequest] = [
        GetRequest(E, b"k", bad),
        BatchGetRequest(E, (b"k",), bad),
        ScanRequest(E, b"", b"", 1, bad),
        PrewriteRequest(E, (put(b"k"),), b"k", ms(1), 1, bad),
        ResolveLockRequest(E, ms(1), bad),
        CheckTxnStatusRequest(E, b"k", ms(1), bad, ms(1)),
        CheckTxnStatusRequest(E, b"k", ms(1), ms(1), bad),
    ]
    for request in requests:
        assert isinstance(validate(request, LIMITS), InvalidArgument), request


def test_latest_pushes_no_lock_out_of_reach() -> None:
    """A min_commit_ts that nobody could commit at is refused where it enters."""
    assert validate(PrewriteRequest(E, (put(b"k"),), b"k", ms(1), 1, LATEST), LIMITS) is not None
    assert validate(CheckTxnStatusRequest(E, b"k", ms(1), ms(1), LATEST), LIMITS) is not None


# ---- what requests say about themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "keys", "span", "observed"),
    [
        (get(b"k", 5), (b"k",), None, ms(5)),
        (GetRequest(E, b"k", LATEST), (b"k",), None, Ts(0)),
        (BatchGetRequest(E, (b"b", b"a"), ms(5)), (b"b", b"a"), None, ms(5)),
        (scan(5, b"a", b"c"), (), (b"a", b"c"), ms(5)),
        (one_phase(5, put(b"b"), absent(b"a")), (b"b", b"a"), None, ms(5)),
        (prewrite(5, put(b"b"), absent(b"a"), primary=b"z"), (b"b", b"a"), None, ms(5)),
        (commit_keys(5, 6, b"b", b"a"), (b"b", b"a"), None, Ts(0)),
        (rollback(5, b"b", b"a"), (b"b", b"a"), None, Ts(0)),
        (resolve(5, 6, b"b", b"a"), (b"b", b"a"), None, Ts(0)),
        (resolve(5, 6, begin=b"a"), (), (b"a", b""), Ts(0)),
        (check(b"k", 5, caller=7, current=8), (b"k",), None, Ts(0)),
        (heartbeat(b"k", 5, 1), (b"k",), None, Ts(0)),
        (atomic(AtomicOp.ADD, b"k", b"1", 5), (b"k",), None, ms(5)),
        (delete_range(5, b"a", b"c"), (), (b"a", b"c"), ms(5)),
        (collect(5, b"a"), (), (b"a", b""), Ts(0)),
    ],
)
def test_keys_range_and_observed_timestamp(
    request_: KvRequest, keys: tuple[bytes, ...], span: tuple[bytes, bytes] | None, observed: Ts
) -> None:
    assert keys_of(request_) == keys
    assert range_of(request_) == span
    assert observed_ts(request_) == observed


def test_every_kind_of_request_is_tried_here() -> None:
    assert {type(request) for request in FINE} == set(get_args(KvRequest))
    assert set(ASSIGNED) <= set(get_args(WriteRequest))


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_default_limits_allow_what_the_scenario_files_assume() -> None:
    assert LIMITS.key_bytes_max == 400
    assert LIMITS.value_bytes_max >= 70_000
    assert LIMITS.request_keys_max >= 1_000
    APPLY_LIMITS.check()


@pytest.mark.parametrize(
    "limits",
    [
        Limits(key_bytes_max=0),
        Limits(key_bytes_max=401),
        Limits(value_bytes_max=255),
        Limits(value_bytes_max=(1 << 20) + 1),
        Limits(request_keys_max=0),
        Limits(txn_bytes_max=0),
        Limits(ttl_ms_max=0),
        Limits(ttl_ms_max=1 << 32),
        Limits(batch_get_bytes_max=1 << 19),
        Limits(scan_pairs_max=0),
        Limits(scan_bytes_max=0),
        Limits(scan_visited_max=0),
        ApplyLimits(append_bytes_max=0),
        ApplyLimits(resolve_visited_max=0),
        ApplyLimits(delete_range_visited_max=0),
        ApplyLimits(delete_range_keys_max=0),
        ApplyLimits(gc_visited_max=0),
        ApplyLimits(gc_records_max=0),
    ],
)
def test_limits_that_contradict_each_other(limits: Limits | ApplyLimits) -> None:
    with pytest.raises(AssertionError):
        limits.check()


def test_one_request_writes_at_most_a_transactions_bytes() -> None:
    limits = Limits(txn_bytes_max=600)
    assert validate(one_phase(5, put(b"a", b"v" * 299), put(b"b", b"v" * 299)), limits) is None
    refused = validate(one_phase(5, put(b"a", b"v" * 299), put(b"b", b"v" * 300)), limits)
    assert refused == LimitExceeded("txn_bytes_max", 600, 601)
