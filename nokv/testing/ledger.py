"""What writers were promised, and whether the store kept it.

Why: "no acknowledged write is lost" is only checkable if every attempt is written down with its outcome, including
those whose outcome nobody knows.
Rule: each key has one writer, which numbers its versions 1, 2, 3, ...; after the last one the key must hold the
newest acknowledged version, or one whose outcome is unknown and that may therefore have come later (nothing, if none
was acknowledged).
Invariants: a version is attempted once and ends once: acknowledged, refused (surely not applied) or unknown.
Not here: sending anything (nokv.testing.writers).
"""

from msgspec import Struct


class Finding(Struct, frozen=True):
    """A key that holds what it must not."""

    key: bytes
    wanted: tuple[int, ...]
    """Versions that would have been right; 0 = no value."""
    found: int


class _History(Struct):
    """One key: versions attempted so far, the newest acknowledged one, and those without a known outcome."""

    attempted: int = 0
    acknowledged: int = 0
    unknown: list[int] = []
    open: bool = False


class Ledger:
    """All keys of one run."""

    def __init__(self) -> None:
        self._histories: dict[bytes, _History] = {}

        self.acknowledged = 0
        self.refused = 0
        self.unknown = 0

    def attempt(self, key: bytes) -> int:
        """The version its writer is about to write."""
        history = self._histories.setdefault(key, _History())
        assert not history.open, "a key has one writer, which writes one version at a time"
        history.open = True
        history.attempted += 1
        return history.attempted

    def acknowledge(self, key: bytes, version: int) -> None:
        """The store said it is durable."""
        history = self._end(key, version)
        history.acknowledged = version
        self.acknowledged += 1

    def refuse(self, key: bytes, version: int) -> None:
        """The store said that nothing was written."""
        self._end(key, version)
        self.refused += 1

    def lose_sight(self, key: bytes, version: int) -> None:
        """Nobody knows."""
        self._end(key, version).unknown.append(version)
        self.unknown += 1

    def keys(self) -> list[bytes]:
        """Every key that was ever attempted, in order of first use."""
        return list(self._histories)

    def acknowledged_version(self, key: bytes) -> int:
        """The newest version the store said is durable; 0 = none."""
        history = self._histories.get(key)
        return 0 if history is None else history.acknowledged

    def is_unknown(self, key: bytes, version: int) -> bool:
        """Whether nobody knows what became of this version: it may also be applied late."""
        history = self._histories.get(key)
        return history is not None and version in history.unknown

    def judge(self, key: bytes, found: int) -> Finding | None:
        """Whether `found` (0 = no value) may be what the key holds when all writers have ended."""
        history = self._histories[key]
        wanted = (history.acknowledged, *history.unknown)
        return None if found in wanted else Finding(key, wanted, found)

    def _end(self, key: bytes, version: int) -> _History:
        history = self._histories[key]
        assert history.open and version == history.attempted, "this attempt is not open"
        history.open = False
        return history


def encode_version(version: int, value_bytes: int) -> bytes:
    """A value of at least `value_bytes` bytes that says its version."""
    return b"%d|" % version + b"." * max(0, value_bytes - len(b"%d|" % version))


def decode_version(value: bytes | None) -> int:
    """The version of a value, 0 for none.

    Raises:
        ValueError: no writer wrote this.
    """
    return 0 if value is None else int(value.partition(b"|")[0])
