"""Every scenario file, on every engine and under tiny limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nokv.mvcc.limits import ApplyLimits, Limits
from nokv.storage.engine import ColumnFamily
from nokv.storage.lmdb_engine import MIB, LmdbEngine
from tests.mvcc.backend import LocalBackend
from tests.mvcc.cases import CASES, Failure, load, main, play, play_case

TINY = Limits(scan_pairs_max=1, scan_bytes_max=1, scan_visited_max=1)
TINY_APPLY = ApplyLimits(
    resolve_visited_max=2,  # a resolve is refused whole within one page only
    delete_range_visited_max=1,
    delete_range_keys_max=1,
    gc_visited_max=1,
    gc_records_max=1,
)
ALL = [(file.stem, case) for file in sorted(CASES.glob("*.json")) for case in load(file)]
NAMES = [f"{suite}:{case['name']}" for suite, case in ALL]


@pytest.mark.parametrize("case", [case for _, case in ALL], ids=NAMES)
def test_case_in_memory(case: dict[str, Any]) -> None:
    play_case(case, LocalBackend())


@pytest.mark.parametrize("case", [case for _, case in ALL], ids=NAMES)
def test_case_under_tiny_limits(case: dict[str, Any]) -> None:
    """A page of one record and steps of one key give the same answers as large ones."""
    play_case(case, LocalBackend(limits=TINY, apply_limits=TINY_APPLY))


@pytest.mark.parametrize("case", [case for _, case in ALL], ids=NAMES)
def test_case_at_present_day(case: dict[str, Any]) -> None:
    """The same with all physical times moved by half a century."""
    play_case(case, LocalBackend(), offset_ms=1_790_000_000_000)


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmdbEngine]:
    engine = LmdbEngine(
        tmp_path_factory.mktemp("lmdb") / "env",
        map_bytes_initial=64 * MIB,
        map_bytes_step=32 * MIB,
        map_margin_bytes=16 * MIB,
        preallocate_bytes=MIB,
    )
    yield engine
    engine.close()


@pytest.mark.parametrize("case", [case for _, case in ALL], ids=NAMES)
def test_case_on_lmdb(case: dict[str, Any], lmdb: LmdbEngine) -> None:
    def emptied() -> LmdbEngine:
        for cf in (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE):
            for key in [key for key, _ in lmdb.scan(cf, b"", b"")]:
                lmdb.delete(cf, key)
        return lmdb

    play_case(case, LocalBackend(emptied))


def test_there_are_enough_cases() -> None:
    """The published file and at least sixty of our own, each named once in its file."""
    assert len(NAMES) == len(set(NAMES))
    assert sum(suite != "basic" for suite, _ in ALL) >= 60
    assert sum(suite == "basic" for suite, _ in ALL) == 32


# ---- the player itself ----------------------------------------------------------------------------------------------


class Scripted:
    """A backend that gives one fixed answer."""

    def __init__(self, outcome: dict[str, Any]) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def reset(self) -> None:
        self.asked.clear()

    def run(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((op, arguments))
        return self.outcome


LOCKED = {"error": "locked", "key": b"k", "lock": {"key": b"k", "primary": b"p", "start_ts": 10 << 18, "ttl": 7}}


@pytest.mark.parametrize(
    ("expect", "outcome", "same"),
    [
        ({"ok": True}, {"ok": True, "commit_ts": 5}, True),
        ({"ok": True}, {"errors": [{"kind": "locked", "key": b"k"}]}, False),
        ({"errors": [{"kind": "locked", "key": "k"}]}, {"ok": True}, False),
        ({"errors": [{"kind": "locked", "key": "k"}]}, {"errors": [{"kind": "locked", "key": b"k"}]}, True),
        ({"errors": [{"kind": "locked", "key": "k"}]}, {"errors": [{"kind": "locked", "key": b"j"}]}, False),
        ({"errors": [{"kind": "locked", "key": "k"}]}, {"errors": []}, False),
        ({"value": "hex:00"}, {"value": b"\0"}, True),
        ({"value": "v"}, {"not_found": True}, False),
        ({"value": "v"}, {"error": "locked", "value": b"v"}, False),
        ({"values": ["a", None]}, {"values": [b"a", None]}, True),
        ({"values": ["a"]}, {"values": [b"a", None]}, False),
        ({"pairs": [["a", None]]}, {"pairs": [(b"a", None)]}, True),
        ({"pairs": [["a", "1"], ["b", "2"]]}, {"pairs": [(b"b", b"2"), (b"a", b"1")]}, False),
        ({"commit_ts_gt": 5}, {"ok": True, "commit_ts": (5 << 18) + 1}, True),
        ({"commit_ts_gt": 5}, {"ok": True, "commit_ts": 5 << 18}, False),
        ({"commit_ts": "1.2"}, {"commit_ts": (1 << 18) + 2}, True),
        ({"error": "locked", "lock": {"primary": "p", "start_ts": 10, "ttl": 7}}, LOCKED, True),
        ({"error": "locked", "lock": {"primary": "p", "start_ts": 11}}, LOCKED, False),
        ({"error": "locked", "lock": {"min_commit_ts": 1}}, LOCKED, False),
        ({"error": "locked", "key": "j"}, LOCKED, False),
        ({"any": [{"ok": True}, {"error": "locked"}]}, LOCKED, True),
        ({"any": [{"ok": True}, {"error": "invalid"}]}, LOCKED, False),
    ],
)
def test_matching(expect: dict[str, Any], outcome: dict[str, Any], same: bool) -> None:
    case = {"name": "n", "why": "w", "steps": [{"op": "x", "expect": expect}]}
    if same:
        play_case(case, Scripted(outcome))
    else:
        with pytest.raises(Failure, match="step 1 x"):
            play_case(case, Scripted(outcome))


def test_words_become_bytes_and_timestamps() -> None:
    backend = Scripted({"ok": True, "commit_ts": 1000})
    steps = [
        {"op": "one", "start_ts": 3, "as": "c", "expect": {"ok": True}},
        {"op": "two", "ts": "$c+3", "key": "hex:00ff", "lock_ttl": 9, "current_ts": "7.5", "expect": {"ok": True}},
        {"op": "three", "mutations": [["put", "k", ""], ["lock", "l"]], "commit_ts": 0, "expect": {"commit_ts": "$c"}},
    ]
    play_case({"name": "n", "why": "w", "steps": steps}, backend, offset_ms=100)
    assert backend.asked == [
        ("one", {"start_ts": 103 << 18}),
        ("two", {"ts": 1003, "key": b"\0\xff", "lock_ttl": 9, "current_ts": (107 << 18) + 5}),
        ("three", {"mutations": [("put", b"k", b""), ("lock", b"l")], "commit_ts": 0}),
    ]


def test_play_passes_its_offset_on() -> None:
    backend = Scripted({"ok": True})
    play([CASES / "basic.json"], backend, offset_ms=100)
    assert backend.asked == [
        (
            "prewrite",
            {
                "mutations": [
                    ("put", b"a", b"\0\xff"),
                    ("put", b"a\0", b"zero"),
                    ("put", b"a\xff", b"ff"),
                    ("put", b"b", b"\x80"),
                ],
                "primary": b"a",
                "start_ts": 110 << 18,
                "lock_ttl": 3000,
            },
        ),
        ("commit", {"keys": [b"a", b"a\0", b"a\xff", b"b"], "start_ts": 110 << 18, "commit_ts": 120 << 18}),
        ("get", {"key": b"a\0", "ts": 120 << 18}),
    ]


def test_play_counts_and_reports() -> None:
    lines: list[str] = []
    passed, failed = play([CASES / "basic.json"], Scripted({"ok": True}), lines.append)
    assert passed == 0
    assert failed == len(lines) == 32
    assert lines[0].startswith("basic.json: put-commit-get: step ")


def test_main(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(CASES / "basic.json")]) == 0
    assert capsys.readouterr().out == "32 passed, 0 failed\n"
    wrong = '{"suite": "s", "cases": [{"name": "n", "why": "w", "steps": [{"op": "gc", "safe_point": 1, "expect": {}}, '
    wrong += '{"op": "get", "key": "k", "ts": 1, "expect": {"value": "v"}}]}]}'
    (tmp_path / "wrong.json").write_text(wrong)
    assert main([str(tmp_path / "wrong.json")]) == 1
    assert capsys.readouterr().out.endswith("0 passed, 1 failed\n")
