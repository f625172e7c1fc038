"""`python -m tests.raft.conformance DIR`: run every script below DIR.

Prints a unified diff for each directive that came out differently, and at last `N passed, N failed`, in scripts: one
passes if all its directives do. Exits with 1 if any failed, or if there was none. `--rewrite` puts what came out into
the scripts instead.
"""

import argparse
import sys
from pathlib import Path

from tests.raft.conformance.confchanges import ConfChangeScript
from tests.raft.conformance.interaction import InteractionScript
from tests.raft.conformance.quorums import run_quorum
from tests.raft.conformance.script import Area, Directive, ScriptCrashed, ScriptError, difference, rewritten, run

Results = list[tuple[Directive, str]]


def area_of(path: Path) -> Area | None:
    """What runs a script, by the nearest folder that names an area; None if none does."""
    for folder in reversed(path.parts[:-1]):
        if folder == "quorum":
            return run_quorum
        if folder == "confchange":
            return ConfChangeScript()
        if folder == "interaction":
            return InteractionScript()
    return None


def run_script(path: Path) -> Results:
    """Each directive of a script with what came out. Raises ScriptError, ScriptCrashed."""
    area = area_of(path)
    if area is None:
        raise ScriptError(f"{path}: not below quorum/, confchange/ or interaction/")
    return run(path, area)


def differences(results: Results) -> str:
    """The diffs of all directives that came out differently, empty if none did."""
    return "".join(difference(directive, actual) for directive, actual in results)


def scripts_below(folder: Path) -> list[Path]:
    """Every script below a folder, in order."""
    return sorted(path for path in folder.resolve().rglob("*.txt") if area_of(path) is not None)


def check_script(path: Path, *, rewrite: bool) -> bool:
    """Run a script and print what is wrong with it, or rewrite it. False if anything is wrong."""
    try:
        results = run_script(path)
    except (ScriptError, ScriptCrashed) as error:
        sys.stdout.write(f"{error}\n")
        return False
    if rewrite:
        path.write_text(rewritten(results), encoding="utf-8")
        return True
    wrong = differences(results)
    sys.stdout.write(wrong)
    return not wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tests.raft.conformance", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rewrite", action="store_true", help="put what came out into the scripts")
    options = parser.parse_args()
    outcomes = [check_script(path, rewrite=options.rewrite) for path in scripts_below(options.folder)]
    passed = sum(outcomes)
    failed = len(outcomes) - passed
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
