"""How many pages a copy-on-write B+tree may have to write for the changes of one transaction.

Why: LMDB says nothing about an open transaction's size. The owner needs an estimate to decide when to checkpoint; the
engine needs a bound, to allocate disk and map before a commit depends on them.
Invariants: `limit` is never below the pages that the commit appends to the file; `estimate` is what random keys cost
and at most `limit`.
Not here: LMDB itself (lmdb_engine.py).

Reasoning, for each tree of depth d with P pages before the transaction and n changes of b bytes in total:
- A change copies the path from root to leaf, and a deletion may also copy a sibling on every level. A page is copied
  once in a transaction. So at most min(2 d n, P) pages are copied.
- A page splits when it overflows, into halves that each hold at least about a quarter of a page of the tree's largest
  nodes. Every page that existed can split once at once; after that each further split needs a quarter of a page of new
  bytes. So at most min(n, P) + 4 b' / page are new, where b' counts the 8-byte node header and 2-byte slot too.
- A value above half a page goes to pages of its own.
- A new tree has a root; one split of it adds a level: a few pages.
- Free pages are recorded, 8 bytes each, in a tree of their own. A transaction may take all of that list apart and
  write it again, into pages that may be half full.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

NODE_OVERHEAD_BYTES: Final = 8 + 2 + 4 + 2
"""Node header, slot in the page's index, our checksum, padding to an even size."""
PAGE_HEADER_BYTES: Final = 16
FREE_LIST_SHARE: Final = 256
"""One page in this many may hold the list of free pages: 512 numbers of 8 bytes in a page, half full."""
SLACK_PAGES: Final = 32
"""Roots, meta pages, and the free list's own few levels."""


class TreeShape(Struct, frozen=True):
    """A tree as it was when the transaction began."""

    depth: int
    branch_pages: int
    leaf_pages: int


class PageBound:
    """Counts changes; answers how many pages they may cost."""

    __slots__ = ("_bytes", "_changes", "_file_pages", "_large_pages", "_page_bytes", "_shapes")

    def __init__(self, shapes: Sequence[TreeShape], *, page_bytes: int, file_pages: int) -> None:
        # Constant.
        self._shapes = tuple(shapes)
        self._file_pages = file_pages
        self._page_bytes = page_bytes
        # Counted, for each tree.
        self._changes = [0] * len(self._shapes)
        self._bytes = [0] * len(self._shapes)
        self._large_pages = 0

    def note(self, tree: int, pair_bytes: int) -> None:
        """Count one change that puts `pair_bytes` of key and value (0: a deletion)."""
        self._changes[tree] += 1
        if pair_bytes > self._page_bytes // 2 - PAGE_HEADER_BYTES - NODE_OVERHEAD_BYTES:
            # At least what the value needs, and what its node, of which only the key stays, takes.
            self._large_pages += (pair_bytes + PAGE_HEADER_BYTES) // self._page_bytes + 1
            pair_bytes = self._page_bytes // 4
        self._bytes[tree] += pair_bytes + NODE_OVERHEAD_BYTES

    def limit(self) -> int:
        """Pages that a commit can append to the file at most."""
        pages = self._large_pages
        for shape, changes, changed_bytes in zip(self._shapes, self._changes, self._bytes, strict=True):
            if changes:
                existing = shape.branch_pages + shape.leaf_pages
                pages += min(2 * changes * max(shape.depth, 1), existing)
                pages += min(changes, existing) + 4 * changed_bytes // self._page_bytes + shape.depth + 2
        return pages + (self._file_pages + pages) // FREE_LIST_SHARE + SLACK_PAGES

    def estimate(self) -> int:
        """Pages that random keys would make a commit write: one leaf for each change, shared branches, new leaves."""
        pages = self._large_pages
        for shape, changes, changed_bytes in zip(self._shapes, self._changes, self._bytes, strict=True):
            if changes:
                pages += min(changes, shape.leaf_pages) + min(changes * max(shape.depth - 1, 0), shape.branch_pages)
                pages += 3 * changed_bytes // (2 * self._page_bytes) + 1
        return pages
