"""Which settings go together: every relation between them, checked before anything is started.

Why: a contradiction between two limits shows as a stall or a refusal at night; here it is one line at start-up.
Invariants: every refusal names the dotted path of the field to change; the defaults pass.
Not here: what a field means (nokv.config).
"""

from typing import Final

import msgspec
from msgspec import Struct

from nokv.config import (
    KEY_BYTES_FORMAT_MAX,
    KIB,
    LINK_NAME,
    MIB,
    WORKERS_MAX,
    ConfigError,
    ListenSection,
    LogSection,
    ManifestSection,
    NodeConfig,
    NodeSection,
    RaftSection,
    RouterSection,
    StorageSection,
    lease_ms,
)
from nokv.proto.frame import FRAME_BYTES_MAX, HEADER_BYTES

ENVELOPE_BYTES: Final = 64 * KIB
"""Allowance for headers, origins and ids around a payload; generous, so that nobody has to count exactly."""

IPC_PATH_BYTES_MAX: Final = 107
"""sun_path has 108 bytes and libzmq keeps the terminating zero."""

MAP_BYTES_MIN: Final = 128 * MIB
"""Smallest LMDB map and smallest growth: each transaction starts with 64 MiB of free map (nokv.storage.lmdb_engine),
and a map that is no larger than twice that would have to grow again at once. Address space, not disk."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "text", "json")


def from_json(data: bytes) -> NodeConfig:
    """The configuration in `data`, checked.

    Raises:
        ConfigError: not JSON, an unknown or ill-typed field, or a relation that does not hold.
    """
    try:
        config = msgspec.json.decode(data, type=NodeConfig)
    except msgspec.DecodeError as error:
        raise ConfigError("", f"effective configuration: {error}") from error
    check(config)
    return config


def check(config: NodeConfig) -> None:
    """Refuse a configuration whose values contradict each other.

    Raises:
        ConfigError: with the dotted path of the field to change.
    """
    _check_positive(config)
    _check_node(config.node)
    _check_listen(config.listen)
    _check_raft(config.raft)
    _check_storage(config.storage)
    _check_limits(config)
    _check_router(config.router)
    _check_manifest(config.manifest)
    _check_log(config.log)


def parse_address(path: str, text: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Raises:
        ConfigError: no colon, an empty host, an IPv6 literal, or a port outside 1..65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ConfigError(path, f"{text!r} is not host:port")
    if ":" in host or "/" in host:
        raise ConfigError(path, f"{text!r}: only IPv4 addresses and host names are served")
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ConfigError(path, f"{text!r}: the port must be 1 to 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a bind to `host` is reachable from this machine only."""
    return host == "localhost" or host.startswith("127.")


_ZERO_ALLOWED: Final = frozenset({"node.workers", "raft.lease_drift_ms", "router.linger_ms"})


