"""Log syncer: a thread that makes the log durable, so that the loop never waits for a disk.

Why: a sync that stalls the loop delays heartbeats and causes elections. fdatasync releases the interpreter lock, so the
loop turns on meanwhile.
Invariants: at most one sync is under way, and it covers everything flushed before it began; completion is told through
an eventfd that the loop polls; an error is kept and raised in the loop, where it ends the process.
Not here: what is written (nokv.storage), checkpoints, which have a thread of their own (nokv.storage.lmdb_engine).
"""

import os
import queue
import threading
import time
from typing import Final

from nokv.storage.wal import Wal


class LogSyncer:
    """Syncs the log on a thread of its own. All methods are called by the loop."""

    def __init__(self, wal: Wal, *, sync: bool) -> None:
        self._wal: Final = wal
        self._sync: Final = sync
        self._requests: Final[queue.SimpleQueue[int | None]] = queue.SimpleQueue()
        self.fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        self._busy = False
        self._wanted = 0
        self._done = 0
        self._finished = wal.durable_position
        self._last_us = 0
        self._error: BaseException | None = None

        self._thread = threading.Thread(target=self._work, name="log-sync", daemon=True)
        self._thread.start()

    @property
    def durable(self) -> int:
        """The position up to which the log is known to be durable."""
        return self._finished

    def request(self, position: int) -> None:
        """Everything flushed up to `position` is to become durable."""
        if position > self._wanted:
            self._wanted = position
            self._start()

    def finished(self) -> tuple[int, int] | None:
        """After `fd` became readable: (durable position, microseconds it took), or None if it was a false alarm.

        Raises:
            StorageError: the disk failed; nothing after the last position may be acknowledged.
        """
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return None
        if self._error is not None:
            raise self._error
        self._busy = False
        self._finished = self._done
        result = self._done, self._last_us
        self._start()
        return result

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._requests.put(None)
        self._thread.join(timeout=30)

    def _start(self) -> None:
        if not self._busy and self._wanted > self._done:
            self._busy = True
            self._requests.put(self._wanted)

    def _work(self) -> None:
        while True:
            position = self._requests.get()
            if position is None:
                return
            began = time.monotonic_ns()
            try:
                if self._sync:
                    self._wal.sync()
            except Exception as error:  # noqa: BLE001 - a thread's main: the loop raises it and the process ends
                self._error = error
            self._last_us = (time.monotonic_ns() - began) // 1000
            self._done = position
            os.eventfd_write(self.fd, 1)
