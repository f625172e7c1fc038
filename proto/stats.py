"""What processes tell about themselves: plain counters since the process started, and a few gauges.

Invariants: counters only rise within one incarnation; units are in the names; a missing process shows as
state "down" with pid 0, never as an absent row.
Not here: how they are collected (nokv.manifest) or shown (nokv.cli).
"""

from msgspec import Struct

from nokv.proto.ids import ClusterId, StoreId, WorkerId


class WorkerStats(Struct, array_like=True, frozen=True, gc=False):
    """One worker's second. Fields with a unit are gauges or sums in that unit; the others are counts."""

    regions: int = 0
    leaders: int = 0
    requests: int = 0
    reads: int = 0
    writes: int = 0
    refusals: int = 0
    proposals: int = 0
    applied_entries: int = 0
    applied_commands: int = 0
    expired: int = 0
    bad_input: int = 0
    lease_reads: int = 0
    index_reads: int = 0
    wal_syncs: int = 0
    wal_sync_us_total: int = 0
    wal_sync_us_max: int = 0
    checkpoints: int = 0
    checkpoint_us_max: int = 0
    turns: int = 0
    loop_busy_us_total: int = 0
    loop_lag_us_max: int = 0
    inbox_frames: int = 0
    waiting_proposals: int = 0
    peer_messages_sent: int = 0
    peer_messages_dropped: int = 0
    map_bytes: int = 0
    map_used_bytes: int = 0
    wal_bytes: int = 0
    free_bytes: int = 0
    state: str = "starting"
    cpu_us_total: int = 0
    rss_bytes: int = 0
    apply_backlog: int = 0


class RouterStats(Struct, array_like=True, frozen=True, gc=False):
    """The router's counters. Dropped messages are counted by why they were dropped."""

    client_messages: int = 0
    client_frames: int = 0
    peer_messages: int = 0
    peer_frames: int = 0
    replies: int = 0
    clients: int = 0
    busy_replies: int = 0
    malformed: int = 0
    refused_plane: int = 0
    unknown_region: int = 0
    dropped_peer: int = 0
    dropped_reply: int = 0
    blocked: int = 0
    auth_refused: int = 0
    queued_frames: int = 0
    dropped_local: int = 0
    """One-way frames between processes of this node; their senders repeat them."""
    handshakes_failed: int = 0
    """Connections that never became ours: garbage, silence, another protocol."""


class WorkerStatus(Struct, array_like=True, frozen=True):
    """A worker as its manifest knows it.

    `age_ms`: since its last heartbeat. state: up, starting, down, disk_full, poisoned.
    """

    worker_id: WorkerId
    pid: int
    state: str
    age_ms: int
    restarts: int
    stats: WorkerStats


class NodeStatus(Struct, array_like=True, frozen=True):
    """A node's own view of itself. `control_role`: of its group 0 replica; `control_leader`: store, 0 = none known."""

    cluster_id: ClusterId
    store_id: StoreId
    version: str
    uptime_ms: int
    manifest_pid: int
    router_pid: int
    workers: tuple[WorkerStatus, ...]
    router: RouterStats
    control_role: str
    control_leader: StoreId
    control_term: int
    regions: int
    leaders: int
    regions_without_leader: int
    peers_seen_ms: tuple[tuple[StoreId, int], ...] = ()
    """(store, milliseconds since its last message); -1 = never."""
