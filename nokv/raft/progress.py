"""Progress: what the leader believes about one peer's log, and how fast it may send to it.

Vocabulary (etcd/raft): `match` is the highest index known to be on the peer; `next` the first to be sent. In state
probe one append at a time is sent and `next` is a guess; in replicate appends stream, `next` runs ahead of `match`,
and the inflight window bounds how far; in snapshot nothing is sent until a snapshot was taken in.
Invariants: match < next; in snapshot, nothing is sent; a paused peer is sent no entries, heartbeats at most.
Not here: who is tracked (tracker.py), what is sent (replication.py).
"""

from collections import deque
from enum import Enum
from typing import Final

from nokv.proto.ids import LogIndex


class ProgressState(Enum):
    """How a peer is being sent to."""

    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


class Inflights:
    """Appends that were sent and not acknowledged, bounded by count and, if `bytes_max` > 0, by bytes.

    The byte bound is soft: the append that crosses it is still let out, the next one is not.
    """

    __slots__ = ("_sent", "bytes", "bytes_max", "size")

    def __init__(self, size: int, bytes_max: int) -> None:
        self.size: Final = size
        self.bytes_max: Final = bytes_max
        self.bytes = 0
        self._sent: deque[tuple[LogIndex, int]] = deque()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent."""
        return len(self._sent) >= self.size or (self.bytes_max != 0 and self.bytes >= self.bytes_max)

    def add(self, last: LogIndex, size_bytes: int) -> None:
        """An append whose last entry is `last` was sent. Requires: not full."""
        assert not self.full, "an append was sent through a full window"
        self._sent.append((last, size_bytes))
        self.bytes += size_bytes

    def free_to(self, index: LogIndex) -> None:
        """Everything up to `index` was acknowledged."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.bytes -= sent.popleft()[1]

    def reset(self) -> None:
        """Forget everything."""
        self._sent.clear()
        self.bytes = 0


class Progress:
    """One peer as the leader sees it."""

    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "msg_app_flow_paused",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, *, next: LogIndex, inflights: Inflights, match: LogIndex) -> None:
        self.inflights = inflights
        self.match = match
        self.next = next
        self.sent_commit = LogIndex(0)
        """Highest commit index the peer was told; spares empty appends that would say nothing new."""
        self.state = ProgressState.PROBE
        self.pending_snapshot = LogIndex(0)
        """Index of the snapshot being sent, in state snapshot."""
        self.recent_active = False
        """Whether anything came from the peer since the last quorum check."""
        self.msg_app_flow_paused = False
        """No append until an answer, or a heartbeat's answer, shows that the peer is there."""
        self.is_learner = False

    # ---- transitions -----------------------------------------------------------------------------------------------

    def _reset_state(self, state: ProgressState) -> None:
        self.msg_app_flow_paused = False
        self.pending_snapshot = LogIndex(0)
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        """Guess again: behind a snapshot that was taken in, or right behind what is known."""
        if self.state is ProgressState.SNAPSHOT:
            pending = self.pending_snapshot
            self._reset_state(ProgressState.PROBE)
            self.next = LogIndex(max(self.match + 1, pending + 1))
        else:
            self._reset_state(ProgressState.PROBE)
            self.next = LogIndex(self.match + 1)
        self.sent_commit = min(self.sent_commit, LogIndex(self.next - 1))

    def become_replicate(self) -> None:
        """The peer's log is known: stream."""
        self._reset_state(ProgressState.REPLICATE)
        self.next = LogIndex(self.match + 1)

    def become_snapshot(self, index: LogIndex) -> None:
        """A snapshot up to `index` is on its way."""
        self._reset_state(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = LogIndex(index + 1)
        self.sent_commit = index

    # ---- events ----------------------------------------------------------------------------------------------------

    def sent_entries(self, count: int, size_bytes: int) -> None:
        """An append with `count` entries of `size_bytes` was sent."""
        if self.state is ProgressState.REPLICATE:
            if count > 0:
                self.next = LogIndex(self.next + count)
                self.inflights.add(LogIndex(self.next - 1), size_bytes)
            self.msg_app_flow_paused = self.inflights.full
        else:
            assert self.state is ProgressState.PROBE
            if count > 0:
                self.msg_app_flow_paused = True

    def can_bump_commit(self, index: LogIndex) -> bool:
        """Whether telling the peer of commit `index` could tell it something new."""
        return index > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: LogIndex) -> bool:
        """The peer acknowledged up to `index`. False: an old message."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, LogIndex(index + 1))
        self.msg_app_flow_paused = False
        return True

    def maybe_decrease(self, rejected: LogIndex, hint: LogIndex) -> bool:
        """The peer refused an append behind `rejected` and hinted at `hint`. False: a stale refusal."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = LogIndex(self.match + 1)
            self.sent_commit = min(self.sent_commit, LogIndex(self.next - 1))
            return True
        if self.next - 1 != rejected:
            return False
        self.next = LogIndex(max(min(rejected, hint + 1), self.match + 1))
        self.sent_commit = min(self.sent_commit, LogIndex(self.next - 1))
        self.msg_app_flow_paused = False
        return True

    @property
    def paused(self) -> bool:
        """Whether no entries may be sent now."""
        return self.state is ProgressState.SNAPSHOT or self.msg_app_flow_paused

    def describe(self) -> str:
        """`StateReplicate match=5 next=9 inactive inflight=2`."""
        parts = [f"{self.state.value} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.paused:
            parts.append("paused")
        if self.pending_snapshot > 0:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if len(self.inflights) > 0:
            full = "[full]" if self.inflights.full else ""
            parts.append(f"inflight={len(self.inflights)}{full}")
        return " ".join(parts)
