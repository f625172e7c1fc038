"""Sizes of entries, as the limits of the core count them.

Why: a limit has to bound memory and frames, and the same limit must cut at the same entry everywhere. An entry counts
as what etcd's encoding of it would take, so that its published cases with byte limits mean the same here.
Invariants: an entry never counts as 0 bytes, so a limit in bytes bounds the number of entries as well.
Not here: which limit applies where (config.py).
"""

from collections.abc import Iterable, Sequence

from nokv.proto.raft import Entry


def entry_bytes(entry: Entry) -> int:
    """Bytes of one entry:

    a field tag and a variable-length integer each for type, term, index and length, and the data.
    """
    size = 4 + _varint_bytes(entry.term) + _varint_bytes(entry.index)
    data_bytes = len(entry.data)
    return size + 1 + _varint_bytes(data_bytes) + data_bytes if data_bytes else size


def _varint_bytes(value: int) -> int:
    """Bytes of an integer in groups of seven bits."""
    return (value.bit_length() + 6) // 7 or 1


def entries_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of entries in the order of the log."""
    if not entries:
        return 0
    first, last = entries[0], entries[-1]
    if first is last:
        return entry_bytes(first)
    index_bytes, term_bytes = _varint_bytes(last.index), _varint_bytes(last.term)
    if _varint_bytes(first.index) != index_bytes or _varint_bytes(first.term) != term_bytes:
        return sum(map(entry_bytes, entries))
    # Neither terms nor indexes go down along the log, so all between have the same widths as the ends.
    total = (4 + index_bytes + term_bytes) * len(entries)
    for entry in entries:
        data_bytes = len(entry.data)
        if data_bytes:
            total += data_bytes + 1 + (1 if data_bytes < 128 else _varint_bytes(data_bytes))
    return total


def payload_bytes(entries: Iterable[Entry]) -> int:
    """Bytes of the entries' data alone. An empty entry has none, so it passes every limit."""
    total = 0
    for entry in entries:
        total += len(entry.data)
    return total


def limit_entries(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix within `max_bytes`, but at least one entry if there is any."""
    if entries_bytes(entries) <= max_bytes:
        return entries
    total = 0
    for count, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > max_bytes and count:
            return entries[:count]
    return entries
