"""Raft: a sans-IO consensus core with the semantics of etcd/raft."""

from nokv.raft.config import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Config, ReadOnlyOption
from nokv.raft.errors import (
    Compacted,
    ConfigError,
    ProposalDropped,
    RaftError,
    SnapshotOutOfDate,
    SnapshotTemporarilyUnavailable,
    StepError,
    StepLocalMessage,
    StepMalformed,
    StepPeerNotFound,
    Unavailable,
)
from nokv.raft.node import RawNode, Ready
from nokv.raft.roles import ReadState, Role, SoftState
from nokv.raft.storage import MemoryStorage, Storage

__all__ = [
    "LOCAL_APPEND_THREAD",
    "LOCAL_APPLY_THREAD",
    "Compacted",
    "Config",
    "ConfigError",
    "MemoryStorage",
    "ProposalDropped",
    "RaftError",
    "RawNode",
    "ReadOnlyOption",
    "ReadState",
    "Ready",
    "Role",
    "SnapshotOutOfDate",
    "SnapshotTemporarilyUnavailable",
    "SoftState",
    "StepError",
    "StepLocalMessage",
    "StepMalformed",
    "StepPeerNotFound",
    "Storage",
    "Unavailable",
]
