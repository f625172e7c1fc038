"""`./run bench --compare etcd`: NoKV beside etcd on the same machine, disk and work, one after the other.

Three nodes each, one shard worker for each of ours and one region, as etcd is one Raft group; the same keys and value
size, the same number of requests in flight, closed loop. Rounds alternate between the two, and each figure is the
median over the rounds. Needs `etcd` and `wrk` on the PATH (Debian: etcd-server, wrk) and installs nothing.

What differs, and whom it favours: wrk is C and costs the machine little, NoKV's load comes from its own Python client,
which shares the cores with the nodes (favours etcd); etcd is reached through its HTTP gateway, whose translation to
gRPC it pays for (favours NoKV).
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from etcd_peer import EtcdCluster, missing_programs

from nokv import __version__
from nokv.cli.bench import fill_keys, measure
from nokv.cli.bench_load import LoadSpec
from nokv.cli.report import emit_json, table
from nokv.testing.cluster import LocalCluster

WORKLOADS = ("put", "get")


class Side(msgspec.Struct, frozen=True):
    """One round of one store. Times in milliseconds."""

    ops_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    errors: int


def main() -> int:
    """Run the comparison. Exit 0, 3 when a request failed, 2 when a program is missing."""
    arguments = parse_arguments()
    if missing := missing_programs():
        print(f"error: {', '.join(missing)} not found: apt install etcd-server wrk", file=sys.stderr)
        return 2
    rounds: dict[str, dict[str, list[Side]]] = {name: {w: [] for w in WORKLOADS} for name in ("etcd", "nokv")}
    etcd_version = ""
    for at in range(arguments.rounds):
        etcd_version = run_etcd(arguments, rounds["etcd"], seed=at + 1)
        run_nokv(arguments, rounds["nokv"], seed=at + 1)
        print(f"round {at + 1} of {arguments.rounds} done", file=sys.stderr)
    medians = {name: {w: median(sides) for w, sides in by_workload.items()} for name, by_workload in rounds.items()}
    if arguments.as_json:
        emit_json("nokv.compare-etcd.v1", document(arguments, etcd_version, rounds, medians))
    else:
        print(render(arguments, etcd_version, medians))
    failed = any(side.errors for by_workload in medians.values() for side in by_workload.values())
    return 3 if failed else 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./run bench --compare etcd", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each workload in each round")
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value", type=int, default=128, help="bytes")
    parser.add_argument("--procs", type=int, default=1, help="client processes of NoKV's load")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="data of both goes below this folder")
    parser.add_argument("--json", dest="as_json", action="store_true")
    return parser.parse_args()


def run_etcd(arguments: argparse.Namespace, into: dict[str, list[Side]], *, seed: int) -> str:
    """One round of etcd; its version."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-etcd-", dir=arguments.dir))
    value = os.urandom(arguments.value)
    try:
        with EtcdCluster(folder) as cluster:
            cluster.fill(arguments.keys, value)
            for workload in WORKLOADS:
                load = {"keys": arguments.keys, "value": value, "in_flight": arguments.in_flight, "seed": seed}
                cluster.load(workload, seconds=arguments.warmup, **load)
                found = cluster.load(workload, seconds=arguments.seconds, **load)
                into[workload].append(
                    Side(
                        found["count"] / found["seconds"],
                        found["p50"],
                        found["p90"],
                        found["p99"],
                        found["max"],
                        int(found["status"] + found["socket"]),
                    )
                )
            held = cluster.count()
            if held != arguments.keys:
                raise SystemExit(f"error: etcd holds {held} keys, {arguments.keys} were written")
            return cluster.version()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_nokv(arguments: argparse.Namespace, into: dict[str, list[Side]], *, seed: int) -> None:
    """One round of NoKV."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-nokv-", dir=arguments.dir))
    try:
        with LocalCluster(3, 1, regions=1, data_dir=folder) as cluster:
            base = LoadSpec(
                url=cluster.url,
                workload=WORKLOADS[0],
                keys=arguments.keys,
                value_bytes=arguments.value,
                clients=arguments.in_flight,
                rate=0.0,
                start_at_s=0.0,
                warmup_s=arguments.warmup,
                duration_s=arguments.seconds,
                seed=seed,
            )
            fill_keys(base, arguments.procs)
            for workload in WORKLOADS:
                spec = msgspec.structs.replace(base, workload=workload)
                found = measure(spec, arguments.procs)
                times = found.latency
                into[workload].append(
                    Side(
                        found.ops_per_s,
                        times.p50_us / 1000,
                        times.p90_us / 1000,
                        times.p99_us / 1000,
                        times.max_us / 1000,
                        found.errors + found.wrong,
                    )
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def median(sides: list[Side]) -> Side:
    """Field by field; errors are summed."""
    fields = [
        statistics.median(values) for values in zip(*(msgspec.structs.astuple(side) for side in sides), strict=True)
    ]
    return Side(*fields[:-1], errors=sum(side.errors for side in sides))


def render(arguments: argparse.Namespace, etcd_version: str, medians: dict[str, dict[str, Side]]) -> str:
    """The comparison for people."""
    rows = []
    for workload in WORKLOADS:
        etcd, nokv = medians["etcd"][workload], medians["nokv"][workload]
        for name, side in (("etcd", etcd), ("nokv", nokv)):
            ms = (f"{value:.2f}" for value in (side.p50_ms, side.p90_ms, side.p99_ms, side.max_ms))
            ratio = side.ops_per_s / etcd.ops_per_s
            rows.append((workload, name, f"{side.ops_per_s:,.0f}", *ms, side.errors, f"{ratio:.2f} x"))
    header = (
        f"etcd {etcd_version} beside nokv {__version__}   3 nodes each, 1 worker each of ours   "
        f"{arguments.keys:,} keys x {arguments.value} B   {arguments.in_flight} in flight, closed loop   "
        f"median of {arguments.rounds} rounds x {arguments.seconds:g} s\n{host(arguments.dir)}"
    )
    names = ("op", "store", "ops/s", "p50", "p90", "p99", "max ms", "err", "of etcd")
    return f"{header}\n{table(names, rows)}\nclients: wrk (C, HTTP gateway) for etcd, NoKV's Python client for NoKV"


def document(
    arguments: argparse.Namespace,
    etcd_version: str,
    rounds: dict[str, dict[str, list[Side]]],
    medians: dict[str, dict[str, Side]],
) -> dict[str, object]:
    """The comparison for machines: every round and the medians."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    ratios = {w: medians["nokv"][w].ops_per_s / medians["etcd"][w].ops_per_s for w in WORKLOADS}
    return {
        "host": host(arguments.dir),
        "etcd": etcd_version,
        "nokv": __version__,
        "settings": settings,
        "rounds": rounds,
        "medians": medians,
        "ops_per_s_of_etcd": ratios,
    }


def host(folder: Path) -> str:
    """What it ran on."""
    found = subprocess.run(["df", "--output=fstype", str(folder)], capture_output=True, text=True, check=False)
    file_system = found.stdout.split()[-1] if found.returncode == 0 else "unknown"
    machine = f"{os.cpu_count()} cpus, {platform.release()}, {file_system}, python {platform.python_version()}"
    return f"host: {machine}, load {os.getloadavg()[0]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
