"""Ready: what a node wants its owner to do, all at once.

Why: the owner batches writes, syncs and sends across many groups, so the core says what is to be done, not how.
Invariants: without async_storage_writes the owner saves `entries`, `hard_state` and `snapshot`, then sends `messages`,
then applies `committed_entries`, then calls advance(); with it, everything to be saved or applied is in messages to
the local threads, and the other fields only tell about it.
Not here: when there is anything (node.py).
"""

from typing import NamedTuple

from nokv.proto.ids import PeerId
from nokv.proto.raft import Entry, HardState, Message, Snapshot
from nokv.raft.read_index import ReadState
from nokv.raft.roles import Role


class SoftState(NamedTuple):
    """Who leads and what this node is; not durable."""

    lead: PeerId
    role: Role


class Ready(NamedTuple):
    """What is to be done. None and empty: nothing of the kind."""

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: list[ReadState]
    entries: list[Entry]
    """To be saved, replacing what is there from the first one's index on."""
    snapshot: Snapshot | None
    """To be saved and applied before `committed_entries`."""
    committed_entries: list[Entry]
    """To be applied."""
    messages: list[Message]
    """To be sent, after everything above is saved (without async_storage_writes)."""
    must_sync: bool
    """Whether it has to be durable before the messages leave: not if only the commit index moved."""
