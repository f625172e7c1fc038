"""The log as the disk keeps it: an acknowledgement waits for fdatasync, a torn tail is no damage, damage is named.

The nodes' own fdatasync is held or slowed down by a `sitecustomize` module that their interpreters load: the real
processes, the real loop and the real threads meet a disk of our choosing.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import psutil
import pytest

import nokv
from nokv.exitcodes import EXIT_DATA_DIR
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import kill_everything, kill_processes
from tests.processes.waiting import insist, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(150), pytest.mark.xdist_group("log_on_disk")]

SLOW_DISK = '''
"""Loaded by every Python process of the test's nodes: fdatasync waits while the gate of its directory is closed."""
import os, time

GATES = os.environ["NOKV_TEST_GATES"]
real = os.fdatasync


def fdatasync(handle):
    path = os.readlink(f"/proc/self/fd/{handle}")
    slow = os.path.join(GATES, "slow")
    if os.path.exists(slow) and open(slow).read() in path:
        time.sleep(0.4)
    while any(name in path for name in os.listdir(GATES) if name != "slow"):
        time.sleep(0.005)
    real(handle)


os.fdatasync = fdatasync
'''


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory: a file named like a part of a path holds every fdatasync below such a path."""
    code, place = tmp_path / "code", tmp_path / "gates"
    code.mkdir()
    place.mkdir()
    (code / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.setenv("NOKV_TEST_GATES", str(place))
    yield place
    for gate in place.iterdir():
        gate.unlink()


class Put(threading.Thread):
    """A put under way."""

    def __init__(self, db: "nokv.Client", key: bytes, value: bytes) -> None:
        super().__init__(daemon=True)
        self._call = db.put, key, value
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        put, key, value = self._call
        put(key, value)
        self._done.set()

    def is_acknowledged(self, within_s: float) -> bool:
        """Whether it returns in time."""
        return self._done.wait(within_s)


# ---- what an acknowledgement stands for (S10, S33, M4) --------------------------------------------------------------


def test_one_node_acknowledges_only_what_its_disk_has(gates: Path) -> None:
    """With a single voter, too."""
    with LocalCluster(nodes=1, workers=1, regions=1) as cluster, nokv.Client(cluster.url, timeout=60.0) as db:
        db.put(b"k", b"0")
        (gates / "worker-00").touch()
        put = Put(db, b"k", b"1")
        assert not put.is_acknowledged(1.0), "acknowledged before fdatasync returned"
        (gates / "worker-00").unlink()
        assert put.is_acknowledged(30.0)
        assert db.get(b"k") == b"1"


def test_a_majority_of_disks_must_have_it(gates: Path) -> None:
    """S10: two followers' acknowledgements wait for their own disks; one of them is enough, none is not."""
    with LocalCluster(nodes=3, workers=1, regions=1) as cluster, nokv.Client(cluster.url, timeout=60.0) as db:
        db.put(b"k", b"0")
        wait_until(lambda: cluster.routes()[0].leader_store, "a leader")
        leader = cluster.routes()[0].leader_store
        first, second = (node.store_id for node in cluster.nodes if node.store_id != leader)
        for store in (first, second):
            (gates / f"node-{store}").touch()
        put = Put(db, b"k", b"1")
        assert not put.is_acknowledged(0.6), "acknowledged with one disk of three"
        (gates / f"node-{first}").unlink()
        assert put.is_acknowledged(30.0)
        (gates / f"node-{second}").unlink()
        assert db.get(b"k") == b"1"


def test_a_slow_disk_delays_writes_but_not_heartbeats(gates: Path) -> None:
    """M52: the loop turns on while its syncs take 400 ms each; nobody calls an election over it."""
    with LocalCluster(nodes=3, workers=1, regions=1) as cluster, nokv.Client(cluster.url, timeout=60.0) as db:
        db.put(b"k", b"0")
        wait_until(lambda: cluster.routes()[0].leader_store, "a leader")
        leader = cluster.node(cluster.routes()[0].leader_store)
        terms = cluster.status(leader).regions[0].term
        (gates / "slow").write_text(f"node-{leader.store_id}/worker-00")
        began = time.monotonic()
        writes = 0
        while time.monotonic() - began < 4.0:
            db.put(b"k", b"%d" % writes)
            writes += 1
        wait_until(lambda: cluster.status(leader).node.workers[0].stats.wal_sync_us_max >= 400_000, "slow syncs")
        assert cluster.status(leader).regions[0].term == terms
        assert cluster.status(leader).regions[0].role == "leader"
        assert db.get(b"k") == b"%d" % (writes - 1)


# ---- what is left after a crash -------------------------------------------------------------------------------------


def segments(cluster: LocalCluster) -> list[Path]:
    """The first worker's log, oldest first."""
    return sorted((cluster.data_root / "node-1" / "worker-00" / "wal").glob("wal-*"))


def written(cluster: LocalCluster, *, value_bytes: int = 100, count: int = 200) -> dict[bytes, bytes]:
    """Write, kill, and return what was acknowledged."""
    promised = {b"%04d" % number: b"%04d" % number * (value_bytes // 4) for number in range(count)}
    with nokv.Client(cluster.url, timeout=30.0) as db:
        for key, value in promised.items():
            db.put(key, value)
    kill_everything(cluster.nodes)
    return promised


def check(cluster: LocalCluster, promised: dict[bytes, bytes]) -> None:
    with nokv.Client(cluster.url, timeout=30.0) as db:
        insist(lambda: db.get(b"0000"))
        assert db.get_many(promised) == promised


@pytest.mark.parametrize("tail", ["half-a-record", "zeros", "half-a-head"])
def test_a_torn_tail_is_cut_off_and_nothing_acknowledged_is_lost(tmp_path: Path, tail: str) -> None:
    """N22: what a crash in the middle of a write leaves behind the last whole record."""
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=tmp_path / "d") as cluster:
        promised = written(cluster)
        last = segments(cluster)[-1]
        whole = last.read_bytes().rstrip(b"\0")
        first_record = whole[32 : 32 + 400]
        torn = {"half-a-record": first_record[:40], "zeros": b"\0" * 5000, "half-a-head": first_record[:11]}[tail]
        if tail == "half-a-record":
            length = int.from_bytes(first_record[:4], "little")
            torn = first_record[: 25 + length // 2]
        with last.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(torn)
        cluster.start()
        cluster.wait_ready()
        check(cluster, promised)


def test_a_bad_record_in_the_middle_is_refused_by_segment_and_offset(tmp_path: Path) -> None:
    """N20, D2: nothing is served, nothing is cut off, and the bytes put right serve again."""
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=tmp_path / "d") as cluster:
        promised = written(cluster)
        segment = segments(cluster)[-1]
        good = segment.read_bytes()
        middle = len(good.rstrip(b"\0")) // 2
        bad = bytearray(good)
        bad[middle] ^= 0x40
        segment.write_bytes(bad)
        node = cluster.nodes[0]
        node.start()
        assert node.exit_code(60.0) == EXIT_DATA_DIR
        tail = node.log_tail()
        assert segment.name in tail
        assert "offset" in tail
        assert "Traceback" not in tail
        assert segment.read_bytes() == bytes(bad), "the evidence is left alone"
        segment.write_bytes(good)
        node.start()
        cluster.wait_ready()
        check(cluster, promised)


def test_a_lost_segment_is_refused(tmp_path: Path) -> None:
    """A log that begins too late, or has a hole, may lack acknowledged writes."""
    settings = {"storage.segment_bytes": 64 << 10, "raft.log_retain_entries": 100_000}
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=tmp_path / "d", settings=settings) as cluster:
        written(cluster, value_bytes=2000)
        found = segments(cluster)
        assert len(found) >= 4
        found[len(found) // 2].rename(tmp_path / "gone")
        cluster.nodes[0].start()
        assert cluster.nodes[0].exit_code(60.0) == EXIT_DATA_DIR
        assert "Traceback" not in cluster.nodes[0].log_tail()
        (tmp_path / "gone").rename(found[len(found) // 2])


# ---- LMDB -----------------------------------------------------------------------------------------------------------


def test_a_map_that_runs_short_grows_and_checkpoints_survive_kills(tmp_path: Path) -> None:
    """M46, M5: more than the first map, many checkpoints, a kill between or within them now and then."""
    settings = {
        "storage.map_bytes_initial": 128 << 20,
        "storage.map_bytes_step": 128 << 20,
        "storage.checkpoint_bytes": 4 << 20,
        "storage.checkpoint_ms": 100,
    }
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=tmp_path / "d", settings=settings) as cluster:
        promised: dict[bytes, bytes] = {}
        for round_number in range(3):
            with nokv.Client(cluster.url, timeout=60.0) as db:
                for number in range(100):
                    key = b"%d-%03d" % (round_number, number)
                    db.put(key, key * 100_000)
                    promised[key] = key
            kill_processes(cluster.nodes[0].children("worker"))
        with nokv.Client(cluster.url, timeout=60.0) as db:
            for key, value in promised.items():
                assert db.get(key) == value * 100_000
            db.put(b"one more", b"x")
        node = cluster.nodes[0]
        wait_until(lambda: cluster.status(node).node.workers[0].stats.map_bytes > 128 << 20, "a larger map")


def test_dead_readers_leave_no_slots_behind(tmp_path: Path) -> None:
    """M48: after kills every slot of the environment belongs to a process that lives."""
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=tmp_path / "d") as cluster:
        for _ in range(3):
            with nokv.Client(cluster.url, timeout=30.0) as db:
                db.put(b"k", b"v")
                assert len(list(db.scan())) == 1
            kill_processes(cluster.nodes[0].children("worker"))
        with nokv.Client(cluster.url, timeout=30.0) as db:
            assert db.get(b"k") == b"v"
        place = cluster.data_root / "node-1" / "worker-00" / "lmdb"
        folder = next(path.parent for path in place.rglob("data.mdb"))
        environment = lmdb.open(str(folder), readonly=True, lock=True, max_dbs=16)
        try:
            lines = environment.readers().splitlines()[1:]
        finally:
            environment.close()
        pids = {int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()}
        assert all(psutil.pid_exists(pid) for pid in pids), lines
