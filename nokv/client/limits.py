"""What keys and values may be, checked before anything is sent.

Why: a refusal in the client costs nothing and names the argument; the node checks again all the same.
Invariants: keys and values are bytes after these functions; limits are the node's once it has said them.
Not here: why the limits are what they are (nokv.config).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from nokv.client.errors import LimitError, UsageError

BytesLike = bytes | bytearray | memoryview


class Limits(Struct, frozen=True):
    """The limits a client keeps to; names and units as in nokv.config. Defaults hold until a node has told its own."""

    key_bytes_max: int = 400
    value_bytes_max: int = 1 << 20
    txn_bytes_max: int = 16 << 20
    txn_keys_max: int = 10_000
    scan_page_keys_max: int = 10_000
    batch_keys_max: int = 10_000

    @classmethod
    def told(cls, limits: Mapping[str, int]) -> "Limits":
        """From a HelloReply: unknown names are ignored, missing and senseless ones keep their defaults."""
        return cls(**{name: limits[name] for name in _NAMES if limits.get(name, 0) > 0})


_NAMES: Final = tuple(Limits.__struct_fields__)


def checked_key(key: BytesLike, limits: Limits) -> bytes:
    """The key as bytes.

    Raises:
        TypeError: not bytes-like. UsageError: empty. LimitError: too long.
    """
    if type(key) is not bytes:
        key = as_bytes("key", key)
    if not 0 < len(key) <= limits.key_bytes_max:
        if not key:
            raise UsageError("a key has at least one byte")
        raise LimitError("key_bytes_max", limits.key_bytes_max, len(key))
    return key


def checked_value(value: BytesLike, limits: Limits) -> bytes:
    """The value as bytes; empty is fine.

    Raises:
        TypeError: not bytes-like. LimitError: too long.
    """
    if type(value) is not bytes:
        value = as_bytes("value", value)
    if len(value) > limits.value_bytes_max:
        raise LimitError("value_bytes_max", limits.value_bytes_max, len(value))
    return value


def checked_bound(name: str, bound: BytesLike, limits: Limits) -> bytes:
    """A border of a range as bytes. One byte more than a key: the successor of the longest key is a fine border."""
    if type(bound) is not bytes:
        bound = as_bytes(name, bound)
    if len(bound) > limits.key_bytes_max + 1:
        raise LimitError("key_bytes_max", limits.key_bytes_max, len(bound))
    return bound


def checked_batch(pairs: Iterable[tuple[bytes, bytes]], count: int, limits: Limits) -> None:
    """Check the totals of one write of `count` keys.

    Raises:
        LimitError: too many keys, or too many bytes of keys and values together.
    """
    if count > limits.txn_keys_max:
        raise LimitError("txn_keys_max", limits.txn_keys_max, count)
    total_bytes = sum(len(key) + len(value) for key, value in pairs)
    if total_bytes > limits.txn_bytes_max:
        raise LimitError("txn_bytes_max", limits.txn_bytes_max, total_bytes)


def as_bytes(name: str, given: object) -> bytes:
    """Bytes of a bytes-like object.

    Raises:
        TypeError: anything else; a str gets a hint.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, str):
        raise TypeError(f"the {name} is a str; NoKV stores bytes: pass {name}.encode() or a b'...' literal")
    raise TypeError(f"the {name} must be bytes-like, not {type(given).__name__}")


def checked_page(page: int, limit: int | None, limits: Limits) -> int:
    """The number of pairs to ask for at a time.

    Raises:
        UsageError: `page` or `limit` is not above 0.
    """
    if page <= 0:
        raise UsageError(f"page must be above 0, not {page}")
    if limit is not None and limit <= 0:
        raise UsageError(f"limit must be above 0 or None, not {limit}")
    return min(page, limits.scan_page_keys_max)
