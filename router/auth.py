"""Who may connect: the decisions of the ZAP handler (ZeroMQ RFC 27) over two allow-lists.

Why: a client's key opens the client plane and nothing else; a node's key opens the peer plane and its own node.
Invariants: a node with keys lets nobody in without an entry; the lists of the two domains are never mixed; an expired
key is as good as absent; a node without keys lets in whoever speaks today's ZMTP in plain; the answer to a request
that breaks RFC 27 is a refusal, never silence.
Not here: reading files (curve.py), the handler's socket (sockets.py), logging (loop.py).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from nokv.router import z85

CLIENT_DOMAIN: Final = b"client"
PEER_DOMAIN: Final = b"peer"

NEVER: Final = 1 << 62
"""Expiry of a key without one, seconds since the epoch."""

_VERSION: Final = b"1.0"
_REFUSED_FOR_GOOD: Final = b"400"
"""The client is told, and its libzmq never tries that connection again: the SDK reports it at once."""
_REFUSED_FOR_NOW: Final = b"300"
"""The connection is closed without a word, and libzmq tries again: a store whose key is added later gets through
without a restart of either side."""
_REQUEST_PARTS_MIN: Final = 6
"""version, request id, domain, address, routing id, mechanism; CURVE adds the client's binary public key."""


class Allowed(Struct, frozen=True):
    """A public key that is let in: binary, with the last second of its validity and a note for people."""

    key: bytes
    until_s: int = NEVER
    note: str = ""


class Decision(Struct, frozen=True):
    """The parts to answer with, and why the source was refused ("" = let in)."""

    reply: tuple[bytes, ...]
    source: str
    refusal: str = ""


class Gate:
    """The allow-lists in force: from the node's files, and from what the manifest pushes."""

    __slots__ = ("_files", "_merged", "_own", "_pushed")

    def __init__(self, own_public: bytes | None) -> None:
        """`own_public` (Z85): a node is welcome as a client of itself, for its tools and supervisor. None: no CURVE."""
        self._own: Final = z85.decode(own_public) if own_public is not None else None
        self._files: dict[bytes, tuple[Allowed, ...]] = {CLIENT_DOMAIN: (), PEER_DOMAIN: ()}
        self._pushed: dict[bytes, tuple[Allowed, ...]] = {CLIENT_DOMAIN: (), PEER_DOMAIN: ()}

        # Derived: domain -> key -> last second of validity
        self._merged: dict[bytes, dict[bytes, int]] = {}
        self._merge()

    def set_files(self, clients: Iterable[Allowed], peers: Iterable[Allowed]) -> None:
        """Replace what the allow files say."""
        self._files = {CLIENT_DOMAIN: tuple(clients), PEER_DOMAIN: tuple(peers)}
        self._merge()

    def set_pushed(self, client_keys: Iterable[str], peer_keys: Iterable[str]) -> int:
        """Replace what the manifest pushed (Z85 texts); returns how many of them were no keys and are ignored."""
        clients, bad_clients = _decoded(client_keys)
        peers, bad_peers = _decoded(peer_keys)
        self._pushed = {CLIENT_DOMAIN: clients, PEER_DOMAIN: peers}
        self._merge()
        return bad_clients + bad_peers

    def allows(self, domain: bytes, key: bytes, now_s: int) -> bool:
        """Whether a binary public key may use a plane at this wall-clock second."""
        return self._merged.get(domain, {}).get(key, -1) >= now_s

    def decide(self, request: Sequence[bytes], now_s: int) -> Decision:
        """Answer one ZAP request, given as its parts from the version on."""
        if len(request) < _REQUEST_PARTS_MIN or request[0] != _VERSION:
            request_id = request[1] if len(request) > 1 else b""
            return _refuse(request_id, "unknown", _REFUSED_FOR_GOOD, "not a ZAP 1.0 request")
        _version, request_id, domain, address, _routing_id, mechanism = request[:_REQUEST_PARTS_MIN]
        source = address.decode(errors="replace")
        if self._own is None:
            if mechanism != b"NULL":
                return _refuse(request_id, source, _REFUSED_FOR_GOOD, "this node has no keys")
            return Decision((_VERSION, request_id, b"200", b"OK", b"", b""), source)
        if mechanism != b"CURVE" or len(request) != _REQUEST_PARTS_MIN + 1:
            return _refuse(request_id, source, _REFUSED_FOR_GOOD, "CURVE is required")
        key = request[_REQUEST_PARTS_MIN]
        if not self.allows(domain, key, now_s):
            status = _REFUSED_FOR_NOW if domain == PEER_DOMAIN else _REFUSED_FOR_GOOD
            plane = domain.decode(errors="replace")
            return _refuse(request_id, source, status, f"key not allowed on the {plane} plane")
        reply = (_VERSION, request_id, b"200", b"OK", z85.encode(key), b"")
        return Decision(reply, source)

    def _merge(self) -> None:
        own = {self._own: NEVER} if self._own is not None else {}
        merged: dict[bytes, dict[bytes, int]] = {CLIENT_DOMAIN: own, PEER_DOMAIN: {}}
        for lists in (self._files, self._pushed):
            for domain, entries in lists.items():
                known = merged[domain]
                for entry in entries:
                    known[entry.key] = max(entry.until_s, known.get(entry.key, -1))
        self._merged = merged


def _decoded(keys: Iterable[str]) -> tuple[tuple[Allowed, ...], int]:
    """Binary keys, and how many texts were none."""
    good, bad = [], 0
    for text in keys:
        try:
            key = z85.decode(text.encode())
        except ValueError:
            key = b""
        if len(key) == z85.KEY_BYTES:
            good.append(Allowed(key))
        else:
            bad += 1
    return tuple(good), bad


def _refuse(request_id: bytes, source: str, status: bytes, reason: str) -> Decision:
    return Decision((_VERSION, request_id, status, reason.encode(), b"", b""), source, reason)
