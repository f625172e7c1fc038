"""One call of the user: its budget, what it has met so far, and how it may end.

Why: retries, redirects and lock resolution all draw on one budget, and the error at the end must say truthfully whether
anything may have happened.
Invariants: `maybe` is set before an answer to a write is given up, and cleared only by an answer that proves that
nothing was written; every error raised through `failed` or `expired` carries region, attempts and elapsed time.
Not here: sending (caller.py), what a refusal means (retry.py).
"""

import math
from collections.abc import Sequence
from enum import Enum
from random import Random
from types import TracebackType
from typing import Final, Protocol

from nokv.client.backoff import Backoff
from nokv.client.errors import NokvError, TimeoutError, UnavailableError
from nokv.client.hooks import Hooks
from nokv.proto.ids import RegionId, StoreId, Ts

ATTEMPT_S: Final = 1.0
"""How long the first attempt waits for its answer; further ones after a silence wait twice as long each."""
ATTEMPT_S_MIN: Final = 0.05
"""Below this much budget an attempt gets all of it."""


class Census(Protocol):
    """Who counts the calls under way, so that closing can wait for them."""

    def op_began(self) -> None:
        """One more."""

    def op_ended(self) -> None:
        """One less."""


class Why(Enum):
    """Why a store is passed over for the rest of a round."""

    NOT_LEADER = "it said that it does not lead"
    SILENT = "it did not answer"
    NO_REGION = "it does not have the region as we know it"
    BUSY = "it was busy again and again; unless another store names it as the leader, somebody else may be by now"


class Trail:
    """Who was asked for one region within one call."""

    __slots__ = ("avoid", "busy", "redirects")

    def __init__(self) -> None:
        self.avoid: dict[StoreId, Why] = {}
        self.busy = 0
        self.redirects = 0


class Op:
    """Budget and history of one call; also a context manager that stamps errors and reports to the hooks."""

    __slots__ = (
        "_backoff",
        "_census",
        "_hooks",
        "_last_now",
        "_random",
        "attempts",
        "deadline",
        "last",
        "maybe",
        "met_leader",
        "name",
        "nodes_seen",
        "read_ts",
        "region",
        "silences",
        "started",
        "trails",
    )

    def __init__(
        self,
        name: str,
        *,
        now: float,
        deadline: float,
        random: Random,
        hooks: Sequence[Hooks] = (),
        census: Census | None = None,
    ) -> None:
        # Constant
        self.name = name
        self.started = now
        self.deadline = deadline
        self._random = random
        self._hooks = hooks
        self._census = census

        # What happened so far
        self.attempts = 0
        self.silences = 0
        self.region = 0
        self.read_ts: Ts = Ts(0)
        self.last: NokvError | None = None
        self.maybe = False
        """Whether a write of this call may have been carried out although nobody said so."""
        self.met_leader = False
        self.nodes_seen: dict[int, None] = {}
        self.trails: dict[RegionId, Trail] | None = None
        self._backoff: Backoff | None = None
        self._last_now = now

    def __enter__(self) -> "Op":
        if self._census is not None:
            self._census.op_began()
        for hook in self._hooks:
            hook.start(self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._census is not None:
            self._census.op_ended()
        if isinstance(error, NokvError):
            self._stamp(error)
        for hook in self._hooks:
            hook.end(self.name, self._last_now - self.started, error)

    # ---- budget -----------------------------------------------------------------------------------------------------

    def attempt_due(self, now: float) -> float:
        """When an attempt made now is given up.

        Raises:
            NokvError: the budget is used up; see `expired`.
        """
        self._last_now = now
        left_s = self.deadline - now
        if left_s <= 0:
            raise self.expired()
        share_s = left_s / 2 if left_s > ATTEMPT_S_MIN else left_s
        patience_s = ATTEMPT_S if not self.silences else ATTEMPT_S * (1 << min(self.silences, 6))
        return now + min(patience_s, share_s)

    def pause(self, delay_s: float, now: float) -> float:
        """How long to wait, given the wish for `delay_s`: never beyond the deadline.

        Raises:
            NokvError: the budget is used up.
        """
        self._last_now = now
        left_s = self.deadline - now
        if left_s <= 0:
            raise self.expired()
        return min(delay_s, left_s)

    def backoff(self, at_least_s: float = 0.0) -> float:
        """The next jittered delay of this call, in seconds."""
        if self._backoff is None:
            self._backoff = Backoff(self._random)
        return self._backoff.next(at_least_s)

    def child(self, name: str, now: float) -> "Op":
        """A call within this one (a timestamp, a lock to resolve): same end, a history of its own."""
        return Op(name, now=now, deadline=self.deadline, random=self._random)

    # ---- history ----------------------------------------------------------------------------------------------------

    def trail(self, region_id: RegionId) -> Trail:
        """Who was asked for this region so far."""
        if self.trails is None:
            self.trails = {}
        trail = self.trails.get(region_id)
        if trail is None:
            trail = self.trails[region_id] = Trail()
        return trail

    def retrying(self, cause: NokvError, delay_s: float) -> None:
        """An attempt failed and another one follows."""
        self.last = cause
        for hook in self._hooks:
            hook.retry(self.name, self.attempts, cause, delay_s)

    def inherit(self, other: "Op") -> None:
        """What a call that this one waited for has met; so that the end is told by its real cause."""
        self.attempts += other.attempts
        if other.last is not None:
            self.last, self.region = other.last, other.region
        self.met_leader = self.met_leader or other.met_leader
        self.nodes_seen.update(other.nodes_seen)

    # ---- ends -------------------------------------------------------------------------------------------------------

    def failed(self, error: NokvError) -> NokvError:
        """The error to raise for a refusal that trying again cannot help."""
        return self._stamp(error)

    def expired(self) -> NokvError:
        """The error for a used-up budget: Unavailable if no leader was ever met, else Timeout."""
        error: NokvError
        took = f"{self.name}: no answer within {self.deadline - self.started:.3g} s"
        why = f"; last: {self.last}" if self.last is not None else ""
        if self.last is not None and not self.maybe and not self.met_leader:
            error = UnavailableError(
                f"{took}, no leader found{why}", region=self.region, nodes_seen=tuple(self.nodes_seen)
            )
        else:
            error = TimeoutError(f"{took}{why}", region=self.region)
        error.__cause__ = self.last
        return self._stamp(error)

    def _stamp(self, error: NokvError) -> NokvError:
        if self.maybe:
            error.outcome = "unknown"
        error.region = error.region or self.region
        error.attempts = error.attempts or self.attempts
        error.elapsed = error.elapsed or max(0.0, self._last_now - self.started)
        return error


assert math.isclose(ATTEMPT_S * (1 << 6), 64.0), "the longest patience stays within a minute or so"
