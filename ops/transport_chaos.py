"""`python ops/transport_chaos.py`: network faults between live nodes, injected for real, and what must hold under them.

Needs nodes started with chaos.enabled: a node told to block a store drops everything it would send to it and everything
that comes from it. Writers and readers run through all scenarios; each prints a line, and the run ends with every key
read back and all replicas compared.

    follower   a follower is cut off: writes go on, it lacks them, and after healing it has them and the next one
    leader     the node that leads most regions is cut off: the others serve on without it, and it gives up leading
    partial    two nodes do not reach each other while both reach the third
    flapping   one node is cut off and healed every 100 ms
    stutter    one node's router stands still for 60 of every 200 ms: delay and jitter on all that it carries

Prints one JSON object last. Exit code: 0 if all of it held; 3 otherwise; 1 when the cluster did not come up.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop
from msgspec import Struct, structs

import nokv
from nokv.cli.report import emit_json
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_UNEXPECTED
from nokv.node.admin import AskError
from nokv.proto.ids import StoreId
from nokv.proto.region import printable
from nokv.testing.audit import compare_replicas, read_back
from nokv.testing.cluster import ClusterError, LocalCluster
from nokv.testing.faults import block_patiently, isolated, suspended
from nokv.testing.ledger import Ledger
from nokv.testing.local_node import LocalNode
from nokv.testing.progress import RegionProgress
from nokv.testing.readers import Readers
from nokv.testing.writers import Writers, key_of

SCENARIOS: Final = ("follower", "leader", "partial", "flapping", "stutter")
WAIT_S: Final = 60.0
POLL_S: Final = 0.02
FLAP_S: Final = 0.1
STILL_S: Final = 0.06
MOVING_S: Final = 0.14
STATUS_AGE_S: Final = 1.5
"""What a node says about its replicas is at most a heartbeat old, one second."""


class Options(Struct, frozen=True):
    """One run."""

    scenarios: tuple[str, ...] = SCENARIOS
    seconds: float = 5.0
    """Length of each fault."""
    writers: int = 32
    readers: int = 4
    keys_each: int = 4
    workers: int = 1
    data_dir: str = ""


class Outcome(Struct):
    """One scenario. Times in seconds."""

    scenario: str
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    reads: int = 0
    stale: int = 0
    moved_s: float = 0.0
    """From the fault until every region had acknowledged a write that began after it."""
    healed_s: float = 0.0
    """From healing until every region had, and every replica had applied what was committed."""
    note: str = ""

    def line(self) -> str:
        """The scenario as one metric line."""
        return (
            f"transport_chaos scenario={self.scenario} acked={self.acknowledged} unknown={self.unknown} "
            f"refused={self.refused} reads={self.reads} stale={self.stale} moved_s={self.moved_s:.2f} "
            f"healed_s={self.healed_s:.2f} {self.note}"
        ).rstrip()


class Report(Struct):
    """The whole run, as the JSON object has it."""

    scenarios: list[Outcome]
    acknowledged: int
    lost: int
    stale: int
    differing: int
    complaints: list[str]
    """Tracebacks and broken assertions in the nodes' logs."""
    passed: bool


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    try:
        report = run(parse(arguments), say=lambda text: print(text, file=sys.stderr, flush=True))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_UNEXPECTED
    emit_json("nokv.transport-chaos.v1", structs.asdict(report))
    return EXIT_FINE if report.passed else EXIT_DEGRADED


def parse(arguments: list[str] | None) -> Options:
    """The command line."""
    default = Options()
    parser = argparse.ArgumentParser(prog="ops/transport_chaos.py", description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeatable; default: all")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="length of each fault")
    parser.add_argument("--writers", type=int, default=default.writers)
    parser.add_argument("--data-dir", default=default.data_dir, help="keep data and logs here")
    given = parser.parse_args(arguments)
    scenarios = tuple(given.scenario or SCENARIOS)
    return Options(scenarios=scenarios, seconds=given.seconds, writers=given.writers, data_dir=given.data_dir)


def run(options: Options, *, say: Callable[[str], None]) -> Report:
    """Run the scenarios on one cluster of three nodes.

    Raises:
        ClusterError: the cluster did not come up or a scenario's promise was not kept in time.
    """
    data_dir = Path(options.data_dir) if options.data_dir else None
    settings = {"chaos.enabled": True}
    with LocalCluster(3, options.workers, regions=4, data_dir=data_dir, settings=settings) as cluster:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_Run(cluster, options, say).all_scenarios())
        if not report.passed:
            cluster.keep_data()
        return report


