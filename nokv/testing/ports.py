"""Ports for test clusters that nobody else takes, also not between a kill and the restart that follows it.

Why: a port from bind(0) is ephemeral: while its node is down, any outgoing connection of the machine may get it.
Rule: ports are taken from a range below the ephemeral one, and each is held by a lock file for as long as the lease
lives, so that test processes running side by side never choose the same.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from random import SystemRandom
from typing import Final

PORT_MIN: Final = 12_000
PORT_MAX: Final = 30_000
ATTEMPTS_MAX: Final = 2000


class PortLease:
    """Free TCP ports on 127.0.0.1, ours until `close`."""

    def __init__(self, count: int) -> None:
        """Take `count` ports.

        Raises:
            OSError: there are not enough free ones.
        """
        self._directory = Path(tempfile.gettempdir()) / f"nokv-ports-{os.getuid()}"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._handles: dict[int, int] = {}
        random = SystemRandom()
        for _ in range(ATTEMPTS_MAX):
            if len(self._handles) == count:
                break
            self._try(random.randrange(PORT_MIN, PORT_MAX))
        if len(self._handles) < count:
            self.close()
            raise OSError(f"cannot find {count} free ports between {PORT_MIN} and {PORT_MAX}")
        self.ports = tuple(self._handles)

    def close(self) -> None:
        """Give them back; idempotent."""
        for port, handle in self._handles.items():
            (self._directory / str(port)).unlink(missing_ok=True)
            os.close(handle)
        self._handles.clear()

    def _try(self, port: int) -> None:
        if port in self._handles:
            return
        path = self._directory / str(port)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return
        if is_free(port) and path.exists():
            self._handles[port] = handle
        else:
            os.close(handle)


def is_free(port: int) -> bool:
    """Whether a listener could be bound to this port of 127.0.0.1 now."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
