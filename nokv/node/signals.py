"""Signals as readable data: a supervisor waits for them together with its pipes.

Why: work done inside a signal handler meets half-changed state; here a handler does nothing and the loop acts.
Invariants: earlier handlers and the earlier wakeup descriptor come back at the end; main thread only.
"""

import signal
import socket
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any] | int | None


class SignalInbox:
    """A context manager that turns the given signals into bytes of a socket, see `fileno`."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

        self._handlers: list[tuple[int, _Handler]] = []
        self._wakeup_fd = -1

    def __enter__(self) -> "SignalInbox":
        self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            self._handlers.append((number, signal.signal(number, _leave_it_to_the_loop)))
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable when signals have come."""
        return self._reader.fileno()

    def take(self) -> bytes:
        """Numbers of the signals that came, in order; bytes, since each fits one."""
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""


def _leave_it_to_the_loop(_number: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor has the number already."""
