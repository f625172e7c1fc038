"""Reads of one group: admitted at once, answered when they are proven linearizable.

Why: a read may be served from local state only if this replica still leads and has applied everything that was
acknowledged before the read arrived. Proof is either the leader lease or a ReadIndex round started after the arrival,
and both are shared by all reads that wait.
Invariants:
- A read is evaluated only when the applied index has reached its `wait_index`.
- Every evaluated read is checked again against the lease on a fresh clock before its answer leaves (`settle`): a
  process that was stopped between taking the time and reading must not answer with it.
- Reads wait at most until their deadline.
Not here: the lease's arithmetic (lease.py), what is read (nokv.mvcc.reader).
"""

from collections.abc import Callable
from typing import Final

from nokv.proto.ids import LogIndex, Term
from nokv.workers.lease import Lease


class PendingRead:
    """A read that was admitted.

    `wait_index`: apply this far first; `round`: the first ReadIndex round that covers it.
    """

    __slots__ = ("address", "deadline_ms", "kind", "request", "request_id", "round", "wait_index")

    def __init__(
        self,
        address: bytes,
        request_id: int,
        kind: int,
        request: object,
        deadline_ms: int,
        wait_index: LogIndex,
        round: int,
    ) -> None:
        self.address = address
        self.request_id = request_id
        self.kind = kind
        self.request = request
        self.deadline_ms = deadline_ms
        self.wait_index = wait_index
        self.round = round


class ReadQueue:
    """Reads that wait for proof or for apply, in order of arrival."""

    def __init__(self, lease: Lease) -> None:
        self._lease: Final = lease

        self._waiting: list[PendingRead] = []
        self._confirmed_round = 0
        self._confirmed_index = LogIndex(0)

        self.by_lease = 0
        self.by_index = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, read: PendingRead) -> None:
        """Admit a read; the caller has checked epoch, range and leadership."""
        self._waiting.append(read)

    def confirm(self, context: bytes, index: LogIndex) -> None:
        """A ReadIndex round succeeded: everything acknowledged before it began is at or below `index`."""
        number = self._lease.confirmed(context)
        if number:
            self._confirmed_round = number
            self._confirmed_index = index

    def take(self, term: Term, applied: LogIndex, now_ms: int) -> tuple[list[PendingRead], list[PendingRead]]:
        """Reads that may be evaluated now: (by the lease, by a confirmed round). They leave the queue."""
        if not self._waiting:
            return [], []
        leased: list[PendingRead] = []
        indexed: list[PendingRead] = []
        kept: list[PendingRead] = []
        valid = self._lease.valid(term, now_ms)
        index_applied = applied >= self._confirmed_index
        for read in self._waiting:
            if read.wait_index > applied:
                kept.append(read)
            elif index_applied and read.round <= self._confirmed_round:
                indexed.append(read)
            elif valid:
                leased.append(read)
            else:
                kept.append(read)
        self._waiting = kept
        return leased, indexed

    def put_back(self, reads: list[PendingRead]) -> None:
        """Reads that have no answer yet wait on, before those that came later."""
        self._waiting[:0] = reads

    def settle(self, leased: list[PendingRead], term: Term, clock_ms: Callable[[], int]) -> bool:
        """Whether answers evaluated under the lease may leave. If not, the reads are back in the queue for a round."""
        if not leased or self._lease.valid(term, clock_ms()):
            return True
        for read in leased:
            read.round = self._lease.next_round
        self.put_back(leased)
        return False

    def wants_round(self, term: Term, now_ms: int) -> bool:
        """Whether a ReadIndex round should begin: somebody waits unproven, or the lease is worth renewing."""
        return any(read.round > self._confirmed_round for read in self._waiting) and not self._lease.valid(term, now_ms)

    def expire(self, now_ms: int) -> list[PendingRead]:
        """Reads whose time is over."""
        expired = [read for read in self._waiting if read.deadline_ms <= now_ms]
        if expired:
            self._waiting = [read for read in self._waiting if read.deadline_ms > now_ms]
        return expired

    def abandon(self) -> list[PendingRead]:
        """This replica no longer leads: everybody who waits, to be sent elsewhere."""
        left, self._waiting = self._waiting, []
        self._confirmed_round, self._confirmed_index = 0, LogIndex(0)
        return left
