"""Waiting between attempts: full jitter, doubling from 10 ms to 1 s.

Why: retries that start together must not stay together. Jitter over the whole interval, from the first retry on, makes
a crowd of conflicting callers finish with about a tenth of the attempts of fixed doubling.
Invariants: a delay is never below the hint of whoever refused, and never above BACKOFF_S_MAX unless the hint is.
Not here: whether to try again at all (retry.py).
"""

from random import Random
from typing import Final

BACKOFF_S_MIN: Final = 0.010
BACKOFF_S_MAX: Final = 1.0


class Backoff:
    """The delays of one call, in seconds. Randomness is handed in, so a seed fixes them."""

    __slots__ = ("_ceiling_s", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ceiling_s = BACKOFF_S_MIN

    def next(self, at_least_s: float = 0.0) -> float:
        """The next delay: uniform up to a ceiling that doubles with each call, but at least the hint."""
        delay_s = self._random.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(BACKOFF_S_MAX, 2 * self._ceiling_s)
        return max(delay_s, at_least_s)
