"""Latency histograms with log-linear buckets: constant time to record, mergeable over processes, known error.

Rule: values are whole microseconds. Below 64 each value has a bucket; above, each power of two is cut into 32, so a
reported value is at most 1/32 (3.1 %) above the true one. Percentiles report the bucket's upper end, the maximum and
the sum are exact.
Not here: taking the time.
"""

from collections.abc import Sequence
from typing import Final

LINEAR: Final = 64
"""Values below this have a bucket each; a power of two."""
SUB_BITS: Final = 5
"""Every power of two from LINEAR on has 2**SUB_BITS buckets."""
_SUB: Final = 1 << SUB_BITS
_FIRST_BITS: Final = LINEAR.bit_length()
VALUE_MAX: Final = (1 << 40) - 1
"""12 days in microseconds; longer values count as this."""

assert 1 << SUB_BITS == LINEAR // 2


def bucket_of(value: int) -> int:
    """The bucket of a value in microseconds."""
    assert 0 <= value <= VALUE_MAX
    if value < LINEAR:
        return value
    bits = value.bit_length()
    return LINEAR + (bits - _FIRST_BITS) * _SUB + (value >> (bits - SUB_BITS - 1)) - _SUB


def upper_end(bucket: int) -> int:
    """The highest value of a bucket."""
    if bucket < LINEAR:
        return bucket
    power, sub = divmod(bucket - LINEAR, _SUB)
    shift = power + _FIRST_BITS - SUB_BITS - 1
    return ((sub + _SUB + 1) << shift) - 1


_BUCKETS: Final = bucket_of(VALUE_MAX) + 1


class Histogram:
    """Counts for each bucket."""

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.count = 0
        self.sum_us = 0
        self.max_us = 0

    def record(self, value_us: int) -> None:
        """Count one value; below zero counts as zero."""
        value_us = min(max(value_us, 0), VALUE_MAX)
        self.counts[bucket_of(value_us)] += 1
        self.count += 1
        self.sum_us += value_us
        if value_us > self.max_us:
            self.max_us = value_us

    def add(self, other: "Histogram") -> None:
        """Count everything that `other` counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)

    def percentile(self, percent: float) -> int:
        """The smallest reported value that at least `percent` of all values do not exceed, microseconds; 0 if empty."""
        assert 0 < percent <= 100
        wanted = percent / 100 * self.count
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted - 1e-9:
                return min(upper_end(bucket), self.max_us)
        return self.max_us

    def mean_us(self) -> float:
        """The exact mean, 0 if empty."""
        return self.sum_us / self.count if self.count else 0.0

    def pack(self) -> list[list[int]]:
        """As data for another process: [[bucket, count], ...], then [sum, max] last."""
        pairs = [[bucket, count] for bucket, count in enumerate(self.counts) if count]
        return [*pairs, [self.sum_us, self.max_us]]

    @classmethod
    def unpack(cls, packed: Sequence[Sequence[int]]) -> "Histogram":
        """The inverse of `pack`."""
        made = cls()
        *pairs, (made.sum_us, made.max_us) = packed
        for bucket, count in pairs:
            made.counts[bucket] = count
            made.count += count
        return made
