"""`nokv-node bench`: what a running cluster does, measured so that others can believe it.

Rules: the header names everything the figures depend on; closed and open loop are labelled as what they are; client
processes are apart from the nodes, and a run whose clients were busy over CLIENT_CPU_MAX measured the client: it is
void. Errors and wrong answers are counted beside the figures and make the run fail. The load phase is timed apart.
Not here: sending requests (bench_load.py), the histogram (histogram.py).
"""

import subprocess
import sys
import time

import click
import msgspec
from msgspec import Struct

from nokv.cli.bench_load import LoadResult, LoadSpec
from nokv.cli.entry import CommandError
from nokv.cli.histogram import Histogram
from nokv.cli.options import json_option
from nokv.cli.report import emit_json, table
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_UNEXPECTED

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
CLIENT_CPU_MAX = 0.95
START_DELAY_S = 1.5
"""From spawning the clients to the common start: interpreters, connections and routes are ready by then."""
GRACE_S = 60.0
FILL_TIMEOUT_S = 600.0


class Figures(Struct, frozen=True):
    """Percentiles of one histogram, microseconds."""

    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int
    mean_us: float


class BenchResult(Struct, frozen=True):
    """One run. `latency` counts from when a request was due, `service` from when it was sent."""

    workload: str
    loop: str
    """"closed" or "open"."""
    in_flight: int
    rate: float
    """Wanted requests a second; 0 in a closed loop."""
    keys: int
    value_bytes: int
    procs: int
    duration_s: float
    fill_s: float
    count: int
    ops_per_s: float
    latency: Figures
    service: Figures
    errors: int
    wrong: int
    overloaded: int
    client_cpu: tuple[float, ...]
    error_samples: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """ "ok", or why these figures must not be used."""
        if self.errors or self.wrong:
            return f"FAILED: {self.errors} errors, {self.wrong} wrong answers"
        if self.overloaded:
            return f"VOID: overloaded, {self.overloaded} due requests were never sent"
        if max(self.client_cpu, default=0.0) > CLIENT_CPU_MAX:
            return (
                f"VOID: a client process was busy {max(self.client_cpu):.0%} of the time: more --procs or fewer clients"
            )
        return "ok"


