"""Clients of a process that forks: the child's copies are marked, so that using one is a clear error.

Why: sockets and I/O threads do not survive a fork; a copied client would hang or, worse, share a connection.
Invariants: the child never touches the parent's sockets, not even to close them.
Not here: what a marked client answers (async_net.py, blocking_net.py).
"""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that is of no use after a fork."""

    forked: bool


_watched: "WeakSet[Forkable]" = WeakSet()


def watch_fork(client: Forkable) -> None:
    """Set `forked` on it in the child of a fork."""
    _watched.add(client)


def _mark() -> None:
    for client in list(_watched):
        client.forked = True


os.register_at_fork(after_in_child=_mark)
