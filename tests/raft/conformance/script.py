"""Scripts: parsing, running and rewriting.

Why: one format for all areas; what a command does is the area's.
Invariants: writing back what was read, unchanged, gives the same bytes.
Not here: commands (quorums.py, confchanges.py, interaction.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from traceback import format_exc

_ARGUMENT = re.compile(r"([^\s=]+)(?:=(\([^)]*\)|[^\s]*))?")
SEPARATOR = "----"


class ScriptError(ValueError):
    """A script that cannot be read."""


class ScriptCrashed(Exception):
    """A directive made the core or the runner fail, with all that is known about it."""


@dataclass(slots=True)
class Directive:
    """One block: a command, its input and what should come out."""

    place: str
    """File and line."""
    command: str
    arguments: list[tuple[str, list[str]]]
    """Keys in order, with their values; a bare word is a key without values."""
    input: str
    expected: str
    head: list[str] = field(default_factory=list)
    """Everything up to the separator, as it is written: comments, blank lines, command, input."""
    doubled: bool = False
    """The output has empty lines, so that separators are doubled."""

    def values(self, key: str) -> list[str] | None:
        """Values of a key, None if it is not there."""
        for name, values in self.arguments:
            if name == key:
                return values
        return None

    def value(self, key: str, default: str) -> str:
        """The only value of a key."""
        values = self.values(key)
        if values is None:
            return default
        if len(values) != 1:
            raise ScriptError(f"{self.place}: {key} takes one value")
        return values[0]

    def words(self) -> list[str]:
        """Arguments without a value."""
        return [key for key, values in self.arguments if not values]


Area = Callable[[Directive], str]
"""What runs the directives of one script, one after the other."""


def parse(path: Path) -> list[Directive]:
    """The directives of a script. Raises ScriptError."""
    lines = path.read_text(encoding="utf-8").splitlines()
    directives = []
    at = 0
    while at < len(lines):
        start = at
        while at < len(lines) and (not lines[at].strip() or lines[at].lstrip().startswith("#")):
            at += 1
        if at == len(lines):
            break
        directive, at = _parse_block(path, lines, start, at)
        directives.append(directive)
    return directives


def _parse_block(path: Path, lines: list[str], start: int, at: int) -> tuple[Directive, int]:
    place = f"{path}:{at + 1}"
    command_line = lines[at]
    while command_line.endswith("\\"):
        at += 1
        command_line = command_line[:-1] + " " + lines[at].strip()
    at += 1
    first_input = at
    while at < len(lines) and lines[at] != SEPARATOR:
        at += 1
    if at == len(lines):
        raise ScriptError(f"{place}: no {SEPARATOR} behind the command")
    head, given = lines[start : at + 1], lines[first_input:at]
    at += 1
    doubled = at < len(lines) and lines[at] == SEPARATOR
    output = at + 1 if doubled else at
    at = output
    while at < len(lines) and (lines[at : at + 2] != [SEPARATOR, SEPARATOR] if doubled else lines[at].strip()):
        at += 1
    expected = "".join(f"{line}\n" for line in lines[output:at])
    command, _, rest = command_line.strip().partition(" ")
    directive = Directive(place, command, _parse_arguments(rest), "\n".join(given), expected, head, doubled)
    return directive, at + 2 if doubled else at


def _parse_arguments(text: str) -> list[tuple[str, list[str]]]:
    arguments: list[tuple[str, list[str]]] = []
    for match in _ARGUMENT.finditer(text):
        key, value = match.group(1), match.group(2)
        if value is None:
            arguments.append((key, []))
        elif value.startswith("("):
            arguments.append((key, [part.strip() for part in value[1:-1].split(",") if part.strip()]))
        else:
            arguments.append((key, [value]))
    return arguments


def run(path: Path, area: Area) -> list[tuple[Directive, str]]:
    """Each directive of a script with what came out. Raises ScriptError, ScriptCrashed."""
    results = []
    for directive in parse(path):
        try:
            results.append((directive, _ended(area(directive))))
        except ScriptError:
            raise
        except Exception as error:
            # Whatever it is, it is the failure of this script, and the others are still to be run.
            raise ScriptCrashed(f"{directive.place}: {directive.command} failed\n{format_exc()}") from error
    return results


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def difference(directive: Directive, actual: str) -> str:
    """A unified diff of what should have come out and what did, empty if they are equal."""
    return "".join(
        unified_diff(
            directive.expected.splitlines(keepends=True),
            actual.splitlines(keepends=True),
            f"{directive.place} expected",
            f"{directive.place} actual",
        )
    )


def rewritten(results: list[tuple[Directive, str]]) -> str:
    """The script with what came out in the place of what should have."""
    parts: list[str] = []
    for directive, actual in results:
        parts.extend(f"{line}\n" for line in directive.head)
        if any(not line.strip() for line in actual.splitlines()):
            parts.append(f"{SEPARATOR}\n{actual}{SEPARATOR}\n{SEPARATOR}\n")
        else:
            parts.append(actual)
    return "".join(parts)
