"""What is said about refused sources: each at most once in a while, however often it knocks.

Why: a broken or hostile peer knocks thousands of times a second; the log must name it and must not become the attack.
Invariants: at most `sources_max` sources are remembered; when they are too many the oldest is forgotten.
Not here: counting (the dispatcher's counters count every refusal).
"""

from typing import Final

SOURCES_MAX: Final = 4096
"""Sources remembered at once; bounds memory under an attack from many addresses."""


class RefusalLog:
    """Decides which refusals are worth a line."""

    __slots__ = ("_interval_ms", "_seen")

    def __init__(self, interval_ms: int) -> None:
        """A source is mentioned at most once in `interval_ms`."""
        self._interval_ms: Final = interval_ms
        self._seen: dict[str, tuple[int, int]] = {}

    def note(self, source: str, now_ms: int) -> int | None:
        """Take in one refusal. None: keep silent. Else log it; the number is how many were passed over before it."""
        seen = self._seen.pop(source, None)
        if seen is not None and now_ms - seen[0] < self._interval_ms:
            self._seen[source] = (seen[0], seen[1] + 1)
            return None
        while len(self._seen) >= SOURCES_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[source] = (now_ms, 0)
        return seen[1] if seen is not None else 0
