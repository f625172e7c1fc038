"""Messages that no honest peer could send: refused before they change anything.

Why: the network is trusted to be a network, not to be right; an assertion that a stranger can trigger is a switch to
turn a node off.
"""

from typing import TYPE_CHECKING, Final

from nokv.proto.ids import Term
from nokv.proto.raft import Message, MessageType
from nokv.raft.errors import StepMalformed

if TYPE_CHECKING:
    from nokv.raft.core import Raft

TERM_MAX: Final = Term(1 << 62)
"""No honest cluster comes near it; below it the next term can always be counted."""
INDEX_MAX: Final = 1 << 62


def check_message(raft: "Raft", message: Message) -> None:
    """Refuse contradictions.

    Raises:
        StepMalformed: nothing was changed.
    """
    if message.term > TERM_MAX or message.index > INDEX_MAX or message.log_term > message.term:
        raise StepMalformed(f"absurd term or index from {message.sender:x}")
    kind = message.type
    if kind is MessageType.APP:
        _check_append(raft, message)
    elif message.term != raft.term:
        return
    elif kind is MessageType.APP_RESP:
        if not message.reject and message.index > raft.log.last_index() and raft.lead == raft.id:
            raise StepMalformed(f"{message.sender:x} acknowledges {message.index}, our last is {raft.log.last_index()}")
    elif kind is MessageType.HEARTBEAT and message.commit > raft.log.last_index():
        raise StepMalformed(f"{message.sender:x} commits {message.commit}, our last is {raft.log.last_index()}")


def _check_append(raft: "Raft", message: Message) -> None:
    """Entries must be contiguous, of terms that do not fall and are not in the future, and agree with what is
    committed.
    """
    expected, term = message.index + 1, message.log_term
    for entry in message.entries:
        if entry.index != expected or not term <= entry.term <= message.term:
            raise StepMalformed(f"entries from {message.sender:x} are out of order")
        expected, term = expected + 1, entry.term
    if message.term < raft.term:
        return
    committed = raft.log.committed
    for entry in message.entries:
        if entry.index > committed:
            return
        if raft.log.first_index() <= entry.index and not raft.log.match_term(entry.index, entry.term):
            raise StepMalformed(f"{message.sender:x} contradicts the committed entry {entry.index}")
