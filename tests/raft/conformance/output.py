"""Output of an interaction script: log lines of the nodes, and what the commands print, up to a level.

Invariants: at level NONE nothing is written, not even by commands.
"""

from collections.abc import Iterator
from contextlib import contextmanager

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")


class Output:
    """Collects text; a Sink of the core."""

    def __init__(self) -> None:
        self.level = 0
        self._parts: list[str] = []

    @property
    def quiet(self) -> bool:
        """Whether nothing is written."""
        return self.level == len(LEVELS) - 1

    def set_level(self, name: str) -> str | None:
        """Write only what is at least this important. A text if there is no such level."""
        if name.upper() not in LEVELS:
            return f"log levels must be either of [{' '.join(LEVELS)}]"
        self.level = LEVELS.index(name.upper())
        return None

    def take(self) -> str:
        """Everything written since this was called last."""
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def write(self, text: str) -> None:
        """Text of a command."""
        if not self.quiet:
            self._parts.append(text)

    def line(self, text: str) -> None:
        """A line of a command."""
        self.write(f"{text}\n")

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Indent what is written meanwhile; its last line gets an end if it has none."""
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            inner, self._parts = self.take(), outer
            outer.extend(f"  {line}\n" for line in inner.splitlines())

    def debug(self, text: str) -> None:
        """A log line."""
        self._log(0, text)

    def info(self, text: str) -> None:
        """A log line."""
        self._log(1, text)

    def warning(self, text: str) -> None:
        """A log line."""
        self._log(2, text)

    def error(self, text: str) -> None:
        """A log line."""
        self._log(3, text)

    def _log(self, level: int, text: str) -> None:
        if level >= self.level:
            self.line(f"{LEVELS[level]} {text}")
