"""Every key that NoKV stores in an engine, in both directions.

Grammar (column family: key):

    LOCK:     enc(user_key)
    WRITE:    enc(user_key) desc(commit_ts)
    DEFAULT:  enc(user_key) desc(start_ts)
    META:     "F"                       format stamp
              "I"                       store identity
              "C" "t"                   group 0: upper end of the oracle's durable window
              "C" "i"                   group 0: next id
              "C" "s" u64(store_id)     group 0: a store's addresses
              "C" "r" u64(region_id)    group 0: a region in the directory
              "C" name, "P" name        other state of group 0, of the manifest process
              "P" "r" u64(region_id)    catalog: a local replica's description and worker
              "R" u64(region_id)        region state
              "A" u64(region_id)        apply state
              "L" u64(region_id) 0      hard state      \\
              "L" u64(region_id) 1      conf state       | Raft logs that live in an engine
              "L" u64(region_id) 2      base of the log  | (engine_raft_log.py)
              "L" u64(region_id) 9 u64(index)  entry    /

    u64(n)  = 8 bytes, big-endian
    desc(t) = u64(2**64 - 1 - t), so that a later timestamp sorts first
    enc(k)  = k cut into groups of 8 bytes, the last one of 0 to 7 bytes padded with zeros; each group is followed by a
              marker, 0xFF minus the number of padding bytes. A marker 0xFF says that another group follows, so a key
              whose length is a multiple of 8 ends with an empty group.

Why: user keys are of any length and followed by a timestamp; plain concatenation would interleave the versions of "a"
with those of "a\\x00...". The encoding keeps byte order and no encoded key is a prefix of another one.
Invariants: enc(a) < enc(b) exactly when a < b; decoding is strict: bytes that no encoder wrote raise CorruptionError;
every key fits into LMDB's limit of 511 bytes as long as user keys are at most USER_KEY_BYTES_MAX.
Not here: what the values mean (nokv.mvcc.records, nokv.proto), who may write which key.
"""

from struct import Struct as Layout
from typing import Final

from nokv.proto.ids import U64_MAX, LogIndex, RegionId, StoreId, Ts
from nokv.storage.engine import CorruptionError

ENGINE_KEY_BYTES_MAX: Final = 511
"""LMDB's compiled-in limit (MDB_MAXKEYSIZE)."""
USER_KEY_BYTES_MAX: Final = 400
"""Longest user key. 51 groups of 9 bytes and a timestamp are 467 bytes; the rest is kept for longer suffixes."""
TS_BYTES: Final = 8

_GROUP: Final = 8
_GROUPS_MAX: Final = USER_KEY_BYTES_MAX // _GROUP + 1
_MORE: Final = b"\xff"
_PADDING: Final = tuple(bytes(_GROUP - used) for used in range(_GROUP))
_LAST_MARKER: Final = tuple(bytes([0xFF - (_GROUP - used)]) for used in range(_GROUP))
_SPLIT: Final = tuple(Layout("8s" * groups).unpack for groups in range(_GROUPS_MAX + 1))
_PACK_U64: Final = Layout(">Q").pack
_UNPACK_U64: Final = Layout(">Q").unpack

assert _GROUPS_MAX * (_GROUP + 1) + TS_BYTES <= ENGINE_KEY_BYTES_MAX


# ---- user keys ------------------------------------------------------------------------------------------------------


def encode_key(user_key: bytes) -> bytes:
    """enc(user_key). Up to USER_KEY_BYTES_MAX bytes; longer keys are refused before they come here."""
    used = len(user_key) % _GROUP
    groups = len(user_key) // _GROUP + 1
    assert groups <= _GROUPS_MAX
    padded = user_key + _PADDING[used]
    if groups == 1:
        return padded + _LAST_MARKER[used]
    return _MORE.join(_SPLIT[groups](padded)) + _LAST_MARKER[used]


