"""Small rounds of `ops/recovery_scenarios.py` and `ops/transport_chaos.py`: the very code that the long runs use."""

import pytest

from ops.recovery_scenarios import Options, Report, run
from ops.transport_chaos import SCENARIOS
from ops.transport_chaos import Options as ChaosOptions
from ops.transport_chaos import run as run_chaos

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


def rounds_of(kill: str, rounds: int, **more: int) -> Report:
    lines: list[str] = []
    report = run(Options(kill=kill, rounds=rounds, writers=64, **more), say=lines.append)  # type: ignore[arg-type]
    assert report.passed, "\n".join(lines)
    assert report.rounds == rounds
    assert report.acknowledged > 100 * rounds, "a run without load proves nothing"
    assert report.reads > 0
    return report


@pytest.mark.xdist_group("recovery_all")
def test_nothing_acknowledged_is_lost_when_everything_dies() -> None:
    """S33, M4, M5."""
    rounds_of("all", 2)


@pytest.mark.xdist_group("recovery_children")
def test_supervisors_bring_a_whole_cluster_back() -> None:
    rounds_of("children", 2)


@pytest.mark.xdist_group("recovery_child")
@pytest.mark.parametrize("seed", [3, 5])
def test_one_dead_child_stops_no_region_for_long(seed: int) -> None:
    """S4: every region is served while the child stays dead, and the child comes back."""
    report = rounds_of("child", 2, seed=seed)
    assert report.served_s_worst < 20


@pytest.mark.xdist_group("recovery_pause")
def test_one_paused_child_makes_nobody_read_old_values() -> None:
    """M2, R4."""
    rounds_of("pause", 2, seed=2)


@pytest.mark.xdist_group("transport_chaos")
def test_network_faults_lose_nothing_and_heal() -> None:
    """S32."""
    lines: list[str] = []
    report = run_chaos(ChaosOptions(seconds=1.5), say=lines.append)
    assert report.passed, "\n".join(lines)
    assert [outcome.scenario for outcome in report.scenarios] == list(SCENARIOS)
    assert all(outcome.healed_s < 10 + 10 for outcome in report.scenarios)
