"""Conformance: scripts of our own, the published ones where they are at hand, and the runner itself.

Why: a script shows every step of a scenario, so that a change of behaviour shows up as a diff to be reviewed.
Not here: what the commands of a script do (tests/raft/conformance).
"""

import sys
from pathlib import Path

import pytest

from tests.raft.conformance.__main__ import area_of, differences, main, run_script, scripts_below
from tests.raft.conformance.script import ScriptCrashed, ScriptError, parse, rewritten, run

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = Path(__file__).parents[3] / "shared" / "raft-testdata"

OWN_SCRIPTS = scripts_below(GOLDEN)
PUBLISHED_SCRIPTS = scripts_below(PUBLISHED)
NOT_AT_HAND = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the published cases are not part of this repository: there is no {PUBLISHED}"
)

VOTES = """\
# Two of three.
vote cfg=(1,2,3) votes=(y,y,_)
----
VoteWon

vote cfg=(1,2,3) votes=(n,n,_)
----
VoteLost
"""


def name_of(path: Path) -> str:
    """Area and name."""
    return f"{path.parent.name}/{path.stem}"


def write(folder: Path, text: str, *, area: str = "quorum", name: str = "script") -> Path:
    """A script below a folder."""
    path = folder / area / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command's exit status."""
    monkeypatch.setattr(sys, "argv", ["conformance", *map(str, arguments)])
    return main()


# ---- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=name_of)
def test_own_script(path: Path) -> None:
    """What comes out is what was reviewed."""
    assert differences(run_script(path)) == ""


@NOT_AT_HAND
@pytest.mark.parametrize("path", PUBLISHED_SCRIPTS or [PUBLISHED], ids=name_of)
def test_published_script(path: Path) -> None:
    """What comes out is what etcd/raft's own nodes print."""
    assert differences(run_script(path)) == ""


@NOT_AT_HAND
def test_published_scripts_were_found() -> None:
    """Where there is a folder, there are cases of every area in it."""
    assert {path.parent.name for path in PUBLISHED_SCRIPTS} == {"quorum", "confchange", "interaction"}


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=name_of)
def test_first_line_says_what_is_shown(path: Path) -> None:
    """A reader knows what a script is about before it begins."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and first.endswith(".") and len(first) <= 130


@pytest.mark.parametrize("path", OWN_SCRIPTS + PUBLISHED_SCRIPTS, ids=name_of)
def test_same_seed_same_bytes(path: Path) -> None:
    """Two runs give the same, and writing it back changes nothing but blank lines at the end."""
    once, twice = rewritten(run_script(path)), rewritten(run_script(path))
    assert once == twice
    assert once.rstrip("\n") == path.read_text(encoding="utf-8").rstrip("\n")


def test_there_are_scripts_of_every_area() -> None:
    """No area was lost on the way."""
    areas = [path.parent.name for path in OWN_SCRIPTS]
    assert areas.count("quorum") >= 8 and areas.count("confchange") >= 10 and areas.count("interaction") >= 50


# ---- the runner ------------------------------------------------------------------------------------------------------


def test_all_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but the count is printed, and scripts are counted, not their directives."""
    write(tmp_path, VOTES, name="one")
    write(tmp_path, VOTES, name="two")
    assert call(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"


def test_mismatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A directive that came out differently is shown as a unified diff, with its place; the others are not."""
    write(tmp_path, VOTES, name="right")
    path = write(tmp_path, VOTES.replace("VoteLost", "VotePending"), name="wrong")
    assert call(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().out == (
        f"--- {path}:6 expected\n+++ {path}:6 actual\n@@ -1 +1 @@\n-VotePending\n+VoteLost\n1 passed, 1 failed\n"
    )


def test_every_byte_counts(tmp_path: Path) -> None:
    """A blank more at the end of a line is a mismatch."""
    assert differences(run_script(write(tmp_path, VOTES.replace("VoteLost", "VoteLost ")))) != ""


def test_crash_is_a_failure_of_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that makes the core fail does not keep the others from being run, nor is it rewritten."""
    crashing = "vote cfg=(1) votes=(perhaps)\n----\nVoteWon\n"
    path = write(tmp_path, crashing, name="crashing")
    write(tmp_path, VOTES, name="right")
    assert call(monkeypatch, tmp_path) == 1
    out = capsys.readouterr().out
    assert f"{path}:1: vote failed\nTraceback" in out
    assert out.splitlines()[-1] == "1 passed, 1 failed"
    assert call(monkeypatch, tmp_path, "--rewrite") == 1
    assert path.read_text(encoding="utf-8") == crashing
    with pytest.raises(ScriptCrashed):
        run_script(path)


def test_unreadable_script_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command without a separator has no expected output."""
    path = write(tmp_path, "vote cfg=(1) votes=(y)\nVoteWon\n")
    assert call(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().out == f"{path}:1: no ---- behind the command\n0 passed, 1 failed\n"


def test_nothing_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without scripts is a mistake, not a success."""
    write(tmp_path, VOTES, area="elsewhere")
    assert call(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed\n"
    with pytest.raises(ScriptError, match="not below"):
        run_script(tmp_path / "elsewhere" / "script.txt")


def test_nearest_folder_names_the_area(tmp_path: Path) -> None:
    """A folder further up with the name of another area does not matter."""
    write(tmp_path, "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n", area="quorum/confchange")
    (path,) = scripts_below(tmp_path)
    assert differences(run_script(path)) == ""


def test_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What came out is put into the script; comments, blank lines and inputs stay."""
    path = write(tmp_path, VOTES.replace("VoteWon\n", "").replace("VoteLost", "nonsense\nmore"))
    assert call(monkeypatch, tmp_path, "--rewrite") == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"
    assert path.read_text(encoding="utf-8") == VOTES
    assert call(monkeypatch, tmp_path) == 0


def test_output_with_blank_lines(tmp_path: Path) -> None:
    """Such an output stands between doubled separators, read and written."""
    path = write(tmp_path, "say\n----\n----\none\n\ntwo\n----\n----\n\nsay\n----\n----\none\n\ntwo\n----\n----\n")
    assert [directive.expected for directive in parse(path)] == ["one\n\ntwo\n"] * 2
    results = run(path, lambda _: "one\n\ntwo")
    assert differences(results) == ""
    assert rewritten(results) == path.read_text(encoding="utf-8")


def test_arguments(tmp_path: Path) -> None:
    """Keys with one value, several, none; blanks within parentheses, and a command on two lines."""
    path = write(tmp_path, 'do 1 2 a=b c=(1, 2) d=() \\\n  "e"\nin\nput\n----\n')
    (directive,) = parse(path)
    assert directive.command == "do"
    assert directive.arguments == [("1", []), ("2", []), ("a", ["b"]), ("c", ["1", "2"]), ("d", []), ('"e"', [])]
    assert directive.value("a", "") == "b" and directive.value("x", "y") == "y"
    assert directive.input == "in\nput"
    with pytest.raises(ScriptError, match="takes one value"):
        directive.value("c", "")


@pytest.mark.parametrize("area", ["quorum", "confchange", "interaction"])
def test_areas(area: str) -> None:
    """Each area has its runner, and a script starts from nothing."""
    path = Path("/anywhere") / area / "script.txt"
    assert area_of(path) is not None
    if area != "quorum":
        assert area_of(path) is not area_of(path)
