"""`python -m nokv.workers --config FILE --worker N`: one worker process, started by the supervisor."""

import argparse
import logging
import os
import sys
from random import Random, SystemRandom
from typing import Final

import zmq

from nokv import process
from nokv.config import NodeConfig
from nokv.proto.ids import Incarnation, WorkerId
from nokv.router.curve import node_keys
from nokv.storage.datadir import DataDirRefusedError, Holds, worker_directory
from nokv.storage.engine import CorruptionError, StorageError
from nokv.workers.loop import Loop, boot_ms
from nokv.workers.opening import mvcc_limits, open_part
from nokv.workers.sockets import open_link, worker_identity
from nokv.workers.transport import Transport
from nokv.workers.worker import WorkerCore

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the sync thread may wait for the interpreter after fdatasync; Python's 5 ms would be added to every commit.
"""

log = logging.getLogger("nokv.worker")


def main() -> int:
    """Run a worker until SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nokv.workers")
    parser.add_argument("--config", required=True, help="effective configuration, JSON")
    parser.add_argument("--worker", required=True, type=int, help="index of this worker, from 0")
    arguments = parser.parse_args()
    try:
        config = process.start(f"nokv: worker {arguments.worker}", arguments.config)
        run(config, WorkerId(arguments.worker))
    except process.ProcessRefused as refused:
        print(f"nokv worker: {refused}", file=sys.stderr)
        return refused.exit_code
    except (DataDirRefusedError, CorruptionError) as error:
        log.critical("%s", error)
        return process.EXIT_DATA_DIR
    except StorageError as error:
        log.critical("the disk failed, stopping: %s", error)
        return process.EXIT_UNEXPECTED
    return process.EXIT_FINE


def run(config: NodeConfig, worker_id: WorkerId) -> None:
    """Open the worker's directory and serve until told to stop."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    entropy = SystemRandom()
    opened = open_part(config, worker_directory(worker_id), Holds.WORKER)
    core = WorkerCore(
        config=config,
        limits=mvcc_limits(config),
        worker_id=worker_id,
        incarnation=Incarnation(entropy.getrandbits(63)),
        pid=os.getpid(),
        engine=opened.engine,
        wal=opened.wal,
        clock_ms=boot_ms,
        rng=Random(entropy.getrandbits(64)),
        claim=opened.directory.claim,
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = open_link(context, config, worker_identity(worker_id))
    transport = Transport(context, config, core.hello_to, node_keys(config.curve.dir))
    loop = Loop(core, config, link, transport, opened.disk.free_bytes)
    loop.install_signals()
    loop.run()
    opened.directory.close()
    context.term()


if __name__ == "__main__":
    sys.exit(main())
