"""Regions and stores for the tests of the control plane and the manifest."""

from nokv.proto.control import StoreInfo
from nokv.proto.ids import PeerId, RegionId, StoreId
from nokv.proto.region import Peer, PeerRole, Region, RegionEpoch, RegionState


def region(
    region_id: int,
    start: bytes = b"",
    end: bytes = b"",
    *,
    version: int = 1,
    conf_ver: int = 1,
    stores: tuple[int, ...] = (1, 2, 3),
    learners: tuple[int, ...] = (),
    state: RegionState = RegionState.RUNNING,
) -> Region:
    """A region whose peer on store s has the id 100 * region id + s."""
    peers = tuple(
        Peer(PeerId(100 * region_id + s), StoreId(s), PeerRole.LEARNER if s in learners else PeerRole.VOTER)
        for s in stores
    )
    return Region(RegionId(region_id), start, end, RegionEpoch(version, conf_ver), peers, state)


def store(store_id: int, *, port: int = 7000) -> StoreInfo:
    """A store on loopback; its ports follow from its id."""
    return StoreInfo(StoreId(store_id), f"127.0.0.1:{port + 10 * store_id}", f"127.0.0.1:{port + 10 * store_id + 1}")


def three_regions() -> tuple[Region, ...]:
    """A tiling of the key space: 1 up to "h", 2 up to "p", 3 the rest."""
    return region(1, b"", b"h"), region(2, b"h", b"p"), region(3, b"p", b"")
