"""Progress: what a leader knows of one peer's log, and how fast it may send to it.

Why: a leader must find where a follower's log agrees with its own without flooding it, then stream entries with a
bounded window, and fall back to a snapshot when the entries are gone.
Invariants: match < next; entries up to match are durable on the peer; in REPLICATE, match+1 .. next-1 are on the way;
the window never holds more messages than its limit.
Not here: when to send (replication.py, snapshot.py).

    PROBE ──accepted──▶ REPLICATE ──rejected, unreachable──▶ PROBE
    PROBE, REPLICATE ──entries are gone──▶ SNAPSHOT ──applied or failed──▶ PROBE
"""

from collections import deque
from enum import Enum


class Flow(Enum):
    """How a leader sends to a peer."""

    PROBE = "StateProbe"
    """One append at a time, to find where the logs agree."""
    REPLICATE = "StateReplicate"
    """Optimistically, one append after the other, within a window."""
    SNAPSHOT = "StateSnapshot"
    """Not at all, until the snapshot that was sent has arrived."""


class Inflights:
    """The window of appends on the way to one peer, each as its last index and its bytes.

    Args:
        max_messages: appends on the way at most; the one that reaches it fills the window.
        max_bytes: bytes on the way before the window is full; it may be passed by one message. 0: no limit.
    """

    __slots__ = ("_queue", "bytes", "max_bytes", "max_messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes

        self.bytes = 0
        self._queue: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether nothing may be added."""
        return len(self._queue) >= self.max_messages or 0 < self.max_bytes <= self.bytes

    def add(self, last_index: int, size_bytes: int) -> None:
        """An append that ends with `last_index`, not below earlier ones, is on its way."""
        assert not self.full, "the window is full"
        self._queue.append((last_index, size_bytes))
        self.bytes += size_bytes

    def free_to(self, index: int) -> None:
        """Appends that end at or below `index` have arrived."""
        queue = self._queue
        while queue and queue[0][0] <= index:
            self.bytes -= queue.popleft()[1]

    def clear(self) -> None:
        """Forget everything on the way."""
        self._queue.clear()
        self.bytes = 0


class Progress:
    """What a leader knows of one peer. Indexes are plain ints here: they are only compared and counted."""

    __slots__ = (
        "_sent_commit",
        "flow",
        "inflights",
        "is_learner",
        "match",
        "next",
        "paused_after_append",
        "pending_snapshot",
        "recent_active",
    )

    def __init__(self, *, match: int, next_index: int, inflights: Inflights, is_learner: bool, active: bool) -> None:
        self.match = match
        """The peer has durably what the leader has, up to here."""
        self.next = next_index
        """First index to send."""
        self.flow = Flow.PROBE
        self.inflights = inflights
        self.is_learner = is_learner
        self.recent_active = active
        """It was heard of since check-quorum looked last."""
        self.paused_after_append = False
        """No further append before an answer or a heartbeat's."""
        self.pending_snapshot = 0
        """In SNAPSHOT, the index of the snapshot on its way."""
        self._sent_commit = 0

    def copy(self) -> "Progress":
        """A copy that shares the window: configurations are tried out on copies."""
        twin = Progress(
            match=self.match,
            next_index=self.next,
            inflights=self.inflights,
            is_learner=self.is_learner,
            active=self.recent_active,
        )
        twin.flow = self.flow
        twin.paused_after_append = self.paused_after_append
        twin.pending_snapshot = self.pending_snapshot
        twin._sent_commit = self._sent_commit
        return twin

    @property
    def paused(self) -> bool:
        """Whether nothing may be sent now."""
        return self.flow is Flow.SNAPSHOT or self.paused_after_append

    def become_probe(self) -> None:
        """Go back to one append at a time; from behind a snapshot if one was on its way."""
        after_snapshot = self.pending_snapshot + 1 if self.flow is Flow.SNAPSHOT else 0
        self._enter(Flow.PROBE)
        self.next = max(self.match + 1, after_snapshot)
        self._sent_commit = min(self._sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Stream from behind what has arrived."""
        self._enter(Flow.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot that ends at `index` was sent."""
        self._enter(Flow.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self._sent_commit = index

    def _enter(self, flow: Flow) -> None:
        self.flow = flow
        self.paused_after_append = False
        self.pending_snapshot = 0
        self.inflights.clear()

    def sent_entries(self, count: int, size_bytes: int) -> None:
        """An append of `count` entries from `next` on was sent."""
        if self.flow is Flow.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size_bytes)
            # A message that fills the window, or is sent although it is full, is a probe: it waits for an answer.
            self.paused_after_append = self.inflights.full
        else:
            assert self.flow is Flow.PROBE, "sent while a snapshot is on its way"
            if count:
                self.paused_after_append = True

    def sent_commit(self, commit: int) -> None:
        """A message with this commit index was sent."""
        self._sent_commit = commit

    def wants_commit(self, commit: int) -> bool:
        """Whether telling the peer this commit index may move its own."""
        sent = self._sent_commit
        return commit > sent and sent < self.next - 1

    def acked(self, index: int) -> bool:
        """The peer has everything up to `index`. True if that is news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.paused_after_append = False
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """The peer refused an append behind `index` and may agree at `hint`. True if that is news: `next` went back."""
        if self.flow is Flow.REPLICATE:
            if index <= self.match:
                return False  # Overtaken by an ack.
            self.next = self.match + 1
            self._sent_commit = min(self._sent_commit, self.next - 1)
            return True
        if self.next - 1 != index:
            return False  # An answer to an earlier probe.
        self.next = max(min(index, hint + 1), self.match + 1)
        self._sent_commit = min(self._sent_commit, self.next - 1)
        self.paused_after_append = False
        return True

    def describe(self) -> str:
        """As in `StateReplicate match=11 next=12 inflight=1`."""
        parts = [f"{self.flow.value} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.paused:
            parts.append("paused")
        if self.pending_snapshot:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if len(self.inflights):
            parts.append(f"inflight={len(self.inflights)}{'[full]' if self.inflights.full else ''}")
        return " ".join(parts)
