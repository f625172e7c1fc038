"""Watching calls from outside: a protocol for metrics and traces.

Why: those who count or trace calls must not have to wrap every method.
Invariants: hooks see names, times and errors, never keys or values; without hooks a call pays nothing for them.
Not here: an exporter.
"""

from typing import Protocol

from nokv.client.errors import NokvError


class Hooks(Protocol):
    """Called in the caller's thread or task; must not block and must not raise."""

    def start(self, operation: str) -> None:
        """A call begins."""

    def retry(self, operation: str, attempt: int, cause: NokvError, delay_s: float) -> None:
        """Attempt number `attempt` failed; the next one follows after `delay_s` seconds."""

    def end(self, operation: str, elapsed_s: float, error: BaseException | None) -> None:
        """The call ended, with `error` or well."""
