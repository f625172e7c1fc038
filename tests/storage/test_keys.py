"""Key encodings: order, round trip, strictness, length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.proto.ids import LATEST, U64_MAX, LogIndex, RegionId, Ts
from nokv.storage import keys
from nokv.storage.engine import CorruptionError

# Few distinct bytes, so that prefixes and near misses are common.
user_keys = st.binary(max_size=40) | st.lists(st.sampled_from([0, 1, 0x7F, 0xFE, 0xFF]), max_size=26).map(bytes)
timestamps = st.integers(0, U64_MAX).map(Ts) | st.sampled_from([Ts(0), Ts(1), LATEST])


@given(user_keys)
def test_keys_round_trip(key: bytes) -> None:
    assert keys.decode_key(keys.encode_key(key)) == key


@given(user_keys, user_keys)
def test_encoding_keeps_order_and_no_key_is_a_prefix_of_another(one: bytes, other: bytes) -> None:
    a, b = keys.encode_key(one), keys.encode_key(other)
    assert (a < b) == (one < other)
    assert one == other or not b.startswith(a)


@given(user_keys, timestamps, user_keys, timestamps)
def test_versioned_keys_sort_by_key_and_then_newest_first(one: bytes, at: Ts, other: bytes, then: Ts) -> None:
    a, b = keys.versioned_key(one, at), keys.versioned_key(other, then)
    assert (a < b) == ((one, -at) < (other, -then))
    assert keys.decode_versioned_key(a) == (one, at)
    assert keys.decode_ts(a) == at
    assert keys.encoded_part(a) == keys.encode_key(one)
    assert keys.encode_ts(at) == a[-8:]


@given(user_keys, user_keys, user_keys, timestamps)
def test_bounds_hold_exactly_the_keys_of_the_range(start: bytes, end: bytes, key: bytes, ts: Ts) -> None:
    low, high = keys.encode_bounds(start, end)
    inside = start <= key and (not end or key < end)
    for stored in (keys.encode_key(key), keys.versioned_key(key, ts)):
        assert (low <= stored and (not high or stored < high)) == inside


@given(user_keys, user_keys, timestamps)
def test_after_versions_lies_between_two_keys(key: bytes, other: bytes, ts: Ts) -> None:
    bound = keys.after_versions(keys.encode_key(key))
    assert (keys.versioned_key(other, ts) < bound) == (other <= key)


@given(user_keys, user_keys)
def test_nothing_lies_between_a_key_and_its_successor(key: bytes, other: bytes) -> None:
    assert (other < keys.successor(key)) == (other <= key)


@pytest.mark.parametrize("length", [399, 400, 401, 407, 408, 409, 415, 416, 600])
@pytest.mark.parametrize("fill", [b"\0", b"a", b"\xff"])
def test_bounds_longer_than_any_key_still_order_all_keys(length: int, fill: bytes) -> None:
    bound = fill * length
    encoded, _ = keys.encode_bounds(bound, b"")
    assert len(encoded) <= keys.ENGINE_KEY_BYTES_MAX
    near = [fill * n for n in (0, 1, 8, 392, 399, 400)]
    near += [key + tail for key in (fill * 393, fill * 399) for tail in (b"\0", b"a", b"\xff")]
    for key in near:
        assert (keys.encode_key(key) < encoded) == (key < bound), (key, bound)


def test_the_longest_key_fits_into_the_engine() -> None:
    longest = b"\xff" * keys.USER_KEY_BYTES_MAX
    stored = keys.versioned_key(longest, Ts(0))
    assert len(stored) == 467 <= keys.ENGINE_KEY_BYTES_MAX
    assert keys.decode_versioned_key(stored) == (longest, Ts(0))
    assert len(keys.encode_bounds(keys.successor(longest), b"")[0]) <= keys.ENGINE_KEY_BYTES_MAX


def test_the_format_is_frozen() -> None:
    assert keys.encode_key(b"") == bytes(8) + b"\xf7"
    assert keys.encode_key(b"abc") == b"abc" + bytes(5) + b"\xfa"
    assert keys.encode_key(b"abcdefgh") == b"abcdefgh\xff" + bytes(8) + b"\xf7"
    assert keys.versioned_key(b"abc", Ts(1)) == b"abc" + bytes(5) + b"\xfa" + b"\xff" * 7 + b"\xfe"
    assert keys.region_state_key(RegionId(7)) == b"R" + bytes(7) + b"\x07"
    assert keys.apply_state_key(RegionId(7)) == b"A" + bytes(7) + b"\x07"
    assert keys.raft_entry_key(RegionId(7), LogIndex(2)) == b"L" + bytes(7) + b"\x07\x09" + bytes(7) + b"\x02"
    assert keys.control_key(b"x") == b"Cx"
    assert keys.placement_key(b"x") == b"Px"
    assert (keys.FORMAT_KEY, keys.STORE_IDENTITY_KEY) == (b"F", b"I")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"abc",
        b"abcdefgh\xff",
        b"abcdefgh\xfe",
        b"abcdefgh\xf6",
        b"abc\0\0\0\0\0\xfa" + b"abc\0\0\0\0\0\xfa",
        b"abc\0\0\0\0\x01\xfa",
    ],
)
def test_bytes_that_no_encoder_wrote_are_corruption(stored: bytes) -> None:
    with pytest.raises(CorruptionError):
        keys.decode_key(stored)
    with pytest.raises(CorruptionError):
        keys.decode_versioned_key(stored + bytes(8))


@given(st.binary(max_size=60))
def test_decoding_accepts_only_what_encoding_makes(stored: bytes) -> None:
    try:
        key = keys.decode_key(stored)
    except CorruptionError:
        return
    assert keys.encode_key(key) == stored


def test_region_ids_round_trip_and_keep_order() -> None:
    ids = [RegionId(number) for number in (0, 1, 255, 256, 1 << 40, U64_MAX)]
    for make in (keys.region_state_key, keys.apply_state_key):
        stored = [make(region_id) for region_id in ids]
        assert stored == sorted(stored)
        assert [keys.decode_region_id(key) for key in stored] == ids
    for bad in (b"", b"R", b"R" + bytes(9), b"X" + bytes(8)):
        with pytest.raises(CorruptionError):
            keys.decode_region_id(bad)


def test_prefix_bounds_hold_exactly_the_prefix() -> None:
    start, end = keys.prefix_bounds(keys.REGION_STATE_PREFIX)
    assert start <= keys.region_state_key(RegionId(0)) < end
    assert start <= keys.region_state_key(RegionId(U64_MAX)) < end
    assert not start <= keys.apply_state_key(RegionId(U64_MAX)) < end
    assert keys.prefix_bounds(b"a\xff\xff") == (b"a\xff\xff", b"b")
    with pytest.raises(AssertionError):
        keys.prefix_bounds(b"\xff")


def test_a_raft_log_lies_together_and_apart_from_others() -> None:
    start, end = keys.raft_log_bounds(RegionId(7))
    own = [
        keys.raft_hard_state_key(RegionId(7)),
        keys.raft_conf_state_key(RegionId(7)),
        keys.raft_base_key(RegionId(7)),
        keys.raft_entry_key(RegionId(7), LogIndex(0)),
        keys.raft_entry_key(RegionId(7), LogIndex(U64_MAX)),
    ]
    assert own == sorted(own)
    assert all(start <= key < end for key in own)
    assert all(keys.decode_raft_region_id(key) == 7 for key in own)
    for other in (RegionId(6), RegionId(8)):
        assert not start <= keys.raft_hard_state_key(other) < end
        assert not start <= keys.raft_entry_key(other, LogIndex(U64_MAX)) < end
    with pytest.raises(CorruptionError):
        keys.decode_raft_region_id(b"L123")
