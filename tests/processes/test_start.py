"""Starting and stopping as an operator does it: what runs, what is refused and with which exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

import nokv
from nokv.exitcodes import EXIT_CONFIG, EXIT_DATA_DIR, EXIT_FINE, EXIT_PORT, EXIT_UNEXPECTED, EXIT_USAGE
from nokv.node.admin import Address
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import suspended
from nokv.testing.local_node import LocalNode
from nokv.testing.ports import PortLease
from tests.processes.waiting import start_and_wait, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("start")]

READY_S = 20.0
"""Generous: under five seconds on a machine that has nothing else to do."""


class Single(NamedTuple):
    """A node that is not started yet, and where it keeps things."""

    node: LocalNode
    client: str
    peer: str
    data_dir: Path


@pytest.fixture
def ports() -> Iterator[tuple[str, str]]:
    """Two free addresses."""
    lease = PortLease(2)
    yield f"127.0.0.1:{lease.ports[0]}", f"127.0.0.1:{lease.ports[1]}"
    lease.close()


@pytest.fixture
def eight(tmp_path: Path, ports: tuple[str, str]) -> Iterator[Single]:
    """A node with eight workers, from the command line alone."""
    client, peer = ports
    data_dir = tmp_path / "data"
    arguments = ["--workers", "8", "--data-dir", str(data_dir), "--listen", client, "--peer-listen", peer]
    node = LocalNode(1, Address(client), [*arguments, "--log-format", "text"], tmp_path / "log")
    yield Single(node, client, peer, data_dir)
    node.kill()


def nokv_node(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nokv.cli.node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def titles(node: LocalNode) -> list[str]:
    """What `ps` shows of a node's children."""
    return sorted(" ".join(child.cmdline()) for child in psutil.Process(node.pid).children(recursive=True))


# ---- a whole life ---------------------------------------------------------------------------------------------------


def test_eight_workers_on_an_empty_directory_and_again_on_the_same(eight: Single, record_property: object) -> None:
    """S1, S8, S23."""
    node, client = eight.node, eight.client
    began = time.monotonic()
    node.start()
    wait_until(lambda: "ready    8/8 workers" in node.log_tail() or node.has_ended(), "eight workers")
    took = time.monotonic() - began
    assert not node.has_ended(), node.log_tail()
    assert took < READY_S
    assert callable(record_property)
    record_property("ready_s", round(took, 2))

    wait_until(lambda: all(title.startswith("nokv: ") for title in titles(node)), "all process titles")
    shown = titles(node)
    assert [title.split()[1] for title in shown] == ["manifest", "router", *["worker"] * 8], shown
    assert [title.split()[2].partition("/")[0] for title in shown[2:]] == [str(at) for at in range(8)]

    with nokv.Client(f"nokv://{client}", timeout=20.0) as db:
        for number in range(256):
            db.put(b"%02x-key" % number, b"%d" % number)
        status = db.cluster.status()
        workers = status.nodes[0].status.workers if status.nodes[0].status else ()
        assert [worker.state for worker in workers] == ["up"] * 8
    shown_by_command = json.loads(nokv_node("status", "--url", f"nokv://{client}", "--json").stdout)
    assert shown_by_command["nodes"][0]["workers"] == 8

    os.kill(node.pid, signal.SIGTERM)
    assert node.exit_code() == EXIT_FINE
    assert "Traceback" not in node.log_path.read_text()

    node.start()
    with nokv.Client(f"nokv://{client}", timeout=30.0, connect_timeout=30.0) as db:
        assert [db.get(b"%02x-key" % number) for number in range(256)] == [b"%d" % number for number in range(256)]
        assert sum(1 for _pair in db.scan()) == 256
    assert node.stop() == EXIT_FINE


def test_a_node_listens_at_its_two_addresses_and_nowhere_else(eight: Single) -> None:
    """S28: no worker and no manifest is reachable from outside."""
    eight.node.start()
    wait_until(lambda: "ready    8/8" in eight.node.log_tail(), "ready")
    listening: dict[str, set[str]] = {}
    for process in [psutil.Process(eight.node.pid), *psutil.Process(eight.node.pid).children(recursive=True)]:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                who = " ".join(process.cmdline()).split()[1]
                listening.setdefault(who, set()).add(f"{connection.laddr.ip}:{connection.laddr.port}")
    assert listening == {"router": {eight.client, eight.peer}}
    assert eight.node.stop() == EXIT_FINE


