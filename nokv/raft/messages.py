"""Messages at the gate: kinds of types, and what is refused before it can change anything.

Why: the core behind the gate trusts what it is given, and asserts it.
Invariants: `check` changes nothing; a message that passes keeps every assertion of the core true in every role.
Not here: whether a message is out of date, which is not an error (core.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import DecodeError

from nokv.proto.ids import PeerId
from nokv.proto.raft import NUMBER_MAX, EntryType, Message, MessageType, decode_conf_change
from nokv.raft.confchange import is_possible
from nokv.raft.errors import StepLocalMessage, StepMalformed, StepPeerNotFound
from nokv.raft.roles import Role

if TYPE_CHECKING:
    from nokv.raft.core import Raft

LOCAL_APPEND_THREAD: Final = PeerId((1 << 64) - 1)
"""Whom STORAGE_APPEND is for, and who answers it."""
LOCAL_APPLY_THREAD: Final = PeerId((1 << 64) - 2)
"""Whom STORAGE_APPLY is for, and who answers it."""
LOCAL_THREADS: Final = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)

TERM_LEAD_MAX: Final = 1 << 32
"""How far a message's term may be ahead of this node's: more elections than a group has while a peer is away. A node
that took a term near the end of the range could neither campaign nor be understood any more, even after a restart."""
SNAPSHOT_INDEX_MAX: Final = NUMBER_MAX >> 1
"""Last entry of a snapshot at most, so that there is room for a log behind it."""

_T = MessageType
LOCAL_TYPES: Final = frozenset(
    {
        _T.HUP,
        _T.BEAT,
        _T.UNREACHABLE,
        _T.SNAP_STATUS,
        _T.CHECK_QUORUM,
        _T.STORAGE_APPEND,
        _T.STORAGE_APPEND_RESP,
        _T.STORAGE_APPLY,
        _T.STORAGE_APPLY_RESP,
    }
)
"""Never between peers."""
RESPONSE_TYPES: Final = frozenset({_T.APP_RESP, _T.VOTE_RESP, _T.HEARTBEAT_RESP, _T.PRE_VOTE_RESP})
"""Only from members of the configuration."""
TERMLESS_TYPES: Final = frozenset({_T.PROP, _T.READ_INDEX})
"""Forwarded requests belong to no term."""
FROM_SELF_TYPES: Final = frozenset(
    {_T.APP_RESP, _T.VOTE_RESP, _T.PRE_VOTE_RESP, _T.PROP, _T.READ_INDEX, _T.TRANSFER_LEADER}
)
"""Own promises, once they are durable, and own requests that were forwarded in a circle."""
AFTER_APPEND_TYPES: Final = frozenset({_T.APP_RESP, _T.VOTE_RESP, _T.PRE_VOTE_RESP})
"""Promises: they leave only when the state they speak of is durable."""


def check_storage_response(raft: "Raft", message: Message) -> None:
    """A local thread's answer. Raises StepLocalMessage, StepMalformed."""
    kind = message.type
    if kind is not _T.STORAGE_APPEND_RESP and kind is not _T.STORAGE_APPLY_RESP:
        raise StepLocalMessage
    entries, snapshot, log = message.entries, message.snapshot, raft.log
    if message.term > raft.term:
        raise StepMalformed("stored in the future")
    if entries and entries[-1].index > log.applying:
        raise StepMalformed(f"applied up to {entries[-1].index}, but {log.applying} was handed out last")
    if snapshot is not None and snapshot.metadata.index > log.committed:
        raise StepMalformed(f"snapshot {snapshot.metadata.index} was stored, but {log.committed} is committed")


def check(raft: "Raft", message: Message) -> None:
    """A message of a peer, or a promise of this node to itself. Raises StepError."""
    kind, sender, term = message.type, message.sender, message.term
    if kind in LOCAL_TYPES:
        raise StepLocalMessage
    if kind in RESPONSE_TYPES and sender not in raft.tracker.progress:
        raise StepPeerNotFound
    if not (0 < sender <= NUMBER_MAX and 0 <= term <= NUMBER_MAX and 0 <= message.index <= NUMBER_MAX):
        raise StepMalformed("a number is out of range")
    if not (message.commit >= 0 and 0 <= message.log_term <= NUMBER_MAX and 0 <= message.reject_hint <= NUMBER_MAX):
        raise StepMalformed("a number is out of range")
    if sender == raft.id and (kind not in FROM_SELF_TYPES or message.reject):
        raise StepMalformed("a message that nobody sends to itself")
    if term > raft.term + TERM_LEAD_MAX:
        raise StepMalformed("a term of the far future")
    if (term == 0) != (kind in TERMLESS_TYPES):
        raise StepMalformed("a term is missing, or is there without need")
    details = _DETAILS.get(kind)
    if details is not None and (term >= raft.term or term == 0):
        details(raft, message)


def _check_append(raft: "Raft", message: Message) -> None:
    _check_no_rival(raft, message)
    term = message.log_term
    index: int = message.index
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term or entry.term == 0:
            raise StepMalformed("entries that do not follow each other")
        term = entry.term
    if index > NUMBER_MAX or term > message.term:
        raise StepMalformed("entries of the future")


def _check_heartbeat(raft: "Raft", message: Message) -> None:
    _check_no_rival(raft, message)
    if message.commit > raft.log.last_index():
        raise StepMalformed(f"commit {message.commit} is behind the end of the log: was it cut?")


def _check_snapshot(raft: "Raft", message: Message) -> None:
    _check_no_rival(raft, message)
    snapshot = message.snapshot
    if snapshot is None or not 0 < snapshot.metadata.index <= SNAPSHOT_INDEX_MAX:
        raise StepMalformed("no snapshot")
    if not 0 < snapshot.metadata.term <= message.term:
        raise StepMalformed("a snapshot of the future")
    if not is_possible(snapshot.metadata.conf_state):
        raise StepMalformed("an impossible configuration")


def _check_no_rival(raft: "Raft", message: Message) -> None:
    if message.term == raft.term and raft.role is Role.LEADER:
        raise StepMalformed("two leaders in one term")


def _check_append_response(raft: "Raft", message: Message) -> None:
    if not message.reject and raft.role is Role.LEADER and message.term == raft.term:
        last = raft.log.last_index()
        if message.index > last:
            raise StepMalformed(f"ack of entry {message.index}, but {last} is the last one")


def _check_proposal(_raft: "Raft", message: Message) -> None:
    if not message.entries:
        raise StepMalformed("a proposal without entries")
    for entry in message.entries:
        if entry.type is not EntryType.NORMAL:
            try:
                decode_conf_change(entry.type, entry.data)
            except DecodeError as error:
                raise StepMalformed("a configuration change that cannot be read") from error


def _check_read(_raft: "Raft", message: Message) -> None:
    if len(message.entries) != 1 or not message.entries[0].data:
        raise StepMalformed("a read without its context")


_DETAILS: Final[dict[MessageType, "Callable[[Raft, Message], None]"]] = {
    _T.APP: _check_append,
    _T.HEARTBEAT: _check_heartbeat,
    _T.SNAP: _check_snapshot,
    _T.APP_RESP: _check_append_response,
    _T.PROP: _check_proposal,
    _T.READ_INDEX: _check_read,
    _T.READ_INDEX_RESP: _check_read,
}
