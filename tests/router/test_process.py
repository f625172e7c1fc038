"""The router as a process: it serves, it stops, and it says in one line why it does not start."""

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from nokv.config import NodeConfig, to_json
from nokv.proto.frame import Kind, encode
from nokv.router.curve import NODE_KEY, make_node_dir
from tests.router.rig import DEADLINE_S, Socket, node_config, receive

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nokv-router-", dir="/tmp") as made:
        yield Path(made)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts routers, and leaves none behind."""
    started: list[subprocess.Popen[str]] = []

    def start_one(config: NodeConfig, *flags: str) -> "subprocess.Popen[str]":
        path = Path(config.node.run_dir) / "effective.json"
        path.write_bytes(to_json(config))
        command = [sys.executable, *flags, "-m", "nokv.router", "--config", str(path)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and everything it said."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out + err


def ping(config: NodeConfig) -> bool:
    """Whether the client plane answers."""
    with zmq.Context[Socket]() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(f"tcp://{config.listen.client}")
        client.send(encode(Kind.PING, 1, 0))
        return receive(client) == encode(Kind.OK, 1, 0)


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_told_to_stop(run_dir: Path, start: Start, stop_signal: signal.Signals) -> None:
    config = node_config(str(run_dir))
    process = start(config)
    assert ping(config)
    title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert title.startswith(b"nokv: router node 1")
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    assert (run_dir / "link.ipc").stat().st_mode & 0o077 == 0
    process.send_signal(stop_signal)
    code, said = ended(process)
    assert code == 0 and "Traceback" not in said
    assert len(said.splitlines()) == 1 and config.listen.client in said


def test_it_listens_on_its_three_sockets_only(run_dir: Path, start: Start) -> None:
    config = node_config(str(run_dir))
    process = start(config)
    assert ping(config)
    inodes = set()
    for fd in os.listdir(f"/proc/{process.pid}/fd"):
        target = os.readlink(f"/proc/{process.pid}/fd/{fd}")
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    listening = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            listening.add(int(fields[1].split(":")[1], 16))
    wanted = {int(address.split(":")[1]) for address in (config.listen.client, config.listen.peer)}
    process.terminate()
    assert ended(process)[0] == 0
    assert listening == wanted
    assert not [line for line in Path("/proc/net/tcp6").read_text().splitlines()[1:] if line.split()[9] in inodes]


@pytest.mark.parametrize("plane", ["client", "peer"])
def test_a_taken_port_is_exit_7_and_one_line(run_dir: Path, start: Start, plane: str) -> None:
    config = node_config(str(run_dir))
    with socket.socket() as taken:
        host, port = getattr(config.listen, plane).split(":")
        taken.bind((host, int(port)))
        taken.listen()
        code, said = ended(start(config))
    assert code == 7 and len(said.splitlines()) == 1
    assert f"{plane} plane" in said and port in said and "in use" in said


def test_an_address_that_is_not_ours_is_exit_7(run_dir: Path, start: Start) -> None:
    config = node_config(str(run_dir))
    listen = msgspec.structs.replace(config.listen, client="192.0.2.1:6658", insecure_bind=True)
    code, said = ended(start(msgspec.structs.replace(config, listen=listen)))
    assert code == 7 and "192.0.2.1" in said and len(said.splitlines()) == 1


def test_optimised_python_is_refused(run_dir: Path, start: Start) -> None:
    code, said = ended(start(node_config(str(run_dir)), "-O"))
    assert code == 1 and "-O" in said and len(said.splitlines()) == 1


def test_an_open_run_directory_is_exit_5(run_dir: Path, start: Start) -> None:
    run_dir.chmod(0o755)
    code, said = ended(start(node_config(str(run_dir))))
    assert code == 5 and "0755" in said and len(said.splitlines()) == 1


def test_loose_keys_are_exit_5(run_dir: Path, start: Start) -> None:
    make_node_dir(run_dir / "curve")
    (run_dir / "curve" / NODE_KEY).chmod(0o644)
    code, said = ended(start(node_config(str(run_dir), str(run_dir / "curve"))))
    assert code == 5 and "chmod 0600" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("text", [None, b"{}garbage", b'{"router": {"linger": 5}}'])
def test_a_bad_configuration_is_exit_5(run_dir: Path, text: bytes | None) -> None:
    path = run_dir / "c.json"
    if text is not None:
        path.write_bytes(text)
    command = [sys.executable, "-m", "nokv.router", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 5 and str(path) in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_killed_router_starts_again_on_the_same_addresses(run_dir: Path, start: Start) -> None:
    config = node_config(str(run_dir))
    for _ in range(2):
        process = start(config)
        assert ping(config)
        process.kill()
        ended(process)
    process = start(config)
    assert ping(config)
    process.terminate()
    assert ended(process)[0] == 0
