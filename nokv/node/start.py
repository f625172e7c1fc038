"""`nokv-node start`: from settings to a running node and its exit code.

Why: the order of the first second matters: nothing is made on disk before the settings are sound, no port is tried
before the data directory is ours, and no child starts before both.
Contract: returns only when every process of the node has ended; raises nothing, every refusal is one line on stderr
and an exit code of nokv.exitcodes.
Not here: the settings' sources (settings), the children's lives (supervisor).
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Final

import msgspec
from setproctitle import setproctitle

from nokv import process
from nokv.config import ConfigError, LogSection, NodeConfig, to_json
from nokv.exitcodes import EXIT_CONFIG, EXIT_DATA_DIR, EXIT_FINE, EXIT_UNEXPECTED
from nokv.node import pinning, preflight, rundir, summary
from nokv.node.admin import Address, Asker, AskError
from nokv.node.children import node_children
from nokv.node.console import Console
from nokv.node.settings import Settings
from nokv.node.supervisor import Supervisor
from nokv.process import ProcessRefused
from nokv.proto.control import StatusReply
from nokv.router.curve import KeyFileError, node_keys
from nokv.storage.datadir import DataDir, DataDirRefusedError
from nokv.storage.engine import StorageError

LOOK_TIMEOUT_MS: Final = 200
"""How long a look at the starting node may hold the supervisor up."""


def start(load: Callable[[], Settings], *, environ: Mapping[str, str], check_only: bool = False) -> int:
    """Run a node in the foreground. `load` is called again on SIGHUP. Returns the exit code."""
    try:
        process.check_interpreter()
        settings = load()
        preflight.check_bind(settings.config)
        cpus = pinning.read_cpus()
        config = resolve(settings.config, cpus, environ)
        plan = pinning.plan(config.node.pin, config.node.workers, cpus)
        if check_only:
            preflight.check_ports(config)
            print("configuration is sound", file=sys.stderr)
            return EXIT_FINE
        return _Node(settings, config, plan, load).run()
    except (ConfigError, KeyFileError) as error:
        return _refuse(str(error), EXIT_CONFIG)
    except ProcessRefused as refused:
        return _refuse(str(refused), refused.exit_code)
    except DataDirRefusedError as refused:
        return _refuse(str(refused), EXIT_DATA_DIR)
    except StorageError as error:
        return _refuse(str(error), EXIT_UNEXPECTED)


def resolve(config: NodeConfig, cpus: pinning.Cpus, environ: Mapping[str, str]) -> NodeConfig:
    """The configuration children get: absolute paths, a worker count, a run directory, a log format.

    Raises:
        ConfigError: no usable run directory.
    """
    data_dir = Path(config.node.data_dir).absolute()
    node = msgspec.structs.replace(
        config.node,
        workers=config.node.workers or cpus.usable,
        data_dir=str(data_dir),
        run_dir=str(rundir.choose(config.node.run_dir, data_dir, environ)),
        topology=str(Path(config.node.topology).absolute()) if config.node.topology else "",
    )
    curve = msgspec.structs.replace(
        config.curve, dir=str(Path(config.curve.dir).absolute()) if config.curve.dir else ""
    )
    return msgspec.structs.replace(config, node=node, curve=curve, log=_resolve_log(config))


def _resolve_log(config: NodeConfig) -> LogSection:
    """Children write to a pipe: whether lines are text is decided here, where the terminal is known."""
    if config.log.format != "auto":
        return config.log
    return msgspec.structs.replace(config.log, format="text" if sys.stderr.isatty() else "json")


class _Node:
    """One run of a node: its directories, its supervisor, and what it says."""

    def __init__(
        self, settings: Settings, config: NodeConfig, plan: pinning.PinPlan, load: Callable[[], Settings]
    ) -> None:
        self._settings = settings
        self._config = config
        self._plan = plan
        self._load = load
        self._as_text = config.log.format == "text"
        self._run_dir = Path(config.node.run_dir)
        self._effective = self._run_dir / rundir.EFFECTIVE_NAME
        keys = node_keys(config.curve.dir)
        self._server_key = keys.public.decode() if keys else ""
        self._asker = Asker(keys)

        self._console = Console()
        self._status: StatusReply | None = None

    def run(self) -> int:
        """Hold the directories and supervise.

        Raises:
            ConfigError, DataDirRefusedError, ProcessRefused, StorageError: nothing was started.
        """
        data_is_new = not Path(self._config.node.data_dir).exists()
        data = DataDir.open(self._config.node.data_dir)
        try:
            preflight.check_ports(self._config)
            rundir.make(self._run_dir)
            self._write_effective(self._config)
            (self._run_dir / rundir.PID_NAME).write_text(f"{os.getpid()}\n")
            setproctitle(f"nokv: node {self._config.node.store_id}")
            self._say_opening(data_is_new)
            return self._supervisor().run()
        finally:
            self._asker.close()
            rundir.clear(self._run_dir)
            data.close()

    def _supervisor(self) -> Supervisor:
        return Supervisor(
            node_children(str(self._effective), self._plan.cpu_of),
            waits_for=self._waits_for,
            on_ready=self._on_ready,
            on_reload=self._on_reload,
            say=self._say,
            write=self._console.write,
            as_text=self._as_text,
            drain_timeout_s=self._config.node.drain_timeout_s,
            random=SystemRandom(),
        )

    def _waits_for(self) -> str | None:
        """What a starting node still lacks, by its own answer over the client plane."""
        try:
            status = self._asker.status(self._address(), regions=True, timeout_ms=LOOK_TIMEOUT_MS)
        except AskError as error:
            return error.reason
        node = status.node
        missing = [str(worker.worker_id) for worker in node.workers if worker.state != "up"]
        if missing or len(node.workers) < self._config.node.workers:
            return f"workers {', '.join(missing) or '?'} are not up"
        alone = self._settings.topology is None or len(self._settings.topology.stores) == 1
        if alone and node.regions_without_leader:
            return f"{node.regions_without_leader} regions have no leader"
        self._status = status
        return None

    def _address(self) -> Address:
        """Our own client plane."""
        return Address(self._config.listen.client, self._server_key)

    def _on_ready(self, took_ms: int) -> None:
        assert self._status is not None
        try:
            routes = self._asker.routes(self._address())
        except AskError as error:
            self._say("warning", f"ready, but the directory did not answer: {error}")
            return
        self._announce("ready", summary.ready(self._config, self._status, routes, took_ms=took_ms))

    def _on_reload(self) -> None:
        try:
            level = self._load().config.log.level
        except ConfigError as error:
            self._say("error", f"settings not read again: {error}")
            return
        log = msgspec.structs.replace(self._config.log, level=level)
        self._config = msgspec.structs.replace(self._config, log=log)
        self._write_effective(self._config)
        self._say("info", f"log level is {level}")

    def _write_effective(self, config: NodeConfig) -> None:
        """Replace the file children read, so that none meets half of it."""
        fresh = self._effective.with_suffix(".new")
        fresh.write_bytes(to_json(config))
        fresh.replace(self._effective)

    # ---- what it says ----

    def _say_opening(self, data_is_new: bool) -> None:
        topology = self._settings.topology
        lines = summary.opening(
            self._config,
            pid=os.getpid(),
            sources=self._settings.sources,
            data_is_new=data_is_new,
            cpus=self._plan.note,
            stores=len(topology.stores) if topology else 0,
        )
        self._announce("starting", lines)
        if self._plan.warning:
            self._say("warning", self._plan.note)

    def _announce(self, event: str, lines: list[str]) -> None:
        """Several lines for people, one object for machines."""
        if self._as_text:
            self._console.write("".join(f"{text}\n" for text in lines))
        else:
            self._write_json("info", lines[0] if event == "starting" else event, event=event, lines=lines)

    def _say(self, level: str, message: str) -> None:
        if self._as_text:
            self._console.write(f"[node] {level}: {message}\n")
        else:
            self._write_json(level, message)

    def _write_json(self, level: str, message: str, **more: object) -> None:
        ts = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        fields = {"ts": ts, "level": level, "process": "supervisor", "message": message, **more}
        self._console.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _refuse(reason: str, exit_code: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return exit_code
