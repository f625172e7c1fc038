"""`nokv-node status` and `nokv-node wait-ready`: how a node or a cluster is, in one sentence and an exit code."""

import time

import click
import msgspec

from nokv.cli.options import json_option, reach_options, timeout_option
from nokv.cli.reach import Reach
from nokv.cli.report import duration, emit_json, table
from nokv.cli.verdict import State, Verdict, judge
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_UNREACHABLE

EXIT_OF = {State.HEALTHY: EXIT_FINE, State.DEGRADED: EXIT_DEGRADED, State.UNAVAILABLE: EXIT_UNREACHABLE}
WAIT_POLL_S = 0.1


@click.command("status")
@reach_options
@click.option("--cluster/--node", default=True, show_default=True, help="Every node of the cluster, or only --url's.")
@click.option("--watch", type=float, metavar="SECONDS", help="Look again and again.")
@timeout_option(3.0)
@json_option
def status(url: str, topology: str, cluster: bool, watch: float | None, timeout: float, as_json: bool) -> int:
    """How the cluster is; exit 0 healthy, 3 degraded, 4 unreachable."""
    with Reach(url, topology) as reach:
        while True:
            verdict = look(reach, cluster=cluster, timeout_ms=int(timeout * 1000))
            show(verdict, as_json=as_json)
            if watch is None:
                return EXIT_OF[verdict.state]
            time.sleep(watch)


@click.command("wait-ready")
@reach_options
@click.option("--cluster/--node", default=True, show_default=True, help="Every node of the cluster, or only --url's.")
@timeout_option(30.0)
@json_option
def wait_ready(url: str, topology: str, cluster: bool, timeout: float, as_json: bool) -> int:
    """Wait until all nodes are up and every region has a leader.

    Exit 4 when time runs out.
    """
    deadline = time.monotonic() + timeout
    with Reach(url, topology) as reach:
        while True:
            verdict = look(reach, cluster=cluster, timeout_ms=1000)
            if verdict.state is State.HEALTHY or time.monotonic() >= deadline:
                show(verdict, as_json=as_json)
                return EXIT_FINE if verdict.state is State.HEALTHY else EXIT_UNREACHABLE
            time.sleep(WAIT_POLL_S)


def look(reach: Reach, *, cluster: bool, timeout_ms: int) -> Verdict:
    """Ask and judge."""
    found = reach.find(timeout_ms=timeout_ms)
    stores = found.stores
    if not cluster:
        stores = tuple(store for store in stores if store.client_addr in reach.seeds) or stores[:1]
    answers = reach.statuses(stores, regions=False, timeout_ms=timeout_ms)
    whole = cluster or len(found.stores) == 1  # one node of many cannot speak for the others' regions
    return judge(stores, answers, found.routes if whole else ())


def show(verdict: Verdict, *, as_json: bool) -> None:
    """The verdict as one object, or as a sentence and a table."""
    if as_json:
        fields: dict[str, object] = msgspec.to_builtins(verdict)
        emit_json("nokv.status.v1", fields)
        return
    click.echo(f"{verdict.state.value}  {verdict.sentence}")
    rows = []
    for node in verdict.nodes:
        down = node.state == "DOWN"
        rows.append(
            [
                node.store_id or "?",
                node.address,
                node.state,
                "-" if down else duration(node.up_ms),
                "?" if down else f"{node.workers_up}/{node.workers}",
                "-" if down else str(node.regions),
                "-" if down else str(node.leaders),
                "-" if down else str(node.requests),
                node.error or (f"group 0 {node.control_role}" if node.control_role else ""),
            ]
        )
    header = ["NODE", "ADDRESS", "STATE", "UP", "WORKERS", "REGIONS", "LEADERS", "REQUESTS", "NOTE"]
    click.echo(table(header, rows))
