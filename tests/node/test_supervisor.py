"""The supervisor over real (small) children: restarts, refusals, draining, signals, and nobody left behind."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.processes

DEADLINE_S = 20.0
TELL = "import sys, os, signal, time\ndef tell(*a): print(*a, file=sys.stderr, flush=True)\n"
STAY = TELL + "tell('up', os.getpid())\nwhile True: signal.pause()\n"
LEAVES = TELL + (
    "def bye(n, f):\n    tell('leaving')\n    sys.exit(0)\nsignal.signal(signal.SIGTERM, bye)\n"
    "tell('up', os.getpid())\nwhile True: signal.pause()\n"
)
DEAF = TELL + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell('up', os.getpid())\nwhile True: signal.pause()\n"


class Run:
    """A supervised family; its stderr lines are gathered as they come."""

    def __init__(self, children: list[tuple[str, str, str]], **changes: Any) -> None:
        spec = {"children": children, "ready_file": None, "as_text": True, "drain_timeout_s": 5} | changes
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.supervised", json.dumps(spec)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_line(self, *parts: str) -> str:
        """The next line with all `parts` in it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"ended without {parts}: {self.lines}"
            self.lines.append(line)
            if all(part in line for part in parts):
                return line

    def end(self) -> int:
        """Its exit code; the rest of its lines are in `lines`."""
        code = self.process.wait(DEADLINE_S)
        while (line := self._queue.get(timeout=DEADLINE_S)) is not None:
            self.lines.append(line)
        return code


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.wait()


def pid_in(line: str) -> int:
    return int(line.rsplit(" ", 1)[1])


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_starts_all_serves_and_drains_the_manifest_first(runs: list[Run]) -> None:
    manifest = LEAVES.replace("tell('leaving')", "time.sleep(0.2); tell('manifest drained')")
    run = Run([("manifest", "manifest", manifest), ("router", "router", LEAVES), ("worker", "worker 0", LEAVES)])
    runs.append(run)
    run.wait_line("ready after")
    seen = {line.split("]")[0][1:] for line in run.lines if "] up " in line}
    while seen != {"manifest", "router", "worker 0"}:
        seen.add(run.wait_line("] up ").split("]")[0][1:])
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    order = [line for line in run.lines if "leaving" in line or "drained" in line]
    assert order[0] == "[manifest] manifest drained"
    assert sorted(order[1:]) == ["[router] leaving", "[worker 0] leaving"]


def test_a_killed_child_is_started_again(runs: list[Run]) -> None:
    run = Run([("worker", "worker 0", STAY)])
    runs.append(run)
    first = pid_in(run.wait_line("[worker 0] up"))
    os.kill(first, signal.SIGKILL)
    assert "SIGKILL" in run.wait_line("ended with")
    second = pid_in(run.wait_line("[worker 0] up"))
    assert second != first


def test_a_child_that_cannot_start_ends_the_node_at_once_with_its_code(runs: list[Run], tmp_path: Path) -> None:
    dies = TELL + "tell('data directory is locked'); sys.exit(6)\n"
    run = Run([("manifest", "manifest", STAY), ("worker", "worker 0", dies)], ready_file=str(tmp_path / "never"))
    runs.append(run)
    assert run.end() == 6
    assert "[worker 0] data directory is locked" in run.lines
    assert any("cannot start (code 6)" in line for line in run.lines)


def test_a_child_that_dies_again_and_again_before_ready_ends_the_node(runs: list[Run], tmp_path: Path) -> None:
    run = Run([("worker", "worker 0", TELL + "sys.exit(1)\n")], ready_file=str(tmp_path / "never"))
    runs.append(run)
    assert run.end() == 1
    assert sum("starting it again" in line for line in run.lines) == 4


