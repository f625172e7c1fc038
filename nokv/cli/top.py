"""`nokv-node top`: every worker of a cluster, once or again and again.

Rates are differences of two looks; what a worker cannot answer because it is busy is still shown, since all figures
come from the manifest's last heartbeat of it.
Not here: what the figures mean (nokv.proto.stats).
"""

import sys
import time
from collections.abc import Mapping

import click
import msgspec
from msgspec import Struct

from nokv.cli.options import json_option, reach_options, timeout_option
from nokv.cli.reach import Reach
from nokv.cli.report import emit_json, table
from nokv.exitcodes import EXIT_FINE, EXIT_UNREACHABLE
from nokv.proto.control import StatusReply
from nokv.proto.stats import WorkerStats, WorkerStatus

CLEAR = "\x1b[H\x1b[2J"
MIB = 1 << 20


class Row(Struct, frozen=True):
    """One worker: rates a second over the interval, shares of one core, gauges as last reported."""

    store_id: int
    worker_id: int
    pid: int
    state: str
    restarts: int
    regions: int
    leaders: int
    ops_per_s: float
    reads_per_s: float
    writes_per_s: float
    proposals_per_s: float
    refusals_per_s: float
    cpu_share: float
    loop_share: float
    loop_lag_us_max: int
    queue: int
    apply_backlog: int
    sync_us_mean: float
    map_used_bytes: int
    map_bytes: int
    wal_bytes: int
    rss_bytes: int


@click.command("top")
@reach_options
@click.option("-d", "delay", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds a look.")
@click.option("-n", "looks", type=click.IntRange(min=0), default=0, help="Looks before it ends; 0 = until interrupted.")
@click.option("-b", "batch", is_flag=True, help="Print one table after the other instead of redrawing.")
@click.option("--once", is_flag=True, help="One look: -b -n 1.")
@timeout_option(3.0)
@json_option
def top(
    url: str, topology: str, delay: float, looks: int, batch: bool, once: bool, timeout: float, as_json: bool
) -> int:
    """Workers as they work: load, queues, log, LMDB; --once --json for scripts."""
    looks = 1 if once else looks
    redraw = not (batch or once or as_json) and sys.stdout.isatty()
    with Reach(url, topology) as reach:
        before, seen = look(reach, timeout_ms=int(timeout * 1000)), 0
        while not looks or seen < looks:
            time.sleep(delay)
            after = look(reach, timeout_ms=int(timeout * 1000))
            rows = compare(before[1], after[1], after[0] - before[0])
            if not rows:
                click.echo("no node answers", err=True)
                return EXIT_UNREACHABLE
            show(rows, as_json=as_json, redraw=redraw)
            before, seen = after, seen + 1
    return EXIT_FINE


Look = dict[tuple[int, int], WorkerStatus]


def look(reach: Reach, *, timeout_ms: int) -> tuple[float, Look]:
    """When, and every worker that some manifest told of."""
    stores = reach.find(timeout_ms=timeout_ms).stores
    answers = reach.statuses(stores, regions=False, timeout_ms=timeout_ms)
    found: Look = {}
    for answer in answers.values():
        if isinstance(answer, StatusReply):
            for worker in answer.node.workers:
                found[answer.node.store_id, worker.worker_id] = worker
    return time.monotonic(), found


def compare(before: Mapping[tuple[int, int], WorkerStatus], after: Look, seconds: float) -> list[Row]:
    """One row for each worker. A restarted worker's counters begin again, so its first interval shows zeros."""
    rows = []
    for (store_id, worker_id), worker in sorted(after.items()):
        old = before.get((store_id, worker_id))
        same = old is not None and old.pid == worker.pid
        rows.append(_row(store_id, worker, old.stats if old is not None and same else worker.stats, seconds))
    return rows


def _row(store_id: int, worker: WorkerStatus, old: WorkerStats, seconds: float) -> Row:
    new = worker.stats

    def rate(name: str) -> float:
        gained: int = getattr(new, name) - getattr(old, name)
        return round(max(0, gained) / seconds, 1)

    syncs = new.wal_syncs - old.wal_syncs
    return Row(
        store_id=store_id,
        worker_id=worker.worker_id,
        pid=worker.pid,
        state=worker.state,
        restarts=worker.restarts,
        regions=new.regions,
        leaders=new.leaders,
        ops_per_s=rate("requests"),
        reads_per_s=rate("reads"),
        writes_per_s=rate("writes"),
        proposals_per_s=rate("proposals"),
        refusals_per_s=rate("refusals"),
        cpu_share=round(rate("cpu_us_total") / 1e6, 3),
        loop_share=round(rate("loop_busy_us_total") / 1e6, 3),
        loop_lag_us_max=new.loop_lag_us_max,
        queue=new.waiting_proposals,
        apply_backlog=new.apply_backlog,
        sync_us_mean=round((new.wal_sync_us_total - old.wal_sync_us_total) / syncs, 1) if syncs > 0 else 0.0,
        map_used_bytes=new.map_used_bytes,
        map_bytes=new.map_bytes,
        wal_bytes=new.wal_bytes,
        rss_bytes=new.rss_bytes,
    )


def show(rows: list[Row], *, as_json: bool, redraw: bool) -> None:
    """One object, or a table."""
    if as_json:
        emit_json("nokv.top.v1", {"workers": msgspec.to_builtins(rows)})
        return
    header = ["NODE", "WRK", "PID", "STATE", "CPU%", "LOOP%", "OPS/S", "READ/S", "WRITE/S", "PROP/S", "QUEUE", "LAG"]
    header += ["SYNC ms", "REG/LDR", "MAP%", "LOG MiB", "RSS MiB"]
    cells: list[list[object]] = [
        [
            row.store_id,
            row.worker_id,
            row.pid,
            row.state,
            round(row.cpu_share * 100),
            round(row.loop_share * 100),
            round(row.ops_per_s),
            round(row.reads_per_s),
            round(row.writes_per_s),
            round(row.proposals_per_s),
            row.queue,
            row.apply_backlog,
            round(row.sync_us_mean / 1000, 2),
            f"{row.regions}/{row.leaders}",
            round(100 * row.map_used_bytes / row.map_bytes) if row.map_bytes else 0,
            round(row.wal_bytes / MIB, 1),
            round(row.rss_bytes / MIB),
        ]
        for row in rows
    ]
    ops = sum(row.ops_per_s for row in rows)
    down = sum(row.state != "up" for row in rows)
    click.echo((CLEAR if redraw else "") + f"{len(rows)} workers, {down} not up   ops {ops:,.0f}/s")
    click.echo(table(header, cells))
