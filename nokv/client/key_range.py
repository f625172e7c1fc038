"""Ranges of keys: prefixes, successors, and what a scan still has to read.

Why: the next key after "ab" is "ab\\0", not "ac"; scans that add one to the last byte skip keys.
Invariants: `start` is inclusive, `end` exclusive, end b"" is "no bound"; a cursor only moves towards its end.
Not here: fetching pages (_async/scan.py).
"""

from msgspec import Struct

from nokv.client.errors import ProtocolError, UsageError
from nokv.client.limits import BytesLike, Limits, checked_bound
from nokv.proto.kv import ScanReply
from nokv.proto.region import Region


def successor(key: bytes) -> bytes:
    """The smallest key above `key`."""
    return key + b"\0"


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above all keys with this prefix; b"" if there is none (only 0xff bytes, or no prefix)."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b""


class KeyRange(Struct, frozen=True):
    """start <= key < end."""

    start: bytes
    end: bytes

    @property
    def is_empty(self) -> bool:
        """Whether no key can lie in it."""
        return bool(self.end) and self.start >= self.end


def range_of(start: BytesLike, end: BytesLike | None, prefix: BytesLike | None, limits: Limits) -> KeyRange:
    """The range that the arguments of a scan name.

    Raises:
        UsageError: prefix together with a border, or an empty `end` (None means "no bound").
        TypeError: not bytes-like.
    """
    if prefix is not None:
        if start or end is not None:
            raise UsageError("give either prefix or start and end, not both")
        low = checked_bound("prefix", prefix, limits)
        return KeyRange(low, prefix_end(low))
    low = checked_bound("start", start, limits)
    if end is None:
        return KeyRange(low, b"")
    high = checked_bound("end", end, limits)
    if not high:
        raise UsageError("an empty end would end before the first key; pass None for no bound")
    return KeyRange(low, high)


class Cursor:
    """What is left of a range while a scan goes through it, in either direction."""

    __slots__ = ("done", "end", "reverse", "start")

    def __init__(self, wanted: KeyRange, *, reverse: bool) -> None:
        self.start = wanted.start
        self.end = wanted.end
        self.reverse = reverse
        self.done = wanted.is_empty

    def clip(self, region: Region) -> KeyRange:
        """The part of what is left that lies in a region."""
        end = region.end if not self.end or (region.end and region.end < self.end) else self.end
        return KeyRange(max(self.start, region.start), end)

    def advance(self, asked: KeyRange, reply: ScanReply) -> None:
        """A page of the part `asked` has arrived: go on behind it.

        Raises:
            ProtocolError: the page was cut short and does not say where to go on, so the scan would never end.
        """
        if reply.more:
            border = reply.resume
            if not border and reply.pairs:
                border = reply.pairs[-1][0] if self.reverse else successor(reply.pairs[-1][0])
            if not self._is_onward(asked, border):
                raise ProtocolError("a page of a scan does not say where to go on")
        else:
            border = asked.start if self.reverse else asked.end
        if self.reverse:
            self.end = border
            # Keys below "" do not exist, and an end of b"" would mean "no bound".
            self.done = border <= self.start
        else:
            self.start = border
            self.done = not border or (bool(self.end) and border >= self.end)

    def _is_onward(self, asked: KeyRange, border: bytes) -> bool:
        """Whether going on from `border` leaves less than was asked for, and nothing outside it."""
        if self.reverse:
            return asked.start <= border and bool(border) and (not asked.end or border < asked.end)
        return asked.start < border and (not asked.end or border <= asked.end)