def test_workers_are_pinned_where_told_and_not_where_they_are_too_many(tmp_path: Path, ports: tuple[str, str]) -> None:
    """S6."""
    cpu = min(os.sched_getaffinity(0))
    arguments = ["--workers", "2", "--data-dir", str(tmp_path / "d"), "--listen", ports[0], "--peer-listen", ports[1]]
    for pin, pinned in ((str(cpu), True), ("none", False)):
        node = LocalNode(1, Address(ports[0]), [*arguments, "--pin", pin, "--log-format", "text"], tmp_path / "log")
        try:
            node.start()
            wait_until(lambda: len(node.children("worker")) == 2, "workers")  # noqa: B023 - used within the round
            wait_until(
                lambda: all((child.cpu_affinity() == [cpu]) == pinned for child in node.children("worker")),  # noqa: B023
                f"--pin {pin} to be obeyed",
            )
            wait_until(lambda: "ready " in node.log_tail(), "ready")  # noqa: B023
            assert node.stop() == EXIT_FINE
        finally:
            node.kill()
        node.log_path.unlink()


def test_a_shorter_tick_elects_sooner(tmp_path: Path) -> None:
    """N26: with ticks of 20 ms a dead leader is replaced in well under the second that 100 ms ticks need at least."""
    quick = {"raft.tick_ms": 20, "raft.lease_drift_ms": 20}
    with LocalCluster(nodes=3, workers=1, regions=1, settings=quick) as cluster:
        took = []
        for _ in range(3):
            leader = next(node for node in cluster.nodes if leads(cluster, node))
            others = [node for node in cluster.nodes if node is not leader]
            with suspended(*leader.children("worker")):
                took.append(wait_until(lambda: any(leads(cluster, node) for node in others), "another leader"))  # noqa: B023
            wait_until(lambda: not leads(cluster, leader), "the old leader to notice")  # noqa: B023
            cluster.wait_ready()
        assert min(took) < 0.9, "ten ticks of 100 ms are a second"


def leads(cluster: LocalCluster, node: LocalNode) -> bool:
    """Whether a node's own status says that it leads the first region."""
    return any(status.role == "leader" for status in cluster.status(node).regions)


# ---- where it starts from -------------------------------------------------------------------------------------------


