"""The run directory: sockets, pid file and effective configuration of one running node.

Why: whoever can reach the link socket speaks for a worker, so the folder is private; and socket paths are short by law
of the kernel, so it does not lie inside the data directory.
Invariants: mode 0700, owned by this user, no symbolic link; the link's path fits IPC_PATH_BYTES_MAX.
Not here: what is written into it (nokv.node.supervisor).
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nokv.config import LINK_NAME, ConfigError
from nokv.config_rules import IPC_PATH_BYTES_MAX

EFFECTIVE_NAME: Final = "effective.json"
PID_NAME: Final = "pid"


def choose(run_dir: str, data_dir: Path, environ: Mapping[str, str]) -> Path:
    """The run directory's path: as configured, else below $RUNTIME_DIRECTORY or the temp folder, named after the data
    directory so that a second node on the same data meets the first one's pid file.

    Raises:
        ConfigError: the configured path is too long for a socket.
    """
    if run_dir:
        path = Path(run_dir).absolute()
        if not _fits(path):
            raise ConfigError(
                "node.run_dir", f"{path} is too long for a socket, {IPC_PATH_BYTES_MAX} bytes is the limit"
            )
        return path
    name = hashlib.blake2b(os.fsencode(data_dir.absolute()), digest_size=5).hexdigest()
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    candidates = [Path(base) / f"nokv-{name}" for base in (runtime, tempfile.gettempdir(), "/tmp") if base]
    for path in candidates:
        if _fits(path):
            return path
    raise ConfigError("node.run_dir", "no folder with a path short enough for a socket was found: set one")


def make(path: Path) -> None:
    """Make the directory, or take over one of ours that an earlier run left.

    Raises:
        ConfigError: it cannot be made, or somebody else could reach into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigError("node.run_dir", f"{path}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError("node.run_dir", f"{path} is not a directory of user {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError("node.run_dir", f"{path} is open to others: chmod 700 {path}")


def clear(path: Path) -> None:
    """Remove what a node leaves in its run directory, and the directory if nothing else is in it."""
    for name in (EFFECTIVE_NAME, PID_NAME, LINK_NAME):
        (path / name).unlink(missing_ok=True)
    try:
        path.rmdir()
    except OSError:
        return  # somebody keeps more there; it is theirs


def _fits(path: Path) -> bool:
    return len(os.fsencode(path / LINK_NAME)) <= IPC_PATH_BYTES_MAX
