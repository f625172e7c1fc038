"""`nokv-node demo`: a real cluster on this machine, a leader killed under load, every acknowledged write checked.

Why: the fastest honest answer to "does it work here": real processes, real sockets, fdatasync on this disk, SIGKILL
for the whole family of the node that leads most regions.
Exit code: 0 PASS, 3 when a promise was broken, 1 when the cluster did not come up.
Not here: the parts (nokv.testing).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop
from msgspec import Struct, structs

import nokv
from nokv.cli.entry import CommandError
from nokv.cli.options import json_option
from nokv.cli.report import emit_json
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_PORT, EXIT_UNEXPECTED
from nokv.node.admin import AskError
from nokv.proto.ids import StoreId
from nokv.proto.region import Region, printable
from nokv.testing.audit import RegionView, compare_replicas, read_back
from nokv.testing.cluster import ClusterError, LocalCluster
from nokv.testing.ledger import Finding, Ledger
from nokv.testing.local_node import LocalNode
from nokv.testing.ports import is_free
from nokv.testing.writers import Writers

PORT = 6658
PORT_STRIDE = 10
WRITERS = 32
KEYS_EACH = 32
POLL_S = 0.05
RECOVER_S = 60.0
"""Longest time to wait for writes to come back, and for the killed node to rejoin."""


class Report(Struct):
    """What happened, as --json prints it. Times in seconds since the load began."""

    nodes: int
    workers: int
    ready_s: float
    first_put_ms: float = 0.0
    load_s: float = 0.0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    keys: int = 0
    killed_node: int = 0
    killed_leaders: int = 0
    killed_at_s: float = 0.0
    writes_back_s: float = 0.0
    rejoined_at_s: float = 0.0
    caught_up_s: float = 0.0
    regions: int = 0
    replicas_equal: bool = False
    wrong_keys: int = 0
    passed: bool = False


@click.command("demo")
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Shard workers of each node.")
@click.option("--load", type=click.Choice(["put", "none"]), default="put", show_default=True)
@click.option("--chaos/--no-chaos", default=True, show_default=True, help="Kill the node that leads most regions.")
@click.option("--for", "seconds", type=click.FloatRange(min=1), default=15.0, show_default=True, help="Load, seconds.")
@click.option("--keep", is_flag=True, help="Leave the cluster running until Ctrl-C.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep the data here.")
@click.option(
    "--ports", type=click.Choice(["fixed", "auto"]), default="fixed", help="6658 and every tenth, or free ones."
)
@json_option
def demo(
    nodes: int,
    workers: int,
    load: str,
    chaos: bool,
    seconds: float,
    keep: bool,
    data_dir: Path | None,
    ports: str,
    as_json: bool,
) -> int:
    """Run a small cluster, kill a leader, check every acknowledged write."""
    say: Callable[[str], None] = (lambda _text: None) if as_json else click.echo
    began = time.monotonic()
    try:
        with LocalCluster(nodes, workers, ports=choose_ports(nodes, ports), data_dir=data_dir) as cluster:
            report = Report(nodes, workers, time.monotonic() - began)
            addresses = ", ".join(node.client_addr for node in cluster.nodes)
            say(f"demo        {nodes} nodes x {workers} workers on {addresses}     ready in {report.ready_s:.1f} s")
            run = Run(cluster, report, say, chaos=chaos and nodes > 2, seconds=seconds)
            asyncio_run(run.go(with_load=load == "put"))
            if keep:
                wait_for_interrupt(cluster, say)
    except ClusterError as error:
        raise CommandError(str(error), EXIT_UNEXPECTED) from error
    if as_json:
        emit_json("nokv.demo.v1", structs.asdict(report))
    return EXIT_FINE if report.passed else EXIT_DEGRADED


def choose_ports(nodes: int, how: str) -> list[tuple[int, int]] | None:
    """(client, peer) for each node, None where free ones are to be chosen.

    Raises:
        CommandError: a fixed port is taken.
    """
    if how == "auto":
        return None
    pairs = [(PORT + PORT_STRIDE * at, PORT + PORT_STRIDE * at + 1) for at in range(nodes)]
    taken = [port for pair in pairs for port in pair if not is_free(port)]
    if taken:
        raise CommandError(f"port {', '.join(map(str, taken))} is taken: --ports auto takes free ones", EXIT_PORT)
    return pairs


def asyncio_run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def wait_for_interrupt(cluster: LocalCluster, say: Callable[[str], None]) -> None:
    """Leave the cluster to the user."""
    say(f"running     {cluster.url}     Ctrl-C stops it")
    try:
        while all(node.is_running() for node in cluster.nodes):
            time.sleep(1)
    except KeyboardInterrupt:
        cluster.drain()


class Run:
    """One demo against a cluster that is ready."""

    def __init__(
        self, cluster: LocalCluster, report: Report, say: Callable[[str], None], *, chaos: bool, seconds: float
    ) -> None:
        self._cluster = cluster
        self._report = report
        self._say = say
        self._chaos = chaos
        self._seconds = seconds
        self._ledger = Ledger()

        self._began = 0.0
        self._awaited: dict[int, float] = {}
        """Regions the killed node led -> when a write that began after the kill was acknowledged, 0 = not yet."""
        self._killed_at = 0.0
        self._routes: list[Region] = []

    async def go(self, *, with_load: bool) -> None:
        """Hello, load with chaos, verification."""
        async with nokv.AsyncClient(self._cluster.url, timeout=10.0) as db:
            await self._hello(db)
            if with_load:
                await self._load(db)
            await self._verify(db)

    async def _hello(self, db: "nokv.AsyncClient") -> None:
        began = time.monotonic()
        await db.put(b"hello", b"world")
        self._report.first_put_ms = (time.monotonic() - began) * 1000
        value = await db.get(b"hello")
        assert value == b"world", "the first thing a store must do"
        self._say(f"put/get     hello -> world  ok   ({self._report.first_put_ms:.1f} ms)")

    async def _load(self, db: "nokv.AsyncClient") -> None:
        writers = Writers(db, self._ledger, count=WRITERS, keys_each=KEYS_EACH, on_ack=self._on_ack)
        self._began = time.monotonic()
        writers.start()
        await asyncio.sleep(self._seconds / 4)
        if self._chaos:
            await self._kill_and_restart()
        await asyncio.sleep(max(0.0, self._began + self._seconds - time.monotonic()))
        await writers.stop()
        report, ledger = self._report, self._ledger
        report.load_s = time.monotonic() - self._began
        report.acknowledged, report.refused, report.unknown = ledger.acknowledged, ledger.refused, ledger.unknown
        report.keys = len(ledger.keys())
        rate = report.acknowledged / report.load_s
        more = f"      last error: {writers.last_error}" if writers.last_error else ""
        self._say(
            f"load        {report.acknowledged:,} writes acknowledged ({rate:,.0f}/s over {report.load_s:.1f} s, "
            f"{WRITERS} writers)   {report.refused} refused   {report.unknown} unknown{more}"
        )

    # ---- chaos ----

    async def _kill_and_restart(self) -> None:
        report = self._report
        counts = await asyncio.to_thread(self._cluster.leader_count)
        victim = self._cluster.node(max(counts, key=lambda store_id: (counts[store_id], -store_id)))
        routes = await asyncio.to_thread(self._cluster.routes)
        self._routes = [route.region for route in routes]
        led = {route.region.id for route in routes if route.leader_store == victim.store_id}
        self._killed_at = time.monotonic()
        await asyncio.to_thread(victim.kill)
        self._awaited = dict.fromkeys(sorted(led & self._written(self._routes)), 0.0)
        report.killed_node, report.killed_leaders = victim.store_id, len(led)
        report.killed_at_s = self._killed_at - self._began
        await self._until(lambda: all(self._awaited.values()), "writes to come back")
        report.writes_back_s = max([at - self._killed_at for at in self._awaited.values()], default=0.0)
        await asyncio.sleep(max(0.0, self._began + self._seconds / 2 - time.monotonic()))
        await self._rejoin(victim)
        self._say(
            f"chaos       t={report.killed_at_s:.0f}s SIGKILL node {victim.store_id} ({len(led)} leaders)  ->  writes "
            f"to its regions back after {report.writes_back_s:.1f} s   node {victim.store_id} rejoined "
            f"t={report.rejoined_at_s:.0f}s, caught up {report.caught_up_s:.1f} s"
        )

    async def _rejoin(self, victim: LocalNode) -> None:
        """Start it again; it has caught up when it has applied what was committed when it came back."""
        victim.start()
        await asyncio.to_thread(self._cluster.wait_ready, RECOVER_S)
        rejoined = time.monotonic()
        self._report.rejoined_at_s = rejoined - self._began
        goals = await asyncio.to_thread(self._committed)
        await self._until_thread(lambda: self._has_applied(victim, goals), f"node {victim.store_id} to catch up")
        self._report.caught_up_s = time.monotonic() - rejoined

    def _written(self, regions: list[Region]) -> set[int]:
        """The regions that the load writes to."""
        keys = self._ledger.keys()
        return {region.id for region in regions if any(region.covers(key) for key in keys)}

    def _committed(self) -> dict[int, int]:
        """The highest commit index any replica knows, for each region."""
        goals: dict[int, int] = {}
        for node in self._cluster.nodes:
            for region in self._cluster.status(node).regions:
                goals[region.region.id] = max(goals.get(region.region.id, 0), region.commit)
        return goals

    def _has_applied(self, node: LocalNode, goals: dict[int, int]) -> bool:
        try:
            regions = self._cluster.status(node).regions
        except AskError:
            return False
        return all(region.applied >= goals[region.region.id] for region in regions)

    def _on_ack(self, key: bytes, began: float, ended: float) -> None:
        if not self._awaited or began < self._killed_at:
            return
        for region in self._routes:
            if region.covers(key) and self._awaited.get(region.id) == 0.0:
                self._awaited[region.id] = ended

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + RECOVER_S
        while not holds():
            if time.monotonic() >= deadline:
                raise ClusterError(f"waited {RECOVER_S:g} s for {what}\n{self._cluster.log_tails()}")
            await asyncio.sleep(POLL_S)

    async def _until_thread(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + RECOVER_S
        while not await asyncio.to_thread(holds):
            if time.monotonic() >= deadline:
                raise ClusterError(f"waited {RECOVER_S:g} s for {what}\n{self._cluster.log_tails()}")
            await asyncio.sleep(POLL_S)

    # ---- the verdict ----

    async def _verify(self, db: "nokv.AsyncClient") -> None:
        findings = await read_back(db, self._ledger)
        routes = await asyncio.to_thread(self._cluster.routes)
        addresses = {StoreId(node.store_id): node.address for node in self._cluster.nodes}
        views = await asyncio.to_thread(compare_replicas, self._cluster.asker, addresses, routes)
        self._conclude(findings, views)

    def _conclude(self, findings: list[Finding], views: list[RegionView]) -> None:
        report = self._report
        unequal = [view for view in views if not view.equal]
        report.regions = len(views)
        report.wrong_keys = len(findings)
        report.replicas_equal = not unequal
        report.passed = not findings and not unequal
        for finding in findings[:5]:
            self._say(f"wrong       {printable(finding.key)}: found {finding.found}, promised {finding.wanted}")
        for view in unequal[:5]:
            self._say(f"unequal     {view.describe()}")
        replicas = max((len(view.replicas) for view in views), default=0)
        self._say(
            f"verify      {report.acknowledged:,} acknowledged writes to {report.keys:,} keys: "
            f"{'all there' if not findings else f'{len(findings)} keys wrong'};   {len(views)} regions x {replicas} "
            f"replicas: {'all equal' if not unequal else f'{len(unequal)} unequal'}      "
            f"{'PASS' if report.passed else 'FAIL'}"
        )
        if report.passed:
            self._say("next        nokv-node demo --keep   |   nokv-node status   |   nokv put hello world")