def test_after_ready_the_same_death_is_only_restarted(runs: list[Run], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = TELL + f"import pathlib\nif pathlib.Path({str(ready)!r}).exists(): sys.exit(6)\n" + STAY
    run = Run([("worker", "worker 0", code)], ready_file=str(ready))
    runs.append(run)
    pid = pid_in(run.wait_line("up"))
    ready.touch()
    run.wait_line("ready after")
    os.kill(pid, signal.SIGKILL)
    for _ in range(3):
        run.wait_line("ended with code 6: starting it again")
    ready.unlink()
    run.wait_line("up")


def test_what_ignores_the_drain_is_killed_at_its_end(runs: list[Run]) -> None:
    run = Run([("manifest", "manifest", DEAF), ("worker", "worker 0", DEAF)], drain_timeout_s=0.5)
    runs.append(run)
    pids = [pid_in(run.wait_line("up")) for _ in range(2)]
    if not any("ready" in line for line in run.lines):
        run.wait_line("ready after")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert sum("did not leave in time: killed" in line for line in run.lines) == 2
    for pid in pids:
        wait_gone(pid)


def test_a_second_interrupt_stops_at_once(runs: list[Run]) -> None:
    run = Run([("manifest", "manifest", DEAF)], drain_timeout_s=600)
    runs.append(run)
    run.wait_line("up")
    if not any("ready" in line for line in run.lines):
        run.wait_line("ready after")
    run.process.send_signal(signal.SIGINT)
    run.wait_line("draining")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_sigterm_before_ready_leaves_without_draining(runs: list[Run], tmp_path: Path) -> None:
    run = Run([("manifest", "manifest", LEAVES)], ready_file=str(tmp_path / "never"))
    runs.append(run)
    run.wait_line("up")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert "[manifest] leaving" in run.lines


def test_children_die_with_their_supervisor(runs: list[Run]) -> None:
    run = Run([("manifest", "manifest", DEAF), ("worker", "worker 0", DEAF)])
    runs.append(run)
    pids = [pid_in(run.wait_line("up")) for _ in range(2)]
    run.process.kill()
    for pid in pids:
        wait_gone(pid)


def test_operator_signals_reach_everyone_and_kill_nobody(runs: list[Run]) -> None:
    listens = TELL + (
        "import faulthandler\nfaulthandler.register(signal.SIGUSR1)\n"
        "signal.signal(signal.SIGHUP, lambda n, f: tell('level read'))\n"
        "tell('up', os.getpid())\nwhile True: signal.pause()\n"
    )
    run = Run([("worker", "worker 0", listens), ("worker", "worker 1", STAY)])
    runs.append(run)
    for _ in range(2):
        run.wait_line("up")
    run.process.send_signal(signal.SIGHUP)
    run.wait_line("reloaded")
    run.wait_line("[worker 0] level read")
    run.process.send_signal(signal.SIGUSR1)
    run.wait_line("[worker 0]", "File")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert not any("starting it again" in line for line in run.lines)


def test_ctrl_c_in_the_terminal_reaches_only_the_supervisor(runs: list[Run]) -> None:
    run = Run([("worker", "worker 0", STAY)])
    runs.append(run)
    pid = pid_in(run.wait_line("up"))
    assert os.getpgid(pid) == pid != os.getpgid(run.process.pid)


def test_json_lines_stay_objects_whatever_children_write(runs: list[Run]) -> None:
    writes = TELL + "tell('{\"level\": \"info\"}'); tell('Traceback'); sys.stderr.write('half'); sys.exit(5)\n"
    run = Run([("worker", "worker 0", writes)], as_text=False, ready_file="/nonexistent/file")
    runs.append(run)
    assert run.end() == 5
    objects = [json.loads(line) for line in run.lines if not line.startswith("[node]")]
    assert objects[0] == {"level": "info"}
    assert [entry["message"] for entry in objects[1:]] == ["Traceback", "half"]
    assert {entry["process"] for entry in objects[1:]} == {"worker 0"}


def test_a_program_that_cannot_be_run_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    code = (
        "from random import Random\nfrom nokv.node.children import ChildSpec\n"
        "from nokv.node.supervisor import Supervisor\nimport sys\n"
        "sys.exit(Supervisor([ChildSpec('worker', 'w', ('/no/such/program',))], waits_for=lambda: 'x',"
        " on_ready=print, on_reload=print, say=lambda l, m: print(l, m), write=print, as_text=True, drain_timeout_s=1,"
        " random=Random(1)).run())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert "w cannot be run" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_does_not_take_the_node_with_it() -> None:
    chatty = TELL + "while True:\n    tell('x' * 1000)\n    time.sleep(0.001)\n"
    spec = {"children": [("worker", "worker 0", chatty)], "ready_file": None, "as_text": True, "drain_timeout_s": 5}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.node.supervised", json.dumps(spec)],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stderr is not None
        assert b"x" * 100 in process.stderr.read(4000)
        process.stderr.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
