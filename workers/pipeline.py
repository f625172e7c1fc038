"""Command pipeline: every proposal gets exactly one answer.

Why: Raft may commit a proposal, drop it or never decide; the client must learn which, in bounded time.
Invariants:
- A proposal is keyed by (incarnation, sequence): an entry proposed by another store, or by this one before a restart,
  completes nothing here, even where counters are equal.
- A waiter ends once: by result, by refusal, or by OutcomeUnknown when leadership or time is lost.
- There are never more than `proposals_max` proposals under way; the rest waits, gathered, in the peer.
Not here: what a command does (machine.py), whether a retry is safe (proto.errors.Remedy).
"""

from collections.abc import Sequence
from typing import Final

from nokv.proto.ids import Incarnation


class Waiter:
    """Somebody who waits for the result of one command. Times are monotonic milliseconds."""

    __slots__ = ("address", "deadline_ms", "request_id")

    def __init__(self, address: bytes, request_id: int, deadline_ms: int) -> None:
        self.address = address
        self.request_id = request_id
        self.deadline_ms = deadline_ms


class Pipeline:
    """Proposals of one group that this process has made and Raft has not yet decided."""

    def __init__(self, *, incarnation: Incarnation, proposals_max: int) -> None:
        assert proposals_max > 0
        self._incarnation: Final = incarnation
        self._proposals_max: Final = proposals_max

        self._sequence = 0
        self._waiting: dict[int, Sequence[Waiter]] = {}
        self._earliest_deadline_ms = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next proposal must wait for one to end."""
        return len(self._waiting) >= self._proposals_max

    def next_sequence(self) -> int:
        """A sequence number for a proposal about to be made; unique in this process run."""
        self._sequence += 1
        return self._sequence

    def add(self, sequence: int, waiters: Sequence[Waiter]) -> None:
        """The proposal `sequence` was accepted by Raft; `waiters` are in the order of its commands."""
        assert sequence not in self._waiting
        self._waiting[sequence] = waiters
        earliest = min((w.deadline_ms for w in waiters), default=0)
        if earliest and (not self._earliest_deadline_ms or earliest < self._earliest_deadline_ms):
            self._earliest_deadline_ms = earliest

    def complete(self, incarnation: Incarnation, sequence: int) -> Sequence[Waiter]:
        """Whoever waits for this entry, to be answered with its results. Empty for anybody else's entry."""
        if incarnation != self._incarnation:
            return ()
        return self._waiting.pop(sequence, ())

    def expire(self, now_ms: int) -> list[Waiter]:
        """Waiters whose time is over, to be told that the outcome is unknown. Their proposals stay under way."""
        if not self._earliest_deadline_ms or now_ms < self._earliest_deadline_ms:
            return []
        expired: list[Waiter] = []
        earliest = 0
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.deadline_ms:
                    continue
                if waiter.deadline_ms <= now_ms:
                    expired.append(Waiter(waiter.address, waiter.request_id, waiter.deadline_ms))
                    waiter.address, waiter.deadline_ms = b"", 0  # its result, should it come, goes nowhere
                elif not earliest or waiter.deadline_ms < earliest:
                    earliest = waiter.deadline_ms
        self._earliest_deadline_ms = earliest
        return expired

    def abandon(self) -> list[Waiter]:
        """Leadership is lost: everybody still waiting, to be told that the outcome is unknown."""
        left = [waiter for waiters in self._waiting.values() for waiter in waiters if waiter.address]
        self._waiting.clear()
        self._earliest_deadline_ms = 0
        return left
