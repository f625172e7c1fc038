"""Output of the node's commands: one JSON object, or aligned text.

Invariants: JSON has `schema` (name and version of its shape) and `ts` (RFC 3339, UTC), on stdout, one object a line;
bytes are shown as nokv.proto.region.printable shows them.
Not here: what is reported.
"""

import time
from collections.abc import Mapping, Sequence

import click
import msgspec


def emit_json(schema: str, fields: Mapping[str, object]) -> None:
    """One object on stdout."""
    ts = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    click.echo(msgspec.json.encode({"schema": schema, "ts": ts, **fields}).decode())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart; numbers to the right, the rest to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(header), *cells]) for at in range(len(header))]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    lines = []
    for line in [list(header), *cells]:
        padded = [cell.rjust(widths[at]) if right[at] else cell.ljust(widths[at]) for at, cell in enumerate(line)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def duration(ms: int) -> str:
    """2h14m, 41s, 800ms."""
    if ms < 1000:
        return f"{ms}ms"
    seconds = ms // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
