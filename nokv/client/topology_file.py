"""A region cache from the static topology file: a client that starts without asking anybody.

Why: regions and addresses are known before any node is up, and no control plane is needed to start (only timestamps
come from one).
Not here: the file's grammar (nokv.topology).
"""

from pathlib import Path

from nokv.client.errors import UsageError
from nokv.client.link import Session
from nokv.client.region_cache import RegionCache
from nokv.proto.control import RegionRoute
from nokv.proto.ids import StoreId
from nokv.topology import TopologyError, parse


def learn_topology(path: str, cache: RegionCache, session: Session) -> None:
    """Take in the stores, regions and first leaders of the file at `path`, and the cluster's id.

    Raises:
        UsageError: the file cannot be read, is no topology, or belongs to another cluster than the one configured.
    """
    try:
        topology = parse(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"topology file {path}: {error.strerror}") from error
    except TopologyError as error:
        raise UsageError(f"topology file {path}: {error}") from error
    if session.cluster_id not in (0, topology.cluster_id):
        raise UsageError(f"topology file {path} is of cluster {topology.cluster_id}, not {session.cluster_id}")
    session.cluster_id = topology.cluster_id
    cache.learn_stores(topology.stores)
    cache.learn_regions(RegionRoute(region, topology.leaders.get(region.id, StoreId(0))) for region in topology.regions)