def _check_positive(config: NodeConfig) -> None:
    """Numbers are > 0: no limit may mean "unlimited", no interval "for ever"."""
    for section_name in config.__struct_fields__:
        section: Struct = getattr(config, section_name)
        for name in section.__struct_fields__:
            value = getattr(section, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            path = f"{section_name}.{name}"
            low = 0 if path in _ZERO_ALLOWED else 1e-9
            if value < low:
                raise ConfigError(path, f"must be {'at least' if not low else 'above'} 0, not {value}")
            if value > 1 << 53:
                raise ConfigError(path, f"{value} is out of any sensible range")


def _require(holds: bool, path: str, reason: str) -> None:
    if not holds:
        raise ConfigError(path, reason)


def _check_node(node: NodeSection) -> None:
    _require(node.workers <= WORKERS_MAX, "node.workers", f"at most {WORKERS_MAX}")
    _require(bool(node.data_dir), "node.data_dir", "must not be empty")
    link_bytes = len(f"{node.run_dir}/{LINK_NAME}".encode())
    _require(
        link_bytes <= IPC_PATH_BYTES_MAX,
        "node.run_dir",
        f"socket path of {link_bytes} bytes, the system allows {IPC_PATH_BYTES_MAX}: choose a shorter folder",
    )
    if node.pin not in ("auto", "none"):
        parse_cpu_list("node.pin", node.pin)


def parse_cpu_list(path: str, text: str) -> tuple[int, ...]:
    """CPU numbers of a list such as "0-3,6", in the order written.

    Raises:
        ConfigError: not such a list, or a CPU named twice.
    """
    cpus: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise ConfigError(path, f"{text!r} is neither auto, none nor a list such as 0-3,6")
        low, high = int(first), int(last or first)
        if high < low or high > 4095:
            raise ConfigError(path, f"{part.strip()!r} is no range of CPU numbers")
        cpus.extend(range(low, high + 1))
    if len(set(cpus)) != len(cpus):
        raise ConfigError(path, f"{text!r} names a CPU twice")
    return tuple(cpus)


def _check_listen(listen: ListenSection) -> None:
    client = parse_address("listen.client", listen.client)
    peer = parse_address("listen.peer", listen.peer)
    _require(client != peer, "listen.peer", f"the planes need two ports, both are {listen.peer}")
    for name in ("advertise_client", "advertise_peer"):
        text: str = getattr(listen, name)
        if text:
            parse_address(f"listen.{name}", text)


def _check_raft(raft: RaftSection) -> None:
    _require(
        raft.election_ticks > raft.heartbeat_ticks,
        "raft.election_ticks",
        f"{raft.election_ticks} must be above heartbeat_ticks {raft.heartbeat_ticks}, or every follower campaigns",
    )
    lease, heartbeat = lease_ms(raft), raft.tick_ms * raft.heartbeat_ticks
    _require(
        lease > heartbeat,
        "raft.lease_drift_ms",
        f"leaves a lease of {lease} ms, which must outlast a heartbeat of {heartbeat} ms",
    )
    _require(
        raft.max_message_bytes + ENVELOPE_BYTES <= FRAME_BYTES_MAX,
        "raft.max_message_bytes",
        f"with its envelope above a frame's {FRAME_BYTES_MAX} bytes",
    )
    _require(
        raft.max_message_bytes + HEADER_BYTES <= raft.peer_message_bytes_max,
        "raft.peer_message_bytes_max",
        "below max_message_bytes and a header: no append would fit",
    )


def _check_storage(storage: StorageSection) -> None:
    _require(storage.segment_bytes >= 64 * KIB, "storage.segment_bytes", "below 64 KiB")
    for name in ("map_bytes_initial", "map_bytes_step"):
        map_bytes: int = getattr(storage, name)
        _require(map_bytes >= MAP_BYTES_MIN, f"storage.{name}", f"below {MAP_BYTES_MIN // MIB} MiB")
    for name in ("map_bytes_initial", "map_bytes_step", "preallocate_bytes"):
        value: int = getattr(storage, name)
        _require(
            value >= 64 * KIB and value % 4096 == 0, f"storage.{name}", "must be whole pages of 4096, at least 64 KiB"
        )
    _require(
        storage.free_bytes_resume >= storage.free_bytes_min,
        "storage.free_bytes_resume",
        "below free_bytes_min: the state would flap",
    )
    _require(
        2 * storage.checkpoint_bytes <= storage.map_bytes_initial,
        "storage.checkpoint_bytes",
        "above half of map_bytes_initial: one checkpoint must fit the map twice",
    )


def _check_limits(config: NodeConfig) -> None:
    limits = config.limits
    _require(
        limits.key_bytes_max <= KEY_BYTES_FORMAT_MAX,
        "limits.key_bytes_max",
        f"the record format ends at {KEY_BYTES_FORMAT_MAX}",
    )
    pair_bytes = limits.key_bytes_max + limits.value_bytes_max
    _require(pair_bytes <= limits.txn_bytes_max, "limits.txn_bytes_max", "one key and value must fit")
    _require(pair_bytes <= limits.scan_page_bytes, "limits.scan_page_bytes", "one key and value must fit")
    _require(
        limits.scan_page_bytes + pair_bytes + ENVELOPE_BYTES <= config.router.client_queue_bytes_max,
        "limits.scan_page_bytes",
        "a page must fit router.client_queue_bytes_max",
    )
    batch_overhead_bytes = 32 * limits.txn_keys_max
    _require(
        limits.txn_bytes_max + batch_overhead_bytes + ENVELOPE_BYTES <= limits.entry_bytes_max,
        "limits.entry_bytes_max",
        "one full transaction with 32 bytes of envelope a key must fit one entry",
    )
    _require(
        limits.entry_bytes_max + ENVELOPE_BYTES <= min(FRAME_BYTES_MAX, config.router.message_bytes_max),
        "limits.entry_bytes_max",
        "an entry must travel in one frame and one message",
    )
    _require(limits.entry_batch_bytes <= limits.entry_bytes_max, "limits.entry_batch_bytes", "above entry_bytes_max")
    _require(
        limits.entry_bytes_max <= config.raft.uncommitted_bytes,
        "raft.uncommitted_bytes",
        "below limits.entry_bytes_max: the largest write could never be proposed",
    )
    _require(
        limits.proposals_max <= limits.requests_waiting_max,
        "limits.proposals_max",
        "above requests_waiting_max: one region's share is above the worker's whole",
    )


def _check_router(router: RouterSection) -> None:
    _require(
        router.message_bytes_max <= FRAME_BYTES_MAX,
        "router.message_bytes_max",
        f"above a frame's {FRAME_BYTES_MAX} bytes",
    )
    _require(
        router.heartbeat_timeout_ms > router.heartbeat_ms, "router.heartbeat_timeout_ms", "must be above heartbeat_ms"
    )
    _require(
        router.client_queue_bytes_max <= router.clients_queue_bytes_max,
        "router.clients_queue_bytes_max",
        "below one client's client_queue_bytes_max",
    )
    _require(router.reconnect_ms <= router.reconnect_ms_max, "router.reconnect_ms_max", "below reconnect_ms")
    _require(router.slow_retry_ms <= router.slow_retry_ms_max, "router.slow_retry_ms_max", "below slow_retry_ms")


def _check_manifest(manifest: ManifestSection) -> None:
    _require(
        manifest.down_after_ms > manifest.heartbeat_ms,
        "manifest.down_after_ms",
        "must be above heartbeat_ms, or all is down",
    )


def _check_log(log: LogSection) -> None:
    _require(log.level in LOG_LEVELS, "log.level", f"{log.level!r} is none of {', '.join(LOG_LEVELS)}")
    _require(log.format in LOG_FORMATS, "log.format", f"{log.format!r} is none of {', '.join(LOG_FORMATS)}")


check(NodeConfig())
