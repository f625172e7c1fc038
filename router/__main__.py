"""`python -m nokv.router --config FILE`: the router process, started by the supervisor.

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 refused to start or failed, 5 bad configuration or key files, 7 an
address cannot be bound.
"""

import argparse
import logging
import resource
import signal
import sys
from types import FrameType

from nokv import __version__, process
from nokv.config import ConfigError, NodeConfig
from nokv.router.auth import Gate
from nokv.router.curve import KeyFileError, node_keys
from nokv.router.dispatch import Dispatcher
from nokv.router.loop import Loop
from nokv.router.sockets import BindRefused, Sockets

log = logging.getLogger("nokv.router")


def main() -> int:
    """Run a router until it is told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nokv.router", description="The router process of a node.")
    parser.add_argument("--config", required=True, help="effective configuration, JSON")
    arguments = parser.parse_args()
    try:
        process.check_interpreter()
        node = process.load_effective(arguments.config).node.store_id
        config = process.start(f"nokv: router node {node}", arguments.config)
    except process.ProcessRefused as refused:
        print(f"nokv router: {refused}", file=sys.stderr)
        return refused.exit_code
    try:
        return serve(config)
    except BindRefused as refused:
        log.critical("%s", refused)
        return process.EXIT_PORT
    except (ConfigError, KeyFileError) as error:
        log.critical("%s", error)
        return process.EXIT_CONFIG


def serve(config: NodeConfig) -> int:
    """Open the sockets and turn until SIGTERM or SIGINT.

    Raises:
        BindRefused: an address cannot be bound.
        KeyFileError: the node's keys cannot be used.
        ConfigError: the run directory is open to others.
    """
    raise_descriptor_limit()
    keys = node_keys(config.curve.dir)
    gate = Gate(keys.public if keys is not None else None)
    sockets = Sockets(config, keys)
    loop = Loop(config, sockets, Dispatcher(config, __version__), gate)

    def on_stop(_signum: int, _frame: FrameType | None) -> None:
        loop.stop()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    encrypted = "CURVE" if keys is not None else "no encryption"
    log.info("clients at %s, peers at %s, %s", config.listen.client, config.listen.peer, encrypted)
    loop.run()
    sockets.close()
    return process.EXIT_FINE


def raise_descriptor_limit() -> None:
    """Allow as many connections as the system lets us have; shells often start with 1,024 descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
