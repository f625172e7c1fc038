"""Plays MVCC scenario files against any backend.

Why: the same black-box scenarios must hold for the pure functions in this process and for a cluster behind a client.
A file is {"suite", "cases"}, a case {"name", "why", "steps"}, a step {"op", arguments, "expect"} and optionally "as".
`play` resolves keys, values, timestamps and names, hands each step to the backend and matches what comes back.

Run as a program: python -m tests.mvcc.cases FILE... prints "N passed, N failed" and exits 1 if a case failed.
Not here: how a backend answers (backend.py).
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from nokv.proto.ids import Ts, ts_of

CASES = Path(__file__).parent / "cases"

Outcome = dict[str, Any]
"""A step's answer in the terms of the files, with keys and values as bytes and timestamps as wire integers."""
Resolve = Callable[[Any], Any]


class Backend(Protocol):
    """Something that can be asked the operations of the scenario files."""

    def reset(self) -> None:
        """Start from nothing: no keys, no locks, no marks, no reads remembered."""
        ...

    def run(self, op: str, arguments: dict[str, Any]) -> Outcome:
        """Answer one operation. Keys and values are bytes, timestamps integers, absent optional arguments absent."""
        ...


class Failure(Exception):
    """A step did not give its expected outcome."""


def play(
    files: Iterable[Path],
    backend: Backend,
    report: Callable[[str], None] = lambda line: None,
    *,
    offset_ms: int = 0,
) -> tuple[int, int]:
    """Play every case of the files: (passed, failed). `report` gets a line for each failed case.

    `offset_ms` is added to every physical part: a cluster has a clock and a safe point of its own.
    """
    passed = failed = 0
    for file in files:
        for case in load(file):
            try:
                play_case(case, backend, offset_ms=offset_ms)
                passed += 1
            except Failure as failure:
                failed += 1
                report(f"{file.name}: {case['name']}: {failure}")
    return passed, failed


def load(file: Path) -> list[dict[str, Any]]:
    """The cases of one file."""
    cases: list[dict[str, Any]] = json.loads(file.read_text())["cases"]
    return cases


def play_case(case: dict[str, Any], backend: Backend, *, offset_ms: int = 0) -> None:
    """Play one case from nothing. `offset_ms` is added to the physical part of every timestamp.

    Raises:
        Failure: at the first step whose outcome differs.
    """
    backend.reset()
    names: dict[str, int] = {}
    for number, step in enumerate(case["steps"], 1):
        resolve_ts = _timestamps(names, offset_ms)
        arguments = {
            name: _ARGUMENTS.get(name, _plain)(resolve_ts)(value)
            for name, value in step.items()
            if name not in ("op", "expect", "as")
        }
        outcome = backend.run(step["op"], arguments)
        if not matches(step["expect"], outcome, resolve_ts):
            raise Failure(f"step {number} {step['op']}: expected {step['expect']}, got {outcome}")
        if "as" in step:
            names[step["as"]] = outcome["commit_ts"]


# ---- matching -------------------------------------------------------------------------------------------------------


def matches(expect: dict[str, Any], outcome: Outcome, resolve_ts: Resolve) -> bool:
    """Whether the outcome has every expected field. An expected result never matches an error, nor the reverse."""
    if "any" in expect:
        return any(matches(member, outcome, resolve_ts) for member in expect["any"])
    if _is_error(expect) != _is_error(outcome):
        return False
    return all(_field_matches(name, wanted, outcome, resolve_ts) for name, wanted in expect.items())


def _is_error(outcome: Outcome) -> bool:
    return "error" in outcome or "errors" in outcome


def _field_matches(name: str, wanted: Any, outcome: Outcome, resolve_ts: Resolve) -> bool:
    if name == "commit_ts_gt":
        return "commit_ts" in outcome and outcome["commit_ts"] > resolve_ts(wanted)
    if name not in outcome:
        return False
    found = outcome[name]
    if name == "errors":
        allowed = [{"kind": error["kind"], "key": to_bytes(error["key"])} for error in wanted]
        return bool(found) and all(error in allowed for error in found)
    if name == "lock":
        return all(
            field in found and found[field] == _lock_field(field, value, resolve_ts) for field, value in wanted.items()
        )
    if name == "values":
        return bool(found == [_maybe_bytes(value) for value in wanted])
    if name == "pairs":
        return bool(found == [(to_bytes(key), _maybe_bytes(value)) for key, value in wanted])
    if name in ("key", "value"):
        return bool(found == to_bytes(wanted))
    if name in ("commit_ts", "start_ts", "min_commit_ts"):
        return bool(found == resolve_ts(wanted))
    return bool(found == wanted)


def _lock_field(field: str, value: Any, resolve_ts: Resolve) -> Any:
    if field in ("key", "primary"):
        return to_bytes(value)
    return value if field == "ttl" else resolve_ts(value)


# ---- words of the files ---------------------------------------------------------------------------------------------


def to_bytes(text: str) -> bytes:
    """The byte string that the files write as text, or as hex after "hex:"."""
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


def _maybe_bytes(text: str | None) -> bytes | None:
    return None if text is None else to_bytes(text)


def _timestamps(names: dict[str, int], offset_ms: int) -> Resolve:
    """Reads `p`, "p.l", "$name" and "$name+n" as wire timestamps; the integer 0 is zero."""

    def resolve(word: int | str) -> int:
        if word == 0:
            return 0
        if isinstance(word, int):
            return ts_of(word + offset_ms)
        if word.startswith("$"):
            name, _, more = word[1:].partition("+")
            return Ts(names[name] + int(more or 0))
        physical, _, logical = word.partition(".")
        return ts_of(int(physical) + offset_ms, int(logical or 0))

    return resolve


def _plain(_: Resolve) -> Resolve:
    return lambda value: value


def _bytes(_: Resolve) -> Resolve:
    return to_bytes


def _list_of_bytes(_: Resolve) -> Resolve:
    return lambda texts: [to_bytes(text) for text in texts]


def _mutations(_: Resolve) -> Resolve:
    return lambda mutations: [(op, *map(to_bytes, rest)) for op, *rest in mutations]


def _ts(resolve_ts: Resolve) -> Resolve:
    return resolve_ts


_ARGUMENTS: dict[str, Callable[[Resolve], Resolve]] = {
    "mutations": _mutations,
    **dict.fromkeys(("key", "primary", "start", "end"), _bytes),
    "keys": _list_of_bytes,
    **dict.fromkeys(
        (
            "ts",
            "start_ts",
            "commit_ts",
            "min_commit_ts",
            "lock_ts",
            "caller_start_ts",
            "current_ts",
            "safe_point",
        ),
        _ts,
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Play the named files, or all of ours, in this process."""
    from tests.mvcc.backend import LocalBackend

    files = [Path(argument) for argument in arguments] or sorted(CASES.glob("*.json"))
    passed, failed = play(files, LocalBackend(), print)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
