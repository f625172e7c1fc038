"""What calls return, beyond plain bytes.

Why: named fields that type checkers know, cheap to make, and the same for both clients and the CLI's JSON.
Not here: errors (errors.py).
"""

from typing import NamedTuple

from msgspec import Struct

from nokv.proto.control import StoreInfo
from nokv.proto.stats import NodeStatus


class KV(NamedTuple):
    """A pair of a scan. `value` is b"" in a scan with keys_only."""

    key: bytes
    value: bytes


class CasResult(NamedTuple):
    """What a compare-and-set did. `current`: the key's value now, None if it has none."""

    swapped: bool
    current: bytes | None


class NodeView(Struct, frozen=True):
    """One node as the client sees it now: `status`, or the `error` that came instead."""

    store: StoreInfo
    status: NodeStatus | None = None
    error: str = ""


class ClusterStatus(Struct, frozen=True):
    """Every known node. `state`: "healthy" (all answer, every region has a leader), "degraded" or "unavailable"."""

    state: str
    nodes: tuple[NodeView, ...]
    regions: int
    regions_without_leader: int
