"""Snapshots: catching up a peer whose next entries are gone (paper 7).

Why: a leader compacts its log, and a new or a slow peer then needs the state itself.
Invariants: a snapshot is sent only to a peer that answers; a follower takes one only if it brings something new and
names the follower as a member; it counts as applied only when the owner has said so.
Not here: what the snapshot's data is, and how it gets to a peer: that is the owner's.
"""

from typing import TYPE_CHECKING

from nokv.proto.ids import PeerId
from nokv.proto.raft import Message, MessageType, Snapshot
from nokv.raft import election, membership
from nokv.raft.describe import describe_conf_state
from nokv.raft.errors import SnapshotTemporarilyUnavailable
from nokv.raft.progress import Flow, Progress
from nokv.raft.roles import Role

if TYPE_CHECKING:
    from nokv.raft.core import Raft


def send(raft: "Raft", peer: PeerId, progress: Progress) -> bool:
    """Send the newest snapshot. False: not now."""
    sink, log = raft.sink, raft.log
    if not progress.recent_active:
        if sink is not None:
            sink.debug(f"ignore sending snapshot to {peer:x} since it is not recently active")
        return False
    try:
        snapshot = log.snapshot()
    except SnapshotTemporarilyUnavailable:
        if sink is not None:
            sink.debug(f"{raft.id:x} failed to send snapshot to {peer:x} because snapshot is temporarily unavailable")
        return False
    metadata = snapshot.metadata
    assert metadata.index > 0, "the storage's snapshot is empty"
    if sink is not None:
        sink.debug(
            f"{raft.id:x} [firstindex: {log.first_index()}, commit: {log.committed}] sent snapshot[index: "
            f"{metadata.index}, term: {metadata.term}] to {peer:x} [{progress.describe()}]"
        )
    progress.become_snapshot(metadata.index)
    if sink is not None:
        sink.debug(f"{raft.id:x} paused sending replication messages to {peer:x} [{progress.describe()}]")
    raft.post(Message(type=MessageType.SNAP, to=peer, sender=raft.id, term=raft.term, snapshot=snapshot))
    return True


def reported(raft: "Raft", peer: PeerId, *, ok: bool) -> None:
    """The owner says what became of a snapshot on its way. The next append waits for an answer or a heartbeat's."""
    progress = raft.tracker.progress.get(peer)
    if raft.role is not Role.LEADER or progress is None or progress.flow is not Flow.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = 0  # Probe from where the peer was, not from behind the snapshot.
    progress.become_probe()
    if raft.sink is not None:
        outcome = "succeeded" if ok else "failed"
        raft.sink.debug(
            f"{raft.id:x} snapshot {outcome}, resumed sending replication messages to {peer:x} [{progress.describe()}]"
        )
    progress.paused_after_append = True


def on_snapshot(raft: "Raft", message: Message) -> None:
    """The leader sent a snapshot."""
    raft.election_elapsed = 0
    raft.lead = message.sender
    snapshot, log = message.snapshot, raft.log
    assert snapshot is not None
    restored = _restore(raft, snapshot)
    if raft.sink is not None:
        outcome = "restored" if restored else "ignored"
        raft.sink.info(
            f"{raft.id:x} [commit: {log.committed}] {outcome} snapshot [index: {snapshot.metadata.index}, "
            f"term: {snapshot.metadata.term}]"
        )
    raft.send(MessageType.APP_RESP, message.sender, index=log.last_index() if restored else log.committed)


def on_snapshot_as_candidate(raft: "Raft", message: Message) -> None:
    """Somebody else was elected."""
    election.become_follower(raft, message.term, message.sender)
    on_snapshot(raft, message)


def _restore(raft: "Raft", snapshot: Snapshot) -> bool:
    """Begin anew from a snapshot, unless nothing of it is needed."""
    metadata, log, sink = snapshot.metadata, raft.log, raft.sink
    state = metadata.conf_state
    if metadata.index <= log.committed:
        return False
    assert raft.role is Role.FOLLOWER
    if raft.id not in state.voters + state.learners + state.voters_outgoing:
        if sink is not None:
            sink.warning(
                f"{raft.id:x} attempted to restore snapshot but it is not in the ConfState "
                f"{describe_conf_state(state)}; should never happen"
            )
        return False
    if log.matches(metadata.term, metadata.index):
        # The log has all of it already; only how far it is committed is news.
        _log_restored(raft, "fast-forwarded commit to snapshot", snapshot)
        log.commit_to(metadata.index)
        return False
    membership.keep_before_snapshot(raft)
    log.restore(snapshot)
    membership.restore(raft, state)
    _log_restored(raft, "restored snapshot", snapshot)
    return True


def _log_restored(raft: "Raft", what: str, snapshot: Snapshot) -> None:
    if raft.sink is not None:
        last_term, last = raft.log.last_id()
        raft.sink.info(
            f"{raft.id:x} [commit: {raft.log.committed}, lastindex: {last}, lastterm: {last_term}] {what} "
            f"[index: {snapshot.metadata.index}, term: {snapshot.metadata.term}]"
        )
