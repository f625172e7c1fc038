"""The lines a node prints about itself while it starts.

Why: the first screen must answer what was started, from which settings, and what it serves (S22), without a tool.
Not here: when they are printed (start), log records (nokv.process).
"""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import zmq

from nokv import __version__
from nokv.config import NodeConfig, client_addr
from nokv.proto.control import RegionStatus, RoutesReply, StatusReply
from nokv.proto.ids import StoreId

SAMPLE_REGIONS: Final = 5
_LABEL_CHARS: Final = 9


def line(label: str, text: str) -> str:
    """`label    text`, aligned with its neighbours."""
    return f"{label:<{_LABEL_CHARS}}{text}"


def opening(
    config: NodeConfig, *, pid: int, sources: Sequence[str], data_is_new: bool, cpus: str, stores: int
) -> list[str]:
    """What is known before any child runs."""
    libraries = f"python {platform.python_version()}  lmdb {version('lmdb')}  zmq {zmq.zmq_version()}"
    listen = f"client {config.listen.client}   peer {config.listen.peer}"
    return [
        f"nokv-node {__version__}  node {config.node.store_id}  pid {pid}   {libraries}",
        line(
            "config", f"{' < '.join(sources)}       data {config.node.data_dir} ({'new' if data_is_new else 'found'})"
        ),
        line("cpus", cpus),
        line("listen", listen + ("" if config.curve.dir else "   no encryption")),
        line("cluster", f"{stores} stores in the topology" if stores else "no topology file: a cluster of this store"),
    ]


def ready(config: NodeConfig, status: StatusReply, routes: RoutesReply, *, took_ms: int) -> list[str]:
    """What the node serves, once it answers for all its workers."""
    node = status.node
    store_id = StoreId(config.node.store_id)
    peers = ", ".join(f"{store.id} at {store.peer_addr}" for store in routes.stores if store.id != store_id)
    up = sum(worker.state == "up" for worker in node.workers)
    lines = [line("peers", peers or "none")]
    lines += _regions(store_id, status.regions, routes)
    leads = f"{node.leaders} led here"
    lines.append(line("ready", f"{up}/{len(node.workers)} workers, {_count(len(routes.regions), 'region')}, {leads}")
                 + f"     {took_ms / 1000:.1f} s")  # fmt: skip
    url = client_addr(config)
    flag = "" if url == "127.0.0.1:6658" else f" --url nokv://{url}"
    lines.append(line("try", f"nokv put hello world{flag}        nokv-node status        Ctrl-C drains and stops"))
    return lines


def _regions(store_id: StoreId, started: Sequence[RegionStatus], routes: RoutesReply) -> list[str]:
    if not routes.regions:
        return [line("regions", "no regions, waiting for bootstrap")]
    absent = sum(route.region.peer_on(store_id) is None for route in routes.regions)
    total = len(routes.regions)
    text = f"{total} in the directory, {_count(len(started), 'peer')} started here, {absent} without this store"
    samples = [line("", route.region.describe()) for route in routes.regions[:SAMPLE_REGIONS]]
    more = total - len(samples)
    return [line("regions", text), *samples, *([line("", f"... and {more} more")] if more else [])]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
