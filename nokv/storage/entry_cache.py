"""Recent entries of all groups of one log, as objects, within a bound of bytes.

Why: a leader sends, and everybody applies, the newest entries over and over; reading them back from the file would
cost a system call and a checksum each time. Old entries are read for followers that lag, once, and would only push the
new ones out.
Invariants: first in, first out over all groups; `held_bytes` counts every entry this cache keeps alive and is at most
`bytes_max` after each call. What a group truncates or compacts stays until its turn comes, and is never served:
an index becomes readable only by an append, which puts its own entry here.
Not here: where entries lie in the log (wal_groups.py).
"""

from collections import deque
from typing import Final

from nokv.proto.ids import LogIndex
from nokv.proto.raft import Entry

ENTRY_OBJECT_BYTES: Final = 200
"""What an entry is taken to cost in memory beside its data: two objects, a dict slot, a queue slot."""

CachedEntries = dict[LogIndex, Entry]
"""One group's cached entries. Only the cache removes any."""


class EntryCache:
    """Queue of (group's dict, entry) in the order of arrival."""

    __slots__ = ("_queue", "bytes_max", "held_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max: Final = bytes_max
        self.held_bytes = 0
        self._queue: deque[tuple[CachedEntries, Entry]] = deque()

    def add(self, group: CachedEntries, entry: Entry) -> None:
        """Keep an entry under its index, and let the oldest ones go if there are too many."""
        group[entry.index] = entry
        self._queue.append((group, entry))
        self.held_bytes += len(entry.data) + ENTRY_OBJECT_BYTES
        while self.held_bytes > self.bytes_max:
            owner, oldest = self._queue.popleft()
            self.held_bytes -= len(oldest.data) + ENTRY_OBJECT_BYTES
            if owner.get(oldest.index) is oldest:
                del owner[oldest.index]
