"""What must hold before a node starts anything: one line and an exit code for each thing that does not.

Why: a taken port or somebody else's data must be told by the command that was typed, at once, not by a child's
traceback half a second later.
Not here: the data directory's own checks (nokv.storage.datadir), contradictions of settings (nokv.config).
"""

import errno
import socket

import psutil

from nokv.config import NodeConfig
from nokv.config_rules import is_loopback, parse_address
from nokv.exitcodes import EXIT_CONFIG, EXIT_PORT
from nokv.process import ProcessRefused


def check_bind(config: NodeConfig) -> None:
    """Refuse to serve strangers without keys.

    Raises:
        ProcessRefused: a bind outside loopback without CURVE and without insecure_bind (exit code 5).
    """
    if config.curve.dir or config.listen.insecure_bind:
        return
    for name in ("client", "peer"):
        host, _port = parse_address(f"listen.{name}", getattr(config.listen, name))
        if not is_loopback(host):
            raise ProcessRefused(
                f"listen.{name} {host} is reachable from outside and there are no CURVE keys: "
                "give --curve-dir (see nokv-node keygen), or --insecure-bind if the network is trusted",
                EXIT_CONFIG,
            )


def check_ports(config: NodeConfig) -> None:
    """Refuse addresses that cannot be bound. The router binds them a moment later and has the last word.

    Raises:
        ProcessRefused: names the address, and who holds it where that is known (exit code 7).
    """
    for name in ("client", "peer"):
        address: str = getattr(config.listen, name)
        host, port = parse_address(f"listen.{name}", address)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except OSError as error:
                why = _owner(port) if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
                raise ProcessRefused(f"listen.{name} {address} cannot be used: {why}", EXIT_PORT) from error


def _owner(port: int) -> str:
    """Who listens on a port, as far as this user may see."""
    try:
        connections = psutil.net_connections(kind="tcp4")
    except psutil.Error:
        return "taken"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "taken by a process of another user"
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.Error:
                name = "unknown"
            return f"taken by {name} (pid {connection.pid})"
    return "taken"
