"""Record bytes: frozen, strict, and what they were is what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.mvcc.records import (
    NO_TS,
    ROLLED_BACK,
    SHORT_VALUE_BYTES_MAX,
    TTL_MS_MAX,
    TXN_SIZE_MAX,
    CommitRecord,
    Kind,
    LockRecord,
    Trace,
    TraceTag,
    decode_commit,
    decode_lock,
    decode_trace,
    encode_commit,
    encode_lock,
    encode_put,
    encode_raised_trace,
    encode_refused_trace,
    encode_value_trace,
)
from nokv.proto.ids import U64_MAX, Ts
from nokv.proto.kv import MutationOp
from nokv.storage.engine import CorruptionError

GOLDEN_LOCKS = [
    (
        LockRecord(Kind.PUT, b"p", Ts(1), 2, Ts(3), 4, b"value"),
        "000400000000000000010000000200000000000000030000000400017076616c7565",
    ),
    (
        LockRecord(Kind.PUT, b"p", Ts(1), 2, Ts(3), 4, b""),
        "0004000000000000000100000002000000000000000300000004000170",
    ),
    (
        LockRecord(Kind.PUT, b"pp", Ts(U64_MAX), TTL_MS_MAX, NO_TS, TXN_SIZE_MAX),
        "0000ffffffffffffffffffffffff0000000000000000ffffffff00027070",
    ),
    (LockRecord(Kind.DELETE, b"p", Ts(1), 0, NO_TS, 0), "01000000000000000001" + "00" * 16 + "000170"),
    (LockRecord(Kind.LOCK, b"p", Ts(1), 0, NO_TS, 0), "02000000000000000001" + "00" * 16 + "000170"),
]
GOLDEN_COMMITS = [
    (CommitRecord(Kind.PUT, Ts(5), b"v"), "04000000000000000576"),
    (CommitRecord(Kind.PUT, Ts(5), b""), "040000000000000005"),
    (CommitRecord(Kind.PUT, Ts(5)), "000000000000000005"),
    (CommitRecord(Kind.PUT, Ts(5), b"v", NO_TS, True), "0c000000000000000576"),
    (CommitRecord(Kind.PUT, Ts(5), None, NO_TS, True), "080000000000000005"),
    (CommitRecord(Kind.DELETE, Ts(5)), "010000000000000005"),
    (CommitRecord(Kind.DELETE, Ts(5), None, NO_TS, True), "090000000000000005"),
    (CommitRecord(Kind.LOCK, Ts(5), None, Ts(4)), "0200000000000000050000000000000004"),
    (CommitRecord(Kind.LOCK, Ts(5), None, NO_TS, True), "0a00000000000000050000000000000000"),
]
GOLDEN_TRACES = [
    (encode_value_trace(b"long"), Trace(TraceTag.VALUE, NO_TS, b"long"), "016c6f6e67"),
    (ROLLED_BACK, Trace(TraceTag.ROLLED_BACK), "02"),
    (encode_refused_trace(Ts(9)), Trace(TraceTag.REFUSED, Ts(9)), "030000000000000009"),
    (encode_raised_trace(Ts(9), None), Trace(TraceTag.RAISED, Ts(9), b""), "040000000000000009"),
    (encode_raised_trace(Ts(9), b"long"), Trace(TraceTag.RAISED, Ts(9), b"long"), "0400000000000000096c6f6e67"),
]


@pytest.mark.parametrize(("lock", "raw"), GOLDEN_LOCKS)
def test_lock_bytes_are_frozen(lock: LockRecord, raw: str) -> None:
    assert encode_lock(lock).hex() == raw
    assert decode_lock(bytes.fromhex(raw)) == lock


@pytest.mark.parametrize(("record", "raw"), GOLDEN_COMMITS)
def test_commit_bytes_are_frozen(record: CommitRecord, raw: str) -> None:
    assert encode_commit(record).hex() == raw
    assert decode_commit(bytes.fromhex(raw)) == record


@pytest.mark.parametrize(("encoded", "trace", "raw"), GOLDEN_TRACES)
def test_trace_bytes_are_frozen(encoded: bytes, trace: Trace, raw: str) -> None:
    assert encoded.hex() == raw
    assert decode_trace(encoded) == trace


def test_enum_values_are_frozen() -> None:
    assert [(kind.name, int(kind)) for kind in Kind] == [("PUT", 0), ("DELETE", 1), ("LOCK", 2)]
    assert [int(tag) for tag in TraceTag] == [1, 2, 3, 4]
    assert all(int(kind) == int(MutationOp[kind.name]) for kind in Kind)
    assert SHORT_VALUE_BYTES_MAX == 255


timestamps = st.integers(1, U64_MAX).map(Ts)
short_values = st.binary(max_size=SHORT_VALUE_BYTES_MAX)
locks = st.builds(
    LockRecord,
    kind=st.just(Kind.PUT),
    primary=st.binary(min_size=1, max_size=400),
    start_ts=timestamps,
    ttl_ms=st.integers(0, TTL_MS_MAX),
    min_commit_ts=timestamps,
    txn_size=st.integers(0, TXN_SIZE_MAX),
    value=st.none() | short_values,
)


@given(locks)
def test_locks_come_back(lock: LockRecord) -> None:
    assert decode_lock(encode_lock(lock)) == lock


@given(timestamps, st.none() | short_values, st.booleans())
def test_puts_come_back(start_ts: Ts, value: bytes | None, raised: bool) -> None:
    record = CommitRecord(Kind.PUT, start_ts, value, NO_TS, raised)
    assert decode_commit(encode_put(start_ts, value, raised=raised)) == record
    assert record.has_trace == (raised or value is None)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "00",
        GOLDEN_LOCKS[0][1][:-14],  # cut inside the head
        GOLDEN_LOCKS[2][1][:-2],  # primary cut short
        GOLDEN_LOCKS[2][1] + "00",  # bytes behind a lock without inline value
        "03" + GOLDEN_LOCKS[0][1][2:],  # unknown kind
        "0002" + GOLDEN_LOCKS[0][1][4:],  # unknown flag
        "0005" + GOLDEN_LOCKS[0][1][4:],
        "01" + GOLDEN_LOCKS[0][1][2:],  # an inline value in a DELETE
        "0003" + GOLDEN_LOCKS[0][1][4:],
    ],
)
def test_bad_locks_are_refused(raw: str) -> None:
    with pytest.raises(CorruptionError, match="lock record"):
        decode_lock(bytes.fromhex(raw))


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "0400000000000000",
        "030000000000000005",  # unknown kind
        "140000000000000005",  # unknown flag
        "05000000000000000576",  # an inline value in a DELETE
        "0600000000000000050000000000000004",
        "00000000000000000576",  # a value behind a PUT whose value lies elsewhere
        "01000000000000000500",
        "020000000000000005",  # a LOCK without last_change
        "02000000000000000500000000000004",
    ],
)
def test_bad_commits_are_refused(raw: str) -> None:
    with pytest.raises(CorruptionError, match="commit record"):
        decode_commit(bytes.fromhex(raw))


@pytest.mark.parametrize(
    "raw", ["", "00", "05", "0200", "03", "0300000000000009", "03000000000000000900", "0400000000000009"]
)
def test_bad_traces_are_refused(raw: str) -> None:
    with pytest.raises(CorruptionError, match="trace record"):
        decode_trace(bytes.fromhex(raw))


@pytest.mark.parametrize(
    "record",
    [
        CommitRecord(Kind.DELETE, Ts(5), b"v"),
        CommitRecord(Kind.PUT, Ts(5), None, Ts(4)),
        CommitRecord(Kind.PUT, Ts(5), b"v" * (SHORT_VALUE_BYTES_MAX + 1)),
    ],
)
def test_the_laws_of_commit_records(record: CommitRecord) -> None:
    with pytest.raises(AssertionError):
        encode_commit(record)
