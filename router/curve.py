"""CURVE key files: one key pair for a node or client, one list of allowed public keys for each plane.

A node's folder (mode 0700)::

    node.key        the node's key pair, mode 0600
    clients.allow   public keys that may use the client plane
    peers.allow     public keys of the other nodes

A key file has a line `public <key>` and a line `secret <key>`; an allow file one key a line, with an optional
`until=YYYY-MM-DD` (valid through that day, UTC) and a note behind it. Keys are Z85. A line that begins with "#" is a
comment: no key does, since "#" in front would make its first group larger than 32 bits.

Why: one key pair serves both planes and is the node's identity as a peer, so there is one secret to keep.
Invariants: a secret that others can read, or a list that others can write, is refused; nothing is ever overwritten;
secrets never appear in a repr, a log line or an error text.
Not here: who is let in (auth.py), which sockets are encrypted (sockets.py).
"""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import zmq
from msgspec import Struct

from nokv.router import z85
from nokv.router.auth import NEVER, Allowed

NODE_KEY: Final = "node.key"
CLIENTS_ALLOW: Final = "clients.allow"
PEERS_ALLOW: Final = "peers.allow"

KEY_FILE_BYTES_MAX: Final = 4096
ALLOW_FILE_BYTES_MAX: Final = 1 << 20
"""About 20,000 keys with notes; a larger file is a mistake."""


class KeyFileError(ValueError):
    """A key or allow file that must not be used, with its path and the remedy."""


class KeyPair(Struct, frozen=True):
    """A CURVE key pair, Z85 text (40 characters each)."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        """The public half only."""
        return f"KeyPair(public={self.public!r})"


# ---- making ---------------------------------------------------------------------------------------------------------


def new_pair() -> KeyPair:
    """A fresh key pair from libzmq's random source."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def make_node_dir(directory: Path) -> KeyPair:
    """Make a node's folder: a fresh key pair and two empty allow files.

    Raises:
        KeyFileError: the folder already has a key, which is never overwritten.
        OSError: it cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = make_key_file(directory / NODE_KEY)
    for name, who in ((CLIENTS_ALLOW, "may use the client plane"), (PEERS_ALLOW, "are the other nodes' (node.key)")):
        if not (directory / name).exists():
            header = f"# Public keys that {who}, one a line: KEY [until=YYYY-MM-DD] [note]\n"
            _write_new(directory / name, header.encode())
    return pair


def make_key_file(path: Path) -> KeyPair:
    """Write a fresh key pair to a new file of mode 0600.

    Raises:
        KeyFileError: the file exists.
        OSError: it cannot be written.
    """
    pair = new_pair()
    text = b"# NoKV CURVE key pair. Whoever reads the secret can be its owner: keep this file 0600.\n"
    _write_new(path, text + b"public %b\nsecret %b\n" % (pair.public, pair.secret))
    return pair


def allow(path: Path, public: str, *, until: date | None = None, note: str = "") -> None:
    """Append a public key to an allow file. Running routers notice within a second.

    Raises:
        KeyFileError: `public` is no key, or the note has a line break.
        OSError: the file cannot be written.
    """
    line = " ".join(filter(None, (public, f"until={until}" if until else "", note)))
    if len(line.splitlines()) != 1:
        raise KeyFileError(f"{path}: an entry has one line")
    _parse_allowed(path, 0, line)
    with open(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


# ---- reading --------------------------------------------------------------------------------------------------------


def node_keys(directory: str) -> KeyPair | None:
    """The key pair in a node's folder (config `curve.dir`), None when that is "": no encryption.

    Raises:
        KeyFileError: missing, readable by others, or damaged.
    """
    return read_key_file(Path(directory) / NODE_KEY) if directory else None


def read_key_file(path: Path) -> KeyPair:
    """The key pair in a file.

    Raises:
        KeyFileError: missing, readable by others, or damaged.
    """
    fields: dict[str, str] = {}
    for number, line in _lines(path, KEY_FILE_BYTES_MAX, forbidden_mode=0o077):
        name, _, value = line.partition(" ")
        if name not in ("public", "secret") or name in fields:
            raise KeyFileError(f"{path}:{number}: expected one line 'public KEY' and one 'secret KEY'")
        fields[name] = value.strip()
        _binary_key(path, number, fields[name])
    if len(fields) != 2:
        raise KeyFileError(f"{path}: has no {'public' if 'secret' in fields else 'secret'} key")
    pair = KeyPair(fields["public"].encode(), fields["secret"].encode())
    if zmq.curve_public(pair.secret) != pair.public:
        raise KeyFileError(f"{path}: the two keys do not belong together")
    return pair


def read_allow_file(path: Path) -> tuple[Allowed, ...]:
    """The entries of an allow file, in its order. A missing file allows nobody.

    Raises:
        KeyFileError: writable by others, or a line that is none.
    """
    if not path.exists():
        return ()
    lines = _lines(path, ALLOW_FILE_BYTES_MAX, forbidden_mode=0o022)
    return tuple(_parse_allowed(path, number, line) for number, line in lines)


def allow_stamp(directory: str) -> tuple[tuple[int, int, int], ...]:
    """What changes when an allow file of a node's folder does: (inode, modification time in ns, size) of each."""
    stamps = []
    for name in (CLIENTS_ALLOW, PEERS_ALLOW):
        try:
            found = os.stat(Path(directory) / name)
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        except FileNotFoundError:
            stamps.append((0, 0, 0))
    return tuple(stamps)


# ---- helpers, in call order -----------------------------------------------------------------------------------------


def _write_new(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} exists: keys are never overwritten, remove it yourself") from None
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)  # whatever the umask left
        file.write(data)
        file.flush()
        os.fsync(fd)


def _lines(path: Path, bytes_max: int, *, forbidden_mode: int) -> Iterator[tuple[int, str]]:
    """Numbered lines that are neither blank nor comments. Permissions are those of the very file that is read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden_mode:
        raise KeyFileError(f"{path}: mode {mode:04o} lets others in: chmod {mode & ~forbidden_mode:04o}")
    if found.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path}: belongs to user {found.st_uid}, not to us or root")
    if len(data) > bytes_max:
        raise KeyFileError(f"{path}: longer than {bytes_max} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: is not text") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _parse_allowed(path: Path, number: int, line: str) -> Allowed:
    key, _, rest = line.partition(" ")
    until_s, note = NEVER, rest.strip()
    if note.startswith("until="):
        day, _, note = note[len("until=") :].partition(" ")
        try:
            end = datetime.combine(date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), UTC)
        except (ValueError, OverflowError):
            raise KeyFileError(f"{path}:{number}: {day!r} is not a day like 2030-12-31") from None
        until_s = int(end.timestamp()) - 1
    return Allowed(_binary_key(path, number, key), until_s, note.strip())


def _binary_key(path: Path, number: int, text: str) -> bytes:
    """The bytes of a Z85 key; the error does not repeat the text, which may be a secret."""
    try:
        if len(text) != z85.KEY_CHARS:
            raise ValueError(f"has {len(text)} characters, a key has {z85.KEY_CHARS}")
        return z85.decode(text.encode())
    except ValueError as error:
        reason = str(error) if "characters" in str(error) else "is not Z85"
        raise KeyFileError(f"{path}:{number}: {reason}") from None
