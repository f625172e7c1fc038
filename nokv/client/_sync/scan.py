# Generated from _async/scan.py by `python -m nokv.client._unasync`. Do not edit.
# fmt: off
# ruff: noqa
"""A scan: pairs in key order over any number of regions, fetched page by page as they are wanted.

Why: a range may be larger than memory; the first pair should not wait for the last.
Invariants: all pages are read at one timestamp, so the scan is one snapshot however long it takes; the next page begins
at the successor of the last key; each page has a budget of its own.
Not here: one page (reads.py), which range the arguments mean (key_range.py).
"""

from collections import deque
from collections.abc import Iterator, Callable

from nokv.client._sync.reads import Reads
from nokv.client.blocking_net import current_owner
from nokv.client.blocking_oracle import BlockingOracle
from nokv.client.errors import WrongThreadError
from nokv.client.key_range import Cursor, KeyRange
from nokv.client.op import Op
from nokv.client.results import KV
from nokv.proto.ids import Ts


class Scan(Iterator[KV]):
    """What `scan` returns: iterate with `for`; it belongs to the first thread that does."""

    def __init__(
        self,
        begin: Callable[[str], Op],
        reads: Reads,
        oracle: BlockingOracle,
        wanted: KeyRange,
        *,
        ts: Ts | None,
        limit: int | None,
        reverse: bool,
        keys_only: bool,
        page: int,
    ) -> None:
        # Constant
        self._begin = begin
        self._reads = reads
        self._oracle = oracle
        self._keys_only = keys_only
        self._page = page

        # Volatile
        self._ts = ts
        self._left = limit
        self._cursor = Cursor(wanted, reverse=reverse)
        self._buffer: deque[KV] = deque()
        self._owner: object = None

    def __iter__(self) -> "Scan":
        return self

    def __next__(self) -> KV:
        owner = current_owner()
        if owner is not self._owner:
            if self._owner is not None:
                raise WrongThreadError("a scan belongs to the first task or thread that iterates over it")
            self._owner = owner
        while not self._buffer:
            if self._cursor.done or self._left == 0:
                raise StopIteration
            self._fetch()
        return self._buffer.popleft()

    def _fetch(self) -> None:
        limit = self._page if self._left is None else min(self._page, self._left)
        with self._begin("scan") as op:
            if self._ts is None:
                self._ts = self._oracle.fresh(op)
            reply = self._reads.page(op, self._cursor, limit=limit, ts=self._ts, keys_only=self._keys_only)
        self._buffer.extend(KV(key, value or b"") for key, value in reply.pairs)
        if self._left is not None:
            self._left -= len(reply.pairs)