class _Run:
    """All scenarios against a cluster that is ready."""

    def __init__(self, cluster: LocalCluster, options: Options, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._options = options
        self._say = say
        self._ledger = Ledger()
        self._keys = [key_of(number) for number in range(options.writers * options.keys_each)]
        self._progress = RegionProgress(cluster.topology.regions)
        self._written = {self._progress.region_of(key) for key in self._keys}
        self._faults: dict[str, Callable[[Outcome], Awaitable[None]]] = {
            "follower": self._follower,
            "leader": self._leader,
            "partial": self._partial,
            "flapping": self._flapping,
            "stutter": self._stutter,
        }

    async def all_scenarios(self) -> Report:
        """One after the other, then the check of everything."""
        outcomes = []
        async with nokv.AsyncClient(self._cluster.url, timeout=5.0) as db:
            for scenario in self._options.scenarios:
                outcomes.append(await self._scenario(db, scenario))
                self._say(outcomes[-1].line())
            findings = await read_back(db, self._ledger)
        for finding in findings[:5]:
            self._say(f"lost   {printable(finding.key)}: found {finding.found}, promised one of {finding.wanted}")
        addresses = {StoreId(node.store_id): node.address for node in self._cluster.nodes}
        routes = await asyncio.to_thread(self._cluster.routes)
        views = await asyncio.to_thread(compare_replicas, self._cluster.asker, addresses, routes)
        unequal = [view for view in views if not view.equal]
        for view in unequal[:5]:
            self._say(f"unequal  {view.describe()}")
        complaints = self._cluster.complaints()
        stale = sum(outcome.stale for outcome in outcomes)
        served = all(outcome.acknowledged and outcome.reads for outcome in outcomes)
        return Report(
            outcomes,
            self._ledger.acknowledged,
            len(findings),
            stale,
            len(unequal),
            complaints,
            passed=served and not (findings or stale or unequal or complaints),
        )

    async def _scenario(self, db: nokv.AsyncClient, name: str) -> Outcome:
        """Load, fault, healing; every region must serve again."""
        ledger, options = self._ledger, self._options
        before = ledger.acknowledged, ledger.unknown, ledger.refused
        writers = Writers(db, ledger, count=options.writers, keys_each=options.keys_each, on_ack=self._progress.note)
        readers = Readers(db, ledger, self._keys, count=options.readers)
        outcome = Outcome(name)
        self._progress.mark(time.monotonic())
        writers.start()
        readers.start()
        try:
            await self._until_served("before the fault")
            await self._faults[name](outcome)
            healed = self._mark()
            await self._until_served("after healing")
            await asyncio.to_thread(self._cluster.wait_ready)
            goals = await asyncio.to_thread(self._committed)
            await self._until_thread(lambda: self._all_applied(goals), "all replicas to catch up")
            outcome.healed_s = time.monotonic() - healed
        finally:
            await writers.stop()
            await readers.stop()
        outcome.acknowledged = ledger.acknowledged - before[0]
        outcome.unknown, outcome.refused = ledger.unknown - before[1], ledger.refused - before[2]
        outcome.reads, outcome.stale = readers.reads, len(readers.stale)
        for stale in readers.stale[:5]:
            self._say(f"stale  {printable(stale.key)}: read {stale.found}, at least {stale.at_least} was due")
        return outcome

    # ---- the faults ----

    async def _follower(self, outcome: Outcome) -> None:
        """The node that leads least is cut off; its replicas stand still while the others' go on."""
        node = await asyncio.to_thread(self._by_leaders, False)
        with isolated(self._cluster, node):
            began = self._mark()
            await self._until_served("without the follower")
            outcome.moved_s = time.monotonic() - began
            await asyncio.sleep(STATUS_AGE_S)
            before = await asyncio.to_thread(self._applied, node)
            await asyncio.sleep(max(self._options.seconds, STATUS_AGE_S))
            after = await asyncio.to_thread(self._applied, node)
            behind = await asyncio.to_thread(lambda: self._behind(node, self._committed()))
        if after != before or behind != len(before):
            raise ClusterError(f"node {node.store_id} is cut off, and {behind} of {len(before)} regions are behind")
        outcome.note = f"node={node.store_id} regions_behind={behind}"

    async def _leader(self, outcome: Outcome) -> None:
        """The node that leads most is cut off; the rest takes over."""
        node = await asyncio.to_thread(self._by_leaders, True)
        with isolated(self._cluster, node):
            began = self._mark()
            await self._until_served("without the old leader")
            outcome.moved_s = time.monotonic() - began
            await asyncio.sleep(self._options.seconds)
            leads = (await asyncio.to_thread(self._cluster.status, node)).node.leaders
        if leads:
            raise ClusterError(f"node {node.store_id} is cut off and still says it leads {leads} regions")
        outcome.note = f"node={node.store_id}"

    async def _partial(self, outcome: Outcome) -> None:
        """Nodes 1 and 2 do not reach each other; both reach 3."""
        first, second, _third = self._cluster.nodes
        pair = {first: second, second: first}
        try:
            for node, other in pair.items():
                await asyncio.to_thread(block_patiently, self._cluster.asker, node, (other.store_id,))
            began = self._mark()
            await self._until_served("with two nodes cut from each other")
            outcome.moved_s = time.monotonic() - began
            await asyncio.sleep(self._options.seconds)
        finally:
            for node in pair:
                await asyncio.to_thread(block_patiently, self._cluster.asker, node, ())

    async def _flapping(self, outcome: Outcome) -> None:
        """Node 3 comes and goes."""
        node = self._cluster.nodes[2]
        others = tuple(other.store_id for other in self._cluster.nodes if other is not node)
        began = self._mark()
        flaps = 0
        try:
            while time.monotonic() - began < self._options.seconds:
                await asyncio.to_thread(block_patiently, self._cluster.asker, node, others if flaps % 2 == 0 else ())
                flaps += 1
                await asyncio.sleep(FLAP_S)
        finally:
            await asyncio.to_thread(block_patiently, self._cluster.asker, node, ())
        await self._until_served("while a node flaps")
        outcome.moved_s = max(self._progress.served().values())
        outcome.note = f"flaps={flaps}"

    async def _stutter(self, outcome: Outcome) -> None:
        """One router moves only a part of the time."""
        (router,) = self._cluster.nodes[0].children("router")
        began = self._mark()
        while time.monotonic() - began < self._options.seconds:
            with suspended(router):
                await asyncio.sleep(STILL_S)
            await asyncio.sleep(MOVING_S)
        await self._until_served("through a router that stutters")
        outcome.moved_s = max(self._progress.served().values())

    # ---- looking ----

    def _by_leaders(self, most: bool) -> LocalNode:
        """The node that leads most regions, or fewest."""
        counts = self._cluster.leader_count()
        choose = max if most else min
        return self._cluster.node(choose(counts, key=lambda store_id: (counts[store_id], store_id)))

    def _committed(self) -> dict[int, int]:
        """The highest commit index any replica knows, for each region."""
        goals: dict[int, int] = {}
        for node in self._cluster.nodes:
            for one in self._cluster.status(node).regions:
                goals[one.region.id] = max(goals.get(one.region.id, 0), one.commit)
        return goals

    def _applied(self, node: LocalNode) -> dict[int, int]:
        """What a node has applied, for each region."""
        return {one.region.id: one.applied for one in self._cluster.status(node).regions}

    def _behind(self, node: LocalNode, goals: dict[int, int]) -> int:
        """How many regions of a node have not applied what was committed."""
        return sum(one.applied < goals[one.region.id] for one in self._cluster.status(node).regions)

    def _all_applied(self, goals: dict[int, int]) -> bool:
        try:
            return not any(self._behind(node, goals) for node in self._cluster.nodes)
        except AskError:
            return False

    def _mark(self) -> float:
        self._progress.mark(began := time.monotonic())
        return began

    async def _until_served(self, when: str) -> None:
        """Wait until every region has acknowledged a write that began after the mark."""
        deadline = time.monotonic() + WAIT_S
        while missing := self._progress.missing(self._written):
            if time.monotonic() >= deadline:
                raise ClusterError(f"regions {missing} were not served {when}\n{self._cluster.log_tails()}")
            await asyncio.sleep(POLL_S)

    async def _until_thread(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not await asyncio.to_thread(holds):
            if time.monotonic() >= deadline:
                raise ClusterError(f"waited {WAIT_S:g} s for {what}\n{self._cluster.log_tails()}")
            await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
