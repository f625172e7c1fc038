"""One real node of a test cluster: its supervisor process, and ways to hurt it.

Why: a test that kills a node must kill the whole family at once, as a power cut would, and must know that it is dead.
Invariants: after `kill` and `stop` no process of the node is left, nor after the end of the process that started it
(from its main thread), however that ends; the log of all runs is in one file.
Not here: what a cluster of them is (cluster.py).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

from nokv.node.admin import Address

KINDS: Final = ("manifest", "router", "worker")
EXIT_WAIT_S: Final = 40.0
"""Longer than any drain timeout a test uses."""
POLL_S: Final = 0.02
LOG_TAIL_LINES: Final = 30


class LocalNode:
    """A node that can be started, stopped, killed, paused and started again on the same data."""

    def __init__(self, store_id: int, address: Address, arguments: Sequence[str], log_path: Path) -> None:
        """`arguments` are those of `nokv-node start`."""
        self.store_id = store_id
        self.address = address
        self.log_path = log_path
        self._command = (sys.executable, "-m", "nokv.cli.node", "start", *arguments)

        self._process: subprocess.Popen[bytes] | None = None
        self._ended_by_us = False

    @property
    def client_addr(self) -> str:
        """The client plane, host:port."""
        return self.address.host_port

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start it; it is not ready yet."""
        assert not self.is_running(), f"node {self.store_id} runs already"
        self._ended_by_us = False
        command = list(self._command)
        if threading.current_thread() is threading.main_thread():
            # The kernel watches the thread that starts a process, and only the main one lives as long as we do.
            command += ["--die-with", str(os.getpid())]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def is_running(self) -> bool:
        """Whether its supervisor is alive."""
        return self._process is not None and self._process.poll() is None

    def has_ended(self) -> bool:
        """Whether it was started and ended by itself: not by `kill` or `stop`."""
        return self._process is not None and self._process.poll() is not None and not self._ended_by_us

    def exit_code(self, timeout_s: float = EXIT_WAIT_S) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        assert self._process is not None
        return self._process.wait(timeout_s)

    def ask_to_stop(self) -> None:
        """SIGTERM, as an operator would; returns at once."""
        if self.is_running():
            self._ended_by_us = True
            os.kill(self.pid, signal.SIGTERM)

    def stop(self, timeout_s: float = EXIT_WAIT_S) -> int:
        """Drain and stop. Returns the exit code; kills it if it does not leave in time."""
        if not self.is_running():
            return self.exit_code(0) if self._process is not None else 0
        family = self._family()
        self.ask_to_stop()
        try:
            return self.exit_code(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        finally:
            _kill_all(family)

    def kill(self) -> None:
        """SIGKILL the whole family at once and wait until it is gone."""
        if self._process is None:
            return
        self._ended_by_us = True
        family = self._family()
        for process in family:
            _quietly(process.kill)
        self._process.kill()
        self._process.wait()
        _kill_all(family)

    def children(self, kind: str) -> list[psutil.Process]:
        """Its processes of one kind, workers in order of their index."""
        assert kind in KINDS
        found = []
        for process in self._family():
            name = _kind_and_index(process)
            if name is not None and name[0] == kind:
                found.append((name[1], process))
        return [process for _, process in sorted(found, key=lambda pair: pair[0])]

    def signal_child(self, kind: str, number: signal.Signals, index: int = 0) -> int:
        """Send a signal to one child; returns its process id."""
        child = self.children(kind)[index]
        child.send_signal(number)
        return child.pid

    def pause(self) -> None:
        """SIGSTOP the whole family: what a long stall of the machine looks like to others."""
        for process in self._family():
            _quietly(process.suspend)

    def resume(self) -> None:
        """SIGCONT the whole family."""
        for process in self._family():
            _quietly(process.resume)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _family(self) -> list[psutil.Process]:
        """The supervisor and its children, as far as they live."""
        if not self.is_running():
            return []
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _kind_and_index(process: psutil.Process) -> tuple[str, int] | None:
    """What a child is, by its command line at first and by its title once it has set one."""
    try:
        words = " ".join(process.cmdline()).replace("nokv.workers", "nokv: worker").split()
    except psutil.Error:
        return None
    text = " ".join(words)
    for kind in ("manifest", "router"):
        if text.startswith(f"nokv: {kind}") or f"-m nokv.{kind}" in text:
            return kind, 0
    if text.startswith("nokv: worker"):
        return "worker", int(words[2].partition("/")[0])
    if "--worker" in words:
        return "worker", int(words[words.index("--worker") + 1])
    return None


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return  # it was faster


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill_all(family: Sequence[psutil.Process]) -> None:
    """Make sure that nobody of a family is left."""
    for process in family:
        _quietly(process.kill)
    deadline = time.monotonic() + EXIT_WAIT_S
    for process in family:
        while _is_alive(process):
            assert time.monotonic() < deadline, f"process {process.pid} does not die"
            time.sleep(POLL_S)
