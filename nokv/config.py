"""Every limit and setting of a node: one frozen Struct for each section.

Why: a limit that lives in one place has a name, a unit and a reason, and relations between limits can be refused at
start-up instead of being met at night.
Invariants: no value means "unlimited"; units are last in the names; nokv.config_rules.check has passed for every
NodeConfig a process runs with; the effective configuration survives a round trip through JSON unchanged.
Not here: which values go together (nokv.config_rules), where values come from and which source wins
(nokv.node.settings), the cluster's shape (nokv.topology).
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from nokv.proto.frame import FRAME_BYTES_MAX

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

KEY_BYTES_FORMAT_MAX: Final = 400
"""LMDB keys hold 511 bytes; 400 user bytes become 459 in memcomparable form, plus 8 of timestamp."""

WORKERS_MAX: Final = 256
"""Far above any machine's useful count; catches a typing error before it spawns processes."""

LINK_NAME: Final = "link.ipc"
"""The router's link socket inside the run directory."""


class ConfigError(ValueError):
    """A setting that cannot be run with. `path` is dotted, e.g. "raft.election_ticks"; "" when it is the whole."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class NodeSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Who this node is and where it lives."""

    store_id: int = 1
    """Durable identity in the cluster, > 0. The data directory remembers it and refuses another."""
    workers: int = 0
    """Shard workers; 0 = one for each usable core (affinity mask and cgroup quota counted)."""
    data_dir: str = "nokv-data"
    """Everything durable. Made if missing; locked while the node runs."""
    run_dir: str = ""
    """Sockets, pid file, effective configuration; mode 0700, short path. "" = chosen by the supervisor."""
    topology: str = ""
    """Path of the cluster's topology file (nokv.topology); "" = a cluster of this one store."""
    pin: str = "auto"
    """auto: worker i gets a core of its own when there are enough; none; or a list such as 0-3,6."""
    drain_timeout_s: float = 25.0
    """From SIGTERM to SIGKILL, seconds. Kubernetes grants 30."""


class ListenSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses, "host:port" with an IPv4 host or a name; loopback unless CURVE keys guard the planes."""

    client: str = "127.0.0.1:6658"
    """Client plane. 6658 spells NOKV on a phone pad."""
    peer: str = "127.0.0.1:6659"
    """Peer plane: Raft and control traffic of other stores."""
    advertise_client: str = ""
    """How clients reach the client plane; "" = as bound."""
    advertise_peer: str = ""
    """How other stores reach the peer plane; "" = as bound."""
    insecure_bind: bool = False
    """Allow a bind outside loopback without CURVE. Whoever reaches the port then owns the data."""


class RaftSection(Struct, frozen=True, forbid_unknown_fields=True):
    """The Raft core and the worker's turn around it. Ticks are logical."""

    tick_ms: int = 100
    """Length of a tick, milliseconds."""
    election_ticks: int = 10
    """Silence after which a follower campaigns (randomised up to twice this)."""
    heartbeat_ticks: int = 2
    """Distance of a leader's heartbeats; with 10 election ticks, four may be lost in a row."""
    lease_drift_ms: int = 100
    """Clock drift and scheduling slack taken off the leader lease: lease = election timeout - one tick - this."""
    max_message_bytes: int = MIB
    """Entries of one append message; keeps a slow follower's catch-up interruptible. One larger entry goes alone."""
    max_inflight: int = 256
    """Unacknowledged append messages to one follower."""
    max_committed_bytes: int = 8 * MIB
    """Committed entries one region may hand to apply in one turn; bounds the pause it causes to others."""
    proposals_inflight_max: int = 8
    """Entries one region may have proposed and not applied."""
    proposal_eager_bytes: int = 64 * KIB
    """Gathered writes wait while a proposal is under way, unless they are this much: fuller entries cost less."""
    uncommitted_bytes: int = 64 * MIB
    """Proposed but uncommitted bytes of one leader; above it proposals are refused as busy."""
    log_retain_entries: int = 4096
    """Applied entries kept for followers that lag a little, so that they need no snapshot."""
    peer_message_bytes_max: int = 8 * MIB
    """One coalesced message to another store; what is over goes into a further message of the same turn."""


class StorageSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Log and LMDB of one worker (and of the manifest)."""

    sync: bool = True
    """fdatasync before an acknowledgement. False loses acknowledged writes when the machine stops: tests only."""
    segment_bytes: int = 64 * MIB
    """One log segment; what compaction frees at a time."""
    checkpoint_bytes: int = 32 * MIB
    """Dirty bytes in the open LMDB transaction, by an upper estimate of about 5 KiB a small put, that start a
    checkpoint.
    Smaller: more syncs, each of which stops applying for some 10 ms; larger: longer stops and a longer replay."""
    checkpoint_ms: int = 5000
    """Longest time between checkpoints while something is dirty; bounds replay after a crash."""
    collect_bytes: int = 4 * MIB
    """Live records one call of the log's segment collection may rewrite forward."""
    map_bytes_initial: int = 256 * MIB
    """First size of an LMDB map. Address space, not disk."""
    map_bytes_step: int = 256 * MIB
    """Smallest growth of a map that runs short."""
    preallocate_bytes: int = 16 * MIB
    """Step in which the data file is allocated, so that a full disk shows before a commit needs it."""
    readers_max: int = 64
    """Reader slots of one LMDB environment; snapshots being sent take one each."""
    free_bytes_min: int = 256 * MIB
    """Low-space mark of the file system: below it writes are refused with DiskFull."""
    free_bytes_resume: int = 384 * MIB
    """Free bytes at which writes are taken again; above the low mark, so that the state does not flap."""
    entry_cache_bytes: int = 32 * MIB
    """Recent log entries kept decoded, for one worker."""


class LimitsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """What one request, one connection and one queue may take."""

    key_bytes_max: int = KEY_BYTES_FORMAT_MAX
    """User key. Never above KEY_BYTES_FORMAT_MAX: the record format ends there."""
    value_bytes_max: int = MIB
    """User value; above it a value blocks a worker's turn noticeably."""
    txn_bytes_max: int = 16 * MIB
    """Keys and values of one transaction, and of one request that writes."""
    txn_keys_max: int = 10_000
    """Mutations of one transaction."""
    scan_page_bytes: int = 2 * MIB
    """Bytes after which a scan page ends, whatever its limit says."""
    scan_page_keys_max: int = 10_000
    """Pairs of one scan page."""
    batch_keys_max: int = 10_000
    """Keys of one batch get."""
    entry_bytes_max: int = 24 * MIB
    """Data of one Raft entry: room for one full transaction plus its envelope."""
    entry_batch_bytes: int = MIB
    """A region's commands of one turn are cut into entries of about this size; one larger command gets its own."""
    proposals_max: int = 4096
    """Waiting proposals of one region; above it requests are refused as busy."""
    requests_waiting_max: int = 16_384
    """Waiting requests (reads and writes) of one worker."""
    inbox_messages_max: int = 256
    """Messages taken from a socket in one turn; bounds the time between two syncs."""
    apply_backlog_entries_max: int = 8192
    """Committed but unapplied entries of one region; above it new proposals wait."""
    command_timeout_ms: int = 3000
    """Longest wait of a write for its outcome, when the request brings no shorter budget."""
    read_timeout_ms: int = 3000
    """Longest wait of a read for its lease, read index or apply."""
    lock_ttl_ms_max: int = 60_000
    """Longest life a transaction lock may ask for in one heartbeat."""
    routes_page_max: int = 1024
    """Regions of one ROUTES answer."""


class RouterSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Sockets and queues of the router. libzmq's own defaults are all replaced."""

    message_bytes_max: int = FRAME_BYTES_MAX
    """ZMQ_MAXMSGSIZE of both planes; a longer message ends its connection."""
    handshake_ms: int = 3000
    """A connection that has not finished its greeting by then is closed (libzmq waits 30 s)."""
    heartbeat_ms: int = 2000
    """ZMTP ping distance on idle connections."""
    heartbeat_timeout_ms: int = 8000
    """Silence after which a connection is given up."""
    linger_ms: int = 500
    """How long a closing socket may still send."""
    backlog: int = 1024
    """Pending TCP connections."""
    send_hwm: int = 4096
    """Messages in one outgoing pipe before ours waits in the bounded queue."""
    client_send_hwm: int = 16
    """Messages in a client's outgoing pipe. Few, since libzmq counts messages and not bytes: what a client does not
    read waits in the queue below, which is bounded in bytes. A turn sends a client one message."""
    receive_hwm: int = 256
    """Messages in one connection's incoming pipe; then TCP pushes back."""
    link_hwm: int = 1024
    """Both directions of a worker's pipe, at the worker's end."""
    link_send_hwm: int = 64
    """The router's end of a worker's pipe, for the same reason as client_send_hwm."""
    flush_bytes: int = MIB
    """Frames for one receiver are coalesced into messages of about this size."""
    frames_per_turn_max: int = 4096
    """Frames taken from one plane in one turn; keeps replies flowing under a flood of requests."""
    messages_per_turn_max: int = 256
    """Messages taken from one socket in one turn."""
    message_frames_max: int = 8192
    """Frames of one client message; bounds the pause that one message can cause to others."""
    client_queue_bytes_max: int = 8 * MIB
    """Replies waiting for one client that does not read; then they are dropped and counted."""
    clients_queue_bytes_max: int = 128 * MIB
    """Replies waiting for all clients together; bounds the router's memory."""
    worker_queue_bytes_max: int = 16 * MIB
    """Frames waiting for one worker whose pipe is full; then requests are refused as busy and Raft frames dropped."""
    worker_queue_frames_max: int = 8192
    """As above in frames."""
    worker_queue_ms_max: int = 500
    """Longest time frames wait for a full pipe; then they are refused, and newer ones at once, until it moves."""
    slow_retry_ms: int = 1
    """First wait before a client that does not read is tried again; doubles."""
    slow_retry_ms_max: int = 100
    """Longest such wait."""
    stall_ms: int = 30_000
    """A connection whose sent data is not acknowledged for this long is closed (TCP_USER_TIMEOUT)."""
    retry_after_ms: int = 20
    """Hint in the busy answer of a full queue."""
    stats_ms: int = 1000
    """Distance of the router's reports to the manifest."""
    auth_log_ms: int = 60_000
    """A refused source is logged at most once in this time."""
    keepalive_idle_s: int = 30
    """TCP keepalive: idle time before the first probe, seconds."""
    reconnect_ms: int = 50
    """First wait before a lost link is connected again."""
    reconnect_ms_max: int = 1000
    """Longest such wait."""


