"""Delays between attempts."""

from random import Random

from nokv.client.backoff import BACKOFF_S_MAX, BACKOFF_S_MIN, Backoff


def test_full_jitter_doubles_to_a_ceiling() -> None:
    runs = [[backoff.next() for _ in range(12)] for backoff in (Backoff(Random(seed)) for seed in range(400))]
    for at in range(12):
        ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**at)
        delays = [run[at] for run in runs]
        assert max(delays) <= ceiling
        assert max(delays) > 0.9 * ceiling
        assert min(delays) < 0.1 * ceiling, "jitter goes down to zero"


def test_hint_is_a_floor() -> None:
    backoff = Backoff(Random(1))
    assert all(backoff.next(3.0) == 3.0 for _ in range(12))


def test_same_seed_same_delays() -> None:
    assert [Backoff(Random(5)).next() for _ in range(3)] == [Backoff(Random(5)).next() for _ in range(3)]
