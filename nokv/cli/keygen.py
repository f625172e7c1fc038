"""`nokv-node keygen node | client | allow`: CURVE keys and who they let in."""

from datetime import datetime
from pathlib import Path

import click

from nokv.cli.entry import CommandError
from nokv.cli.options import json_option
from nokv.cli.report import emit_json
from nokv.exitcodes import EXIT_CONFIG
from nokv.router.curve import CLIENTS_ALLOW, PEERS_ALLOW, KeyFileError, KeyPair, allow, make_key_file, make_node_dir


@click.group("keygen")
def keygen() -> None:
    """Make CURVE keys for a node or a client."""


@keygen.command("node")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@json_option
def node(directory: Path, as_json: bool) -> None:
    """Make DIRECTORY with a node's key pair and two empty allow lists, for --curve-dir."""
    try:
        pair = make_node_dir(directory)
    except (KeyFileError, OSError) as error:
        raise CommandError(str(error), EXIT_CONFIG) from error
    _tell(pair, str(directory), as_json=as_json)


@keygen.command("client")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def client(file: Path, as_json: bool) -> None:
    """Make FILE with a client's key pair, for nokv+curve://host?server_key=...&key=FILE."""
    try:
        pair = make_key_file(file)
    except (KeyFileError, OSError) as error:
        raise CommandError(str(error), EXIT_CONFIG) from error
    _tell(pair, str(file), as_json=as_json)


@keygen.command("allow")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("public_key")
@click.option("--plane", type=click.Choice(["client", "peer"]), required=True, help="Which plane it opens.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last day it is valid, UTC.")
@click.option("--note", default="", help="Whose key it is.")
def allow_key(directory: Path, public_key: str, plane: str, until: datetime | None, note: str) -> None:
    """Let PUBLIC_KEY into the node whose keys are in DIRECTORY; a running node notices."""
    name = CLIENTS_ALLOW if plane == "client" else PEERS_ALLOW
    try:
        allow(directory / name, public_key, until=until.date() if until else None, note=note)
    except (KeyFileError, OSError) as error:
        raise CommandError(str(error), EXIT_CONFIG) from error


def _tell(pair: KeyPair, path: str, *, as_json: bool) -> None:
    """The public half only."""
    public = pair.public.decode()
    if as_json:
        emit_json("nokv.keygen.v1", {"path": path, "public": public})
        return
    click.echo(public)
    click.echo(f"written to {path}; the line above is the public key", err=True)
