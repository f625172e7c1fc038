"""Errors of the Raft core, each answered differently by its caller.

Why: a storage says what it cannot deliver, a caller learns that a proposal went nowhere, and a message that makes no
sense is refused before it changes anything.
Invariants: whatever a message holds, RawNode.step raises nothing but a StepError or ProposalDropped, and a StepError
means that nothing has changed.
Not here: bugs of ours, which are assertions, and errors of a disk, which pass through the core untouched.
"""


class StorageReadError(Exception):
    """A storage cannot deliver what was asked for. All of these are ordinary."""


class Compacted(StorageReadError):
    """The entry was compacted away."""

    def __str__(self) -> str:
        return "requested index is unavailable due to compaction"


class Unavailable(StorageReadError):
    """The entry is behind the end of the log."""

    def __str__(self) -> str:
        return "requested entry at index is unavailable"


class SnapshotOutOfDate(StorageReadError):
    """A snapshot is older than what the storage has."""

    def __str__(self) -> str:
        return "requested index is older than the existing snapshot"


class SnapshotTemporarilyUnavailable(StorageReadError):
    """The storage cannot make a snapshot yet; the core asks again later."""

    def __str__(self) -> str:
        return "snapshot is temporarily unavailable"


class ConfigError(ValueError):
    """A Config with impossible values."""


class ConfChangeError(ValueError):
    """A configuration change that cannot be applied to the configuration at hand."""


class ProposalDropped(Exception):
    """A proposal was refused and will never commit: there is no leader, or the leader takes none now."""

    def __str__(self) -> str:
        return "raft proposal dropped"


class StepError(Exception):
    """A message was refused before it changed anything."""


class StepLocalMessage(StepError):
    """A message of a type that a node only sends to itself came from somebody else."""

    def __str__(self) -> str:
        return "raft: cannot step raft local message"


class StepPeerNotFound(StepError):
    """A response of somebody who is not a member of the configuration."""

    def __str__(self) -> str:
        return "raft: cannot step as peer not found"


class StepMalformed(StepError):
    """The fields of a message contradict each other, or what is already committed."""
