"""Timestamp oracle: the leader's volatile part, between a durable window and a wall clock that nobody may trust.

Why: transactions are ordered by timestamps, so a repeated or falling one is silent data corruption; a round of Raft
for each of them would cost a disk sync each.
Invariants: every timestamp lies below the `until` of a TsoAhead committed by this leader in this term, and at or above
`tso_ahead` as it was when it began to lead; issued timestamps only rise and are multiples of TS_STEP; no reading of
the wall clock, however wrong, can change that.
Not here: the safety argument over leader changes (package docstring), the lease that must hold when `grant` is called
(the caller's), the durable `tso_ahead` (cluster.py).
"""

from collections import deque
from typing import Final

from msgspec import Struct

from nokv.proto.control import TsoReply
from nokv.proto.errors import InvalidArgument, LimitExceeded
from nokv.proto.ids import TS_LOGICAL_BITS, TS_STEP, Ts, physical_ms, ts_of

TSO_WINDOW_MS: Final = 3_000
"""Reach of one TsoAhead in milliseconds. Longer: fewer log entries; shorter: a smaller leap when the leader changes."""

TSO_COUNT_MAX: Final = 65_536
"""Timestamps of one grant, 4 ms of logical room: more than any batch of waiting calls, far less than half a window."""

JUMP_MS: Final = 5_000
"""A larger step of the wall clock between two readings is a jump, not passing time: a leader that was really stopped
that long has lost its lease."""

WINDOW_RETRY_MS: Final = 1_000
"""A TsoAhead without an outcome for this long is asked for again. Committing both does no harm."""

ASKED_MAX: Final = 16
"""Windows asked for and not yet heard of. More cannot be under way in the time a leader keeps its office without any
commit; a forgotten one that is committed after all is taken for another leader's, which is safe."""

PHYSICAL_MS_MAX: Final = 1 << 45
"""Clock readings from here on (the year 3084) are not followed: half of the physical range, which leaves the oracle
room to go on by itself above any reading it ever followed."""

TS_MAX: Final = ts_of(PHYSICAL_MS_MAX + (1 << 44))
"""No window ends above this; a TsoAhead that asks for more is refused by every replica."""

assert (1 << TS_LOGICAL_BITS) % TS_STEP == 0, "a physical timestamp is a multiple of the step"


class OracleStatistics(Struct, frozen=True):
    """Counters since the process started, and `ahead_ms`: how far the oracle's clock is ahead of the last wall reading.

    `steps_back`, `jumps` and `refused_readings` count suspicious readings of the wall clock: whoever sees them rise
    should look at the node's time source. `waits` counts grants that found too little window left, `foreign_windows`
    how often another leader's window ended a leadership that the caller had not yet ended.
    """

    grants: int
    timestamps: int
    windows: int
    waits: int
    foreign_windows: int
    steps_back: int
    jumps: int
    jump_ms_max: int
    refused_readings: int
    ahead_ms: int


