"""Sizes of entries, in the unit of all byte limits of the core.

Why: limits must mean the same everywhere, and be cheap to count. An entry's size is that of its data plus a constant
for what travels with it; a payload's size is its data alone (what a leader counts as uncommitted).
"""

from collections.abc import Sequence
from typing import Final

from nokv.proto.raft import Entry

ENTRY_OVERHEAD_BYTES: Final = 12
NO_LIMIT: Final = (1 << 64) - 1


def entry_bytes(entry: Entry) -> int:
    """Size of an entry in a message or in the log."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def entries_bytes(entries: Sequence[Entry]) -> int:
    """Size of entries in a message or in the log."""
    return sum([len(entry.data) for entry in entries]) + ENTRY_OVERHEAD_BYTES * len(entries)


def payload_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of the application's data in entries."""
    return sum([len(entry.data) for entry in entries])


def limit_size(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix of at most `max_bytes`, but at least one entry if there is one."""
    if len(entries) <= 1:
        return entries
    size = entry_bytes(entries[0])
    for at in range(1, len(entries)):
        size += entry_bytes(entries[at])
        if size > max_bytes:
            return entries[:at]
    return entries
