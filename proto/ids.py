"""Ids and timestamps: different integers are different types.

Why: an index is not a count and a peer is not a store; mixing them up was a bug in every system we looked at.
Invariants: all ids are > 0 except GROUP_ZERO, the region id of the control plane; 0 elsewhere means "none".
Not here: how ids are allocated (nokv.control.allocator) and how timestamps are issued (nokv.control.tso).
"""

from typing import Final, NewType

ClusterId = NewType("ClusterId", int)
StoreId = NewType("StoreId", int)
"""A node's durable identity in the cluster. Transport is keyed by it."""
WorkerId = NewType("WorkerId", int)
"""Index of a worker inside its node, from 0."""
RegionId = NewType("RegionId", int)
"""A key range and the Raft group that replicates it."""
PeerId = NewType("PeerId", int)
"""One replica of one region; never reused, so a re-added replica is a new peer."""
RequestId = NewType("RequestId", int)
"""Chosen by the sender of a request, unique per connection while the request is pending."""
Incarnation = NewType("Incarnation", int)
"""Random 63-bit number of one run of one process; tells a restarted process from its predecessor."""

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
Ts = NewType("Ts", int)
"""Oracle timestamp:

physical milliseconds shifted left by TS_LOGICAL_BITS, plus a logical counter. 64 bits, unsigned.
"""

GROUP_ZERO: Final = RegionId(0)
"""Region id of the control plane's Raft group, hosted by every manifest process."""

U64_MAX: Final = (1 << 64) - 1

TS_LOGICAL_BITS: Final = 18
TS_STEP: Final = 16
"""Distance of two timestamps issued by the oracle. The slots between are commit timestamps that a region leader may
assign to one-phase writes, so a leader never meets a start timestamp that somebody else holds."""
LATEST: Final = Ts(U64_MAX)
"""Read timestamp of a single-key linearizable read: the newest committed version, whatever its timestamp."""


def ts_of(physical_ms: int, logical: int = 0) -> Ts:
    """The timestamp of a physical time in milliseconds and a logical counter below 2**18."""
    assert 0 <= logical < 1 << TS_LOGICAL_BITS
    return Ts((physical_ms << TS_LOGICAL_BITS) + logical)


def physical_ms(ts: Ts) -> int:
    """The physical part of a timestamp, in milliseconds since the epoch."""
    return ts >> TS_LOGICAL_BITS
