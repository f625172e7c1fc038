"""Transport: one outgoing pipe for each remote store.

Why: a worker's Raft traffic goes straight to the remote router; one dead store must not delay what goes to the others.
Invariants: sends never block; what does not fit a store's pipe is dropped and counted (Raft repeats it) and the store
is reported unreachable; all frames of one turn for one store are one message, cut at `peer_message_bytes_max`; every
message begins with the hello frame, so the receiver knows cluster and store even after a reconnect.
Not here: receiving (the router does), what is sent (shard.py).
"""

from collections.abc import Callable, Sequence
from typing import Final

import zmq

from nokv.config import NodeConfig
from nokv.proto.control import StoreInfo, Stores
from nokv.proto.ids import StoreId
from nokv.router.curve import KeyPair
from nokv.workers.sockets import open_peer_sender


class Transport:
    """Pipes to all other stores' peer planes. Used by one thread."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        config: NodeConfig,
        hello_to: Callable[[StoreId], bytes],
        keys: KeyPair | None,
    ) -> None:
        self._context: Final = context
        self._config: Final = config
        self._hello_to: Final = hello_to
        self._keys: Final = keys

        self._pipes: dict[StoreId, tuple[StoreInfo, zmq.Socket[bytes]]] = {}
        self._blocked: frozenset[StoreId] = frozenset()

        self.sent = 0
        self.dropped = 0

    def set_stores(self, stores: Stores) -> None:
        """Connect to new addresses, let go of old ones, and know which stores are cut off on purpose."""
        own = StoreId(self._config.node.store_id)
        wanted = {info.id: info for info in stores.stores if info.id != own}
        for store_id in sorted(self._pipes):
            if wanted.get(store_id) != self._pipes[store_id][0]:
                self._pipes.pop(store_id)[1].close(linger=0)
        for store_id in sorted(wanted):
            if store_id not in self._pipes:
                info = wanted[store_id]
                socket = open_peer_sender(self._context, self._config, info, self._keys)
                self._pipes[store_id] = info, socket
        self._blocked = frozenset(stores.blocked)

    def send(self, store_id: StoreId, frames: Sequence[bytes]) -> bool:
        """Send frames as few messages. False: some were dropped."""
        pipe = self._pipes.get(store_id)
        if pipe is None or store_id in self._blocked:
            self.dropped += len(frames)
            return False
        hello = self._hello_to(store_id)
        limit = self._config.raft.peer_message_bytes_max
        batch, size = [hello], len(hello)
        complete = True
        for frame in frames:
            if size + len(frame) > limit and len(batch) > 1:
                complete &= self._send_message(pipe[1], batch)
                batch, size = [hello], len(hello)
            batch.append(frame)
            size += len(frame)
        return self._send_message(pipe[1], batch) and complete

    def close(self) -> None:
        """Close all pipes; what was not sent yet is dropped."""
        for _info, socket in self._pipes.values():
            socket.close(linger=0)
        self._pipes.clear()

    def _send_message(self, socket: "zmq.Socket[bytes]", batch: Sequence[bytes]) -> bool:
        try:
            socket.send(b"".join(batch), zmq.NOBLOCK, copy=True)
        except zmq.Again:
            self.dropped += len(batch) - 1
            return False
        self.sent += 1
        return True
