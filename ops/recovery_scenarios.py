"""`python ops/recovery_scenarios.py --kill all --rounds 20 --writers 64`: kill under load, again and again, and check.

Each round: writers and readers run, something is killed with SIGKILL at a random moment, and then every region must
acknowledge a write that began after the kill and every process must be back. The round ends with the load stopped,
every key read back and all replicas of every region compared page by page.

    --kill all       every process of every node at once, as a power cut; the nodes are started again
    --kill children  every router, worker and manifest of all nodes at once; their supervisors start them again
    --kill child     one random child of one random node. In every second round its supervisor is suspended until all
                     regions were served with the child dead, so that nothing but the survivors can have done it
    --kill pause     one random child is suspended for up to --pause-s seconds, then goes on

Prints a line for each round and, last, one JSON object. Exit code: 0 if nothing was lost, nothing was stale, no
replica differs, every round recovered and no log holds a traceback; 3 otherwise; 1 when a cluster did not come up.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import uvloop
from msgspec import Struct, structs

import nokv
from nokv.cli.report import emit_json
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_UNEXPECTED
from nokv.proto.ids import StoreId
from nokv.proto.region import printable
from nokv.testing.audit import compare_replicas, read_back
from nokv.testing.cluster import ClusterError, LocalCluster
from nokv.testing.faults import (
    Victim,
    is_alive,
    is_whole,
    kill_children,
    kill_everything,
    kill_processes,
    pick_child,
    supervisor_of,
    suspended,
)
from nokv.testing.ledger import Ledger
from nokv.testing.progress import RegionProgress
from nokv.testing.readers import Readers
from nokv.testing.writers import Writers, key_of

KILLS: Final = ("all", "children", "child", "pause")
CALM_S: Final = (0.3, 1.5)
"""The kill comes this long after all regions have been written to in the round."""
RECOVER_S: Final = 60.0
"""A round that takes longer has failed; the figure says how long it really took."""
READERS: Final = 4
POLL_S: Final = 0.02


class Options(Struct, frozen=True):
    """One run."""

    kill: str = "all"
    rounds: int = 20
    writers: int = 64
    keys_each: int = 4
    nodes: int = 3
    workers: int = 2
    timeout_s: float = 3.0
    """Of each request: shorter than some outages, so that unknown outcomes are met as well as retries."""
    pause_s: float = 5.0
    seed: int = 1
    data_dir: str = ""


class Round(Struct):
    """What happened in one round. Times in seconds since the kill."""

    number: int
    victim: str
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    reads: int = 0
    stale: int = 0
    served_s: float = 0.0
    """Until every region had acknowledged a write that began after the kill."""
    others_gap_s: float = 0.0
    """The longest pause between two acknowledgements in a region that the victim did not serve."""
    ready_s: float = 0.0
    """Until all processes were back."""
    lost: int = 0
    differing: int = 0

    def line(self) -> str:
        """The round for people."""
        return (
            f"round {self.number:2}  killed {self.victim:<18}  acked {self.acknowledged:5}  unknown {self.unknown:3}  "
            f"refused {self.refused:3}  reads {self.reads:5}  stale {self.stale}  served {self.served_s:5.2f} s  "
            f"others' gap {self.others_gap_s:4.2f} s  ready {self.ready_s:5.2f} s  lost {self.lost}  "
            f"differing {self.differing}"
        )


class Report(Struct):
    """The whole run, as the JSON object has it."""

    kill: str
    rounds: int
    writers: int
    nodes: int
    workers: int
    seed: int
    acknowledged: int
    unknown: int
    refused: int
    reads: int
    stale: int
    lost: int
    differing: int
    served_s_p50: float
    served_s_worst: float
    ready_s_p50: float
    ready_s_worst: float
    others_gap_s_worst: float
    void_rounds: int
    """Rounds in which nothing was acknowledged or read: they prove nothing and fail the run."""
    complaints: list[str]
    """Tracebacks and broken assertions in the nodes' logs."""
    passed: bool
    each: list[Round]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    options = parse(arguments)
    try:
        report = run(options, say=lambda text: print(text, file=sys.stderr, flush=True))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_UNEXPECTED
    emit_json("nokv.recovery.v1", structs.asdict(report))
    return EXIT_FINE if report.passed else EXIT_DEGRADED


