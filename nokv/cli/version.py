"""`nokv-node version`."""

import platform
from importlib.metadata import version as installed

import click

from nokv import __version__
from nokv.cli.options import json_option
from nokv.cli.report import emit_json

LIBRARIES = ("lmdb", "pyzmq", "msgspec", "uvloop")


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Versions of NoKV and of what it runs on."""
    libraries = {name: installed(name) for name in LIBRARIES}
    if as_json:
        emit_json("nokv.version.v1", {"nokv": __version__, "python": platform.python_version(), "libraries": libraries})
        return
    click.echo(f"nokv {__version__}   python {platform.python_version()}")
    click.echo("   ".join(f"{name} {number}" for name, number in libraries.items()))
