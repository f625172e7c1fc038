"""The children of one node and their places: a place outlives the processes that fill it one after another.

Why: names, pinning, restart memory and half a line of output belong to the place; the process is replaceable.
Invariants: at most one child a place; a child's last lines are passed on before its end is reported; times are
milliseconds of the monotonic clock, handed in.
Not here: what an end means and when to stop (supervisor).
"""

import selectors
import signal
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Final

from nokv.node.children import Child, ChildSpec
from nokv.node.logs import LineRelay
from nokv.node.restarts import GiveUp, RestartPolicy

READS_MAX: Final = 16
"""Pipefuls taken from one child at a time: one that floods its log must not keep the supervisor from the others."""


class Place:
    """One child's place. `start_at_ms`: when to fill it again, None = not planned."""

    def __init__(self, spec: ChildSpec, random: Random, *, as_text: bool) -> None:
        self.spec = spec
        self._relay = LineRelay(spec.name, as_text=as_text)
        self._policy = RestartPolicy(random)

        self.child: Child | None = None
        self.start_at_ms: int | None = None

    @property
    def restarts(self) -> int:
        """How often it was filled again."""
        return self._policy.restarts

    def start(self, now_ms: int) -> Child:
        """Fill the place.

        Raises:
            OSError: the program cannot be run.
        """
        assert self.child is None
        self.start_at_ms = None
        self.child = Child(self.spec)
        self._policy.started(now_ms)
        return self.child

    def read_lines(self, child: Child) -> tuple[list[str], bool]:
        """Lines the child has written by now, and whether its stream has ended."""
        lines: list[str] = []
        chunk = None
        for _ in range(READS_MAX):
            chunk = child.read()
            if not chunk:
                break
            lines.extend(self._relay.feed(chunk))
        if chunk == b"":
            lines.extend(self._relay.end())
        return lines, chunk == b""

    def ended(self, now_ms: int, code: int, *, node_was_ready: bool) -> GiveUp | None:
        """Plan the next start, unless there is none."""
        verdict = self._policy.exited(now_ms, code, node_was_ready=node_was_ready)
        if isinstance(verdict, GiveUp):
            return verdict
        self.start_at_ms = verdict.at_ms
        return None


class Family:
    """All places of a node, and the selector entries of those that are filled."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        selector: selectors.BaseSelector,
        *,
        write: Callable[[str], None],
        as_text: bool,
        random: Random,
    ) -> None:
        self.places = [Place(spec, random, as_text=as_text) for spec in specs]
        self._selector = selector
        self._write = write

    def start(self, place: Place, now_ms: int) -> str | None:
        """Fill a place; returns a warning when it could not be pinned.

        Raises:
            OSError: the program cannot be run.
        """
        child = place.start(now_ms)
        self._selector.register(child, selectors.EVENT_READ, place)
        return child.pin(place.spec.cpu) if place.spec.cpu is not None else None

    def relay(self, place: Place) -> None:
        """Pass on what a child has written."""
        child = place.child
        if child is None:
            return
        lines, ended = place.read_lines(child)
        self._write("".join(lines))
        if ended and child in self._selector.get_map():
            self._selector.unregister(child)

    def reap(self) -> Iterator[tuple[Place, int]]:
        """Places whose child has ended since the last call, with its exit code (negative: the signal)."""
        for place in self.places:
            child = place.child
            if child is None or (code := child.exit_code()) is None:
                continue
            self.relay(place)
            if child in self._selector.get_map():  # a grandchild still holds the stream open
                self._selector.unregister(child)
            child.close()
            place.child = None
            yield place, code

    def running(self) -> list[Place]:
        """Places that are filled."""
        return [place for place in self.places if place.child is not None]

    def of_kind(self, kind: str) -> list[Place]:
        """Filled places of one kind of process."""
        return [place for place in self.running() if place.spec.kind == kind]

    def due(self, now_ms: int) -> list[Place]:
        """Empty places whose time to be filled has come."""
        return [place for place in self.places if place.start_at_ms is not None and place.start_at_ms <= now_ms]

    def next_start_ms(self) -> int | None:
        """The earliest planned start."""
        return min((place.start_at_ms for place in self.places if place.start_at_ms is not None), default=None)

    def cancel_starts(self) -> None:
        """Plan no start any more."""
        for place in self.places:
            place.start_at_ms = None

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every child."""
        for place in self.running():
            assert place.child is not None
            place.child.signal(number)