def test_regions_of_other_stores_are_skipped_and_counted(tmp_path: Path) -> None:
    """S19, S22, S18: three regions in the directory, two of them with this store."""
    lease = PortLease(4)
    ports = list(zip(lease.ports[::2], lease.ports[1::2], strict=True))
    stores = [{"id": at, "client": f"127.0.0.1:{c}", "peer": f"127.0.0.1:{p}"} for at, (c, p) in enumerate(ports, 1)]
    regions = [
        {"id": 11, "start": "", "end": "g", "peers": [{"store": 1, "peer": 101}]},
        {"id": 12, "start": "g", "end": "p", "peers": [{"store": 1, "peer": 102}, {"store": 2, "peer": 202}]},
        {"id": 13, "start": "p", "end": "", "peers": [{"store": 2, "peer": 203}]},
    ]
    data = tmp_path / "d"
    data.mkdir()
    (data / "topology.json").write_text(json.dumps({"cluster_id": 7, "stores": stores, "regions": regions}))
    try:
        with LocalCluster(nodes=2, workers=1, ports=ports, data_dir=data) as cluster:
            for node in cluster.nodes:
                wait_until(lambda one=node: "ready " in one.log_path.read_text(), "ready")  # type: ignore[misc]
                text = node.log_path.read_text()
                assert "3 in the directory, 2 peers started here, 1 without this store" in text
                assert '[-inf, "g")' in text
            with nokv.Client(cluster.url, timeout=20.0) as db:
                for key in (b"a", b"h", b"z"):
                    db.put(key, key)
                assert list(db.scan()) == [(b"a", b"a"), (b"h", b"h"), (b"z", b"z")]
    finally:
        lease.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("client", "bad"), ("peer", "127.0.0.1:x"), ("peer", "127.0.0.1:99999"), ("id", "x"), ("id", 0)],
)
def test_an_address_or_id_that_is_none_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """S21."""
    store = {"id": 1, "client": "127.0.0.1:6658", "peer": "127.0.0.1:6659", field: value}
    path = tmp_path / "topology.json"
    path.write_text(json.dumps({"cluster_id": 1, "stores": [store], "presplit": {"regions": 1}}))
    done = start_and_wait("--topology", str(path), "--store-id", "1", "--data-dir", str(tmp_path / "d"))
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert f"stores[0].{field}" in done.stderr or "stores[0]" in done.stderr
    assert not (tmp_path / "d").exists()


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[raft]\nelection_ticks = 0\n", "raft.election_ticks"),
        ("[raft]\nelektion_ticks = 10\n", "raft.elektion_ticks"),
        ('[node]\nworkers = "many"\n', "node.workers"),
        ("[limits]\nkey_bytes_max = 401\n", "limits.key_bytes_max"),
        ("[storage]\nfree_bytes_min = 10\nfree_bytes_resume = 5\n", "storage.free_bytes"),
        ("[storage]\nmap_bytes_initial = 67108864\n", "storage.map_bytes_initial"),
        ("[storage]\nmap_bytes_step = 1048576\n", "storage.map_bytes_step"),
        ("[raft\n", "line 1"),
    ],
)
def test_a_broken_configuration_is_refused_by_the_name_of_its_field(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "nokv.toml"
    path.write_text(text)
    done = start_and_wait("--config", str(path), "--data-dir", str(tmp_path / "d"))
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert names in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("plane", ["--listen", "--peer-listen"])
def test_a_taken_port_is_refused_and_nothing_is_left_running(
    tmp_path: Path, ports: tuple[str, str], plane: str
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = f"127.0.0.1:{held.getsockname()[1]}"
        other = "--peer-listen" if plane == "--listen" else "--listen"
        done = start_and_wait("--data-dir", str(tmp_path / "d"), plane, taken, other, ports[0])
    assert done.returncode == EXIT_PORT, done.stderr
    assert taken in done.stderr


def test_a_bind_outside_loopback_without_keys_is_refused(tmp_path: Path, ports: tuple[str, str]) -> None:
    """A3."""
    done = start_and_wait("--data-dir", str(tmp_path / "d"), "--listen", "0.0.0.0:6658", "--peer-listen", ports[0])
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert "insecure" in done.stderr


def test_a_locked_directory_is_refused_by_the_name_of_its_owner(eight: Single, ports: tuple[str, str]) -> None:
    eight.node.start()
    wait_until(lambda: "ready    8/8" in eight.node.log_tail(), "ready")
    lease = PortLease(2)
    first, second = (f"127.0.0.1:{port}" for port in lease.ports)
    done = start_and_wait("--data-dir", str(eight.data_dir), "--listen", first, "--peer-listen", second)
    lease.close()
    assert done.returncode == EXIT_DATA_DIR
    assert str(eight.node.pid) in done.stderr
    assert eight.node.stop() == EXIT_FINE


@pytest.mark.parametrize("part", [".", "manifest", "worker-03"])
def test_a_newer_format_is_refused_wherever_it_is_met(eight: Single, part: str) -> None:
    """D8: one line that says what to do; nothing is touched."""
    eight.node.start()
    wait_until(lambda: "ready    8/8" in eight.node.log_tail(), "ready")
    assert eight.node.stop() == EXIT_FINE
    stamp = eight.data_dir / part / "VERSION"
    text = stamp.read_text()
    assert "format 1\n" in text
    stamp.write_text(text.replace("format 1\n", "format 99\n"))
    arguments = ["--workers", "8", "--data-dir", str(eight.data_dir), "--log-format", "text"]
    before = files_of(eight.data_dir)
    done = start_and_wait(*arguments, "--listen", eight.client, "--peer-listen", eight.peer)
    assert done.returncode == EXIT_DATA_DIR, done.stderr
    assert "has format 99" in done.stderr and "newer nokv" in done.stderr
    if part == ".":
        assert files_of(eight.data_dir) == before
    stamp.write_text(text)
    eight.node.start()
    wait_until(lambda: eight.node.log_path.read_text().count("ready    8/8") == 2, "the right format to start")
    assert eight.node.stop() == EXIT_FINE


def files_of(directory: Path) -> dict[str, bytes]:
    """Everything below a directory except locks, which name their last holder."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name not in ("LOCK", "lock.mdb")}


def test_a_directory_with_other_files_is_refused(tmp_path: Path, ports: tuple[str, str]) -> None:
    data = tmp_path / "d"
    data.mkdir()
    (data / "holiday.jpg").write_bytes(b"x")
    done = start_and_wait("--data-dir", str(data), "--listen", ports[0], "--peer-listen", ports[1])
    assert done.returncode == EXIT_DATA_DIR
    assert [path.name for path in data.iterdir()] == ["holiday.jpg"]


def test_another_worker_count_is_refused(eight: Single) -> None:
    eight.node.start()
    wait_until(lambda: "ready    8/8" in eight.node.log_tail(), "ready")
    assert eight.node.stop() == EXIT_FINE
    arguments = ["--workers", "3", "--data-dir", str(eight.data_dir), "--log-format", "text"]
    done = start_and_wait(*arguments, "--listen", eight.client, "--peer-listen", eight.peer)
    assert done.returncode in (EXIT_CONFIG, EXIT_DATA_DIR), done.stderr
    assert "8" in done.stderr


# ---- the command line (N28) -----------------------------------------------------------------------------------------


def test_usage_help_and_unknown_commands() -> None:
    nothing = nokv_node()
    assert nothing.returncode == EXIT_UNEXPECTED
    assert "Usage:" in nothing.stdout + nothing.stderr
    assert nokv_node("--help").returncode == EXIT_FINE
    assert nokv_node("start", "--help").returncode == EXIT_FINE
    unknown = nokv_node("dance")
    assert unknown.returncode == EXIT_USAGE
    assert "dance" in unknown.stderr and not unknown.stdout
