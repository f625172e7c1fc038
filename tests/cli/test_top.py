"""nokv-node top: rates from two looks, and the figures of a real node (S7, S1)."""

import json
import subprocess
import sys

import pytest

from nokv.cli.top import compare
from nokv.proto.ids import WorkerId
from nokv.proto.stats import WorkerStats, WorkerStatus
from nokv.testing.cluster import LocalCluster


def worker(pid: int, **stats: int) -> WorkerStatus:
    return WorkerStatus(WorkerId(0), pid, "up", 10, 0, WorkerStats(**stats))


def test_rates_are_differences() -> None:
    before = {(1, 0): worker(7, requests=100, wal_syncs=10, wal_sync_us_total=1000, cpu_us_total=0)}
    after = {(1, 0): worker(7, requests=300, wal_syncs=20, wal_sync_us_total=6000, cpu_us_total=500_000)}
    (row,) = compare(before, after, 2.0)
    assert (row.ops_per_s, row.sync_us_mean, row.cpu_share) == (100.0, 500.0, 0.25)


def test_a_restarted_worker_shows_no_rates_of_its_predecessor() -> None:
    (row,) = compare({(1, 0): worker(7, requests=900)}, {(1, 0): worker(8, requests=5)}, 1.0)
    assert row.ops_per_s == 0.0


def test_a_worker_seen_for_the_first_time_has_a_row() -> None:
    assert [row.worker_id for row in compare({}, {(2, 0): worker(7, requests=5)}, 1.0)] == [0]


@pytest.mark.processes
def test_once_as_json_lists_every_worker() -> None:
    with LocalCluster(nodes=1, workers=2) as cluster:
        cluster.wait_ready()
        done = subprocess.run(
            [sys.executable, "-m", "nokv.cli.node", "top", "--once", "--json", "--url", cluster.url],
            capture_output=True,
            text=True,
            check=True,
        )
    workers = json.loads(done.stdout)["workers"]
    assert [one["worker_id"] for one in workers] == [0, 1]
    assert all(one["rss_bytes"] > 1 << 20 and one["map_bytes"] > 0 for one in workers)
