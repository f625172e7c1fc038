"""`python -m tests.raft.conformance DIR`: run every script below DIR.

Prints a unified diff for each directive that came out differently, and at last `N passed, N failed`, in directives.
Exits with 1 if any failed. `--rewrite` puts what came out into the scripts instead.
"""

import argparse
import sys
from pathlib import Path

from tests.raft.conformance.confchanges import ConfChangeScript
from tests.raft.conformance.interaction import InteractionScript
from tests.raft.conformance.quorums import run_quorum
from tests.raft.conformance.script import Area, Directive, difference, rewritten, run


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


def run_script(path: Path) -> list[tuple[Directive, str]]:
    """Each directive of a script with what came out."""
    area = area_of(path)
    assert area is not None, f"{path}: not below quorum/, confchange/ or interaction/"
    return run(path, area)


def scripts_below(folder: Path) -> list[Path]:
    """Every script below a folder, in order."""
    return sorted(path for path in folder.resolve().rglob("*.txt") if area_of(path) is not None)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tests.raft.conformance", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rewrite", action="store_true", help="put what came out into the scripts")
    options = parser.parse_args()
    passed = failed = 0
    for path in scripts_below(options.folder):
        results = run_script(path)
        if options.rewrite:
            path.write_text(rewritten(results), encoding="utf-8")
        for directive, actual in results:
            diff = "" if options.rewrite else difference(directive, actual)
            if diff:
                failed += 1
                sys.stdout.write(diff)
            else:
                passed += 1
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