class Oracle:
    """Issues timestamps while its replica leads group 0. Sans-IO: wall clock readings are handed in, in milliseconds.

    The caller proposes what `wanted_window` returns as TsoAhead, and reports the outcome. It asks often (every tick and
    before each grant), since that is also how the oracle sees time pass.
    """

    def __init__(self, *, window_ms: int = TSO_WINDOW_MS, count_max: int = TSO_COUNT_MAX) -> None:
        assert count_max >= 1
        assert count_max * TS_STEP <= ts_of(window_ms) // 2, "the largest grant fits into half a window"
        self._window_ms: Final = window_ms
        self._count_max: Final = count_max

        # One leadership
        self._leading = False
        self._next = Ts(0)  # nothing below may be issued
        self._window = Ts(0)  # nothing from here on may be issued
        self._asked: deque[Ts] = deque(maxlen=ASKED_MAX)  # windows under way, never falling
        self._asked_at_ms = 0  # when the last of them was asked for, on the oracle's clock

        # The oracle's clock: only rises while it leads
        self._clock_ms = 0
        self._wall_ms: int | None = None
        self._slew_rest_ms = 0

        # Counters
        self._grants = 0
        self._timestamps = 0
        self._windows = 0
        self._waits = 0
        self._foreign_windows = 0
        self._steps_back = 0
        self._jumps = 0
        self._jump_ms_max = 0
        self._refused_readings = 0

    # ---- leadership -------------------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether this replica may issue, once it has a window."""
        return self._leading

    def lead(self, ahead_until: Ts) -> None:
        """Begin to lead. `ahead_until` is the durable `tso_ahead`.

        Requires: an entry of this replica's own term has been applied, hence all of earlier terms. Nothing is issued
        before a window that was asked for after this call is committed.
        """
        assert 0 <= ahead_until <= TS_MAX
        self._leading = True
        self._next = Ts(-(-ahead_until // TS_STEP) * TS_STEP)
        self._window = self._next
        self._asked.clear()
        self._clock_ms = physical_ms(ahead_until)
        self._wall_ms = None
        self._slew_rest_ms = 0

    def stop(self) -> None:
        """The replica no longer leads, or is about to hand over. What is left of the window is lost."""
        self._leading = False

    # ---- windows ----------------------------------------------------------------------------------------------------

    def wanted_window(self, now_physical_ms: int) -> Ts | None:
        """The `until` to propose as TsoAhead now; None: not leading, enough left, or one is under way.

        A window is wanted when less than half of it is left, so that grants rarely wait for a commit.
        """
        if not self._leading:
            return None
        self._observe(now_physical_ms)
        head = self._head()
        half = ts_of(self._window_ms) // 2
        if self._window - head >= half:
            return None
        newest = self._asked[-1] if self._asked else self._window
        if newest - head >= half and self._clock_ms - self._asked_at_ms < WINDOW_RETRY_MS:
            return None
        until = ts_of(physical_ms(head) + 1 + self._window_ms)
        assert self._window < until <= TS_MAX
        self._asked.append(until)
        self._asked_at_ms = self._clock_ms
        return until

    def window_committed(self, until: Ts) -> None:
        """A TsoAhead was applied, anybody's. Call it in log order, before anything is granted that relies on the entry.

        One that this oracle did not ask for since `lead` means that another replica has led in between and may have
        issued from it: the oracle stops, and `lead` must be called again with the `tso_ahead` of now.
        """
        if not self._leading or until <= self._window:
            return
        if until not in self._asked:
            self._foreign_windows += 1
            self.stop()
            return
        self._window = until
        self._windows += 1
        while self._asked and self._asked[0] <= until:
            self._asked.popleft()

    def window_dropped(self) -> None:
        """The last proposal never reached the log: the next `wanted_window` asks again at once."""
        if self._asked:
            self._asked.pop()

    # ---- timestamps -------------------------------------------------------------------------------------------------

    def refusal(self, count: int) -> InvalidArgument | LimitExceeded | None:
        """Why a request for `count` timestamps is refused, None if it is not."""
        if count < 1:
            return InvalidArgument("count", "must be at least 1")
        if count > self._count_max:
            return LimitExceeded("tso_count_max", self._count_max, count)
        return None

    def grant(self, now_physical_ms: int, count: int) -> TsoReply | None:
        """`count` timestamps, all greater than any issued before; None: wait for `wanted_window` to be committed.

        Requires: `refusal(count)` is None; this replica leads, and the caller holds group 0's leader lease on a clock
        read after the request came (package docstring), or a ReadIndex round begun after it came has confirmed it.
        """
        assert self._leading
        assert 1 <= count <= self._count_max
        self._observe(now_physical_ms)
        first = self._head()
        end = Ts(first + count * TS_STEP)
        if end > self._window:
            self._waits += 1
            return None
        self._next = end
        self._grants += 1
        self._timestamps += count
        assert first % TS_STEP == 0
        return TsoReply(first, count, TS_STEP)

    def statistics(self) -> OracleStatistics:
        """Counters since construction, over all leaderships."""
        return OracleStatistics(
            grants=self._grants,
            timestamps=self._timestamps,
            windows=self._windows,
            waits=self._waits,
            foreign_windows=self._foreign_windows,
            steps_back=self._steps_back,
            jumps=self._jumps,
            jump_ms_max=self._jump_ms_max,
            refused_readings=self._refused_readings,
            ahead_ms=0 if self._wall_ms is None else max(0, self._clock_ms - self._wall_ms),
        )

    def describe(self) -> str:
        """One line for logs: `oracle leads: next 4711000.16, window 2987 ms`."""
        if not self._leading:
            return "oracle idle"
        head = self._head()
        logical = head & ((1 << TS_LOGICAL_BITS) - 1)
        left_ms = max(0, physical_ms(self._window) - physical_ms(head))
        return f"oracle leads: next {physical_ms(head)}.{logical}, window {left_ms} ms"

    # ---- the clock --------------------------------------------------------------------------------------------------

    def _head(self) -> Ts:
        """The least timestamp to issue next: after the last one, and not before the clock."""
        return max(self._next, ts_of(self._clock_ms))

    def _observe(self, now_physical_ms: int) -> None:
        """Move the oracle's clock: up to the wall if that is ahead, else by half of the time that passed."""
        if not 0 <= now_physical_ms < PHYSICAL_MS_MAX:
            self._refused_readings += 1
            return
        passed_ms = 0 if self._wall_ms is None else now_physical_ms - self._wall_ms
        self._wall_ms = now_physical_ms
        if passed_ms < 0:
            self._steps_back += 1
        elif passed_ms > JUMP_MS:
            self._jumps += 1
            self._jump_ms_max = max(self._jump_ms_max, passed_ms)
        if now_physical_ms >= self._clock_ms:
            self._clock_ms = now_physical_ms
            self._slew_rest_ms = 0
        elif 0 < passed_ms <= JUMP_MS:
            whole_ms, self._slew_rest_ms = divmod(self._slew_rest_ms + passed_ms, 2)
            self._clock_ms += whole_ms
