"""Read index requests on their way through a quorum (thesis 6.4).

Invariants: a request is confirmed by acknowledgements of a heartbeat that was sent after it came; confirming one
confirms all that came before it.
"""

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import Message


class PendingRead:
    """One request: the commit index when it came, and who has acknowledged since."""

    __slots__ = ("acks", "index", "request")

    def __init__(self, request: Message, index: LogIndex) -> None:
        self.request = request
        self.index = index
        self.acks: dict[PeerId, bool] = {}


class ReadOnly:
    """Requests of one leader that wait for a quorum, in order of arrival. A request is known by its context."""

    __slots__ = ("_pending", "waiting")

    def __init__(self) -> None:
        self._pending: dict[bytes, PendingRead] = {}
        self.waiting: list[Message] = []
        """Requests that came before an entry of this term was committed."""

    def add(self, index: LogIndex, request: Message) -> None:
        """A request came; the same context twice is one request."""
        self._pending.setdefault(context_of(request), PendingRead(request, index))

    def acknowledge(self, sender: PeerId, context: bytes) -> dict[PeerId, bool]:
        """Who has acknowledged the request, `sender` included; empty if it is not pending."""
        read = self._pending.get(context)
        if read is None:
            return {}
        read.acks[sender] = True
        return read.acks

    def confirmed(self, context: bytes) -> list[PendingRead]:
        """The request and all before it; they are no longer pending."""
        if context not in self._pending:
            return []
        done: list[PendingRead] = []
        for key in list(self._pending):
            done.append(self._pending.pop(key))
            if key == context:
                break
        return done

    def last_context(self) -> bytes:
        """Context of the newest request, b"" if there is none: goes with every heartbeat."""
        return next(reversed(self._pending), b"")


def context_of(request: Message) -> bytes:
    """The caller's context in a READ_INDEX message."""
    return request.entries[0].data
