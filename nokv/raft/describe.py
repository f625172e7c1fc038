"""One line for each object of the core: used by logs, by golden scripts and by people who debug (after etcd/raft)."""

from collections.abc import Callable
from typing import Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import (
    ConfChange,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from nokv.raft.config import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD

TYPE_NAMES: Final = {kind: "Msg" + "".join(word.capitalize() for word in kind.name.split("_")) for kind in MessageType}
ENTRY_NAMES: Final = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
CHANGE_NAMES: Final = {
    ConfChangeType.ADD_NODE: "ConfChangeAddNode",
    ConfChangeType.REMOVE_NODE: "ConfChangeRemoveNode",
    ConfChangeType.UPDATE_NODE: "ConfChangeUpdateNode",
    ConfChangeType.ADD_LEARNER_NODE: "ConfChangeAddLearnerNode",
}
TRANSITION_NAMES: Final = {
    ConfChangeTransition.AUTO: "ConfChangeTransitionAuto",
    ConfChangeTransition.JOINT_IMPLICIT: "ConfChangeTransitionJointImplicit",
    ConfChangeTransition.JOINT_EXPLICIT: "ConfChangeTransitionJointExplicit",
}

Formatter = Callable[[bytes], str]
"""Shows an entry's data; the default quotes it."""


def type_name(kind: MessageType) -> str:
    """`MsgAppResp`."""
    return TYPE_NAMES[kind]


def describe_target(peer_id: PeerId) -> str:
    """A peer's id in hexadecimal, or the name of a local thread."""
    if peer_id == LOCAL_APPEND_THREAD:
        return "AppendThread"
    if peer_id == LOCAL_APPLY_THREAD:
        return "ApplyThread"
    return f"{peer_id:x}"


def describe_hard_state(state: HardState) -> str:
    """`Term:1 Vote:2 Commit:3`, without a vote if there is none."""
    vote = f" Vote:{state.vote:x}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def ids_text(ids: tuple[PeerId, ...]) -> str:
    """`[1 2 3]`."""
    return "[" + " ".join(str(peer_id) for peer_id in ids) + "]"


def describe_conf_state(state: ConfState) -> str:
    """`Voters:[1 2] VotersOutgoing:[] Learners:[3] LearnersNext:[] AutoLeave:false`."""
    return (
        f"Voters:{ids_text(state.voters)} VotersOutgoing:{ids_text(state.voters_outgoing)} "
        f"Learners:{ids_text(state.learners)} LearnersNext:{ids_text(state.learners_next)} "
        f"AutoLeave:{'true' if state.auto_leave else 'false'}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """`Index:5 Term:1 ConfState:...`."""
    metadata = snapshot.metadata
    return f"Index:{metadata.index} Term:{metadata.term} ConfState:{describe_conf_state(metadata.conf_state)}"


def quote(data: bytes) -> str:
    """`"text"`, with the escapes of a Go string."""
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else _escape(byte) for byte in data)
    return f'"{text}"'


def _escape(byte: int) -> str:
    named = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r"}
    return named.get(byte, f"\\x{byte:02x}")


def conf_changes_text(change: ConfChangeV2) -> str:
    """`v1 l2 r3 u4`."""
    letters = {
        ConfChangeType.ADD_NODE: "v",
        ConfChangeType.ADD_LEARNER_NODE: "l",
        ConfChangeType.REMOVE_NODE: "r",
        ConfChangeType.UPDATE_NODE: "u",
    }
    return " ".join(f"{letters[one.type]}{one.node_id}" for one in change.changes)


def describe_conf_change(change: ConfChange | ConfChangeV2) -> str:
    """The change in the notation of its protocol buffer's text form."""
    if isinstance(change, ConfChange):
        return f"type:{CHANGE_NAMES[change.type]} node_id:{change.node_id} "
    changes = "".join(f"changes:<type:{CHANGE_NAMES[one.type]} node_id:{one.node_id} > " for one in change.changes)
    return f"transition:{TRANSITION_NAMES[change.transition]} {changes}"


def describe_entry(entry: Entry, formatter: Formatter = quote) -> str:
    """`1/3 EntryNormal "foo"`."""
    from nokv.raft.membership import as_v2, decode_conf_change

    if entry.type is EntryType.NORMAL:
        shown = formatter(entry.data)
    else:
        shown = conf_changes_text(as_v2(decode_conf_change(entry)))
    return f"{entry.term}/{entry.index} {ENTRY_NAMES[entry.type]}" + (f" {shown}" if shown else "")


def describe_entries(entries: list[Entry] | tuple[Entry, ...], formatter: Formatter = quote) -> str:
    """One entry a line."""
    return "".join(describe_entry(entry, formatter) + "\n" for entry in entries)


def describe_message(message: Message, formatter: Formatter = quote, indent: str = "") -> str:
    """`1->2 MsgApp Term:1 Log:1/3 Commit:3 Entries:[1/4 EntryNormal "x"]`."""
    parts = [
        f"{indent}{describe_target(message.sender)}->{describe_target(message.to)} {type_name(message.type)} "
        f"Term:{message.term} Log:{message.log_term}/{message.index}"
    ]
    if message.reject:
        parts.append(f" Rejected (Hint: {message.reject_hint})")
    if message.commit:
        parts.append(f" Commit:{message.commit}")
    if message.vote:
        parts.append(f" Vote:{message.vote}")
    if len(message.entries) == 1:
        parts.append(f" Entries:[{describe_entry(message.entries[0], formatter)}]")
    elif message.entries:
        parts.append(" Entries:[")
        parts += [f"\n{indent}  {describe_entry(entry, formatter)}" for entry in message.entries]
        parts.append(f"\n{indent}]")
    if message.snapshot is not None and message.snapshot.metadata.index:
        parts.append(f"\n{indent}  Snapshot: {describe_snapshot(message.snapshot)}")
    if message.responses:
        parts.append(" Responses:[")
        parts += ["\n" + describe_message(one, formatter, indent + "  ") for one in message.responses]
        parts.append(f"\n{indent}]")
    return "".join(parts)
