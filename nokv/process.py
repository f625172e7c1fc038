"""What every process of a node does first: refuse a broken interpreter, name itself, log, and listen to the operator.

Why: router, workers and manifest are started by the supervisor in the same way and must answer the same signals, so
the few impure lines for that are here once.
Contract: a process main calls `start` before it opens anything, and leaves with one of the codes of nokv.exitcodes.
SIGHUP reads the log level again from the effective configuration; SIGUSR1 prints the stacks of all threads to stderr.
Not here: SIGTERM and SIGINT (each process stops in its own way), being pinned and dying with the supervisor, which
the supervisor arranges (nokv.node.children).
"""

import faulthandler
import json
import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

import setproctitle
import zmq

from nokv.config import ConfigError, LogSection, NodeConfig
from nokv.config_rules import from_json
from nokv.exitcodes import EXIT_CONFIG as EXIT_CONFIG
from nokv.exitcodes import EXIT_DATA_DIR as EXIT_DATA_DIR
from nokv.exitcodes import EXIT_FINE as EXIT_FINE
from nokv.exitcodes import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from nokv.exitcodes import EXIT_PORT as EXIT_PORT
from nokv.exitcodes import EXIT_UNEXPECTED as EXIT_UNEXPECTED
from nokv.exitcodes import EXIT_USAGE as EXIT_USAGE

LIBZMQ_MIN: Final = (4, 3, 5)
"""Earlier ones lack fixes that CURVE and ROUTER_HANDOVER need."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class ProcessRefused(Exception):
    """This interpreter or library cannot run a node. `exit_code` as in nokv.exitcodes."""

    def __init__(self, reason: str, exit_code: int = EXIT_UNEXPECTED) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def start(title: str, config_path: str) -> NodeConfig:
    """Check the interpreter, load the effective configuration, set title, logging and signals.

    Raises:
        ProcessRefused: python -O, a libzmq that is too old, or a configuration that cannot be read (exit code 5).
    """
    check_interpreter()
    config = load_effective(config_path)
    setproctitle.setproctitle(title)
    log_to_stderr(config.log, title)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)

    def reload_level(_signum: int, _frame: FrameType | None) -> None:
        try:
            set_level(load_effective(config_path).log.level)
        except ProcessRefused as refused:
            logging.getLogger("nokv.process").error("log level not changed: %s", refused)

    signal.signal(signal.SIGHUP, reload_level)
    return config


def check_interpreter() -> None:
    """Refuse to run where assertions are off or libzmq is too old.

    Raises:
        ProcessRefused: so it is.
    """
    if sys.flags.optimize:
        raise ProcessRefused("python -O strips the assertions this store relies on: start it without -O")
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        wanted = ".".join(map(str, LIBZMQ_MIN))
        raise ProcessRefused(f"libzmq {zmq.zmq_version()} is too old, {wanted} or later is needed")


def load_effective(config_path: str) -> NodeConfig:
    """The effective configuration the supervisor wrote.

    Raises:
        ProcessRefused: it cannot be read or is refused.
    """
    try:
        return from_json(Path(config_path).read_bytes())
    except OSError as error:
        raise ProcessRefused(f"{config_path}: {error.strerror}", EXIT_CONFIG) from error
    except ConfigError as error:
        raise ProcessRefused(f"{config_path}: {error}", EXIT_CONFIG) from error


# ---- logging --------------------------------------------------------------------------------------------------------


def log_to_stderr(log: LogSection, process: str) -> None:
    """Send this process's log lines to stderr: text on a terminal, JSON lines elsewhere, unless the format is set."""
    as_text = log.format == "text" or (log.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if as_text else JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(log.level)


def set_level(level: str) -> None:
    """Set the level of every logger, by its name in nokv.config."""
    logging.getLogger().setLevel(_LEVELS[level])


class TextLines(logging.Formatter):
    """`18:23:04.512 warning nokv.router  queue of worker 3 is full`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {record.name}  {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, process, logger, message, and error where there is one."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON text without line breaks."""
        fields = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
