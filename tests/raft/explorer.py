"""`python -m tests.raft.explorer --seeds 0:2000 [--jobs 2]`: random runs of small groups, each checked at every step.

Why: the rules that Raft's proof rests on should hold in runs that nobody has thought of.
Invariants: a seed is a run; a failing seed is printed with the line that replays it, with `--trace` step by step.
Not here: the runs (explorer_world.py) and the rules (explorer_rules.py).
"""

import argparse
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.raft.explorer_world import World

BATCH_SEEDS = 20


def failure_of(seed: int) -> str:
    """Run a seed; what went wrong, empty if nothing did."""
    try:
        World(seed).run()
    except Exception:  # noqa: BLE001 - whatever a bug raises is the finding
        return traceback.format_exc()
    return ""


def failures_in(seeds: range) -> list[tuple[int, str]]:
    """The seeds that fail, and how."""
    return [(seed, failure) for seed in seeds if (failure := failure_of(seed))]


def batches(seeds: range) -> list[range]:
    """Seeds in pieces that are worth a process's time."""
    return [seeds[start : start + BATCH_SEEDS] for start in range(0, len(seeds), BATCH_SEEDS)]


def explore(seeds: range, jobs: int) -> Iterator[list[tuple[int, str]]]:
    """Failures of one batch after the other."""
    if jobs == 1:
        yield from map(failures_in, batches(seeds))
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(failures_in, batches(seeds))


def report(found: Iterable[list[tuple[int, str]]]) -> int:
    """Print failures as they come; how many there were."""
    count = 0
    for batch in found:
        for seed, failure in batch:
            count += 1
            print(f"seed {seed} failed:\n{failure}", end="")
            print(f"replay: python -m tests.raft.explorer --seeds {seed}:{seed + 1} --trace")
    return count


def seed_range(text: str) -> range:
    """`FROM:TO`, without TO."""
    first, _, end = text.partition(":")
    return range(int(first), int(end or int(first) + 1))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tests.raft.explorer", description=__doc__)
    parser.add_argument("--seeds", type=seed_range, default=range(200), metavar="FROM:TO")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--trace", action="store_true", help="print every step")
    options = parser.parse_args()
    if options.trace:
        for seed in options.seeds:
            print(World(seed, trace=print).run())
        return 0
    started = time.monotonic()
    failed = report(explore(options.seeds, options.jobs))
    elapsed = time.monotonic() - started
    print(f"{len(options.seeds) - failed} passed, {failed} failed, {elapsed:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
