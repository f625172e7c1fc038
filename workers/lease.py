"""Leader lease: when may a leader read its own state without asking anybody?

Why: a leader that answers reads because it believes to lead is stale under partition. A lease makes the belief safe:
if a quorum has heard from this leader at time t, no other leader can be elected before t plus the election timeout,
since voters that lately heard from a leader ignore vote requests (Raft thesis 6.4.1 and 4.2.3).
Invariants:
- Time is monotonic and counts suspension (CLOCK_BOOTTIME), so a stopped process finds its lease expired.
- The lease starts when the confirming round was *started*, never when its answer came.
- A term in which a leadership transfer was begun has no lease any more: the order to campaign at once overrides the
  voters' patience, and may arrive arbitrarily late.
- The lease ends `drift_ms` and one tick before the earliest possible vote.
Not here: the round itself (a ReadIndex of the Raft core), what a restarted voter has forgotten (shard's vote grace).
"""

from typing import Final

from nokv.proto.ids import Term

ROUND_LOST_MS: Final = 500
"""A confirming round without an answer for this long is given up and a new one may start: its messages may be lost."""


class Lease:
    """The lease of one group's leader. All times are monotonic milliseconds."""

    def __init__(self, *, length_ms: int) -> None:
        assert length_ms >= 0
        self._length_ms: Final = length_ms  # 0 switches leases off: every read asks a quorum

        self._term = Term(0)
        self._void_term = Term(0)
        self._until_ms = 0
        self._round: bytes | None = None
        self._round_started_ms = 0
        self._rounds = 0

    def begin_round(self, term: Term, now_ms: int) -> bytes | None:
        """Context for a ReadIndex to start now, or None while one is under way."""
        if self._round is not None and term == self._term and now_ms - self._round_started_ms < ROUND_LOST_MS:
            return None
        self._enter(term)
        self._rounds += 1
        self._round = b"%x.%x" % (term, self._rounds)
        self._round_started_ms = now_ms
        return self._round

    @property
    def next_round(self) -> int:
        """Number of the first round that will begin after now: the one that covers a read arriving now."""
        return self._rounds + 1

    def confirmed(self, context: bytes) -> int:
        """A quorum answered a round: extends the lease. Returns the round's number, 0 if it is not the current one."""
        if context != self._round:
            return 0
        self._round = None
        if self._term != self._void_term:
            self._until_ms = max(self._until_ms, self._round_started_ms + self._length_ms)
        return self._rounds

    def valid(self, term: Term, now_ms: int) -> bool:
        """Whether a read evaluated at `now_ms` by the leader of `term` is linearizable."""
        return term == self._term and now_ms < self._until_ms

    def wants_renewal(self, term: Term, now_ms: int) -> bool:
        """Whether the lease is in its second half, so that reads never have to wait for a round."""
        return self._round is None and (term != self._term or now_ms >= self._until_ms - self._length_ms // 2)

    def void(self, term: Term) -> None:
        """A transfer was begun in `term`: no lease for the rest of it."""
        self._enter(term)
        self._void_term = term
        self._until_ms = 0

    def drop(self) -> None:
        """This replica no longer leads."""
        self._term = Term(0)
        self._until_ms = 0
        self._round = None

    def _enter(self, term: Term) -> None:
        if term != self._term:
            self._term = term
            self._until_ms = 0
            self._round = None
