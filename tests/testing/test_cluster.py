"""LocalCluster with three real nodes, and the demo on it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import nokv
from nokv.testing.audit import compare_replicas
from nokv.testing.cluster import ClusterError, LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


def test_three_nodes_survive_the_loss_of_one(tmp_path: Path) -> None:
    with LocalCluster(nodes=3, workers=1, regions=3) as cluster, nokv.Client(cluster.url, timeout=20.0) as db:
        for number in range(30):
            db.put(b"%d-key" % number, b"1")
        counts = cluster.leader_count()
        assert sum(counts.values()) == 3
        victim = cluster.node(max(counts, key=lambda store_id: counts[store_id]))
        victim.kill()
        assert not victim.is_running()
        for number in range(30):
            db.put(b"%d-key" % number, b"2")
        victim.start()
        cluster.wait_ready()
        addresses = {store.id: cluster.node(store.id).address for store in cluster.topology.stores}
        views = compare_replicas(cluster.asker, addresses, cluster.routes())
        assert [view.describe() for view in views if not view.equal] == []
        assert sum(view.replicas[0].records for view in views) >= 30


def test_an_encrypted_cluster_replicates_and_refuses_strangers() -> None:
    """S31."""
    with LocalCluster(nodes=3, workers=1, regions=1, curve=True) as cluster:
        with nokv.Client(cluster.url, timeout=20.0) as db:
            db.put(b"k", b"v")
            cluster.node(max(cluster.leader_count(), key=lambda store_id: cluster.leader_count()[store_id])).kill()
            assert db.get(b"k") == b"v"
        for url in (f"nokv://{cluster.nodes[0].client_addr}", cluster.url.partition("&key=")[0]):
            with pytest.raises(nokv.NokvError), nokv.Client(url, timeout=1.0, connect_timeout=1.0) as stranger:
                stranger.get(b"k")


def test_a_cluster_that_cannot_come_up_says_why(tmp_path: Path) -> None:
    broken = LocalCluster(nodes=1, settings={"raft.tick_ms": 0}, data_dir=tmp_path)
    with pytest.raises(ClusterError, match="ended with 5") as caught, broken:
        pass
    assert any(str(tmp_path) in note for note in caught.value.__notes__)
    assert "raft.tick_ms" in str(caught.value)
    assert not broken.run_root.exists()


def test_no_node_outlives_a_killed_test_process(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom nokv.testing.cluster import LocalCluster\n"
        f"cluster = LocalCluster(nodes=1, workers=1, data_dir=Path({str(tmp_path)!r}))\n"
        "cluster.start()\ncluster.wait_ready()\n"
        "node = cluster.nodes[0]\nnode.pause()\n"
        "print(*[node.pid, *(child.pid for kind in ('manifest', 'router', 'worker') for child in node.children(kind))],"
        " cluster.run_root, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    *words, run_root = done.stdout.split() or [""]
    pids = [int(word) for word in words]
    assert len(pids) == 4, done.stderr
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(run_root)


def test_data_in_a_given_directory_stays(tmp_path: Path) -> None:
    for round_number in range(2):
        with LocalCluster(nodes=1, data_dir=tmp_path / "d") as cluster, nokv.Client(cluster.url, timeout=20.0) as db:
            assert db.get(b"k") == (b"v" if round_number else None)
            db.put(b"k", b"v")
            cluster.drain()
    assert (tmp_path / "d" / "node-1" / "VERSION").exists()


def test_the_demo_passes() -> None:
    command = [sys.executable, "-m", "nokv.cli.node", "demo", "--for", "6", "--ports", "auto", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and report["replicas_equal"]
    assert report["wrong_keys"] == 0
    assert report["killed_node"] > 0 and report["killed_leaders"] > 0
    assert report["acknowledged"] > 100
