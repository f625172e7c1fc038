"""Raft."""

from nokv.raft.config import Config, ReadOnly, Sink
from nokv.raft.errors import (
    Compacted,
    ConfChangeError,
    ConfigError,
    ProposalDropped,
    SnapshotOutOfDate,
    SnapshotTemporarilyUnavailable,
    StepError,
    StepLocalMessage,
    StepMalformed,
    StepPeerNotFound,
    StorageReadError,
    Unavailable,
)
from nokv.raft.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD
from nokv.raft.node import RawNode
from nokv.raft.progress import Flow
from nokv.raft.read_index import ReadState
from nokv.raft.ready import Ready, SoftState
from nokv.raft.roles import Role
from nokv.raft.status import BasicStatus, PeerStatus, Status
from nokv.raft.storage import MemoryStorage, Storage

__all__ = [
    "LOCAL_APPEND_THREAD",
    "LOCAL_APPLY_THREAD",
    "BasicStatus",
    "Compacted",
    "ConfChangeError",
    "Config",
    "ConfigError",
    "Flow",
    "MemoryStorage",
    "PeerStatus",
    "ProposalDropped",
    "RawNode",
    "ReadOnly",
    "ReadState",
    "Ready",
    "Role",
    "Sink",
    "SnapshotOutOfDate",
    "SnapshotTemporarilyUnavailable",
    "SoftState",
    "Status",
    "StepError",
    "StepLocalMessage",
    "StepMalformed",
    "StepPeerNotFound",
    "Storage",
    "StorageReadError",
    "Unavailable",
]
