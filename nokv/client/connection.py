"""What a network must offer to a client: dial an endpoint, send messages, hear of messages and of the end.

Why: the client's logic runs unchanged over ZeroMQ and over a simulator's network on virtual time.
Invariants: a connection is dialled once and never reconnects by itself; after `lost` nothing more is heard of it; no
callback runs inside `dial`, `send` or `close`.
Not here: ZeroMQ (zmq_socket.py, zmq_connection.py), the meaning of messages (link.py).
"""

from typing import Protocol

from nokv.client.endpoint import Endpoint


class Listener(Protocol):
    """Whoever dialled."""

    def received(self, message: bytes) -> None:
        """A message arrived, whole."""

    def writable(self) -> None:
        """After a `send` that returned False: sending may work again."""

    def lost(self, reason: str, *, refused_key: bool = False) -> None:
        """The connection could not be made, or is gone. `refused_key`: the other side did not accept our key."""


class Connection(Protocol):
    """One connection to one node."""

    def send(self, message: bytes) -> bool:
        """Hand over one message without waiting; False: no room now, `writable` will be called."""

    def close(self) -> None:
        """Give it up; what was not sent is dropped."""


class Dial(Protocol):
    """Opens connections."""

    def __call__(self, endpoint: Endpoint, listener: Listener) -> Connection:
        """Begin to connect; returns at once. Messages may be sent right away and travel once it is up."""
