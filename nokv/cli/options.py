"""Options that several commands share, so that they mean and read the same everywhere."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object with schema and ts.")


def timeout_option(default: float) -> Callable[[Command], Command]:
    """--timeout in seconds."""
    return click.option(
        "--timeout", type=click.FloatRange(min=0.001), default=default, show_default=True, help="Seconds."
    )


def reach_options(command: Command) -> Command:
    """--url and --topology: where the cluster is."""
    url = click.option(
        "--url",
        envvar="NOKV_URL",
        default="nokv://127.0.0.1:6658",
        show_default=True,
        help="Nodes to ask, host:port,host:port.",
    )
    topology = click.option(
        "--topology", type=click.Path(dir_okay=False), default="", help="Take the nodes from this topology file."
    )
    return url(topology(command))
