"""When a dead child is started again, in virtual time."""

from random import Random

import pytest

from nokv.node.restarts import (
    BACKOFF_MS,
    BACKOFF_MS_MAX,
    HEALTHY_MS,
    START_ATTEMPTS_MAX,
    GiveUp,
    RestartAt,
    RestartPolicy,
)


def waits(policy: RestartPolicy, deaths: int, *, lifetime_ms: int = 1) -> list[int]:
    """Waits between deaths when each incarnation lives for `lifetime_ms`."""
    now_ms, found = 0, []
    for _ in range(deaths):
        policy.started(now_ms)
        now_ms += lifetime_ms
        verdict = policy.exited(now_ms, 1, node_was_ready=True)
        assert isinstance(verdict, RestartAt)
        found.append(verdict.at_ms - now_ms)
        now_ms = verdict.at_ms
    return found


def test_the_wait_doubles_to_its_bound_with_at_most_half_taken_off() -> None:
    for seed in range(50):
        expected = BACKOFF_MS
        for wait in waits(RestartPolicy(Random(seed)), 12):
            assert expected // 2 <= wait <= expected
            expected = min(2 * expected, BACKOFF_MS_MAX)


def test_jitter_is_the_callers_randomness() -> None:
    assert waits(RestartPolicy(Random(1)), 9) == waits(RestartPolicy(Random(1)), 9)
    assert waits(RestartPolicy(Random(1)), 9) != waits(RestartPolicy(Random(2)), 9)


def test_ten_healthy_seconds_forget_the_past() -> None:
    policy = RestartPolicy(Random(3))
    waits(policy, 8)
    assert all(wait <= BACKOFF_MS for wait in waits(policy, 1, lifetime_ms=HEALTHY_MS))
    assert policy.restarts == 9


@pytest.mark.parametrize("code", [2, 5, 6, 7])
def test_a_hopeless_exit_before_ready_gives_up_at_once(code: int) -> None:
    policy = RestartPolicy(Random(1))
    policy.started(0)
    assert policy.exited(10, code, node_was_ready=False) == GiveUp(code)


@pytest.mark.parametrize("code", [2, 5, 6, 7])
def test_the_same_exit_after_ready_is_tried_again(code: int) -> None:
    policy = RestartPolicy(Random(1))
    policy.started(0)
    assert isinstance(policy.exited(10, code, node_was_ready=True), RestartAt)


@pytest.mark.parametrize(("code", "ending"), [(1, 1), (-9, 1), (0, 1)])
def test_quick_deaths_before_ready_are_counted(code: int, ending: int) -> None:
    policy = RestartPolicy(Random(1))
    for attempt in range(START_ATTEMPTS_MAX):
        policy.started(attempt * 100)
        verdict = policy.exited(attempt * 100 + 1, code, node_was_ready=False)
        assert isinstance(verdict, GiveUp) is (attempt == START_ATTEMPTS_MAX - 1)
    assert verdict == GiveUp(ending)