def decode_key(encoded: bytes) -> bytes:
    """The user key of enc(user_key).

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if not encoded or len(encoded) % (_GROUP + 1):
        raise CorruptionError(f"stored key {encoded.hex()} has a length that no encoded key has")
    padding = 0xFF - encoded[-1]
    markers = encoded[_GROUP :: _GROUP + 1]
    if not 1 <= padding <= _GROUP or markers[:-1].count(0xFF) != len(markers) - 1:
        raise CorruptionError(f"stored key {encoded.hex()} has a wrong marker")
    groups = [encoded[at : at + _GROUP] for at in range(0, len(encoded), _GROUP + 1)]
    padded = b"".join(groups)
    if padded[-padding:].count(0) != padding:
        raise CorruptionError(f"stored key {encoded.hex()} has bytes in its padding")
    return padded[:-padding]


def successor(user_key: bytes) -> bytes:
    """The least key above `user_key`. May be one byte longer than a key may be: for bounds only."""
    return user_key + b"\0"


def encode_bounds(start: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Bounds, in LOCK, WRITE and DEFAULT alike, of the user keys start <= key < end (b"" as end: no bound)."""
    return _encode_bound(start), _encode_bound(end)


def _encode_bound(bound: bytes) -> bytes:
    """enc(bound), except that "unbounded" stays so, and that a bound may be a successor of the longest key."""
    if not bound:
        return b""
    if len(bound) // _GROUP + 1 <= _GROUPS_MAX:
        return encode_key(bound)
    # No stored key is this long, so the bound's first groups order all stored keys against it as the bound would.
    cut = (_GROUPS_MAX - 1) * _GROUP
    return encode_key(bound[:cut])[: -(_GROUP + 1)] + bound[cut : cut + _GROUP] + _MORE


# ---- versioned keys -------------------------------------------------------------------------------------------------


def encode_ts(ts: Ts) -> bytes:
    """desc(ts): 8 bytes that sort later timestamps first."""
    return _PACK_U64(U64_MAX - ts)


def versioned_key(user_key: bytes, ts: Ts) -> bytes:
    """Key in WRITE (ts: commit_ts) or DEFAULT (ts: start_ts). Seeking it in WRITE finds the newest version <= ts."""
    return encode_key(user_key) + _PACK_U64(U64_MAX - ts)


def decode_versioned_key(stored: bytes) -> tuple[bytes, Ts]:
    """(user_key, ts) of a key in WRITE or DEFAULT.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if len(stored) <= TS_BYTES:
        raise CorruptionError(f"stored key {stored.hex()} is too short for a timestamp")
    return decode_key(stored[:-TS_BYTES]), decode_ts(stored)


def decode_ts(stored: bytes) -> Ts:
    """The timestamp at the end of a key in WRITE or DEFAULT, which must be one."""
    assert len(stored) > TS_BYTES
    (inverted,) = _UNPACK_U64(stored[-TS_BYTES:])
    return Ts(U64_MAX - inverted)


def encoded_part(stored: bytes) -> bytes:
    """enc(user_key) of a key in WRITE or DEFAULT: comparing it is cheaper than decoding."""
    return stored[:-TS_BYTES]


def after_versions(encoded_key: bytes) -> bytes:
    """A bound above every version of enc(user_key) and not above the versions of any greater user key."""
    return encoded_key + b"\xff" * (TS_BYTES + 1)


# ---- META -----------------------------------------------------------------------------------------------------------

FORMAT_KEY: Final = b"F"
STORE_IDENTITY_KEY: Final = b"I"
REGION_STATE_PREFIX: Final = b"R"
APPLY_STATE_PREFIX: Final = b"A"
CONTROL_PREFIX: Final = b"C"
PLACEMENT_PREFIX: Final = b"P"
RAFT_LOG_PREFIX: Final = b"L"


def region_state_key(region_id: RegionId) -> bytes:
    """Where a region's description and life-cycle state lie."""
    return REGION_STATE_PREFIX + _PACK_U64(region_id)