class ManifestSection(Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest process and its replica of group 0."""

    routing_push_ms: int = 250
    """Distance of routing pushes to the router when nothing changes."""
    heartbeat_ms: int = 1000
    """Distance of a worker's heartbeats to its manifest, and of store heartbeats to group 0."""
    down_after_ms: int = 3000
    """A process silent for this long is shown as down."""
    register_ms: int = 200
    """Distance of a worker's REGISTER attempts until it is assigned."""
    tso_window_ms: int = 3000
    """How far ahead of the clock the oracle reserves timestamps durably; a new leader may start this much ahead."""
    tso_count_max: int = 65_536
    """Timestamps of one grant."""
    ids_count_max: int = 65_536
    """Ids of one allocation."""


class CurveSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Encryption and identity of both planes."""

    dir: str = ""
    """Folder made by `nokv-node keygen`, with the node's key pair and both allow-lists; "" = plaintext."""


class ChaosSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Fault injection over the client plane, for tests and demos."""

    enabled: bool = False
    """Whether CHAOS requests are obeyed."""


class LogSection(Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines on stderr."""

    level: str = "info"
    """debug, info, warning or error. SIGHUP reads it again."""
    format: str = "auto"
    """text, json, or auto: text on a terminal, JSON lines otherwise."""


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration of one node, as every process of it sees it."""

    node: NodeSection = field(default_factory=NodeSection)
    listen: ListenSection = field(default_factory=ListenSection)
    raft: RaftSection = field(default_factory=RaftSection)
    storage: StorageSection = field(default_factory=StorageSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    router: RouterSection = field(default_factory=RouterSection)
    manifest: ManifestSection = field(default_factory=ManifestSection)
    curve: CurveSection = field(default_factory=CurveSection)
    chaos: ChaosSection = field(default_factory=ChaosSection)
    log: LogSection = field(default_factory=LogSection)


# ---- derived values -------------------------------------------------------------------------------------------------


def election_timeout_ms(raft: RaftSection) -> int:
    """Shortest silence after which a follower may campaign, milliseconds."""
    return raft.tick_ms * raft.election_ticks


def lease_ms(raft: RaftSection) -> int:
    """How long a leader may serve reads after a quorum answered a heartbeat, counted from when that was sent.

    One tick is taken off because a follower's first tick after that heartbeat may come at once.
    """
    return election_timeout_ms(raft) - raft.tick_ms - raft.lease_drift_ms


def advertised_limits(config: NodeConfig) -> dict[str, int]:
    """The limits a client is told in HelloReply, by their names here."""
    limits = config.limits
    return {
        "key_bytes_max": limits.key_bytes_max,
        "value_bytes_max": limits.value_bytes_max,
        "txn_bytes_max": limits.txn_bytes_max,
        "txn_keys_max": limits.txn_keys_max,
        "scan_page_bytes": limits.scan_page_bytes,
        "scan_page_keys_max": limits.scan_page_keys_max,
        "batch_keys_max": limits.batch_keys_max,
        "message_bytes_max": config.router.message_bytes_max,
        "message_frames_max": config.router.message_frames_max,
    }


def client_addr(config: NodeConfig) -> str:
    """The client plane as clients are told to reach it."""
    return config.listen.advertise_client or config.listen.client


def peer_addr(config: NodeConfig) -> str:
    """The peer plane as other stores are told to reach it."""
    return config.listen.advertise_peer or config.listen.peer


def link_endpoint(config: NodeConfig) -> str:
    """The router's link as a ZeroMQ endpoint. `node.run_dir` must have been filled in by the supervisor."""
    assert config.node.run_dir, "the supervisor chooses run_dir before any child starts"
    return f"ipc://{config.node.run_dir.rstrip('/')}/{LINK_NAME}"


# ---- JSON, as handed to child processes -----------------------------------------------------------------------------


def to_json(config: NodeConfig) -> bytes:
    """The effective configuration as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
