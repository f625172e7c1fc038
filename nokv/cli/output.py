"""Bytes on a terminal, on a pipe, in JSON and on the command line.

Rules: a pipe gets the bytes as they are; a terminal gets them escaped, so that data cannot steer it; JSON gets text
where the bytes are printable UTF-8 and "hex:..." elsewhere; with --hex everything is hexadecimal, both ways.
Not here: what is printed (data.py).
"""

import os
import sys
from collections.abc import Sequence

import click


def from_argument(text: str, *, as_hex: bool) -> bytes:
    """The bytes an argument means.

    Raises:
        click.BadParameter: not hexadecimal.
    """
    if not as_hex:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an even number of hexadecimal digits") from None


def escaped(data: bytes) -> str:
    """For a terminal: printable text as it is, everything else as \\xNN, the backslash doubled."""
    text = data.decode("utf-8", "backslashreplace") if b"\\" not in data else _with_backslashes(data)
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _with_backslashes(data: bytes) -> str:
    return data.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def in_json(data: bytes, *, as_hex: bool) -> str:
    """For JSON: text, or "hex:" and digits where text would not bring the same bytes back."""
    if as_hex:
        return data.hex()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"hex:{data.hex()}"
    return text if text.isprintable() and not text.startswith("hex:") else f"hex:{data.hex()}"


def write_line(fields: Sequence[bytes], *, as_hex: bool) -> None:
    """One line of tab-separated fields on stdout."""
    if as_hex or sys.stdout.isatty():
        click.echo("\t".join(field.hex() if as_hex else escaped(field) for field in fields))
    else:
        click.echo(b"\t".join(fields))


def write_value(data: bytes, *, as_hex: bool) -> None:
    """One value on stdout; on a pipe exactly its bytes, without a line break."""
    if as_hex or sys.stdout.isatty():
        write_line((data,), as_hex=as_hex)
    else:
        click.echo(data, nl=False)
