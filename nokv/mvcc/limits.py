"""Limits of transactional requests, in two kinds that must not be mixed up.

Why: a request is refused before it is proposed where it breaks one of the node's limits, and nodes may be configured
differently. What bounds the work of an *applied* command must be the same on every replica, or replicas diverge.
Invariants: `ApplyLimits` is equal on all replicas of a cluster: its values change only together with the cluster's
format version. `Limits` may differ from node to node, and may only make a node refuse more.
Not here: the values in force (nokv.config owns those of `Limits`).
"""

from typing import Final

from msgspec import Struct

from nokv.mvcc.records import SHORT_VALUE_BYTES_MAX, TTL_MS_MAX
from nokv.storage.keys import USER_KEY_BYTES_MAX

KIB: Final = 1 << 10
MIB: Final = 1 << 20


class Limits(Struct, frozen=True):
    """What one node admits, and how much it answers at once."""

    key_bytes_max: int = USER_KEY_BYTES_MAX
    """Longest user key, in bytes. The encoded key with its timestamp must fit into an engine key."""
    value_bytes_max: int = MIB
    """Longest value, in bytes: a Raft append stays interruptible."""
    request_keys_max: int = 4096
    """Most keys or mutations in one request: they are evaluated in one turn, about 15 µs each."""
    txn_bytes_max: int = 16 * MIB
    """Most bytes of keys and values in one request that writes: they are one log entry."""
    ttl_ms_max: int = TTL_MS_MAX
    """Longest lock TTL, in milliseconds: what a lock record can hold."""
    batch_get_bytes_max: int = 16 * MIB
    """Most value bytes in one batch_get's reply; more is refused, the caller asks for fewer keys."""
    scan_pairs_max: int = 4096
    """Most pairs in one page of a scan."""
    scan_bytes_max: int = MIB
    """Bytes of keys and values after which a page of a scan ends."""
    scan_visited_max: int = 16_384
    """Most records a page of a scan looks at (about 1 µs each), found or not: dead versions must not stall a turn."""

    def check(self) -> None:
        """Assert the relations between the limits, at start-up."""
        assert 0 < self.key_bytes_max <= USER_KEY_BYTES_MAX
        assert self.value_bytes_max > SHORT_VALUE_BYTES_MAX
        assert self.value_bytes_max <= APPLY_LIMITS.append_bytes_max
        assert self.request_keys_max > 0
        assert self.txn_bytes_max > 0
        assert 0 < self.ttl_ms_max <= TTL_MS_MAX
        assert self.batch_get_bytes_max >= self.value_bytes_max
        assert self.scan_pairs_max > 0
        assert self.scan_bytes_max > 0
        assert self.scan_visited_max > 0


class ApplyLimits(Struct, frozen=True):
    """Bounds of the work of one applied command. The same on every replica."""

    append_bytes_max: int = MIB
    """Longest value that APPEND may make, in bytes."""
    resolve_visited_max: int = 4096
    """Most locks that one resolve without keys looks at, whoever owns them."""
    delete_range_visited_max: int = 8192
    """Most keys and locks that one delete_range looks at."""
    delete_range_keys_max: int = 1024
    """Most keys that one delete_range deletes."""
    gc_visited_max: int = 8192
    """Most keys that one gc looks at."""
    gc_records_max: int = 4096
    """Records after which one gc ends, even in the middle of a key's versions."""

    def check(self) -> None:
        """Assert that every step makes progress."""
        assert self.append_bytes_max > 0
        assert self.resolve_visited_max > 0
        assert self.delete_range_visited_max > 0
        assert self.delete_range_keys_max > 0
        assert self.gc_visited_max > 0
        assert self.gc_records_max > 0


LIMITS: Final = Limits()
APPLY_LIMITS: Final = ApplyLimits()
LIMITS.check()
APPLY_LIMITS.check()
