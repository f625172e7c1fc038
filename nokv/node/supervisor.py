"""The parent of a node's processes: start them, watch them, start them again, stop them in order.

Why: one place decides what a dead child means, so every child may simply die when something is wrong with it.
Signals: SIGTERM and SIGINT drain, a second SIGINT ends everything at once, SIGHUP reads the log level again, SIGUSR1
prints the stacks of all processes.
Draining: the manifest is told first, since it has the workers hand their leaders over and leaves when they are done;
then the others; what is left at the drain timeout is killed.
Invariants: one thread; it never waits for a child; no child outlives `run`.
Not here: what must hold before a node starts (preflight), how a child is spawned (children), when again (restarts).
"""

import faulthandler
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import Final

from nokv.exitcodes import EXIT_FINE, EXIT_INTERRUPTED, EXIT_UNEXPECTED
from nokv.node.children import ChildSpec
from nokv.node.family import Family, Place
from nokv.node.signals import SignalInbox

READY_POLL_MS: Final = 50
"""Distance of looks at a node that is starting."""
IMPATIENT_MS: Final = 10_000
"""Distance of "still waiting" lines while starting."""
LEAVE_MS: Final = 3000
"""How long children that were all told to leave may take."""

_WATCHED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Phase(Enum):
    """Where a node is in its life. Transitions go down only."""

    STARTING = "the node has not answered for all its workers yet"
    SERVING = "it was ready once; a dead child is started again"
    DRAINING = "the manifest moves leaders away and stops the workers"
    LEAVING = "every child was told to leave"