def parse(arguments: list[str] | None) -> Options:
    """The command line."""
    default = Options()
    parser = argparse.ArgumentParser(prog="ops/recovery_scenarios.py", description=__doc__.splitlines()[0])
    parser.add_argument("--kill", choices=KILLS, default=default.kill)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--writers", type=int, default=default.writers)
    parser.add_argument("--keys-each", type=int, default=default.keys_each, help="keys of each writer")
    parser.add_argument("--nodes", type=int, default=default.nodes)
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--timeout-s", type=float, default=default.timeout_s, help="of each request")
    parser.add_argument("--pause-s", type=float, default=default.pause_s, help="longest pause")
    parser.add_argument("--seed", type=int, default=default.seed, help="of moments and victims")
    parser.add_argument("--data-dir", default=default.data_dir, help="keep data and logs here")
    return Options(**vars(parser.parse_args(arguments)))


def run(options: Options, *, say: Callable[[str], None]) -> Report:
    """Run all rounds on one cluster.

    Raises:
        ClusterError: the cluster did not come up, or not again.
    """
    data_dir = Path(options.data_dir) if options.data_dir else None
    with LocalCluster(options.nodes, options.workers, data_dir=data_dir) as cluster:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rounds = runner.run(_Run(cluster, options, say).all_rounds())
        return summarize(options, rounds, cluster)


def summarize(options: Options, rounds: list[Round], cluster: LocalCluster) -> Report:
    """All rounds as one report; a failed one keeps the cluster's data."""
    served = [one.served_s for one in rounds]
    ready = [one.ready_s for one in rounds]
    void = sum(not one.acknowledged or not one.reads for one in rounds)
    lost, differing, stale = (sum(getattr(one, name) for one in rounds) for name in ("lost", "differing", "stale"))
    complaints = cluster.complaints()
    report = Report(
        kill=options.kill,
        rounds=len(rounds),
        writers=options.writers,
        nodes=options.nodes,
        workers=options.workers,
        seed=options.seed,
        acknowledged=sum(one.acknowledged for one in rounds),
        unknown=sum(one.unknown for one in rounds),
        refused=sum(one.refused for one in rounds),
        reads=sum(one.reads for one in rounds),
        stale=stale,
        lost=lost,
        differing=differing,
        served_s_p50=round(statistics.median(served), 3),
        served_s_worst=round(max(served), 3),
        ready_s_p50=round(statistics.median(ready), 3),
        ready_s_worst=round(max(ready), 3),
        others_gap_s_worst=round(max(one.others_gap_s for one in rounds), 3),
        void_rounds=void,
        complaints=complaints,
        passed=not (lost or differing or stale or void or complaints) and len(rounds) == options.rounds,
        each=rounds,
    )
    if not report.passed:
        cluster.keep_data()
    return report