@click.command("bench")
@click.option("--url", envvar="NOKV_URL", default="nokv://127.0.0.1:6658", show_default=True)
@click.option("--workload", type=click.Choice(["put", "get", "mixed", "scan"]), default="put", show_default=True)
@click.option(
    "--clients", type=click.IntRange(1, 100_000), default=64, show_default=True, help="Closed loop: in flight."
)
@click.option(
    "--rate", type=click.FloatRange(min=0), default=0.0, help="Open loop: requests a second. 0 = closed loop."
)
@click.option("--keys", type=click.IntRange(min=1), default=10_000, show_default=True, help="Distinct keys.")
@click.option("--value", "value_bytes", type=click.IntRange(0, 1 << 20), default=128, show_default=True)
@click.option("--duration", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds.")
@click.option("--warmup", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds, not counted.")
@click.option("--procs", type=click.IntRange(1, 64), default=1, show_default=True, help="Client processes.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--fill/--no-fill", default=True, show_default=True, help="Write every key first (get, mixed, scan).")
@json_option
def bench(
    url: str,
    workload: str,
    clients: int,
    rate: float,
    keys: int,
    value_bytes: int,
    duration: float,
    warmup: float,
    procs: int,
    seed: int,
    fill: bool,
    as_json: bool,
) -> int:
    """Measure a running cluster. Exit 3 when a request failed or the figures are void."""
    spec = LoadSpec(url, workload, keys, value_bytes, clients, rate, 0.0, warmup, duration, seed)
    fill_s = fill_keys(spec, procs) if fill and workload != "put" else 0.0
    result = measure(spec, procs, fill_s)
    if as_json:
        emit_json("nokv.bench.v1", {**msgspec.to_builtins(result), "verdict": result.verdict})
    else:
        click.echo(render(result))
    return EXIT_FINE if result.verdict == "ok" else EXIT_DEGRADED


def fill_keys(spec: LoadSpec, procs: int) -> float:
    """Write every key once; seconds it took.

    Raises:
        CommandError: a client process died.
    """
    borders = [spec.keys * at // procs for at in range(procs + 1)]
    replace = msgspec.structs.replace
    specs = [replace(spec, fill_from=borders[at], fill_to=borders[at + 1]) for at in range(procs)]
    return max(
        result.fill_s for result in _run([part for part in specs if part.fill_to > part.fill_from], FILL_TIMEOUT_S)
    )


def measure(spec: LoadSpec, procs: int, fill_s: float = 0.0) -> BenchResult:
    """Run the load in `procs` processes, which share clients and rate between them.

    Raises:
        CommandError: a client process died, or started too late to measure anything.
    """
    start_at_s = time.monotonic() + START_DELAY_S
    shares = [spec.clients * (at + 1) // procs - spec.clients * at // procs for at in range(procs)]
    specs = [
        msgspec.structs.replace(
            spec, clients=share, rate=spec.rate / procs, start_at_s=start_at_s, seed=spec.seed + 1000 * at
        )
        for at, share in enumerate(shares)
        if share
    ]
    results = _run(specs, START_DELAY_S + spec.warmup_s + spec.duration_s + GRACE_S)
    late_s = max(result.late_start_s for result in results)
    if late_s > max(spec.warmup_s, 0.1):
        raise CommandError(
            f"a client process was {late_s:.1f} s late: the machine is too busy to measure", EXIT_DEGRADED
        )
    return summarise(spec, results, fill_s)


def summarise(spec: LoadSpec, results: list[LoadResult], fill_s: float) -> BenchResult:
    """All processes together."""
    latency, service = Histogram(), Histogram()
    for result in results:
        latency.add(Histogram.unpack(result.latency))
        service.add(Histogram.unpack(result.service))
    return BenchResult(
        workload=spec.workload,
        loop="open" if spec.rate else "closed",
        in_flight=spec.clients,
        rate=spec.rate,
        keys=spec.keys,
        value_bytes=spec.value_bytes,
        procs=len(results),
        duration_s=spec.duration_s,
        fill_s=fill_s,
        count=latency.count,
        ops_per_s=latency.count / spec.duration_s,
        latency=figures(latency),
        service=figures(service),
        errors=sum(result.errors for result in results),
        wrong=sum(result.wrong for result in results),
        overloaded=sum(result.overloaded for result in results),
        client_cpu=tuple(round(result.cpu_share, 3) for result in results),
        error_samples=tuple(sample for result in results for sample in result.error_samples)[:5],
    )


def figures(histogram: Histogram) -> Figures:
    """The percentiles that are reported."""
    p50, p90, p99, p999 = (histogram.percentile(percent) for percent in PERCENTILES)
    return Figures(p50, p90, p99, p999, histogram.max_us, round(histogram.mean_us(), 1))


def render(result: BenchResult) -> str:
    """The run for people."""
    if result.loop == "open":
        how = f"open loop {result.rate:,.0f}/s   LATENCY FROM WHEN A REQUEST WAS DUE"
    else:
        how = f"closed loop, {result.in_flight} in flight   SERVICE TIME: a stall delays the next request unseen"
    header = (
        f"{result.workload}   {result.keys:,} keys x {result.value_bytes} B   {result.duration_s:g} s   "
        f"{result.procs} client processes   {how}"
    )
    names = ("op", "count", "ops/s", "mean", "p50", "p90", "p99", "p99.9", "max ms", "err", "wrong")
    times = result.latency
    ms = [times.mean_us, times.p50_us, times.p90_us, times.p99_us, times.p999_us, times.max_us]
    row = [result.workload, f"{result.count:,}", f"{result.ops_per_s:,.0f}", *(f"{value / 1000:.2f}" for value in ms)]
    lines = [header, table(names, [[*row, result.errors, result.wrong]])]
    if result.loop == "open":
        lines.append(f"service time p50 {result.service.p50_us / 1000:.2f}  p99 {result.service.p99_us / 1000:.2f} ms")
    if result.fill_s:
        lines.append(f"filled in {result.fill_s:.1f} s ({result.keys / result.fill_s:,.0f} puts/s)")
    lines.append(f"clients busy {', '.join(f'{share:.0%}' for share in result.client_cpu)}      {result.verdict}")
    lines.extend(f"error: {sample}" for sample in result.error_samples)
    return "\n".join(lines)


def _run(specs: list[LoadSpec], timeout_s: float) -> list[LoadResult]:
    """Run the client processes side by side.

    Raises:
        CommandError: one of them failed.
    """
    command = (sys.executable, "-m", "nokv.cli.bench_load")
    processes = [
        subprocess.Popen((*command, msgspec.json.encode(spec).decode()), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for spec in specs
    ]
    try:
        results = []
        for process in processes:
            output, errors = process.communicate(timeout=timeout_s)
            if process.returncode:
                last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise CommandError(f"a client process failed: {last[0]}", EXIT_UNEXPECTED)
            results.append(msgspec.json.decode(output, type=LoadResult))
        return results
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"a client process did not end within {timeout_s:g} s", EXIT_UNEXPECTED) from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
