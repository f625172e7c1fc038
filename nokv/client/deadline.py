"""Budgets that nest: `with nokv.deadline(0.2):` bounds every call made inside.

Why: a caller knows how long the whole answer is worth waiting for; calls inside share that budget instead of each
starting its own.
Invariants: an inner budget never outlives an outer one; the budget follows the context (task or thread) it was set in.
Not here: what happens when it ends (op.py).
"""

import math
import sys
import time
from contextvars import ContextVar, Token
from types import TracebackType

from nokv.client.errors import UsageError

_ends: ContextVar[float] = ContextVar("nokv_deadline", default=math.inf)


class deadline:
    """Bound all calls in the block to `seconds` in total. Nested blocks only shorten.

    Raises:
        UsageError: `seconds` is negative or not a number.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:
            raise UsageError(f"a deadline is 0 or more seconds from now, not {seconds!r}")
        self._seconds = seconds
        self._token: Token[float] | None = None

    def __enter__(self) -> None:
        self._token = _ends.set(min(_ends.get(), _now() + self._seconds))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        _ends.reset(self._token)
        self._token = None


def deadline_in_force() -> float:
    """When the innermost budget ends, on the clock of the running loop (else the monotonic clock); inf: none."""
    return _ends.get()


def _now() -> float:
    """The clock that calls made from here will be measured with: a running loop's own, which may be virtual."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            return float(loop.time())
    return time.monotonic()