class Supervisor:
    """Runs the children of one node until told to stop."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        waits_for: Callable[[], str | None],
        on_ready: Callable[[int], None],
        on_reload: Callable[[], None],
        say: Callable[[str, str], None],
        write: Callable[[str], None],
        as_text: bool,
        drain_timeout_s: float,
        random: Random,
    ) -> None:
        """`waits_for` says what a starting node still lacks, None once it is ready; it may take a few milliseconds.
        `on_ready` gets the milliseconds it took, `on_reload` renews the effective configuration, `say` takes a level
        and a message, `write` the children's lines."""
        self._waits_for = waits_for
        self._on_ready = on_ready
        self._on_reload = on_reload
        self._say = say
        self._drain_timeout_ms = int(drain_timeout_s * 1000)
        self._selector = selectors.DefaultSelector()
        self._family = Family(specs, self._selector, write=write, as_text=as_text, random=random)

        self.phase = Phase.STARTING
        self._exit_code = EXIT_FINE
        self._began_ms = _now_ms()
        self._look_at_ms = self._began_ms
        self._impatient_at_ms = self._began_ms + IMPATIENT_MS
        self._kill_at_ms = 0

    def run(self) -> int:
        """Until every child has ended after a stop. Returns the exit code of the node."""
        with SignalInbox(_WATCHED) as inbox, self._selector:
            self._selector.register(inbox, selectors.EVENT_READ)
            try:
                for place in self._family.places:
                    self._start(place)
                while not self._stopped():
                    self._turn(inbox)
            finally:
                self._family.signal_all(signal.SIGKILL)
        return self._exit_code

    def _stopped(self) -> bool:
        return self.phase in (Phase.DRAINING, Phase.LEAVING) and not self._family.running()

    def _turn(self, inbox: SignalInbox) -> None:
        for key, _events in self._selector.select(self._timeout_s()):
            if isinstance(key.data, Place):
                self._family.relay(key.data)
        for number in inbox.take():
            self._on_signal(signal.Signals(number))
        for place, code in self._family.reap():
            self._on_end(place, code)
        now_ms = _now_ms()
        if self.phase is Phase.STARTING and now_ms >= self._look_at_ms:
            self._look(now_ms)
        if self.phase in (Phase.STARTING, Phase.SERVING):
            for place in self._family.due(now_ms):
                self._start(place)
            return
        if self.phase is Phase.DRAINING and not self._family.of_kind("manifest"):
            self._become_leaving(self._exit_code, self._kill_at_ms)
        if now_ms >= self._kill_at_ms:
            self._kill(now_ms)

    def _timeout_s(self) -> float | None:
        """Seconds until the next thing is due; None = only events count."""
        if self.phase in (Phase.DRAINING, Phase.LEAVING):
            due: int | None = self._kill_at_ms
        else:
            due = self._family.next_start_ms()
            if self.phase is Phase.STARTING:
                due = self._look_at_ms if due is None else min(due, self._look_at_ms)
        return None if due is None else max(0, due - _now_ms()) / 1000

    # ---- starting ----

    def _start(self, place: Place) -> None:
        try:
            warning = self._family.start(place, _now_ms())
        except OSError as error:
            self._say("error", f"{place.spec.name} cannot be run: {error}")
            self._become_leaving(EXIT_UNEXPECTED, _now_ms() + LEAVE_MS)
            return
        if warning:
            self._say("warning", warning)

    def _look(self, now_ms: int) -> None:
        """Ask the node whether it is ready; say what it waits for when that takes long."""
        lacks = self._waits_for()
        if lacks is None:
            self.phase = Phase.SERVING
            self._on_ready(_now_ms() - self._began_ms)
            return
        self._look_at_ms = _now_ms() + READY_POLL_MS
        if now_ms >= self._impatient_at_ms:
            self._impatient_at_ms = now_ms + IMPATIENT_MS
            self._say("warning", f"not ready after {(now_ms - self._began_ms) // 1000} s: {lacks}")

    # ---- what happens to it ----

    def _on_end(self, place: Place, code: int) -> None:
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        if self.phase in (Phase.DRAINING, Phase.LEAVING):
            if code not in (0, -signal.SIGTERM, -signal.SIGKILL):
                self._say("warning", f"{place.spec.name} ended with {how} while stopping")
            return
        now_ms = _now_ms()
        give_up = place.ended(now_ms, code, node_was_ready=self.phase is Phase.SERVING)
        if give_up is not None:
            self._say("error", f"{place.spec.name} cannot start ({how}): the node gives up")
            self._become_leaving(give_up.exit_code, now_ms + LEAVE_MS)
            return
        assert place.start_at_ms is not None
        self._say("error", f"{place.spec.name} ended with {how}: starting it again in {place.start_at_ms - now_ms} ms")

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGTERM or number == signal.SIGINT:
            self._on_stop(number)
        elif number == signal.SIGHUP:
            self._on_reload()
            self._family.signal_all(signal.SIGHUP)
        elif number == signal.SIGUSR1:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self._family.signal_all(signal.SIGUSR1)

    def _on_stop(self, number: signal.Signals) -> None:
        if self.phase is Phase.STARTING:
            self._look(_now_ms())  # it may serve by now, and then owes its clients a drain
        deadline_ms = _now_ms() + self._drain_timeout_ms
        if self.phase is Phase.SERVING:
            self._say("info", f"{number.name}: draining, at most {self._drain_timeout_ms / 1000:g} s")
            self.phase = Phase.DRAINING
            self._kill_at_ms = deadline_ms
            self._family.cancel_starts()
            for place in self._family.of_kind("manifest"):
                assert place.child is not None
                place.child.signal(signal.SIGTERM)
        elif self.phase is Phase.STARTING:
            self._say("info", f"{number.name} before the node was ready: stopping")
            self._become_leaving(EXIT_FINE, min(deadline_ms, _now_ms() + LEAVE_MS))
        elif number == signal.SIGINT:
            self._say("warning", "SIGINT again: stopping at once")
            self._exit_code = EXIT_INTERRUPTED
            self._kill_at_ms = _now_ms()

    def _become_leaving(self, exit_code: int, kill_at_ms: int) -> None:
        """Tell every child to leave. Reached from any other phase."""
        if self.phase is Phase.LEAVING:
            return
        self.phase = Phase.LEAVING
        self._exit_code = exit_code
        self._kill_at_ms = kill_at_ms
        self._family.cancel_starts()
        self._family.signal_all(signal.SIGTERM)

    def _kill(self, now_ms: int) -> None:
        for place in self._family.running():
            self._say("warning", f"{place.spec.name} did not leave in time: killed")
        self._family.signal_all(signal.SIGKILL)
        self._kill_at_ms = now_ms + LEAVE_MS


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
