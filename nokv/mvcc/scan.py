"""Range reads at a timestamp, in pages of bounded work.

Why: a range may hold few live keys between many dead versions; a page therefore ends by pairs, by bytes, or by
records visited, and says where to go on. An empty page is no end, `more` is.
Invariants: a page that ends early has made progress; a lock stops the scan exactly when the scan reaches its key
before another bound ends the page, and the first one in scan direction is the one reported; one key costs a bounded
number of records, however many versions it has.
Not here: clipping to the region (evaluate.py).
"""

from collections.abc import Generator, Iterator
from typing import Final

from nokv.mvcc.lookup import commit_at_most, value_of, version_under
from nokv.mvcc.reader import blocks
from nokv.mvcc.records import CommitRecord, Kind, decode_commit, decode_lock
from nokv.mvcc.site import locked
from nokv.proto.errors import KeyIsLocked
from nokv.proto.ids import Ts
from nokv.proto.kv import ScanReply
from nokv.storage.engine import ColumnFamily, Reader
from nokv.storage.keys import TS_BYTES, after_versions, decode_key, decode_ts, encode_bounds, encode_ts, successor

_LOCK: Final = ColumnFamily.LOCK
_WRITE: Final = ColumnFamily.WRITE
_STEPS_MAX: Final = 8
"""Versions of one key that are stepped over before a seek jumps over the rest. A seek costs about as much as a few
steps; most keys have fewer versions."""

Found = tuple[bytes, tuple[Ts, CommitRecord] | None, int]
"""An encoded key, its newest commit at or below the read timestamp, and how many records were visited for it."""


def scan(
    reader: Reader,
    start: bytes,
    end: bytes,
    ts: Ts,
    limit: int,
    *,
    bytes_max: int,
    visited_max: int,
    reverse: bool = False,
    keys_only: bool = False,
) -> ScanReply | KeyIsLocked:
    """A page of the pairs of start <= key < end (b"" as end: no bound) that are visible at `ts`.

    `bytes_max` and `visited_max` end the page after the pair or record that reaches them. Where `more` is set,
    `resume` is the `start` of the next page, or with `reverse` its `end`.
    """
    assert limit >= 0
    assert bytes_max > 0
    assert visited_max > 0
    if limit == 0:
        return ScanReply(())
    low, high = encode_bounds(start, end)
    versions = _versions_down(reader, low, high, ts) if reverse else _versions_up(reader, low, high, ts)
    locks = _Locks(reader, low, high, ts, reverse)
    pairs: list[tuple[bytes, bytes | None]] = []
    size = visited = 0

    def page(encoded: bytes) -> ScanReply:
        """A page that ends before the key `encoded`."""
        key = decode_key(encoded)
        return ScanReply(tuple(pairs), True, successor(key) if reverse else key)

    for encoded, commit, cost in versions:
        if len(pairs) >= limit or size >= bytes_max or visited >= visited_max:
            return page(locks.nearer(encoded))
        while locks.reached(encoded):
            if visited >= visited_max:
                return page(locks.encoded)
            blocked = locks.step()
            if blocked is not None:
                return blocked
            visited += 1
        visited += cost
        version = version_under(reader, encoded, commit)
        if version is None or version[1].kind is Kind.DELETE:
            continue
        key = decode_key(encoded)
        value = None if keys_only else value_of(reader, encoded, version[1])
        pairs.append((key, value))
        size += len(key) + len(value or b"")
    while locks.encoded:
        if len(pairs) >= limit or size >= bytes_max or visited >= visited_max:
            return page(locks.encoded)
        blocked = locks.step()
        if blocked is not None:
            return blocked
        visited += 1
    return ScanReply(tuple(pairs))


class _Locks:
    """The locks of a range in scan direction, one step ahead. `encoded` is the next one's key, b"" at the end."""

    __slots__ = ("_records", "_reverse", "_ts", "encoded", "raw")

    def __init__(self, reader: Reader, low: bytes, high: bytes, ts: Ts, reverse: bool) -> None:
        self._records = reader.scan(_LOCK, low, high, reverse=reverse)
        self._ts = ts
        self._reverse = reverse
        self.encoded, self.raw = next(self._records, (b"", b""))

    def reached(self, encoded: bytes) -> bool:
        """Whether the next lock lies at or before `encoded` in scan direction."""
        if not self.encoded:
            return False
        return self.encoded >= encoded if self._reverse else self.encoded <= encoded

    def nearer(self, encoded: bytes) -> bytes:
        """The next lock's key or `encoded`, whichever the scan reaches first."""
        return self.encoded if self.reached(encoded) else encoded

    def step(self) -> KeyIsLocked | None:
        """Pass the next lock; the refusal if it blocks."""
        key, lock = decode_key(self.encoded), decode_lock(self.raw)
        if blocks(lock, key, self._ts):
            return locked(key, lock)
        self.encoded, self.raw = next(self._records, (b"", b""))
        return None


def _versions_up(reader: Reader, low: bytes, high: bytes, ts: Ts) -> Iterator[Found]:
    """Every key of the range that has commits, in order, with its newest commit at or below `ts`."""
    position: bytes | None = low
    while position is not None:
        position = yield from _step_up(reader, position, high, ts)


def _step_up(reader: Reader, low: bytes, high: bytes, ts: Ts) -> Generator[Found, None, bytes | None]:
    """Step from record to record; on a key with many versions that do not matter, end and return where to go on."""
    current = b""
    decided = True
    cost = 0
    for stored, raw in reader.scan(_WRITE, low, high):
        encoded = stored[:-TS_BYTES]
        if encoded != current:
            if not decided:
                yield current, None, cost
            current, decided, cost = encoded, False, 0
        cost += 1
        if not decided and decode_ts(stored) <= ts:
            decided = True
            yield encoded, (decode_ts(stored), decode_commit(raw)), cost
        elif cost > _STEPS_MAX:
            if not decided:
                yield current, commit_at_most(reader, current, ts), cost + 1
            behind = after_versions(current)
            return behind if not high or behind < high else None
    if not decided:
        yield current, None, cost
    return None


def _versions_down(reader: Reader, low: bytes, high: bytes, ts: Ts) -> Iterator[Found]:
    """The same in descending order of keys: one seek to find a key, one to find its version."""
    bound = high
    while True:
        below = reader.seek_back(_WRITE, bound)
        if below is None or below[0] < low:
            return
        encoded = below[0][:-TS_BYTES]
        if decode_ts(below[0]) > ts:
            yield encoded, None, 1
        else:
            found = reader.seek(_WRITE, encoded + encode_ts(ts))
            assert found is not None
            yield encoded, (decode_ts(found[0]), decode_commit(found[1])), 2
        bound = encoded
