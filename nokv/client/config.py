"""Where to connect and how: a URL, keyword arguments and the environment made into one checked value.

Grammar::

    url     := scheme "://" host ("," host)* ["/"] ["?" option ("&" option)*]
    scheme  := "nokv" | "nokv+curve"
    host    := name [":" port] | "[" IPv6 "]" [":" port]         port defaults to 6658
    option  := "timeout=" span | "connect_timeout=" span | "max_inflight=" n | "client_name=" text
             | "cluster_id=" n | "read=leader" | "topology=" path
             | "server_key=" Z85 | "key=" path                   with nokv+curve
    span    := number ["s" | "ms"]                               seconds if no unit is given

Why: a mistyped option must be an error at once, not a default that surprises later.
Invariants: arguments given in code win over the URL's options; the value pickles and holds paths of key files only,
never a secret.
Not here: reading the topology file or key files (topology_file.py, nokv.router.curve).
"""

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

from msgspec import Struct, structs

from nokv.client.errors import UsageError

URL_DEFAULT: Final = "nokv://127.0.0.1:6658"
PORT_DEFAULT: Final = 6658
SERVER_KEY_CHARS: Final = 40
"""A CURVE public key in Z85."""


class ClientConfig(Struct, frozen=True, kw_only=True):
    """All settings of a client; `client.config` gives it back, to build a like one in another process."""

    seeds: tuple[str, ...] = ()
    """"host:port" of nodes to ask first; one that answers is enough. Empty with a topology file."""
    topology: str = ""
    """Path of the static topology file; the client then starts without asking anybody."""
    timeout: float = 5.0
    """Seconds a call may take in all."""
    connect_timeout: float = 2.0
    """Seconds until a node must have answered the greeting."""
    max_inflight: int = 1024
    """Requests under way at once; further ones wait inside their deadline."""
    client_name: str = ""
    """Shown by the node in its lists of clients."""
    cluster_id: int = 0
    """Refuse nodes of other clusters; 0 takes the first node's word for it."""
    read: str = "leader"
    """Who answers reads. Only leaders do so far."""
    server_key: str = ""
    """CURVE public key of the seeds, Z85."""
    key_file: str = ""
    """Path of our own CURVE key file; "" makes an anonymous key for this client."""
    curve: bool = False
    """Whether connections are encrypted."""

    def __post_init__(self) -> None:
        """Check every relation, so that a bad value is refused where it is written."""
        _require(bool(self.seeds or self.topology), "give at least one host, or a topology file")
        _require(0 < self.timeout < 1e6, f"timeout must be above 0 seconds, not {self.timeout}")
        _require(0 < self.connect_timeout < 1e6, f"connect_timeout must be above 0 seconds, not {self.connect_timeout}")
        _require(self.max_inflight > 0, f"max_inflight must be above 0, not {self.max_inflight}")
        _require(self.cluster_id >= 0, f"cluster_id must not be negative, it is {self.cluster_id}")
        _require(self.read == "leader", f"read must be 'leader', not {self.read!r}")
        _require(
            len(self.server_key) in (0, SERVER_KEY_CHARS),
            f"a CURVE public key has {SERVER_KEY_CHARS} characters, not {len(self.server_key)}",
        )
        with_key = not self.curve or bool(self.server_key) or not self.seeds
        _require(with_key, "nokv+curve needs the node's public key: ?server_key=...")


_SPANS: Final = ("timeout", "connect_timeout")
_COUNTS: Final = ("max_inflight", "cluster_id")
_TEXTS: Final = ("client_name", "read", "topology")
_CURVE: Final = {"server_key": "server_key", "key": "key_file"}


def config_of(
    url: str | ClientConfig | None, given: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> ClientConfig:
    """The configuration of a client from its URL (None: $NOKV_URL, else the local node) and keyword arguments.

    Arguments that are None are as good as absent. A topology file alone needs no URL. A configuration that is given in
    place of the URL is taken as it is, but for the arguments.

    Raises:
        UsageError: the URL or a value breaks the grammar above.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    if isinstance(url, ClientConfig):
        return structs.replace(url, **arguments)
    if url is None:
        url = environ.get("NOKV_URL") or ("" if "topology" in arguments else URL_DEFAULT)
    fields: dict[str, object] = parse_url(url) if url else {}
    fields.update(arguments)
    return ClientConfig(**fields)  # type: ignore[arg-type]  # names and types are those of the two sources


def parse_url(url: str) -> dict[str, object]:
    """The fields of ClientConfig that a URL states.

    Raises:
        UsageError: it breaks the grammar above.
    """
    scheme, separator, rest = url.partition("://")
    _require(
        bool(separator) and scheme in ("nokv", "nokv+curve"), f"{url!r} does not begin with nokv:// or nokv+curve://"
    )
    place, _, query = rest.partition("?")
    hosts, _, path = place.partition("/")
    _require(not path, f"{url!r}: nothing may follow the hosts but ?options, not {path!r}")
    fields: dict[str, object] = {"seeds": tuple(_address(host) for host in hosts.split(",") if host)}
    if scheme == "nokv+curve":
        fields["curve"] = True
    # Z85 contains "+", "&" and "%" among others: quoted in a URL by quote(); "+" is never a space here.
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query)):
        fields[_CURVE.get(name, name)] = _option(name, value, scheme)
    return fields


def _option(name: str, value: str, scheme: str) -> object:
    if name in _SPANS:
        return _seconds(name, value)
    if name in _COUNTS:
        _require(value.isascii() and value.isdigit(), f"{name} must be a whole number, not {value!r}")
        return int(value)
    if name in _TEXTS:
        return value
    _require(name in _CURVE, f"unknown option {name!r}; known: {', '.join((*_SPANS, *_COUNTS, *_TEXTS, *_CURVE))}")
    _require(scheme == "nokv+curve", f"{name} belongs to nokv+curve://")
    return value


def _seconds(name: str, text: str) -> float:
    scale = 1.0
    if text.endswith("ms"):
        text, scale = text[:-2], 0.001
    elif text.endswith("s"):
        text = text[:-1]
    try:
        return float(text) * scale
    except ValueError:
        raise UsageError(f"{name} must be a time like 5s, 200ms or 0.5, not {text!r}") from None


def _address(text: str) -> str:
    host, port = unquote(text), ""
    if host.startswith("["):
        inner, bracket, tail = host.partition("]")
        _require(bool(bracket) and (not tail or tail.startswith(":")), f"{text!r} is not [IPv6]:port")
        host, port = inner + "]", tail[1:]
    elif ":" in host:
        host, _, port = host.rpartition(":")
    _require(bool(host) and (host.startswith("[") or ":" not in host), f"{text!r} is not host:port")
    _require(not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536), f"{text!r}: bad port")
    return f"{host}:{port or PORT_DEFAULT}"


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise UsageError(reason)
