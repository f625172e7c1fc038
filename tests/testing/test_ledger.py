"""The ledger finds what it is there to find, and nothing else."""

import pytest

from nokv.testing.ledger import Ledger, decode_version, encode_version

KEY = b"k"


def wrote(*endings: str) -> Ledger:
    """A ledger after attempts with these endings on one key."""
    ledger = Ledger()
    for ending in endings:
        version = ledger.attempt(KEY)
        {"ack": ledger.acknowledge, "refuse": ledger.refuse, "unknown": ledger.lose_sight}[ending](KEY, version)
    return ledger


@pytest.mark.parametrize(
    ("endings", "right", "wrong"),
    [
        (("ack",), (1,), (0, 2)),
        (("ack", "ack"), (2,), (0, 1, 3)),
        (("ack", "refuse"), (1,), (0, 2)),
        (("ack", "unknown"), (1, 2), (0, 3)),
        (("unknown", "ack"), (1, 2), (0,)),
        (("unknown",), (0, 1), (2,)),
        (("refuse",), (0,), (1,)),
    ],
)
def test_what_a_key_may_hold(endings: tuple[str, ...], right: tuple[int, ...], wrong: tuple[int, ...]) -> None:
    ledger = wrote(*endings)
    for version in right:
        assert ledger.judge(KEY, version) is None
    for version in wrong:
        finding = ledger.judge(KEY, version)
        assert finding is not None
        assert finding.found == version
        assert set(finding.wanted) == set(right)


def test_outcomes_are_counted() -> None:
    ledger = wrote("ack", "unknown", "refuse", "ack")
    assert (ledger.acknowledged, ledger.unknown, ledger.refused) == (2, 1, 1)
    assert ledger.keys() == [KEY]


def test_a_key_has_one_writer_and_an_attempt_one_end() -> None:
    ledger = wrote("ack")
    version = ledger.attempt(KEY)
    with pytest.raises(AssertionError):
        ledger.attempt(KEY)
    with pytest.raises(AssertionError):
        ledger.acknowledge(KEY, version - 1)
    ledger.acknowledge(KEY, version)
    with pytest.raises(AssertionError):
        ledger.acknowledge(KEY, version)


def test_values_say_their_version() -> None:
    for version in (1, 7, 12345):
        value = encode_version(version, 32)
        assert len(value) == 32
        assert decode_version(value) == version
    assert len(encode_version(10**9, 4)) > 4
    assert decode_version(None) == 0
    with pytest.raises(ValueError):
        decode_version(b"stranger")
