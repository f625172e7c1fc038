"""Replication: what a leader sends to its peers, and what it may commit (Raft 5.3, 5.4.2, 7)."""

from typing import TYPE_CHECKING

from nokv.proto.ids import LogIndex, PeerId
from nokv.proto.raft import Entry, Message, MessageType
from nokv.raft.errors import Compacted, SnapshotTemporarilyUnavailable, Unavailable
from nokv.raft.progress import Progress, ProgressState
from nokv.raft.sizes import payload_bytes

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def maybe_commit(raft: "Raft") -> bool:
    """Commit what a quorum has, if its last entry is of this term: counting copies of older ones proves nothing."""
    return raft.log.maybe_commit(raft.term, raft.tracker.committed())


def send_append(raft: "Raft", to: PeerId) -> None:
    """Send entries, or an empty append that carries the commit index."""
    maybe_send_append(raft, to, raft.tracker.progress[to], send_if_empty=True)


def maybe_send_append(raft: "Raft", to: PeerId, progress: Progress, *, send_if_empty: bool) -> bool:
    """Send as many entries as fit one message, or a snapshot if they are gone. False: nothing was sent."""
    if progress.paused:
        return False
    log = raft.log
    prev_index = LogIndex(progress.next - 1)
    try:
        prev_term = log.term(prev_index)
        entries: list[Entry] = []
        # Through a full window only an empty append goes, so that a window of lost messages is noticed.
        if progress.state is not ProgressState.REPLICATE or not progress.inflights.full:
            entries = log.entries(progress.next, raft.max_message_bytes)
    except (Compacted, Unavailable):
        return _maybe_send_snapshot(raft, to, progress)
    if not entries and not send_if_empty:
        return False
    raft.send(
        Message(
            type=MessageType.APP,
            to=to,
            index=prev_index,
            log_term=prev_term,
            entries=tuple(entries),
            commit=log.committed,
        )
    )
    progress.sent_entries(len(entries), payload_bytes(entries))
    progress.sent_commit = log.committed
    return True


def _maybe_send_snapshot(raft: "Raft", to: PeerId, progress: Progress) -> bool:
    """The entries that the peer needs are compacted. False: it is not there, or the snapshot is being made."""
    if not progress.recent_active:
        raft.trace.debug(lambda: f"ignore sending snapshot to {to:x} since it is not recently active")
        return False
    try:
        snapshot = raft.log.snapshot()
    except SnapshotTemporarilyUnavailable:
        raft.trace.debug(
            lambda: f"{raft.id:x} failed to send snapshot to {to:x} because snapshot is temporarily unavailable"
        )
        return False
    metadata = snapshot.metadata
    assert metadata.index > 0, "need a snapshot that is not empty"
    raft.trace.debug(
        lambda: (
            f"{raft.id:x} [firstindex: {raft.log.first_index()}, commit: {raft.log.committed}] sent "
            f"snapshot[index: {metadata.index}, term: {metadata.term}] to {to:x} [{progress.describe()}]"
        )
    )
    progress.become_snapshot(metadata.index)
    raft.trace.debug(lambda: f"{raft.id:x} paused sending replication messages to {to:x} [{progress.describe()}]")
    raft.send(Message(type=MessageType.SNAP, to=to, snapshot=snapshot))
    return True


def broadcast_append(raft: "Raft") -> None:
    """Send to every peer."""
    for peer_id, progress in raft.tracker.visit():
        if peer_id != raft.id:
            maybe_send_append(raft, peer_id, progress, send_if_empty=True)


def broadcast_heartbeat(raft: "Raft", context: bytes) -> None:
    """Tell every peer that this node leads, how far it knows the peer may commit, and which read is being proven."""
    committed = raft.log.committed
    for peer_id, progress in raft.tracker.visit():
        if peer_id != raft.id:
            # Not beyond what the peer is known to have: it may not even have those entries.
            commit = min(progress.match, committed)
            raft.send(Message(type=MessageType.HEARTBEAT, to=peer_id, commit=commit, context=context))
            progress.sent_commit = commit
