"""One real node from the outside: start, serve, restart, refuse, drain. Every test starts real processes."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import nokv
from nokv.cli.entry import run
from nokv.cli.node import node as nokv_node
from nokv.exitcodes import EXIT_DATA_DIR, EXIT_PORT
from nokv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def single() -> Iterator[LocalCluster]:
    """One node with two workers, ready."""
    with LocalCluster(nodes=1, workers=2, regions=4) as cluster:
        yield cluster


def wait_until(holds: object, what: str, timeout_s: float = 30.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)


def start_and_wait(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`nokv-node start` that is expected to end by itself."""
    command = [sys.executable, "-m", "nokv.cli.node", "start", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_node_is_one_router_one_manifest_and_its_workers(single: LocalCluster) -> None:
    """S1."""
    node = single.nodes[0]
    assert [len(node.children(kind)) for kind in ("router", "manifest", "worker")] == [1, 1, 2]
    assert len(psutil.Process(node.pid).children(recursive=True)) == 4
    wait_until(lambda: single.status(node).node.router_pid, "the router's first report")
    status = single.status(node).node
    assert status.manifest_pid == node.children("manifest")[0].pid
    assert status.router_pid == node.children("router")[0].pid
    assert [worker.pid for worker in status.workers] == [process.pid for process in node.children("worker")]


def test_the_start_log_says_what_is_served(single: LocalCluster) -> None:
    """S22."""
    wait_until(lambda: "ready    2/2 workers" in single.nodes[0].log_path.read_text(), "the ready line")
    text = single.nodes[0].log_path.read_text()
    assert "4 in the directory, 4 peers started here, 0 without this store" in text
    assert "[-inf, " in text
    assert f"client {single.nodes[0].client_addr}" in text


def test_the_run_directory_is_private(single: LocalCluster) -> None:
    run_dir = single.run_root / "n1"
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert (run_dir / "pid").read_text().strip() == str(single.nodes[0].pid)


@pytest.mark.parametrize("kind", ["worker", "router", "manifest"])
def test_a_killed_child_comes_back_and_data_with_it(single: LocalCluster, kind: str) -> None:
    with nokv.Client(single.url, timeout=20.0) as db:
        for number in range(40):
            db.put(b"%d-key" % number, b"before")
        killed = single.nodes[0].signal_child(kind, signal.SIGKILL)
        wait_until(lambda: killed not in [child.pid for child in single.nodes[0].children(kind)], "the kill")
        for number in range(40):
            assert db.get(b"%d-key" % number) == b"before"
            db.put(b"%d-key" % number, b"after")
        single.wait_ready()
        assert all(db.get(b"%d-key" % number) == b"after" for number in range(40))


def test_sigterm_drains_and_the_data_is_there_again(single: LocalCluster) -> None:
    """S23."""
    node = single.nodes[0]
    with nokv.Client(single.url, timeout=20.0) as db:
        db.put(b"a", b"1")
        assert node.stop() == 0
        assert not (single.run_root / "n1").exists()
        node.start()
        single.wait_ready()
        assert db.get(b"a") == b"1"
    text = node.log_path.read_text()
    assert "draining" in text
    assert "Traceback" not in text
    assert "killed" not in text


def test_kill_of_everything_loses_nothing_acknowledged(single: LocalCluster) -> None:
    with nokv.Client(single.url, timeout=20.0) as db:
        for round_number in range(3):
            for number in range(20):
                db.put(b"%d-key" % number, b"%d" % round_number)
            single.nodes[0].kill()
            single.nodes[0].start()
            single.wait_ready()
            assert [db.get(b"%d-key" % number) for number in range(20)] == [b"%d" % round_number] * 20


def test_stacks_of_all_processes_on_sigusr1(single: LocalCluster) -> None:
    node = single.nodes[0]
    before = node.log_path.read_text().count("most recent call first")
    os.kill(node.pid, signal.SIGUSR1)
    wait_until(lambda: node.log_path.read_text().count("most recent call first") >= before + 5, "five stacks")
    assert node.is_running()


def test_a_second_node_on_the_same_data_is_refused(single: LocalCluster) -> None:
    done = start_and_wait(
        *("--data-dir", str(single.data_root / "node-1")),
        *("--listen", "127.0.0.1:28471", "--peer-listen", "127.0.0.1:28472"),
    )
    assert done.returncode == EXIT_DATA_DIR
    assert str(single.nodes[0].pid) in done.stderr
    assert single.nodes[0].is_running()


def test_a_taken_port_is_refused_before_anything_is_started(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        address = f"127.0.0.1:{held.getsockname()[1]}"
        assert (
            run(nokv_node, "nokv-node", ["start", "--data-dir", str(tmp_path / "d"), "--listen", address]) == EXIT_PORT
        )
    assert address in capfd.readouterr().err


def test_another_store_id_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        topology = json.loads(cluster.topology_path.read_text())
        cluster.nodes[0].stop()
        topology["stores"][0]["id"] = 2
        for region in topology["regions"]:
            region["leader"] = 2
            region["peers"] = [{"store": 2, "peer": peer["peer"]} for peer in region["peers"]]
        cluster.topology_path.write_text(json.dumps(topology))
        done = start_and_wait(
            *("--topology", str(cluster.topology_path), "--store-id", "2"),
            *("--data-dir", str(cluster.data_root / "node-1"), "--run-dir", str(cluster.run_root / "other")),
        )
        assert done.returncode == EXIT_DATA_DIR, done.stderr


def test_regions_can_be_read_from_a_stopped_node(single: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """S57."""
    arguments = ["regions", "--data-dir", str(single.data_root / "node-1"), "--json"]
    assert run(nokv_node, "nokv-node", arguments) == EXIT_DATA_DIR, "a running node's directory is locked"
    single.nodes[0].stop()
    capsys.readouterr()
    assert run(nokv_node, "nokv-node", arguments) == 0
    rows = json.loads(capsys.readouterr().out)["regions"]
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert {row["state"] for row in rows} == {"running"}


def test_a_node_without_any_file_makes_its_own_cluster(tmp_path: Path) -> None:
    from nokv.node.admin import Address
    from nokv.testing.local_node import LocalNode
    from nokv.testing.ports import PortLease

    lease = PortLease(2)
    client, peer = (f"127.0.0.1:{port}" for port in lease.ports)
    arguments = ["--data-dir", str(tmp_path / "d"), "--listen", client, "--peer-listen", peer, "--workers", "1"]
    node = LocalNode(1, Address(client), [*arguments, "--log-format", "text"], tmp_path / "log")
    try:
        for _ in range(2):
            node.start()
            wait_until(lambda: "ready " in node.log_tail() or node.has_ended(), "ready")
            with nokv.Client(f"nokv://{client}", timeout=20.0) as db:
                db.put(b"hello", b"world")
                assert db.get(b"hello") == b"world"
            assert node.stop() == 0, node.log_tail()
            node.log_path.rename(tmp_path / f"log-{time.monotonic_ns()}")
    finally:
        node.kill()
        lease.close()
