"""Explorer: random runs keep every promise, and broken variants of the core are found.

Why: see explorer.py; `python -m tests.raft.explorer --seeds 0:2000 --jobs 2` runs more of them.
Invariants: a failure names its seed.
Not here: single rules (test_paper.py).
"""

from collections.abc import Callable

import pytest

from tests.raft import explorer
from tests.raft.explorer_mutants import MUTANTS, Patches, applied
from tests.raft.explorer_world import World

SEEDS = 200
MUTANT_SEEDS_MAX = 400


@pytest.mark.parametrize("seeds", explorer.batches(range(SEEDS)), ids=str)
def test_promises_hold_in_random_runs(seeds: range) -> None:
    """No step of any run breaks a rule, and healed groups get on."""
    assert explorer.report([explorer.failures_in(seeds)]) == 0


def test_a_seed_is_a_run() -> None:
    """The same seed leads to the same run, to the last message."""
    for seed in range(5):
        assert World(seed).run() == World(seed).run()


def test_runs_are_worth_it() -> None:
    """Runs elect, commit, change the configuration and restart; hardly any gets stuck for a known reason."""
    outcomes = [World(seed).run() for seed in range(40)]
    assert sum(outcome.committed for outcome in outcomes) > 1000
    assert sum(outcome.changes > 5 for outcome in outcomes) > 20
    assert sum(outcome.term > 5 for outcome in outcomes) > 10
    assert sum(outcome.left_behind for outcome in outcomes) < 4


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_variant_is_found(mutant: Callable[[], Patches]) -> None:
    """Each within a bounded number of seeds, and nothing of it stays behind."""
    with applied(mutant):
        found = next((seed for seed in range(MUTANT_SEEDS_MAX) if explorer.failure_of(seed)), None)
    assert found is not None, f"{mutant.__name__} was not found by {MUTANT_SEEDS_MAX} seeds"
    print(f"{mutant.__name__} was found after {found + 1} seeds")
    assert not explorer.failure_of(found)


def test_failures_are_reported_with_their_replay(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the seed, what went wrong, and how to see it again."""
    assert explorer.report([[(7, "Violation: two leaders\n")], []]) == 1
    printed = capsys.readouterr().out
    assert "seed 7 failed" in printed
    assert "replay: python -m tests.raft.explorer --seeds 7:8 --trace" in printed
