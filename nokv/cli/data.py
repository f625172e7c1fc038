"""`nokv`: read and write keys from a shell.

Rules: data on stdout, talk on stderr; `get` of a missing key exits 3; nobody reachable or out of time exits 4. The
client is loaded when a command runs, so that --help stays quick.
Not here: how bytes look (output.py), what a command line does when it ends (entry.py).
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

import nokv
from nokv.cli.entry import CommandError, run
from nokv.cli.output import from_argument, in_json, write_line, write_value
from nokv.exitcodes import EXIT_DEGRADED, EXIT_FINE, EXIT_UNEXPECTED, EXIT_UNREACHABLE, EXIT_USAGE

if TYPE_CHECKING:
    from nokv import Client, NokvError

FROM_STDIN = "-"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nokv.__version__, prog_name="nokv")
def data() -> None:
    """Read and write keys of a NoKV cluster."""


def _common(command: Callable[..., int]) -> Callable[..., int]:
    """Options of every command."""
    options = (
        click.option("--url", help="Nodes to ask: nokv://host:port,host.  [default: $NOKV_URL, else the local node]"),
        click.option("--timeout", type=click.FloatRange(min=0.001), default=5.0, show_default=True, help="Seconds."),
        click.option("--json", "as_json", is_flag=True, help="JSON with schema and ts; one object a line."),
        click.option("--hex", "as_hex", is_flag=True, help="Keys and values are hexadecimal, given and shown."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@data.command()
@click.argument("key")
@_common
def get(key: str, url: str | None, timeout: float, as_json: bool, as_hex: bool) -> int:
    """Print the value of KEY. Exit 3 if it has none."""
    wanted = from_argument(key, as_hex=as_hex)
    with _client(url, timeout) as db:
        value = db.get(wanted)
    if as_json:
        shown = None if value is None else in_json(value, as_hex=as_hex)
        _emit("nokv.get.v1", key=in_json(wanted, as_hex=as_hex), found=value is not None, value=shown)
    elif value is not None:
        write_value(value, as_hex=as_hex)
    if value is None:
        raise CommandError("not found", EXIT_DEGRADED)
    return EXIT_FINE


@data.command()
@click.argument("key")
@click.argument("value", default=FROM_STDIN)
@_common
def put(key: str, value: str, url: str | None, timeout: float, as_json: bool, as_hex: bool) -> int:
    """Set KEY to VALUE, or to what stdin brings if VALUE is missing or "-"."""
    wanted = from_argument(key, as_hex=as_hex)
    content = sys.stdin.buffer.read() if value == FROM_STDIN else from_argument(value, as_hex=as_hex)
    with _client(url, timeout) as db:
        db.put(wanted, content)
    if as_json:
        _emit("nokv.put.v1", key=in_json(wanted, as_hex=as_hex), value_bytes=len(content))
    return EXIT_FINE


@data.command("del")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_common
def delete(keys: tuple[str, ...], url: str | None, timeout: float, as_json: bool, as_hex: bool) -> int:
    """Remove the values of keys, one after the other. No error for keys that have none."""
    wanted = [from_argument(key, as_hex=as_hex) for key in keys]
    with _client(url, timeout) as db:
        for key in wanted:
            db.delete(key)
            if as_json:
                _emit("nokv.del.v1", key=in_json(key, as_hex=as_hex))
    return EXIT_FINE


@data.command()
@click.argument("start", default="")
@click.argument("end", required=False)
@click.option("--prefix", help="All keys that begin so, instead of START and END.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many pairs.")
@click.option("--reverse", is_flag=True, help="From the high end.")
@click.option("--keys-only", is_flag=True, help="Print no values.")
@_common
def scan(
    start: str,
    end: str | None,
    prefix: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    url: str | None,
    timeout: float,
    as_json: bool,
    as_hex: bool,
) -> int:
    """Print keys and values from START (included) to END (not included), in key order, a tab between them."""
    with _client(url, timeout) as db:
        pairs = db.scan(
            from_argument(start, as_hex=as_hex),
            None if end is None else from_argument(end, as_hex=as_hex),
            prefix=None if prefix is None else from_argument(prefix, as_hex=as_hex),
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
        )
        for key, value in pairs:
            if as_json:
                shown = None if keys_only else in_json(value, as_hex=as_hex)
                _emit("nokv.pair.v1", key=in_json(key, as_hex=as_hex), value=shown)
            else:
                write_line((key,) if keys_only else (key, value), as_hex=as_hex)
    return EXIT_FINE


@contextmanager
def _client(url: str | None, timeout: float) -> "Iterator[Client]":
    """A client whose errors end the command with a message and an exit code."""
    try:
        with nokv.Client(url, timeout=timeout, client_name="nokv-cli") as db:
            yield db
    except nokv.NokvError as error:
        unknown = " (outcome unknown: it may have been carried out)" if error.outcome == "unknown" else ""
        raise CommandError(f"{error}{unknown}", _exit_code(error)) from error
    except BrokenPipeError:
        # The reader has seen enough, e.g. `nokv scan | head`. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(EXIT_FINE) from None


def _exit_code(error: "NokvError") -> int:
    if isinstance(error, nokv.ConnectError | nokv.TimeoutError | nokv.UnavailableError):
        return EXIT_UNREACHABLE
    if isinstance(error, nokv.UsageError | nokv.LimitError):
        return EXIT_USAGE
    return EXIT_UNEXPECTED


def _emit(schema: str, **fields: object) -> None:
    from nokv.cli.report import emit_json  # msgspec is loaded for --json only

    emit_json(schema, fields)


def main() -> None:
    """Console script."""
    sys.exit(run(data, "nokv"))


if __name__ == "__main__":
    main()
