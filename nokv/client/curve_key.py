"""A client's CURVE key file, as `nokv-node keygen` writes it: a line `public KEY` and a line `secret KEY`, both Z85.

Why: the client may not import server packages, and needs one function of them.
Invariants: a secret that others can read is refused; errors never repeat a key.
Not here: making keys and lists of allowed ones (nokv.router.curve, which owns the grammar).
"""

import os
import stat
from typing import Final

import zmq

from nokv.client.errors import UsageError
from nokv.client.zmq_socket import CurveKey

KEY_FILE_BYTES_MAX: Final = 4096
_KEY_CHARS: Final = 40


def read_key_file(path: str) -> CurveKey:
    """The key pair in a file.

    Raises:
        UsageError: it cannot be read, others can read it, or it holds no pair.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(f"key file {path}: mode {mode:04o} lets others in: chmod 0600")
    fields: dict[bytes, bytes] = {}
    for line in data.splitlines():
        if line.strip() and line != b"#" and not line.startswith(b"# "):
            name, _, value = line.strip().partition(b" ")
            fields[name] = value.strip()
    if set(fields) != {b"public", b"secret"} or any(len(key) != _KEY_CHARS for key in fields.values()):
        raise UsageError(f"key file {path}: expected one line 'public KEY' and one 'secret KEY'")
    return _matching(path, CurveKey(fields[b"public"], fields[b"secret"]))


def _matching(path: str, pair: CurveKey) -> CurveKey:
    try:
        belongs = zmq.curve_public(pair.secret) == pair.public
    except zmq.ZMQError:
        belongs = False
    if not belongs:
        raise UsageError(f"key file {path}: these two are no key pair")
    return pair
