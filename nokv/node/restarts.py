"""When a dead child is started again.

Why: a process that dies at once, again and again, must not burn the machine, and one that died once after a day must
be back at once.
Rule: the wait doubles from 50 ms to 2 s, each with up to half of it taken off at random so that siblings do not march
in step; ten healthy seconds forget the past. Before the node was ever ready, a child that cannot start ends the node:
at once where its exit code says that trying again cannot help, else after START_ATTEMPTS_MAX quick deaths.
Not here: starting processes (nokv.node.children).
"""

from random import Random
from typing import Final

from msgspec import Struct

from nokv.exitcodes import EXIT_CONFIG, EXIT_DATA_DIR, EXIT_PORT, EXIT_UNEXPECTED, EXIT_USAGE

BACKOFF_MS: Final = 50
BACKOFF_MS_MAX: Final = 2000
HEALTHY_MS: Final = 10_000
START_ATTEMPTS_MAX: Final = 5
HOPELESS: Final = frozenset({EXIT_USAGE, EXIT_CONFIG, EXIT_DATA_DIR, EXIT_PORT})
"""Exit codes of a cause that a restart does not remove."""


class RestartAt(Struct, frozen=True):
    """Start the child again at this time, milliseconds on the caller's clock."""

    at_ms: int


class GiveUp(Struct, frozen=True):
    """End the node with this exit code."""

    exit_code: int


class RestartPolicy:
    """The memory of one child. Times are milliseconds of any clock that does not go back."""

    def __init__(self, random: Random) -> None:
        self._random = random

        self._started_ms = 0
        self._failures = 0

        self.restarts = 0
        """How often the child was started again."""

    def started(self, now_ms: int) -> None:
        """The child runs from now on."""
        self._started_ms = now_ms

    def exited(self, now_ms: int, code: int, *, node_was_ready: bool) -> RestartAt | GiveUp:
        """What to do about an exit nobody asked for. `code` as Popen.returncode: negative = killed by a signal."""
        assert now_ms >= self._started_ms
        if now_ms - self._started_ms >= HEALTHY_MS:
            self._failures = 0
        self._failures += 1
        if not node_was_ready:
            if code in HOPELESS:
                return GiveUp(code)
            if self._failures >= START_ATTEMPTS_MAX:
                return GiveUp(code if code > 0 else EXIT_UNEXPECTED)
        self.restarts += 1
        wait_ms = min(BACKOFF_MS << min(self._failures - 1, 16), BACKOFF_MS_MAX)
        return RestartAt(now_ms + wait_ms - self._random.randint(0, wait_ms // 2))
