"""`python -m nokv.manifest --config FILE`: the manifest process of a node, started by the supervisor."""

import argparse
import logging
import os
import sys
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

import zmq

from nokv import process
from nokv.config import NodeConfig, client_addr, peer_addr
from nokv.control.cluster import ControlSeedError
from nokv.control.tso import Oracle
from nokv.manifest import bootstrap
from nokv.manifest.bootstrap import Founding, NotAMemberError
from nokv.manifest.host import ManifestCore, group_zero
from nokv.manifest.identity import IdentityError
from nokv.manifest.machine import ControlMachine
from nokv.proto.control import StoreInfo
from nokv.proto.ids import ClusterId, Incarnation, StoreId, WorkerId
from nokv.router.curve import node_keys
from nokv.storage.datadir import DataDirRefusedError, Holds
from nokv.storage.engine import CorruptionError, StorageError
from nokv.storage.raft_log import RaftLog
from nokv.topology import TopologyError, parse, presplit
from nokv.workers.loop import Loop, boot_ms
from nokv.workers.opening import Opened, open_part
from nokv.workers.peer import Peer
from nokv.workers.sockets import MANIFEST_IDENTITY, open_link
from nokv.workers.starting import make_replica, start_peer, stored_region
from nokv.workers.transport import Transport

REGIONS_PER_WORKER: Final = 2
"""Regions of a cluster without a topology file:

enough that every worker has work and one may be busier than another.
"""

log = logging.getLogger("nokv.manifest")


def main() -> int:
    """Run the manifest until SIGTERM and the end of the drain. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nokv.manifest")
    parser.add_argument("--config", required=True, help="effective configuration, JSON")
    arguments = parser.parse_args()
    try:
        config = process.start("nokv: manifest", arguments.config)
        run(config)
    except process.ProcessRefused as refused:
        print(f"nokv manifest: {refused}", file=sys.stderr)
        return refused.exit_code
    except (TopologyError, NotAMemberError, ControlSeedError) as error:
        log.critical("topology: %s", error)
        return process.EXIT_CONFIG
    except (DataDirRefusedError, IdentityError, CorruptionError) as error:
        log.critical("%s", error)
        return process.EXIT_DATA_DIR
    except StorageError as error:
        log.critical("the disk failed, stopping: %s", error)
        return process.EXIT_UNEXPECTED
    return process.EXIT_FINE


def run(config: NodeConfig) -> None:
    """Open the manifest's directory, found or reopen the store, and serve until told to stop."""
    entropy = SystemRandom()
    opened = open_part(config, "manifest", Holds.MANIFEST)
    started = bootstrap.start(
        opened.engine,
        read_founding(config),
        store_id=StoreId(config.node.store_id),
        workers=config.node.workers,
        random_cluster_id=ClusterId(entropy.getrandbits(62) | 1),
    )
    for note in started.notes:
        log.warning("%s", note)
    opened.directory.claim(started.identity.cluster_id, started.identity.store_id)
    log.info("%s", started.identity.describe())
    incarnation = Incarnation(entropy.getrandbits(63))
    machine = ControlMachine(started.control, group_zero(started.control.stores()), make_oracle(config), incarnation)
    replica = open_replica(config, opened, machine, incarnation, Random(entropy.getrandbits(64)))
    core = ManifestCore(
        config=config,
        started=started,
        replica=replica,
        machine=machine,
        engine=opened.engine,
        wal=opened.wal,
        incarnation=incarnation,
        pid=os.getpid(),
        clock_ms=boot_ms,
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = open_link(context, config, MANIFEST_IDENTITY)
    transport = Transport(context, config, core.hello_to, node_keys(config.curve.dir))
    loop = Loop(core, config, link, transport, opened.disk.free_bytes)
    loop.install_signals()
    loop.run()
    opened.directory.close()
    context.term()


def make_oracle(config: NodeConfig) -> Oracle:
    """The oracle with the configured window."""
    return Oracle(window_ms=config.manifest.tso_window_ms, count_max=config.manifest.tso_count_max)


def read_founding(config: NodeConfig) -> Founding:
    """What the topology file says; without one, a cluster of this store alone.

    Raises:
        TopologyError: the file cannot be read or is refused.
    """
    if config.node.topology:
        try:
            topology = parse(Path(config.node.topology).read_bytes())
        except OSError as error:
            raise TopologyError("", f"{config.node.topology}: {error.strerror}") from error
        cluster_id = topology.cluster_id
    else:
        alone = StoreInfo(StoreId(config.node.store_id), client_addr(config), peer_addr(config))
        cluster_id = ClusterId(0)
        topology = presplit(ClusterId(1), (alone,), regions=REGIONS_PER_WORKER * config.node.workers)
    return Founding(cluster_id, topology.stores, topology.regions, topology.leaders, topology.next_id())


def open_replica(
    config: NodeConfig, opened: Opened, machine: ControlMachine, incarnation: Incarnation, rng: Random
) -> Peer:
    """This store's replica of group 0, made durable first if it is new."""
    engine, wal = opened.engine, opened.wal
    replica_log = RaftLog(wal, machine.region.id)
    stored = stored_region(engine, machine.region)
    if stored is None:
        make_replica(engine, replica_log, machine.region)
        wal.flush()
        wal.sync()
        engine.checkpoint()
    else:
        machine.region = stored  # members come from the replicated state, never from a file
    return start_peer(
        config=config,
        engine=engine,
        log=replica_log,
        machine=machine,
        worker_id=WorkerId(0),
        incarnation=incarnation,
        fresh=stored is None,
        now_ms=boot_ms(),
        rng=rng,
    )


if __name__ == "__main__":
    sys.exit(main())
