"""Regions: a key range, who replicates it, and how its life goes.

Invariants: `start` is inclusive, `end` exclusive and b"" there means "no upper bound"; the epoch's `version` rises
with every change of range, its `conf_ver` with every change of membership, and version is compared first.
Not here: transitions (nokv.region.lifecycle), who leads (that is Raft's business, see control.RegionStatus).
"""

from enum import IntEnum
from typing import Final

from msgspec import Struct

from nokv.proto.ids import PeerId, RegionId, StoreId


class RegionEpoch(Struct, array_like=True, frozen=True, gc=False, order=True):
    """Version of a region's range and membership. Ordered: version first, then conf_ver."""

    version: int
    conf_ver: int


class PeerRole(IntEnum):
    """Whether a replica counts for quorums. Frozen values."""

    VOTER = 0
    LEARNER = 1


class Peer(Struct, array_like=True, frozen=True, gc=False):
    """One replica of a region."""

    id: PeerId
    store_id: StoreId
    role: PeerRole = PeerRole.VOTER


class RegionState(IntEnum):
    """Life of a region on one store. Frozen values; legal transitions are in nokv.region.lifecycle."""

    NEW = 0
    RUNNING = 1
    REMOVING = 2
    TOMBSTONE = 3


class Region(Struct, array_like=True, frozen=True):
    """A region's replicated description: everything but its data."""

    id: RegionId
    start: bytes
    end: bytes
    epoch: RegionEpoch
    peers: tuple[Peer, ...]
    state: RegionState = RegionState.RUNNING

    def covers(self, key: bytes) -> bool:
        """Whether `key` lies in this region's range."""
        return self.start <= key and (not self.end or key < self.end)

    def peer_on(self, store_id: StoreId) -> Peer | None:
        """This region's replica on a store, if it has one there."""
        for peer in self.peers:
            if peer.store_id == store_id:
                return peer
        return None

    def peer(self, peer_id: PeerId) -> Peer | None:
        """The replica with this id, if the region has it."""
        for peer in self.peers:
            if peer.id == peer_id:
                return peer
        return None

    def describe(self) -> str:
        """One line for logs: `region 7 ["a", "m") v3 c2 peers 101@1 102@2`."""
        peers = " ".join(f"{p.id}@{p.store_id}{'' if p.role is PeerRole.VOTER else '(learner)'}" for p in self.peers)
        start = printable(self.start) if self.start else "-inf"
        end = printable(self.end) if self.end else "+inf"
        return f"region {self.id} [{start}, {end}) v{self.epoch.version} c{self.epoch.conf_ver} peers {peers}"


FIRST_EPOCH: Final = RegionEpoch(1, 1)


def printable(key: bytes) -> str:
    """A key for human eyes: quoted text where it is printable ASCII, else `hex:...`."""
    if key and all(0x20 <= b < 0x7F for b in key) and b'"' not in key and not key.startswith(b"hex:"):
        return f'"{key.decode()}"'
    return f"hex:{key.hex()}"
