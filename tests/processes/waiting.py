"""Waiting for conditions, and starting nodes that are expected to end by themselves."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import nokv

POLL_S = 0.02
PATIENCE_S = 60.0
"""Machines that run tests may be slow; conditions are usually met at once."""


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> float:
    """Wait until a condition holds; returns the seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < timeout_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began


def insist(act: Callable[[], object], timeout_s: float = PATIENCE_S) -> float:
    """Repeat a call while it ends in a NokvError; returns the seconds until it succeeded."""
    began = time.monotonic()
    while True:
        try:
            act()
        except nokv.NokvError:
            if time.monotonic() - began >= timeout_s:
                raise
            time.sleep(POLL_S)
        else:
            return time.monotonic() - began


def start_and_wait(*arguments: str, environ: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """`nokv-node start` that is expected to end by itself."""
    command = [sys.executable, "-m", "nokv.cli.node", "start", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environ)
