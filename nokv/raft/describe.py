"""Descriptions: every object of the core in one line, for logs and for scripts with expected output.

Why: a log line and a golden script that show the same thing should show it in the same way.
Invariants: names of types, roles and changes are those of the field's literature and of its other implementations, so
that logs can be compared with theirs.
Not here: Progress, Configuration and quorums, which describe themselves.
"""

from collections.abc import Iterable
from typing import Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    Transition,
    decode_conf_change,
)
from nokv.raft.ready import Ready, SoftState
from nokv.raft.roles import Role

_THREADS: Final = {0: "None", (1 << 64) - 1: "AppendThread", (1 << 64) - 2: "ApplyThread"}

ROLE_NAMES: Final = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
TYPE_NAMES: Final = {kind: "Msg" + "".join(part.capitalize() for part in kind.name.split("_")) for kind in MessageType}
_ENTRY_TYPE_NAMES: Final = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
_CHANGE_NAMES: Final = {
    ConfChangeType.ADD_VOTER: "ConfChangeAddNode",
    ConfChangeType.REMOVE: "ConfChangeRemoveNode",
    ConfChangeType.UPDATE: "ConfChangeUpdateNode",
    ConfChangeType.ADD_LEARNER: "ConfChangeAddLearnerNode",
}
_CHANGE_LETTERS: Final = {
    ConfChangeType.ADD_VOTER: "v",
    ConfChangeType.REMOVE: "r",
    ConfChangeType.UPDATE: "u",
    ConfChangeType.ADD_LEARNER: "l",
}
_TRANSITION_NAMES: Final = {
    Transition.AUTO: "ConfChangeTransitionAuto",
    Transition.JOINT_IMPLICIT: "ConfChangeTransitionJointImplicit",
    Transition.JOINT_EXPLICIT: "ConfChangeTransitionJointExplicit",
}
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"} | {
    "\t": "\\t",
    "\v": "\\v",
}


def describe_bytes(data: bytes) -> str:
    """Quoted; what is not printable ASCII as an escape."""
    parts = []
    for byte in data:
        char = chr(byte)
        parts.append(_ESCAPES.get(char) or (char if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"))
    return f'"{"".join(parts)}"'


def describe_target(peer: PeerId) -> str:
    """A peer's id, or the name of a local thread, or that there is none."""
    return _THREADS.get(peer) or f"{peer:x}"


def describe_changes(changes: Iterable[ConfChangeSingle]) -> str:
    """As in `v1 l2 r3 u4`."""
    return " ".join(f"{_CHANGE_LETTERS[change.type]}{change.peer_id}" for change in changes)


def describe_conf_change(change: ConfChange | ConfChangeV2) -> str:
    """With every field that is set."""
    if isinstance(change, ConfChange):
        parts = [f"type:{_CHANGE_NAMES[change.type]} node_id:{change.peer_id}"]
    else:
        parts = [f"transition:{_TRANSITION_NAMES[change.transition]}"]
        parts += [f"changes:{{type:{_CHANGE_NAMES[one.type]} node_id:{one.peer_id}}}" for one in change.changes]
    if change.context:
        parts.append(f"context:{describe_bytes(change.context)}")
    return " ".join(parts)


def describe_entry(entry: Entry) -> str:
    """As in `1/3 EntryNormal "foo"`."""
    if entry.type is EntryType.NORMAL:
        content = describe_bytes(entry.data)
    else:
        content = describe_changes(decode_conf_change(entry.type, entry.data).as_v2().changes)
    return f"{entry.term}/{entry.index} {_ENTRY_TYPE_NAMES[entry.type]} {content}".rstrip(" ")


def describe_conf_state(state: ConfState) -> str:
    """All lists, empty or not."""
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} Learners:{_ids(state.learners)} "
        f"LearnersNext:{_ids(state.learners_next)} AutoLeave:{str(state.auto_leave).lower()}"
    )


def _ids(peers: Iterable[PeerId]) -> str:
    return f"[{' '.join(str(peer) for peer in peers)}]"


def describe_snapshot(snapshot: Snapshot) -> str:
    """Where it ends and who took part then."""
    metadata = snapshot.metadata
    return f"Index:{metadata.index} Term:{metadata.term} ConfState:{describe_conf_state(metadata.conf_state)}"


def describe_hard_state(state: HardState) -> str:
    """As in `Term:1 Vote:1 Commit:3`."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def describe_soft_state(state: SoftState) -> str:
    """As in `Lead:1 State:StateFollower`."""
    return f"Lead:{state.lead} State:{ROLE_NAMES[state.role]}"


def describe_message(message: Message, indent: str = "") -> str:
    """One line; several if there are several entries, a snapshot, or responses."""
    parts = [
        f"{indent}{describe_target(message.sender)}->{describe_target(message.to)} {TYPE_NAMES[message.type]} "
        f"Term:{message.term} Log:{message.log_term}/{message.index}"
    ]
    if message.reject:
        parts.append(f" Rejected (Hint: {message.reject_hint})")
    if message.commit:
        parts.append(f" Commit:{message.commit}")
    if message.vote:
        parts.append(f" Vote:{message.vote}")
    if len(message.entries) == 1:
        parts.append(f" Entries:[{describe_entry(message.entries[0])}]")
    elif message.entries:
        lines = "".join(f"\n{indent}  {describe_entry(entry)}" for entry in message.entries)
        parts.append(f" Entries:[{lines}\n{indent}]")
    if message.snapshot is not None and message.snapshot.metadata.index:
        parts.append(f"\n{indent}  Snapshot: {describe_snapshot(message.snapshot)}")
    if message.responses:
        lines = "".join(f"\n{describe_message(response, indent + '  ')}" for response in message.responses)
        parts.append(f" Responses:[{lines}\n{indent}]")
    return "".join(parts)


def describe_ready(ready: Ready) -> str:
    """One line for each thing to be done."""
    lines: list[str] = []
    if ready.soft_state is not None:
        lines.append(describe_soft_state(ready.soft_state))
    if ready.hard_state is not None:
        lines.append(f"HardState {describe_hard_state(ready.hard_state)}")
    if ready.read_states:
        reads = " ".join(f"{{{state.index} {describe_bytes(state.context)}}}" for state in ready.read_states)
        lines.append(f"ReadStates [{reads}]")
    if ready.entries:
        lines += ["Entries:", *map(describe_entry, ready.entries)]
    if ready.snapshot is not None:
        lines.append(f"Snapshot {describe_snapshot(ready.snapshot)}")
    if ready.committed_entries:
        lines += ["CommittedEntries:", *map(describe_entry, ready.committed_entries)]
    if ready.messages:
        lines += ["Messages:", *map(describe_message, ready.messages)]
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={str(ready.must_sync).lower()}:", *lines])
