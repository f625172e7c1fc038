"""Trace: the core's log lines, which cost nothing unless somebody listens.

Why: the lines are part of the conformance cases, and in a running node they are off; formatting them would cost more
than the algorithm. So lines are handed over as functions.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

Line = Callable[[], str]


class Level(IntEnum):
    """Importance of a line."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3


class Sink(Protocol):
    """Where lines go."""

    def __call__(self, level: Level, line: str) -> None:
        """Take one line."""
        ...


class Trace:
    """Hands lines to a sink, if there is one."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink

    def debug(self, line: Line) -> None:
        """A detail."""
        if self._sink is not None:
            self._sink(Level.DEBUG, line())

    def info(self, line: Line) -> None:
        """A change of state."""
        if self._sink is not None:
            self._sink(Level.INFO, line())

    def warn(self, line: Line) -> None:
        """Something an operator should know."""
        if self._sink is not None:
            self._sink(Level.WARN, line())

    def error(self, line: Line) -> None:
        """Something was asked that cannot be done."""
        if self._sink is not None:
            self._sink(Level.ERROR, line())
