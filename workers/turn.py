"""A turn's effects, in the order in which they may leave.

Why: an output type that separates what may go now from what waits for the disk makes the wrong order hard to write.
Invariants: `replies`, `peers` and `local` rely on nothing unsynced; whatever does is kept by its peer with the log
position it waits for, and comes out of a later turn. A request is pending from its admission to its one reply.
Not here: sockets and files (loop.py).
"""

from typing import Final

from nokv.proto.ids import StoreId

TO_MANIFEST: Final = b"M"
TO_ROUTER: Final = b"R"
TO_PEER_PLANE: Final = b"P"
FROM_CLIENT: Final = ord("C")
FROM_PEER_PLANE: Final = ord("P")
FROM_MANIFEST: Final = ord("M")
FROM_WORKER: Final = ord("W")
FROM_ROUTER: Final = ord("R")


def worker_address(worker_id: int) -> bytes:
    """The link address of a worker."""
    return b"W%d" % worker_id


class Turn:
    """What one turn wants done. The loop sends it and lets it go."""

    __slots__ = ("local", "peers", "pending", "replies")

    def __init__(self, pending: set[tuple[bytes, int]]) -> None:
        self.pending: Final = pending
        """(client address, request id) of every admitted request without an answer; outlives the turn."""
        self.replies: dict[bytes, list[bytes]] = {}
        """Client address -> reply frames."""
        self.peers: dict[StoreId, list[bytes]] = {}
        """Remote store -> peer plane frames."""
        self.local: list[tuple[bytes, bytes]] = []
        """(link address, frames) for processes of this node."""

    def reply(self, address: bytes, request_id: int, frame: bytes) -> None:
        """The one answer of an admitted request. An empty address is nobody: the waiter was answered before."""
        if not address:
            return
        self.pending.discard((address, request_id))
        self.refuse(address, frame)

    def refuse(self, address: bytes, frame: bytes) -> None:
        """Answer a request that was not admitted."""
        frames = self.replies.get(address)
        if frames is None:
            self.replies[address] = [frame]
        else:
            frames.append(frame)

    def to_store(self, store_id: StoreId, frame: bytes) -> None:
        """Send a peer plane frame to another store."""
        frames = self.peers.get(store_id)
        if frames is None:
            self.peers[store_id] = [frame]
        else:
            frames.append(frame)
