"""`nokv-node`: the server and everything an operator does with it. One module for each subcommand, loaded when run."""

import sys

import click

from nokv.cli.entry import LazyGroup, run

COMMANDS = {
    "start": ("nokv.cli.start:start", "Run a node in the foreground."),
    "demo": ("nokv.cli.demo:demo", "Run a small cluster, kill a leader, check every acknowledged write."),
    "status": ("nokv.cli.status:status", "How the cluster is; exit 0 healthy, 3 degraded, 4 unreachable."),
    "top": ("nokv.cli.top:top", "Workers as they work: load, queues, log, LMDB; --once --json for scripts."),
    "wait-ready": ("nokv.cli.status:wait_ready", "Wait until all nodes are up and every region has a leader."),
    "regions": ("nokv.cli.regions:regions", "Regions, their replicas and leaders; offline with --data-dir."),
    "config": ("nokv.cli.config:config", "Show, check and explain settings."),
    "keygen": ("nokv.cli.keygen:keygen", "Make CURVE keys for a node or a client."),
    "bench": ("nokv.cli.bench:bench", "Measure a running cluster."),
    "version": ("nokv.cli.version:version", "Versions of NoKV and of what it runs on."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """NoKV server: start a node, look at a cluster."""


def main() -> None:
    """Console script."""
    sys.exit(run(node, "nokv-node"))


if __name__ == "__main__":
    main()
