"""Reads in doubt: linearizable reads that wait until a quorum has confirmed the leader (thesis 6.4).

Why: a leader that was replaced without noticing must not answer reads from its old state.
Invariants: a read's index is the commit index at the time it was asked; it is confirmed only by answers to heartbeats
that were sent after that; a confirmed read confirms all earlier ones.
Not here: when a leader may take reads at all (replication.py).
"""

from dataclasses import dataclass

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import Message


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read that may be served as soon as `index` is applied."""

    index: LogIndex
    context: bytes


class PendingRead:
    """One read and who has confirmed the leader since."""

    __slots__ = ("acks", "index", "request")

    def __init__(self, request: Message, index: LogIndex) -> None:
        self.request = request
        self.index = index
        self.acks: dict[PeerId, bool] = {}


class ReadQueue:
    """Reads in the order they were asked, by context."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        self._reads: dict[bytes, PendingRead] = {}

    def __len__(self) -> int:
        return len(self._reads)

    def add(self, context: bytes, request: Message, index: LogIndex) -> None:
        """A read was asked; one with the same context that waits already stands for both."""
        self._reads.setdefault(context, PendingRead(request, index))

    def ack(self, context: bytes, peer: PeerId) -> dict[PeerId, bool] | None:
        """A peer has confirmed the leader for a read; who has so far, None if nobody waits for it."""
        read = self._reads.get(context)
        if read is None:
            return None
        read.acks[peer] = True
        return read.acks

    def confirm(self, context: bytes) -> list[PendingRead]:
        """Remove a read and all earlier ones: they are confirmed."""
        confirmed = []
        for waiting in list(self._reads):
            confirmed.append(self._reads.pop(waiting))
            if waiting == context:
                break
        return confirmed

    def last_context(self) -> bytes:
        """Context of the newest read, empty if there is none. Heartbeats carry it."""
        return next(reversed(self._reads), b"")
