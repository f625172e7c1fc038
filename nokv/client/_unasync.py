"""Writes `_sync` from `_async`: the blocking client is the asynchronous one without its awaits.

Usage: `python -m nokv.client._unasync` writes the files, `--check` only compares and exits 1 on a difference.

Why: two clients written by hand drift apart; one that bridges to a loop in a thread costs 20 to 30 µs a call.
Invariants: the output is a pure function of the input; every word that is replaced is in WORDS, and nothing else
changes but lines marked "# async only", which are left out. What cannot be derived has hand-written twins with equal
surfaces: async_net/blocking_net, async_oracle/blocking_oracle, RegionCache/SharedRegionCache.
Not here: anything at run time.
"""

import re
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE / "_async"
TARGET: Final = HERE / "_sync"

HEADER: Final = (
    "# Generated from _async/{name} by `python -m nokv.client._unasync`. Do not edit.\n# fmt: off\n# ruff: noqa\n"
)

WORDS: Final = (
    (r"async def", "def"),
    (r"async with", "with"),
    (r"async for", "for"),
    (r"await ", ""),
    (r"`async for`", "`for`"),
    (r"AsyncClient", "Client"),
    (r"AsyncCluster", "Cluster"),
    (r"AsyncIterator", "Iterator"),
    (r"AsyncNet", "BlockingNet"),
    (r"AsyncOracle", "BlockingOracle"),
    (r"AsyncScan", "Scan"),
    (r"AsyncSnapshot", "Snapshot"),
    (r"RegionCache", "SharedRegionCache"),
    (r"nokv.client.region_cache", "nokv.client.shared_region_cache"),
    (r"StopAsyncIteration", "StopIteration"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"__aiter__", "__iter__"),
    (r"__anext__", "__next__"),
    (r"_async", "_sync"),
    (r"async_net", "blocking_net"),
    (r"async_oracle", "blocking_oracle"),
    (r"A client for one event loop, that of its first call; connects when it is first needed.",
     "A client for any number of threads; connects, each thread for itself, when it is first needed."),
    (r"The iterator belongs to one task.", "The iterator belongs to one thread."),
    (r"it belongs to the first task that does", "it belongs to the first thread that does"),
    (r"used by another event loop", "used by the child of a fork"),
)  # fmt: skip

# Longest first, so that a sentence is seen before a word inside it. Words are whole: no word character may touch them.
_PATTERN: Final = re.compile(
    "|".join(
        (r"(?<!\w)" if word[0].isalnum() or word[0] == "_" else "")
        + re.escape(word)
        + (r"(?!\w)" if word[-1].isalnum() or word[-1] == "_" else "")
        for word, _ in sorted(WORDS, key=lambda pair: -len(pair[0]))
    )
)
_REPLACEMENT: Final = dict(WORDS)


def blocking(source: str) -> str:
    """The synchronous form of one module's text."""
    kept = (line for line in source.splitlines(keepends=True) if "# async only" not in line)
    return _PATTERN.sub(lambda match: _REPLACEMENT[match.group()], "".join(kept))


def generated() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    return {
        TARGET / path.name: HEADER.format(name=path.name) + blocking(path.read_text())
        for path in sorted(SOURCE.glob("*.py"))
        if path.name != "__init__.py"
    } | {
        TARGET
        / "__init__.py": '"""The blocking client\'s logic, generated from `_async`; see `nokv.client._unasync`."""\n'
    }


def main(arguments: list[str]) -> int:
    """Write, or with --check compare; returns the exit code."""
    wanted = generated()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in TARGET.glob("*.py") if path not in wanted]
    if "--check" in arguments:
        for path in stale:
            print(f"{path} differs from what _async says: run python -m nokv.client._unasync", file=sys.stderr)
        return 1 if stale else 0
    TARGET.mkdir(exist_ok=True)
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
