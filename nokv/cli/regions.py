"""`nokv-node regions ls | show`: the directory of a running cluster, or the catalog in a stopped node's directory."""

from collections.abc import Iterable
from pathlib import Path

import click
from msgspec import Struct

from nokv.cli.entry import CommandError
from nokv.cli.offline import read_catalog
from nokv.cli.options import json_option, reach_options, timeout_option
from nokv.cli.reach import Reach
from nokv.cli.report import emit_json, table
from nokv.exitcodes import EXIT_DEGRADED
from nokv.proto.control import RegionRoute, RegionStatus, StatusReply
from nokv.proto.region import Region, printable


class RegionRow(Struct, frozen=True):
    """One region as it is shown. `leader` is a store, 0 = not known; `replicas` are those that nodes report."""

    id: int
    state: str
    start: str
    end: str
    version: int
    conf_ver: int
    peers: tuple[str, ...]
    leader: int
    replicas: tuple[dict[str, object], ...] = ()

    @property
    def epoch(self) -> str:
        """The epoch for people."""
        return f"v{self.version} c{self.conf_ver}"


@click.group("regions", invoke_without_command=True)
@reach_options
@click.option("--data-dir", "--workdir", "data_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@timeout_option(3.0)
@json_option
@click.pass_context
def regions(ctx: click.Context, url: str, topology: str, data_dir: Path | None, timeout: float, as_json: bool) -> None:
    """Regions, their replicas and leaders; offline with --data-dir."""
    ctx.obj = (lambda: read(url, topology, data_dir, timeout_ms=int(timeout * 1000)), as_json)
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all)


@regions.command("ls")
@click.pass_context
def list_all(ctx: click.Context) -> None:
    """Every region, in key order."""
    load, as_json = ctx.obj
    rows: list[RegionRow] = load()
    if as_json:
        emit_json("nokv.regions.v1", {"regions": rows})
        return
    if not rows:
        click.echo("no regions, waiting for bootstrap")
        return
    cells = [
        (
            row.id,
            row.state,
            row.start,
            row.end,
            f"v{row.version} c{row.conf_ver}",
            row.leader or "-",
            " ".join(row.peers),
        )
        for row in rows
    ]
    click.echo(table(("ID", "STATE", "START", "END", "EPOCH", "LEADER", "PEERS"), cells))


@regions.command("show")
@click.argument("region_id", type=int)
@click.pass_context
def show(ctx: click.Context, region_id: int) -> None:
    """One region with what each of its replicas reports; exit 3 if there is none."""
    load, as_json = ctx.obj
    row = next((row for row in load() if row.id == region_id), None)
    if row is None:
        raise CommandError(f"there is no region {region_id}", EXIT_DEGRADED)
    if as_json:
        emit_json("nokv.region.v1", {"region": row})
        return
    click.echo(
        f"region {row.id}  {row.state}  [{row.start}, {row.end})  v{row.version} c{row.conf_ver}  {' '.join(row.peers)}"
    )
    if row.replicas:
        header = list(row.replicas[0])
        click.echo(table([name.upper() for name in header], [list(replica.values()) for replica in row.replicas]))


def read(url: str, topology: str, data_dir: Path | None, *, timeout_ms: int) -> list[RegionRow]:
    """All regions in key order, from a stopped node or from the running cluster.

    Raises:
        CommandError: neither can be read.
    """
    if data_dir is not None:
        return [row_of(region, 0, (), state=state) for region, state in read_catalog(data_dir)]
    with Reach(url, topology) as reach:
        cluster = reach.need(timeout_ms=timeout_ms)
        answers = reach.statuses(cluster.stores, regions=True, timeout_ms=timeout_ms)
        stores = {store.client_addr: store.id for store in cluster.stores}
        replicas = [
            (stores[address], status)
            for address, answer in answers.items()
            if isinstance(answer, StatusReply)
            for status in answer.regions
        ]
        return [online_row(route, replicas) for route in cluster.routes]


def online_row(route: RegionRoute, replicas: Iterable[tuple[int, RegionStatus]]) -> RegionRow:
    """A route with the replicas' own reports."""
    own = [(store_id, status) for store_id, status in replicas if status.region.id == route.region.id]
    reports = tuple(
        {
            "store": store_id,
            "worker": status.worker_id,
            "peer": status.peer_id,
            "role": status.role,
            "term": status.term,
            "commit": status.commit,
            "applied": status.applied,
            "first": status.first_index,
            "last": status.last_index,
            "epoch": f"v{status.region.epoch.version} c{status.region.epoch.conf_ver}",
        }
        for store_id, status in sorted(own, key=lambda pair: pair[0])
    )
    return row_of(route.region, route.leader_store, reports, state=route.region.state.name.lower())


def row_of(region: Region, leader: int, replicas: tuple[dict[str, object], ...], *, state: str) -> RegionRow:
    """A region as it is shown."""
    return RegionRow(
        id=region.id,
        state=state,
        start=printable(region.start) if region.start else "-inf",
        end=printable(region.end) if region.end else "+inf",
        version=region.epoch.version,
        conf_ver=region.epoch.conf_ver,
        peers=tuple(f"{peer.id}@{peer.store_id}" for peer in region.peers),
        leader=leader,
        replicas=replicas,
    )