class _Run:
    """The rounds of one run against a cluster that is ready."""

    def __init__(self, cluster: LocalCluster, options: Options, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._options = options
        self._say = say
        self._random = Random(options.seed)
        self._ledger = Ledger()
        self._keys = [key_of(number) for number in range(options.writers * options.keys_each)]
        self._progress = RegionProgress(cluster.topology.regions)
        self._written = {self._progress.region_of(key) for key in self._keys}

    async def all_rounds(self) -> list[Round]:
        """Every round, each with its verdict."""
        assert self._written == {region.id for region in self._cluster.topology.regions}, "too few keys for the regions"
        rounds = []
        async with nokv.AsyncClient(self._cluster.url, timeout=self._options.timeout_s) as db:
            for number in range(1, self._options.rounds + 1):
                rounds.append(await self._round(number, db))
                self._say(rounds[-1].line())
        return rounds

    async def _round(self, number: int, db: nokv.AsyncClient) -> Round:
        ledger = self._ledger
        before = ledger.acknowledged, ledger.refused, ledger.unknown
        writers = Writers(
            db, ledger, count=self._options.writers, keys_each=self._options.keys_each, on_ack=self._progress.note
        )
        readers = Readers(db, ledger, self._keys, count=READERS)
        self._mark()
        writers.start()
        readers.start()
        try:
            await self._until_served("before the kill")
            await asyncio.sleep(self._random.uniform(*CALM_S))
            done = await self._strike(number)
        finally:
            await writers.stop()
            await readers.stop()
        done.acknowledged = ledger.acknowledged - before[0]
        done.refused = ledger.refused - before[1]
        done.unknown = ledger.unknown - before[2]
        done.reads, done.stale = readers.reads, len(readers.stale)
        for stale in readers.stale[:5]:
            self._say(f"stale  {printable(stale.key)}: read {stale.found}, at least {stale.at_least} was due")
        await self._verify(db, done)
        return done

    # ---- faults ----

    async def _strike(self, number: int) -> Round:
        """Do the fault, wait until everything is served and everybody is back."""
        kill, random = self._options.kill, self._random
        if kill in ("all", "children"):
            done = Round(number, "everything" if kill == "all" else "all children")
            strike = kill_everything if kill == "all" else kill_children
            await asyncio.to_thread(strike, self._cluster.nodes)
            began = self._mark()
            self._cluster.start()
            await self._until_served("again", done)
        else:
            victim = pick_child(random.choice(self._cluster.nodes), random)
            done = Round(number, victim.name)
            others = await asyncio.to_thread(self._not_served_by, victim)
            began = await (self._pause_child(victim, done) if kill == "pause" else self._kill_child(victim, done))
            done.others_gap_s = self._progress.longest_gap(others)
        nodes = self._cluster.nodes
        await self._until_thread(lambda: all(is_whole(self._cluster, node) for node in nodes), "every process to be up")
        await asyncio.to_thread(self._cluster.wait_ready, RECOVER_S)
        done.ready_s = time.monotonic() - began
        return done

    async def _kill_child(self, victim: Victim, done: Round) -> float:
        """Kill one child; returns when. In even rounds its supervisor is not let near until all regions were served."""
        supervisor = supervisor_of(victim.node)
        held = done.number % 2 == 0 and self._options.nodes > 2
        if held:
            done.victim += " (held)"
            supervisor.suspend()
        try:
            await asyncio.to_thread(kill_processes, [victim.process])
            began = self._mark()
            await self._until_served(f"without {victim.name}", done)
        finally:
            supervisor.resume()
        await self._until_thread(victim.is_replaced, f"{victim.name} to be started again")
        return began

    async def _pause_child(self, victim: Victim, done: Round) -> float:
        """Suspend one child for a random time; returns when."""
        seconds = self._random.uniform(0.1, self._options.pause_s)
        done.victim += f" {seconds:.1f} s"
        with suspended(victim.process):
            began = self._mark()
            await asyncio.sleep(seconds)
        await self._until_served("again", done)
        assert is_alive(victim.process), f"{victim.name} died of a pause"
        return began

    def _not_served_by(self, victim: Victim) -> list[int]:
        """Regions whose service cannot hang on this child: those that other workers of its node have."""
        if victim.kind != "worker":
            return []
        regions = self._cluster.status(victim.node).regions
        return [one.region.id for one in regions if one.worker_id != victim.number]

    def _mark(self) -> float:
        self._progress.mark(began := time.monotonic())
        return began

    # ---- the verdict ----

    async def _verify(self, db: nokv.AsyncClient, done: Round) -> None:
        """Read every key back and compare all replicas."""
        findings = await read_back(db, self._ledger)
        done.lost = len(findings)
        for finding in findings[:5]:
            self._say(f"lost   {printable(finding.key)}: found {finding.found}, promised one of {finding.wanted}")
        addresses = {StoreId(node.store_id): node.address for node in self._cluster.nodes}
        routes = await asyncio.to_thread(self._cluster.routes)
        views = await asyncio.to_thread(compare_replicas, self._cluster.asker, addresses, routes)
        unequal = [view for view in views if not view.equal]
        done.differing = len(unequal)
        for view in unequal[:5]:
            self._say(f"unequal  {view.describe()}")

    async def _until_served(self, when: str, done: Round | None = None) -> None:
        """Wait until every region has acknowledged a write that began after the mark."""
        await self._until(lambda: not self._progress.missing(self._written), f"all regions to be served {when}")
        if done is not None:
            done.served_s = max(self._progress.served().values())

    async def _until_thread(self, holds: Callable[[], bool], what: str) -> None:
        """The same for a condition that asks nodes and must not hold the writers up."""
        deadline = time.monotonic() + RECOVER_S
        while not await asyncio.to_thread(holds):
            if time.monotonic() >= deadline:
                raise ClusterError(f"waited {RECOVER_S:g} s for {what}\n{self._cluster.log_tails()}")
            await asyncio.sleep(POLL_S)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + RECOVER_S
        while not holds():
            if time.monotonic() >= deadline:
                missing = self._progress.missing(self._written)
                raise ClusterError(
                    f"waited {RECOVER_S:g} s for {what} (not served: {missing})\n{self._cluster.log_tails()}"
                )
            await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
