"""A disk without space: writes are refused by name, reads and deletes go on, and it clears by itself.

Each node gets a file system of its own, a tmpfs that the test mounts; a file of ballast takes the space and gives it
back. Needs root.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import nokv
from nokv.proto import errors
from nokv.proto.frame import Kind
from nokv.proto.ids import Ts
from nokv.proto.kv import Mutation, MutationOp, OnePhaseRequest, encode_body
from nokv.proto.region import FIRST_EPOCH
from nokv.testing.cluster import LocalCluster
from nokv.testing.faults import kill_everything
from tests.processes.raw import RawClient
from tests.processes.waiting import insist, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.xdist_group("full_disk")]

MIB = 1 << 20
DISK_BYTES = 128 * MIB
SETTINGS = {
    "storage.segment_bytes": 2 * MIB,
    "storage.preallocate_bytes": MIB,
    "storage.checkpoint_bytes": MIB,
    "storage.map_bytes_initial": 128 * MIB,
    "storage.map_bytes_step": 128 * MIB,
}
LOW_MARK = {"storage.free_bytes_min": 16 * MIB, "storage.free_bytes_resume": 24 * MIB}
NO_MARK = {"storage.free_bytes_min": 1, "storage.free_bytes_resume": 2}
"""The low mark is out of the way: the file system itself says no."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, *, leave: int) -> None:
    """Take all but `leave` bytes."""
    with (disk / "ballast").open("ab") as ballast:
        while (more := free_bytes(disk) - leave) > 0:
            ballast.write(b"\0" * min(more, MIB))
            ballast.flush()


def empty(disk: Path) -> None:
    (disk / "ballast").unlink()


def states(cluster: LocalCluster) -> set[str]:
    return {worker.state for worker in cluster.status(cluster.nodes[0]).node.workers}


def test_below_the_low_mark_writes_are_refused_and_all_else_goes_on(disk: Path) -> None:
    """D4, M46, M49."""
    with (
        LocalCluster(nodes=1, workers=1, regions=1, data_dir=disk / "d", settings={**SETTINGS, **LOW_MARK}) as cluster,
        nokv.Client(cluster.url, timeout=20.0) as db,
        RawClient(cluster.nodes[0].client_addr) as raw,
    ):
        region = cluster.topology.regions[0].id
        for number in range(50):
            db.put(b"k%d" % number, b"kept")
        fill(disk, leave=8 * MIB)
        took = wait_until(lambda: states(cluster) == {"disk_full"}, "the state to be named", timeout_s=10.0)
        assert took < 5.0
        mutation = Mutation(MutationOp.PUT, b"refused", b"x")
        body = encode_body(OnePhaseRequest(FIRST_EPOCH, (mutation,), Ts(db.now()), blind=True))
        detail = raw.refusal(Kind.KV_ONE_PHASE, region, body)
        assert isinstance(detail, errors.DiskFull)
        assert detail.store_id == 1
        assert detail.free_bytes < detail.needed_bytes == 16 * MIB
        with nokv.deadline(0.5), pytest.raises(nokv.NokvError) as caught:
            db.put(b"refused", b"x")
        assert caught.value.outcome == "not_applied"
        assert [db.get(b"k%d" % number) for number in range(50)] == [b"kept"] * 50
        assert sum(1 for _pair in db.scan()) == 50
        db.delete(b"k0")
        assert db.get(b"k0") is None
        empty(disk)
        insist(lambda: db.put(b"k0", b"again"))
        assert db.get(b"k0") == b"again"
        assert db.get(b"refused") is None
        wait_until(lambda: states(cluster) == {"up"}, "the state to clear by itself")


def test_when_the_file_system_itself_is_full_nothing_acknowledged_is_lost(disk: Path) -> None:
    """ENOSPC at whatever write meets it first; then space again; then a kill of everything."""
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=disk / "d", settings={**SETTINGS, **NO_MARK}) as cluster:
        promised: dict[bytes, bytes] = {}
        with nokv.Client(cluster.url, timeout=20.0) as db:
            for number in range(20):
                db.put(b"k%02d" % number, b"first")
                promised[b"k%02d" % number] = b"first"
            fill(disk, leave=3 * MIB)
            refused = 0
            for number in range(100):
                key, value = b"big%03d" % number, b"%03d" % number * 30_000
                try:
                    with nokv.deadline(0.5):
                        db.put(key, value)
                except nokv.NokvError:
                    refused += 1
                    if refused == 3:
                        break
                else:
                    promised[key] = value
            assert refused, "the disk was never full"
            # Reads of the newest values need neither a log nor a timestamp, so they go on even now. Snapshots wait
            # for the proposals that lie in the log's buffer.
            assert {key: db.get(key) for key in promised} == promised
            empty(disk)
            insist(lambda: db.put(b"after", b"space"))
            promised[b"after"] = b"space"
        kill_everything(cluster.nodes)
        cluster.start()
        cluster.wait_ready()
        with nokv.Client(cluster.url, timeout=20.0) as db:
            assert db.get_many(promised) == promised


def test_a_kill_while_the_disk_is_full_loses_nothing(disk: Path) -> None:
    """What was acknowledged lies in the log; the node starts again once there is space."""
    with LocalCluster(nodes=1, workers=1, regions=1, data_dir=disk / "d", settings={**SETTINGS, **NO_MARK}) as cluster:
        promised = {b"k%02d" % number: b"%d" % number * 2000 for number in range(200)}
        with nokv.Client(cluster.url, timeout=20.0) as db:
            for key, value in promised.items():
                db.put(key, value)
            fill(disk, leave=0)
            with nokv.deadline(1.0), pytest.raises(nokv.NokvError):
                for _ in range(200):
                    db.put(b"unknown", b"x" * 50_000)
        kill_everything(cluster.nodes)
        empty(disk)
        cluster.start()
        cluster.wait_ready()
        with nokv.Client(cluster.url, timeout=20.0) as db:
            assert db.get_many(promised) == promised
