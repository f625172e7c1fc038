"""Child processes: how each is started, watched and ended.

Why: children are spawned, never forked into service: an LMDB environment or a ZeroMQ context must not cross a fork
(M47). A child must not outlive its supervisor either, however that dies.
Invariants: a child is in a process group of its own (Ctrl-C reaches only the supervisor, which drains); the kernel
kills it when the supervisor's main thread is gone; SIGHUP and SIGUSR1 are ignored until the child listens for them.
Not here: when to start one again (restarts), what their output becomes (logs).
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Final

from msgspec import Struct

READ_BYTES: Final = 1 << 16
"""Taken from an error stream at a time: the size of a pipe."""

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class ChildSpec(Struct, frozen=True):
    """What to start. `name` is for people ("worker 3"); `cpu` None = not pinned."""

    kind: str
    name: str
    command: tuple[str, ...]
    cpu: int | None = None


class Child:
    """One running child and the read end of its error stream."""

    def __init__(self, spec: ChildSpec) -> None:
        """Start it.

        Raises:
            OSError: the program cannot be run.
        """
        self.spec = spec
        self._process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
            preexec_fn=_before_exec(os.getpid()),
        )
        assert self._process.stderr is not None
        self._stderr: IO[bytes] = self._process.stderr
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """The error stream's descriptor, for a selector."""
        return self._stderr.fileno()

    def read(self) -> bytes | None:
        """What it has written to stderr: b"" at the end of the stream, None when there is nothing now."""
        try:
            return os.read(self.fileno(), READ_BYTES)
        except BlockingIOError:
            return None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative = killed by that signal."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when it is gone already."""
        self._process.send_signal(number)

    def pin(self, cpu: int) -> str | None:
        """Keep it on one CPU. Returns why not, where the system refuses."""
        try:
            os.sched_setaffinity(self.pid, {cpu})
        except OSError as error:
            return f"cannot pin {self.spec.name} to CPU {cpu}: {error.strerror}"
        return None

    def close(self) -> None:
        """Close our end of its error stream."""
        self._stderr.close()


def node_children(config_path: str, cpu_of: Sequence[int | None], *, python: str = sys.executable) -> list[ChildSpec]:
    """Manifest, router and one worker for each entry of `cpu_of`, in starting order."""

    def command(module: str, *more: str) -> tuple[str, ...]:
        return (python, "-m", module, "--config", config_path, *more)

    specs = [
        ChildSpec("manifest", "manifest", command("nokv.manifest")),
        ChildSpec("router", "router", command("nokv.router")),
    ]
    for index, cpu in enumerate(cpu_of):
        specs.append(ChildSpec("worker", f"worker {index}", command("nokv.workers", "--worker", str(index)), cpu))
    return specs


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; leave now if `parent_pid` is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above could count
        os._exit(1)


def _before_exec(supervisor_pid: int) -> Callable[[], None]:
    def run() -> None:
        """Between fork and exec: only system calls."""
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        die_with_parent(supervisor_pid)

    return run
