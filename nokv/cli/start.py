"""`nokv-node start`: flags are a thin layer over settings; everything else is nokv.node.start."""

import os
from pathlib import Path

import click

from nokv.node.children import die_with_parent
from nokv.node.settings import Settings, load
from nokv.node.start import start as start_node

FLAGS = {
    "workers": "node.workers",
    "store_id": "node.store_id",
    "data_dir": "node.data_dir",
    "run_dir": "node.run_dir",
    "topology": "node.topology",
    "pin": "node.pin",
    "drain_timeout": "node.drain_timeout_s",
    "listen": "listen.client",
    "peer_listen": "listen.peer",
    "advertise": "listen.advertise_client",
    "peer_advertise": "listen.advertise_peer",
    "insecure_bind": "listen.insecure_bind",
    "curve_dir": "curve.dir",
    "election_tick": "raft.election_ticks",
    "heartbeat_tick": "raft.heartbeat_ticks",
    "raft_tick_interval": "raft.tick_ms",
    "raft_max_msg_bytes": "raft.max_message_bytes",
    "raft_max_inflight": "raft.max_inflight",
    "map_size": "storage.map_bytes_initial",
    "chaos": "chaos.enabled",
    "log_format": "log.format",
    "log_level": "log.level",
}
"""Flag to setting. Only flags that were given count; every other setting has --set."""


@click.command("start")
@click.option("--workers", metavar="N|auto", help="Shard workers; auto = usable cores.")
@click.option("--pin", metavar="auto|none|LIST", help="Worker to CPU, e.g. 0-3,6.")
@click.option("--store-id", "--node-id", "store_id", metavar="ID", help="This store's id in the cluster.")
@click.option("--data-dir", "--workdir", "data_dir", metavar="DIR", help="Everything durable.")
@click.option("--run-dir", metavar="DIR", help="Sockets; a short path.")
@click.option("--topology", metavar="FILE", help="The cluster's topology file.")
@click.option("--listen", "--addr", "listen", metavar="HOST:PORT", help="Client plane.")
@click.option("--peer-listen", metavar="HOST:PORT", help="Peer plane.")
@click.option("--advertise", metavar="HOST:PORT", help="How clients reach the client plane.")
@click.option("--peer-advertise", metavar="HOST:PORT", help="How other stores reach the peer plane.")
@click.option("--insecure-bind", is_flag=True, help="Serve outside loopback without keys.")
@click.option("--curve-dir", metavar="DIR", help="Keys made by nokv-node keygen.")
@click.option("--election-tick", metavar="TICKS", help="Silence before an election.")
@click.option("--heartbeat-tick", metavar="TICKS", help="Distance of heartbeats.")
@click.option("--raft-tick-interval", metavar="TIME", help="Length of a tick, e.g. 100ms.")
@click.option("--raft-max-msg-bytes", metavar="BYTES", help="Entries of one append message, e.g. 1MiB.")
@click.option("--raft-max-inflight", metavar="N", help="Unacknowledged appends to one follower.")
@click.option("--map-size", metavar="BYTES", help="First size of each LMDB map, e.g. 1GiB.")
@click.option("--drain-timeout", metavar="TIME", help="From SIGTERM to SIGKILL, e.g. 25s.")
@click.option("--chaos", is_flag=True, help="Obey fault injection: tests only.")
@click.option("--log-format", metavar="auto|text|json", help="Lines on stderr.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--config", "config_path", metavar="FILE", help="TOML; else $NOKV_CONFIG, else ./nokv.toml.")
@click.option("--set", "sets", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")
@click.option("--die-with", type=int, hidden=True, help="Process id of the parent not to outlive: test harnesses.")
@click.option("--check", "check_only", is_flag=True, help="Check settings and ports, then leave.")
def start(
    config_path: str | None, sets: tuple[str, ...], die_with: int | None, check_only: bool, **flags: object
) -> int:
    """Run a node in the foreground.

    Settings come from, later ones winning: defaults, topology file, configuration file, environment
    (NOKV_RAFT__ELECTION_TICKS=10), flags. Ctrl-C or SIGTERM drains and stops.
    """
    if die_with is not None:
        die_with_parent(die_with)
    given = flag_values(flags)

    def settings() -> Settings:
        return load(config_path=config_path, environ=os.environ, flags=given, sets=sets, cwd=Path.cwd())

    return start_node(settings, environ=os.environ, check_only=check_only)


def flag_values(flags: dict[str, object]) -> dict[str, object]:
    """Dotted paths of the flags that were given."""
    values = {FLAGS[name]: value for name, value in flags.items() if value is not None and value is not False}
    if values.get("node.workers") == "auto":
        values["node.workers"] = 0
    return values
