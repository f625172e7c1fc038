"""Bounded queues in front of pipes: one for each process on the link, one for each client that does not read.

Why: libzmq's high-water marks count messages, drop in silence or block; here memory is bounded in bytes, a full pipe
is met with a typed answer, and what is dropped is counted.
Invariants: what was taken and not put back has been sent; a queue holds at most its limit plus one message; frames of
one receiver keep their order, except behind a message that was put back.
Not here: what is refused or dropped then (dispatch.py), the sending itself (loop.py).
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final

from nokv.config import RouterSection

DUE_CLIENTS_MAX: Final = 64
"""Slow clients tried again in one turn; bounds what they can take from the others."""


class Batch:
    """One link message being filled: address, frames, address, frames, ..."""

    __slots__ = ("bytes", "frames", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bytes = 0
        self.frames = 0


class LinkQueue:
    """What waits for one worker or the manifest. Normally empty after each turn."""

    __slots__ = (
        "_blocked_before_ms",
        "_closed",
        "_open",
        "blocked_since_ms",
        "bytes_max",
        "flush_bytes",
        "frames_max",
        "full",
        "identity",
        "waiting_bytes",
        "waiting_frames",
        "waiting_ms_max",
    )

    def __init__(self, identity: bytes, limits: RouterSection) -> None:
        """An empty queue for the process with this link identity."""
        self.identity: Final = identity
        self.bytes_max: Final = limits.worker_queue_bytes_max
        self.frames_max: Final = limits.worker_queue_frames_max
        self.waiting_ms_max: Final = limits.worker_queue_ms_max
        self.flush_bytes: Final = limits.flush_bytes

        self._open = Batch()
        self._closed: list[Batch] = []
        self.blocked_since_ms: int | None = None
        self._blocked_before_ms: int | None = None

        # Derived: sums over the batches, and whether they have reached a limit, for the admission of each message.
        self.waiting_bytes = 0
        self.waiting_frames = 0
        self.full = False

    def add(self, address: bytes, frames: bytes, count: int) -> None:
        """Append `count` frames that came from (or are for) `address`. The caller has looked at `full`."""
        batch = self._open
        size = len(frames)
        batch.parts += (address, frames)
        batch.bytes += size
        batch.frames += count
        self.waiting_bytes += size
        self.waiting_frames += count
        self.full = self.waiting_bytes >= self.bytes_max or self.waiting_frames >= self.frames_max
        if batch.bytes >= self.flush_bytes:
            self._closed.append(batch)
            self._open = Batch()

    def take(self) -> list[Batch]:
        """Everything that waits, in order, as the messages to send now. What is not put back counts as sent."""
        batches = self._closed
        if self._open.parts:
            batches.append(self._open)
            self._open = Batch()
        if not batches:
            return []
        self._closed = []
        self.waiting_bytes = self.waiting_frames = 0
        self.full = False
        self._blocked_before_ms, self.blocked_since_ms = self.blocked_since_ms, None
        return batches

    def put_back(self, batches: Sequence[Batch], now_ms: int) -> list[Batch]:
        """The pipe is full from the first of `batches` on. Returns those that have waited too long, to be refused.

        A pipe that has not moved for `waiting_ms_max` gets nothing more to wait: whoever asks must know now.
        """
        since_ms = self._blocked_before_ms
        self.blocked_since_ms = now_ms if since_ms is None else since_ms
        if now_ms - self.blocked_since_ms >= self.waiting_ms_max:
            return list(batches)
        self._closed[:0] = batches
        for batch in batches:
            self.waiting_bytes += batch.bytes
            self.waiting_frames += batch.frames
        self.full = self.waiting_bytes >= self.bytes_max or self.waiting_frames >= self.frames_max
        return []


class _Slow:
    """A client whose pipe is full. `trying`: a message was taken and nobody has said that it did not go through."""

    __slots__ = ("bytes", "due_ms", "messages", "trying", "wait_ms")

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.bytes = 0
        self.due_ms = -1
        self.trying = False
        self.wait_ms = 0


class SlowClients:
    """Replies to clients that do not read as fast as they ask: bounded for each and for all of them together."""

    __slots__ = (
        "_bytes_max",
        "_clients",
        "_due",
        "_each_bytes_max",
        "_flush_bytes",
        "_wait_ms",
        "_wait_ms_max",
        "bytes",
    )

    def __init__(self, limits: RouterSection) -> None:
        """Nobody is slow yet."""
        self._each_bytes_max: Final = limits.client_queue_bytes_max
        self._bytes_max: Final = limits.clients_queue_bytes_max
        self._flush_bytes: Final = limits.flush_bytes
        self._wait_ms: Final = limits.slow_retry_ms
        self._wait_ms_max: Final = limits.slow_retry_ms_max

        self._clients: dict[bytes, _Slow] = {}
        self._due: list[tuple[int, bytes]] = []
        self.bytes = 0

    def __contains__(self, identity: bytes) -> bool:
        """Whether replies to this client must wait behind others."""
        return identity in self._clients

    def __len__(self) -> int:
        """How many clients are slow."""
        return len(self._clients)

    def add(self, identity: bytes, message: bytes) -> bool:
        """Queue a reply for a client that is already slow; False: no room, it is to be dropped."""
        slow = self._clients[identity]
        if slow.bytes + len(message) > self._each_bytes_max and slow.messages:
            return False
        if self.bytes + len(message) > self._bytes_max:
            return False
        slow.messages.append(message)
        slow.bytes += len(message)
        self.bytes += len(message)
        return True

    def put_back(self, identity: bytes, message: bytes, now_ms: int) -> bool:
        """A client's pipe refused `message`. False: no room to keep it, it is to be dropped."""
        slow = self._clients.get(identity)
        if slow is None:
            slow = self._clients[identity] = _Slow()
            slow.trying = True
        if not slow.trying:  # a later message of the same flush
            return self.add(identity, message)
        slow.trying = False
        slow.wait_ms = min(max(2 * slow.wait_ms, self._wait_ms), self._wait_ms_max)
        self._schedule(identity, slow, now_ms + slow.wait_ms)
        if self.bytes + len(message) > self._bytes_max:
            return False
        slow.messages.appendleft(message)
        slow.bytes += len(message)
        self.bytes += len(message)
        return True

    def drop(self, identity: bytes) -> list[bytes]:
        """The client is gone: forget it; returns what was waiting for it."""
        slow = self._clients.pop(identity, None)
        if slow is None:
            return []
        self.bytes -= slow.bytes
        return list(slow.messages)

    def take_due(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """One message for each client whose turn it is to be tried again."""
        taken: list[tuple[bytes, bytes]] = []
        while self._due and self._due[0][0] <= now_ms and len(taken) < DUE_CLIENTS_MAX:
            due_ms, identity = heappop(self._due)
            slow = self._clients.get(identity)
            if slow is None or slow.due_ms != due_ms:
                continue
            if not slow.messages:  # the last try went through and nothing has come since
                del self._clients[identity]
                continue
            if slow.trying:  # the one before went through
                slow.wait_ms = 0
            slow.trying = True
            taken.append((identity, self._next_message(slow)))
            self._schedule(identity, slow, now_ms + self._wait_ms)
        return taken

    def next_due_ms(self) -> int | None:
        """When the next slow client is to be tried, None if there is none."""
        return self._due[0][0] if self._due else None

    def _next_message(self, slow: _Slow) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while slow.messages and (not pieces or size + len(slow.messages[0]) <= self._flush_bytes):
            pieces.append(slow.messages.popleft())
            size += len(pieces[-1])
        slow.bytes -= size
        self.bytes -= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _schedule(self, identity: bytes, slow: _Slow, due_ms: int) -> None:
        slow.due_ms = due_ms
        heappush(self._due, (due_ms, identity))
