"""Where to cut the key space before there is any data.

Why: a fresh store with one region uses one core. Cutting the byte values evenly does not help either: text keys use a
quarter of them, so most regions would stay empty.
Rule: keys are assumed to be an even mixture of three kinds: uniform bytes (hashes), uniform alphanumerics (names), and
uniform lower-case hexadecimal (digests, UUIDs, and near enough decimal numbers). Cuts are the quantiles of that
mixture, so a region that holds 1/n of the mixture holds at most 3/n of any one kind.
Invariants: exact integer arithmetic, hence the same cuts on every machine; cuts ascend and are as short as they can be.
Not here: keys that share a prefix ("user:1", "user:2", ...): no cut made without looking at the data can spread those.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final

REGIONS_MAX: Final = 4096
"""Most regions to start with. A store with more regions than this has grown them by splits."""

SLACK: Final = Fraction(1, 16)
"""How far a cut may lie from its quantile, as a share of one region, to be a shorter key. Both ends of a region may be
off by this much, so the guarantee above is (1 + 2 * SLACK) * 3/n."""

KINDS: Final[tuple[Sequence[int], ...]] = (
    tuple(range(256)),
    tuple(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
    tuple(b"0123456789abcdef"),
)
"""Byte values of each kind of key, ascending."""

_BELOW: Final = tuple(tuple(sum(1 for v in kind if v < byte) for byte in range(257)) for kind in KINDS)
_Weights = tuple[Fraction, ...]


def split_keys(regions: int) -> tuple[bytes, ...]:
    """The `regions - 1` ascending keys that cut the key space into `regions` fair parts.

    Raises:
        ValueError: `regions` is not between 1 and REGIONS_MAX.
    """
    if not 1 <= regions <= REGIONS_MAX:
        raise ValueError(f"cannot start with {regions} regions: between 1 and {REGIONS_MAX}")
    slack = SLACK / regions
    keys = tuple(_quantile(Fraction(at, regions), slack) for at in range(1, regions))
    assert all(left < right for left, right in pairwise((b"", *keys)))
    return keys


def split_ranges(regions: int) -> tuple[tuple[bytes, bytes], ...]:
    """The (start, end) pairs of the parts in key order: the first start and the last end are b"".

    Raises:
        ValueError: as `split_keys`.
    """
    borders = (b"", *split_keys(regions), b"")
    return tuple(pairwise(borders))


def share_below(key: bytes) -> Fraction:
    """The share of the mixture that sorts below `key`."""
    total = Fraction(0)
    weights: _Weights = (Fraction(1, len(KINDS)),) * len(KINDS)
    for byte in key:
        total += _mass_below(weights, byte)
        weights = _narrow(weights, byte)
    return total


def _quantile(wanted: Fraction, slack: Fraction) -> bytes:
    """The shortest key whose share below is within `slack` of `wanted`."""
    key = b""
    rest = wanted
    weights: _Weights = (Fraction(1, len(KINDS)),) * len(KINDS)
    while True:
        byte = _first_byte(weights, rest)
        inside = rest - _mass_below(weights, byte)
        if inside <= slack:
            return key + bytes((byte,))
        if byte < 255 and _mass_below(weights, byte + 1) - rest <= slack:
            return key + bytes((byte + 1,))
        key += bytes((byte,))
        weights = _narrow(weights, byte)
        rest = inside


def _first_byte(weights: _Weights, rest: Fraction) -> int:
    """The highest byte value with at most `rest` of the weight below it."""
    low, high = 0, 256
    while high - low > 1:
        middle = (low + high) // 2
        if _mass_below(weights, middle) <= rest:
            low = middle
        else:
            high = middle
    return low


def _mass_below(weights: _Weights, byte: int) -> Fraction:
    """Weight of the keys whose next byte is below `byte` (0 to 256)."""
    return sum(
        (weight * below[byte] / len(kind) for weight, below, kind in zip(weights, _BELOW, KINDS, strict=True)),
        start=Fraction(0),
    )


def _narrow(weights: _Weights, byte: int) -> _Weights:
    """Weights of the kinds among the keys whose next byte is `byte`."""
    return tuple(
        weight * (below[byte + 1] - below[byte]) / len(kind)
        for weight, below, kind in zip(weights, _BELOW, KINDS, strict=True)
    )