def apply_state_key(region_id: RegionId) -> bytes:
    """Where a region's applied index and term lie."""
    return APPLY_STATE_PREFIX + _PACK_U64(region_id)


def control_key(name: bytes) -> bytes:
    """A record of the control plane's state machine."""
    return CONTROL_PREFIX + name


def placement_key(name: bytes) -> bytes:
    """A record of the manifest process."""
    return PLACEMENT_PREFIX + name


def decode_region_id(meta_key: bytes) -> RegionId:
    """The region id of a region state or apply state key.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if len(meta_key) != 9 or meta_key[:1] not in (REGION_STATE_PREFIX, APPLY_STATE_PREFIX):
        raise CorruptionError(f"meta key {meta_key.hex()} is no region or apply state")
    return RegionId(_UNPACK_U64(meta_key[1:])[0])


def prefix_bounds(prefix: bytes) -> tuple[bytes, bytes]:
    """Start and end of all keys that begin with `prefix` (not empty, not all 0xFF)."""
    assert prefix.rstrip(b"\xff")
    head = prefix.rstrip(b"\xff")
    return prefix, head[:-1] + bytes([head[-1] + 1])


def raft_hard_state_key(region_id: RegionId) -> bytes:
    """Term, vote and commit of a group whose log lies in the engine."""
    return RAFT_LOG_PREFIX + _PACK_U64(region_id) + b"\x00"


def raft_conf_state_key(region_id: RegionId) -> bytes:
    """Membership of a group whose log lies in the engine."""
    return RAFT_LOG_PREFIX + _PACK_U64(region_id) + b"\x01"


def raft_base_key(region_id: RegionId) -> bytes:
    """What precedes the first entry of a group whose log lies in the engine."""
    return RAFT_LOG_PREFIX + _PACK_U64(region_id) + b"\x02"


def raft_entry_key(region_id: RegionId, index: LogIndex) -> bytes:
    """One entry of a group whose log lies in the engine."""
    return RAFT_LOG_PREFIX + _PACK_U64(region_id) + b"\x09" + _PACK_U64(index)


def raft_log_bounds(region_id: RegionId) -> tuple[bytes, bytes]:
    """Start and end of everything that a group whose log lies in the engine has there."""
    prefix = RAFT_LOG_PREFIX + _PACK_U64(region_id)
    return prefix, prefix + b"\xff"


def decode_raft_region_id(meta_key: bytes) -> RegionId:
    """The region id of a key of a Raft log.

    Raises:
        CorruptionError: no encoder wrote these bytes.
    """
    if len(meta_key) < 10 or meta_key[:1] != RAFT_LOG_PREFIX:
        raise CorruptionError(f"meta key {meta_key.hex()} belongs to no Raft log")
    return RegionId(_UNPACK_U64(meta_key[1:9])[0])


# ---- META of the manifest process: group 0 (nokv.control) and the catalog (nokv.manifest) --------------------------

CONTROL_TSO_KEY: Final = control_key(b"t")
CONTROL_NEXT_ID_KEY: Final = control_key(b"i")
CONTROL_STORE_PREFIX: Final = control_key(b"s")
CONTROL_REGION_PREFIX: Final = control_key(b"r")
CATALOG_PREFIX: Final = placement_key(b"r")


def control_store_key(store_id: StoreId) -> bytes:
    """Where group 0 keeps a store's addresses."""
    return CONTROL_STORE_PREFIX + _PACK_U64(store_id)


def control_region_key(region_id: RegionId) -> bytes:
    """Where group 0's directory keeps a region."""
    return CONTROL_REGION_PREFIX + _PACK_U64(region_id)


def catalog_key(region_id: RegionId) -> bytes:
    """Where the catalog keeps a local replica: its description, its worker, and whether it was ever confirmed."""
    return CATALOG_PREFIX + _PACK_U64(region_id)
