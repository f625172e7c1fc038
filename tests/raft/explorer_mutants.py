"""Broken variants of the core: each breaks one rule that the proof of Raft rests on, and the explorer has to find it.

Why: a checker that has never failed proves nothing.
Invariants: a variant is applied by patching, for the time of a `with` block, and leaves no trace in the code.
Not here: how it is found (test_explorer.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import NO_PEER, Entry, HardState, Message, MessageType
from nokv.raft import core, election, membership, quorum, reads, replication, tracker
from nokv.raft.core import Raft
from nokv.raft.log import Log
from nokv.raft.node import RawNode
from nokv.raft.quorum import EVERYTHING, Joint, Majority, VoteResult
from nokv.raft.roles import Role
from nokv.raft.storage import MemoryStorage
from nokv.raft.unstable import Unstable

Patches = list[Any]


def vote_not_saved() -> Patches:
    """A restarted node votes again in the same term."""

    def without_vote(self: RawNode) -> HardState | None:
        raft, last = self._raft, self._last_hard_state
        if raft.term == last.term and raft.log.committed == last.commit:
            return None
        return HardState(raft.term, NO_PEER, raft.log.committed)

    return [patch.object(RawNode, "_new_hard_state", without_vote)]


def term_not_saved() -> Patches:
    """A restarted node goes back to an old term."""

    def with_old_term(self: MemoryStorage, state: HardState) -> None:
        self._hard_state = HardState(self._hard_state.term, state.vote, state.commit)

    return [patch.object(MemoryStorage, "set_hard_state", with_old_term)]


def old_term_counted() -> Patches:
    """A leader commits an entry of an earlier term by counting (figure 8)."""

    def of_any_term(raft: Raft) -> bool:
        return raft.log.commit_to(min(raft.tracker.committed(), raft.log.last_index()))

    return [patch.object(replication, "maybe_commit", of_any_term)]


def commit_off_by_one() -> Patches:
    """Half of the voters are enough to commit."""

    def too_few(voters: Majority, acked: Mapping[PeerId, LogIndex]) -> LogIndex:
        indexes = sorted(acked.get(voter, LogIndex(0)) for voter in voters)
        return indexes[min((len(indexes) - 1) // 2 + 1, len(indexes) - 1)] if indexes else EVERYTHING

    return [patch.object(quorum, "majority_committed", too_few)]


def vote_off_by_one() -> Patches:
    """One vote less than a majority wins."""

    def too_few(voters: Majority, votes: Mapping[PeerId, bool]) -> VoteResult:
        granted = sum(votes.get(voter, False) for voter in voters)
        return VoteResult.WON if granted >= len(voters) // 2 else VoteResult.PENDING

    return [patch.object(quorum, "majority_vote", too_few)]


def joint_as_union() -> Patches:
    """In a joint configuration a majority of all voters is taken for a majority of both."""

    def committed(voters: Joint, acked: Mapping[PeerId, LogIndex]) -> LogIndex:
        return quorum.majority_committed(voters[0] | voters[1], acked)

    def vote(voters: Joint, votes: Mapping[PeerId, bool]) -> VoteResult:
        return quorum.majority_vote(voters[0] | voters[1], votes)

    return [
        patch.object(tracker, "joint_committed", committed),
        patch.object(tracker, "joint_vote", vote),
        patch.object(reads, "joint_vote", vote),
    ]


def read_without_quorum() -> Patches:
    """A leader answers reads without asking whether it still leads."""

    def at_once(raft: Raft, message: Message) -> None:
        reads._answer(raft, message, raft.log.committed)

    return [patch.object(reads, "_start", at_once)]


def read_before_own_commit() -> Patches:
    """A leader answers reads before an entry of its term is committed."""
    return [patch.object(reads, "_has_committed_in_term", lambda raft: True)]


def snapshot_without_term() -> Patches:
    """Storage forgets the term of the entry that a snapshot ends with."""
    right = MemoryStorage.apply_snapshot

    def forgetful(self: MemoryStorage, snapshot: Any) -> None:
        right(self, snapshot)
        self._base = Entry(Term(0), self._base.index)

    return [patch.object(MemoryStorage, "apply_snapshot", forgetful)]


def truncation_behind_commit() -> Patches:
    """Every append cuts the log behind it, however old it is."""

    def cutting(raft: Raft, message: Message) -> None:
        raft.election_elapsed, raft.lead = 0, message.sender
        if raft.log.matches(message.log_term, message.index) and message.entries:
            raft.log.unstable.append(message.entries)
            last = message.entries[-1].index
            raft.log.committed = max(raft.log.committed, min(message.commit, last))
            raft.send(MessageType.APP_RESP, message.sender, index=last)
        else:
            replication.on_append(raft, message)

    return [patch.dict(core.BY_ROLE[Role.FOLLOWER], {MessageType.APP: cutting})]


def early_promises() -> Patches:
    """Votes and acks leave before what they speak of is saved."""
    right = Raft.send

    def at_once(self: Raft, kind: MessageType, to: PeerId, **fields: Any) -> None:
        right(self, kind, to, **fields)
        if self.promises and to != self.id:
            self.outbox.extend(promise for promise in self.promises if promise.to != self.id)
            self.promises = [promise for promise in self.promises if promise.to == self.id]

    return [patch.object(Raft, "send", at_once)]


def unstable_copy_counted() -> Patches:
    """A leader counts its own entries before they are durable."""

    def append(raft: Raft, payloads: Sequence[replication.Payload]) -> bool:
        accepted = right(raft, payloads)
        raft.tracker.progress[raft.id].acked(raft.log.last_index())
        return accepted

    right = replication.append
    return [patch.object(replication, "append", append)]


def vote_for_anybody() -> Patches:
    """Votes go to candidates whose log is behind."""
    return [patch.object(Log, "is_up_to_date", lambda self, term, index: True)]


def two_votes_a_term() -> Patches:
    """A vote in this term is forgotten as soon as somebody else asks."""

    def forgetful(raft: Raft, message: Message) -> None:
        if raft.role is Role.FOLLOWER:
            raft.vote, raft.lead = NO_PEER, NO_PEER
        election.on_vote_request(raft, message)

    return [patch.dict(core.COMMON, {MessageType.VOTE: forgetful})]


def stored_in_any_term() -> Patches:
    """An answer of the append thread counts although its entries were replaced meanwhile (the ABA race)."""

    def answer(self: Raft, message: Message) -> None:
        if message.type is MessageType.STORAGE_APPEND_RESP:
            core._stored(self, message)
        else:
            right(self, message)

    def stable_to(self: Unstable, term: Term, index: LogIndex) -> None:
        if self.offset <= index < self.offset + len(self.entries):
            del self.entries[: index + 1 - self.offset]
            self.offset = index + 1
            self.in_progress = max(self.in_progress, self.offset)

    right = Raft._answer_old_term
    return [patch.object(Raft, "_answer_old_term", answer), patch.object(Unstable, "stable_to", stable_to)]


def commit_of_leader_trusted() -> Patches:
    """A follower commits what its leader has committed, whatever its own log has there."""

    def eager(raft: Raft, message: Message) -> None:
        raft.log.commit_to(min(message.commit, raft.log.last_index()))
        replication.on_append(raft, message)

    return [patch.dict(core.BY_ROLE[Role.FOLLOWER], {MessageType.APP: eager})]


def two_changes_at_once() -> Patches:
    """A change of the configuration is proposed before the one before is applied."""
    return [patch.object(membership, "_problem", lambda raft, pending_index, change: "")]


MUTANTS: Final[tuple[Callable[[], Patches], ...]] = (
    vote_not_saved,
    term_not_saved,
    old_term_counted,
    commit_off_by_one,
    vote_off_by_one,
    joint_as_union,
    read_without_quorum,
    read_before_own_commit,
    snapshot_without_term,
    truncation_behind_commit,
    early_promises,
    unstable_copy_counted,
    vote_for_anybody,
    two_votes_a_term,
    stored_in_any_term,
    commit_of_leader_trusted,
    two_changes_at_once,
)


@contextmanager
def applied(mutant: Callable[[], Patches]) -> Iterator[None]:
    """Break the core for a while."""
    with ExitStack() as stack:
        for one in mutant():
            stack.enter_context(one)
        yield
