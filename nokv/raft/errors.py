"""Errors of the Raft core: each a type, because callers react differently.

Not here: assertion failures, which are our own bugs and must end the process.
"""


class RaftError(Exception):
    """Base of everything the core raises on purpose."""


class ConfigError(RaftError, ValueError):
    """A configuration that cannot work; the text names the field."""


class ProposalDropped(RaftError):
    """The proposal was not appended: no leader, a transfer under way, or too much uncommitted. It may be made again."""


class StepError(RaftError):
    """A message that must not be stepped. Nothing was changed."""


class StepLocalMessage(StepError):
    """A kind of message that only the node itself may produce came from outside."""


class StepPeerNotFound(StepError):
    """A response came from a peer that is not in the configuration."""


class StepMalformed(StepError):
    """A message whose fields contradict each other or this node's state in a way no honest peer could produce."""


class StorageReadError(RaftError):
    """Base of what a Storage may answer instead of data."""


class Compacted(StorageReadError):
    """The entries asked for lie before the first one kept."""


class Unavailable(StorageReadError):
    """The entries asked for lie behind the last one."""


class SnapshotOutOfDate(StorageReadError):
    """A snapshot older than the one present."""


class SnapshotTemporarilyUnavailable(StorageReadError):
    """A snapshot is being made; ask again."""
