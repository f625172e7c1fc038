"""The loop: the thin shell that turns a core.

Why: sockets, files, clocks and threads are here so that nothing else needs them. Worker and manifest run the same
loop around different cores.
Invariants: one turn is drain, run, flush, send; a turn takes a bounded number of messages; sends never block; the log
is synced and checkpoints are committed on helper threads; a tick is never repeated to catch up, so that lease
arithmetic may rely on ticks being at least `tick_ms` apart; CLOCK_BOOTTIME counts suspended time.
Not here: any decision (the core's), what a full disk means for requests (admission.py).
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, Protocol

import zmq

from nokv.config import NodeConfig
from nokv.proto.control import Stores
from nokv.proto.ids import StoreId
from nokv.storage.engine import Engine, OutOfSpaceError
from nokv.storage.wal import Wal
from nokv.storage.wal_collector import Collector
from nokv.workers.figures import LoopFigures
from nokv.workers.shard import Shard
from nokv.workers.syncer import LogSyncer
from nokv.workers.transport import Transport
from nokv.workers.turn import Turn

log = logging.getLogger("nokv.loop")

DISK_LOOK_MS: Final = 1000
"""Distance of two looks at the free space of the disk."""
CHECKPOINT_RETRY_MS: Final = 1000
"""Wait after a checkpoint that found the disk full."""
PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")


class Core(Protocol):
    """What the loop turns. Times are monotonic milliseconds."""

    stores: Stores
    stores_changed: bool
    stopped: bool

    @property
    def engine(self) -> Engine: ...
    @property
    def wal(self) -> Wal: ...
    @property
    def shard(self) -> Shard: ...
    @property
    def figures(self) -> LoopFigures: ...
    @property
    def wants_checkpoint(self) -> bool: ...
    def hello_to(self, store_id: StoreId) -> bytes: ...
    def receive(self, address: bytes, message: bytes, now_ms: int) -> None: ...
    def tick(self, now_ms: int, wall_ms: int) -> None: ...
    def propose(self, now_ms: int) -> tuple[Turn, bool]: ...
    def apply(self, now_ms: int) -> tuple[Turn, bool]: ...
    def synced(self, position: int) -> None: ...
    def end_checkpoint(self, *, committed: bool) -> None: ...
    def set_disk(self, *, free_bytes: int, full: bool) -> None: ...
    def stop(self, now_ms: int) -> None: ...


def boot_ms() -> int:
    """Milliseconds since boot, suspended time included: the clock of leases and deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the epoch, as the wall clock has it. Only timestamps look at it."""
    return time.time_ns() // 1_000_000


class Loop:
    """Runs a core until it is told to stop."""

    def __init__(
        self,
        core: Core,
        config: NodeConfig,
        link: "zmq.Socket[bytes]",
        transport: Transport,
        free_bytes: Callable[[], int],
    ) -> None:
        self._core: Final = core
        self._config: Final = config
        self._link: Final = link
        self._transport: Final = transport
        self._free_bytes: Final = free_bytes
        self._collector: Final = Collector(core.wal)
        self._syncer: Final = LogSyncer(core.wal, sync=config.storage.sync)
        self._checkpoint_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller: Final = zmq.Poller()
        for source in (link, self._syncer.fd, self._checkpoint_fd, self._wake_fd):
            self._poller.register(source, zmq.POLLIN)

        self._next_tick_ms = 0
        self._next_look_ms = 0
        self._disk_full = False
        self._flush_failed = False
        self._checkpoint_began_ns = 0
        self._next_checkpoint_ms = boot_ms() + config.storage.checkpoint_ms
        self._unreachable: set[StoreId] = set()

    def install_signals(self) -> None:
        """SIGTERM asks the core to stop; SIGINT, which a terminal sends to the whole group, is the supervisor's."""

        def on_term(_signum: int, _frame: FrameType | None) -> None:
            os.eventfd_write(self._wake_fd, 1)  # nothing else: a handler may interrupt the middle of a turn

        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        """Turn until stopped, then make everything durable.

        Raises:
            StorageError: the disk failed or holds bytes that were not written; the process must end.
        """
        figures = self._core.figures
        while not self._core.stopped:
            timeout_ms = 0 if not self._core.shard.idle else max(0, self._next_tick_ms - boot_ms())
            ready = dict(self._poller.poll(timeout_ms))
            began_ns = time.monotonic_ns()
            self._turn(ready)
            figures.busy_us_total += (time.monotonic_ns() - began_ns) // 1000
        self._finish()

    # ---- one turn --------------------------------------------------------------------------------------------------

    def _turn(self, ready: "dict[zmq.Socket[bytes] | int, int]") -> None:
        core = self._core
        now_ms = boot_ms()
        if self._syncer.fd in ready:
            finished = self._syncer.finished()
            if finished is not None:
                core.figures.note_sync(finished[1])
                core.synced(finished[0])
        if self._checkpoint_fd in ready:
            self._end_checkpoint(now_ms)
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
            core.stop(now_ms)
        if self._link in ready:
            self._drain(now_ms)
        if now_ms >= self._next_tick_ms:
            self._tick(now_ms)
        for half in (core.propose, core.apply):
            turn, logged = half(now_ms)
            if logged or self._flush_failed:
                self._flush()
            self._send(turn)
        if not core.shard.checkpointing:
            self._maybe_checkpoint(now_ms)

    def _drain(self, now_ms: int) -> None:
        """Take what the router sent: (address, frames) pairs, a bounded number of messages."""
        receive, recv = self._core.receive, self._link.recv_multipart
        for _ in range(self._config.limits.inbox_messages_max):
            try:
                parts = recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            for at in range(0, len(parts) - 1, 2):
                receive(parts[at], parts[at + 1], now_ms)

    def _tick(self, now_ms: int) -> None:
        core = self._core
        if self._next_tick_ms:
            lag_ms = now_ms - self._next_tick_ms
            figures = core.figures
            figures.lag_us_max = max(figures.lag_us_max, lag_ms * 1000)
            if lag_ms > self._config.raft.tick_ms * self._config.raft.heartbeat_ticks // 2:
                figures.stalls += 1
                log.warning("the loop was late by %d ms: heartbeats suffer", lag_ms)
        self._next_tick_ms = now_ms + self._config.raft.tick_ms
        core.tick(now_ms, wall_ms())
        if core.stores_changed:
            core.stores_changed = False
            self._transport.set_stores(core.stores)
        if self._unreachable:
            core.shard.unreachable(self._unreachable)
            self._unreachable.clear()
        core.figures.peer_messages_sent = self._transport.sent
        core.figures.peer_messages_dropped = self._transport.dropped
        if now_ms >= self._next_look_ms:
            self._look_at_disk(now_ms)
            self._look_at_self()

    def _flush(self) -> None:
        """Hand the log's buffer to the file system and ask for a sync. A full disk keeps it for the next try."""
        core = self._core
        try:
            position = core.wal.flush()
        except OutOfSpaceError as error:
            if not self._flush_failed:
                log.error("log not written, trying again: %s", error)
            self._flush_failed = True
            self._set_disk(free_bytes=0, full=True)
            return
        self._flush_failed = False
        core.shard.stamp(position)
        if position <= self._syncer.durable:
            core.synced(position)  # a promise that rests on nothing new, such as a granted pre-vote
        else:
            self._syncer.request(position)

    def _send(self, turn: Turn) -> None:
        transport = self._transport
        own = StoreId(self._config.node.store_id)
        parts: list[bytes] = []
        for store_id, frames in turn.peers.items():
            if store_id == own:
                parts += (b"P", b"".join(frames))
            elif not transport.send(store_id, frames):
                self._unreachable.add(store_id)
        for address, frames in turn.replies.items():
            parts += (address, b"".join(frames))
        for address, frame in turn.local:
            parts += (address, frame)
        if not parts:
            return
        try:
            self._link.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            # The router has been gone for so long that a whole high-water mark of turns is queued. Clients have
            # given up long ago; Raft and heartbeats repeat themselves.
            self._core.figures.link_dropped += 1

    # ---- checkpoints and disk --------------------------------------------------------------------------------------

    def _maybe_checkpoint(self, now_ms: int) -> None:
        core, storage = self._core, self._config.storage
        dirty_bytes = core.engine.dirty_bytes()
        due = dirty_bytes >= storage.checkpoint_bytes or core.wants_checkpoint
        if self._disk_full and now_ms < self._next_checkpoint_ms:
            return
        if not due and not (dirty_bytes and now_ms >= self._next_checkpoint_ms):
            return
        self._checkpoint_began_ns = time.monotonic_ns()
        core.shard.begin_checkpoint()
        core.engine.begin_checkpoint(lambda: os.eventfd_write(self._checkpoint_fd, 1))

    def _end_checkpoint(self, now_ms: int) -> None:
        os.eventfd_read(self._checkpoint_fd)
        core = self._core
        try:
            core.engine.finish_checkpoint()
        except OutOfSpaceError as error:
            log.error("checkpoint put off: %s", error)
            self._next_checkpoint_ms = now_ms + CHECKPOINT_RETRY_MS
            self._set_disk(free_bytes=self._free_bytes(), full=True)
            core.end_checkpoint(committed=False)
            return
        core.figures.note_checkpoint((time.monotonic_ns() - self._checkpoint_began_ns) // 1000)
        self._next_checkpoint_ms = now_ms + self._config.storage.checkpoint_ms
        core.end_checkpoint(committed=True)
        self._collector.step(copy_bytes=self._config.storage.collect_bytes)
        self._flush()

    def _look_at_self(self) -> None:
        """What this process has used, for status and top."""
        figures = self._core.figures
        figures.cpu_us_total = time.process_time_ns() // 1000
        with open("/proc/self/statm", "rb") as statm:
            figures.rss_bytes = int(statm.read().split()[1]) * PAGE_BYTES

    def _look_at_disk(self, now_ms: int) -> None:
        """Full below the low mark, or while the log cannot be written; free again above the resume mark."""
        self._next_look_ms = now_ms + DISK_LOOK_MS
        storage = self._config.storage
        free_bytes = self._free_bytes()
        mark = storage.free_bytes_resume if self._disk_full else storage.free_bytes_min
        self._set_disk(free_bytes=free_bytes, full=self._flush_failed or free_bytes < mark)

    def _set_disk(self, *, free_bytes: int, full: bool) -> None:
        if full != self._disk_full:
            self._disk_full = full
            if full:
                log.error(
                    "disk nearly full, %d bytes free: writes are refused, reads and deletes are served", free_bytes
                )
            else:
                log.warning("disk has space again, %d bytes free: writes are served", free_bytes)
        self._core.set_disk(free_bytes=free_bytes, full=full)

    def _finish(self) -> None:
        """Leave a directory that opens at once: log synced, everything applied in a checkpoint."""
        core = self._core
        self._syncer.stop()
        try:
            if core.shard.checkpointing:
                core.engine.finish_checkpoint()
                core.end_checkpoint(committed=True)
            core.wal.flush()
            core.wal.sync()
            core.shard.begin_checkpoint()
            core.engine.checkpoint()
        except OutOfSpaceError as error:
            log.error("stopping without a checkpoint, the log replays at the next start: %s", error)
        core.engine.close()
        core.wal.close()
        self._transport.close()
        self._link.close()
