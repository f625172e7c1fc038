"""Hostile input: whatever a peer sends, a node refuses it with a typed error or stays whole.

Why: one corrupt or malicious frame must not stop a worker with all its groups.
Invariants: RawNode.step raises nothing but StepError and ProposalDropped; a StepError changes nothing; afterwards the
marks are in order, nothing committed has changed, and the node goes on with its owner and its peers.
Not here: bytes that are no message (tests of proto).
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import (
    NUMBER_MAX,
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    encode_conf_change,
)
from nokv.raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChangeError,
    ProposalDropped,
    Role,
    StepError,
    StepLocalMessage,
    StepMalformed,
    StepPeerNotFound,
)
from nokv.raft.messages import LOCAL_TYPES, TERM_LEAD_MAX
from tests.raft.rig import Member, T, entries, ids, lone, make_candidate, make_leader, message, snapshot

THREE = ConfState(voters=ids([1, 2, 3]))


class Owner(Member):
    """Takes what peers have committed, however absurd: a change that cannot be applied changes nothing."""

    def apply(self, entry: Entry) -> None:
        """Apply a committed entry."""
        with suppress(ConfChangeError, msgspec.DecodeError):
            super().apply(entry)


def owner(member: Member) -> Member:
    """The same member with that owner."""
    member.__class__ = Owner
    return member


# ---- nodes in all kinds of states ------------------------------------------------------------------------------------


def follower(**options: Any) -> Member:
    """Follows 2 in term 3, with five entries, of which three are committed."""
    member = owner(lone(log=[1, 1, 2, 3, 3], commit=3, **options))
    member.take(message(T.HEARTBEAT, 2, 3, commit=LogIndex(3)))
    return member


def unsaved(**options: Any) -> Member:
    """A follower with entries that are on their way to the disk."""
    member = follower(**options)
    member.node.step(message(T.APP, 2, 3, log_term=Term(3), index=LogIndex(5), entries=entries([3, 3], 6)))
    return member


def restoring(**options: Any) -> Member:
    """A follower with a snapshot that is not saved yet."""
    member = follower(**options)
    member.node.step(message(T.SNAP, 2, 3, snapshot=snapshot(8, 3, THREE)))
    return member


def candidate(**options: Any) -> Member:
    """A candidate of either kind."""
    member = follower(**options)
    make_candidate(member)
    return member


def leader(**options: Any) -> Member:
    """A leader with a follower it streams to, one it probes, a read that waits and a transfer under way."""
    member = owner(lone(ConfState(voters=ids([1, 2, 3]), learners=ids([4])), log=[1, 1, 2, 3, 3], commit=3, **options))
    make_candidate(member)
    for _ in range(2):
        kind = T.VOTE_RESP if member.role is Role.CANDIDATE else T.PRE_VOTE_RESP
        term = member.raft.term + (member.role is Role.PRE_CANDIDATE)
        if member.role is not Role.LEADER:
            member.take(message(kind, 2, term))
    assert member.role is Role.LEADER
    member.take(message(T.APP_RESP, 2, member.raft.term, index=LogIndex(6)))
    member.node.read_index(b"r")
    member.node.propose(b"x")
    member.node.transfer_leader(ids([3])[0])
    return member


def joint(**options: Any) -> Member:
    """A leader in a joint configuration."""
    member = owner(lone(ConfState(voters=ids([1, 4]), voters_outgoing=ids([1, 2, 3]), auto_leave=True), log=[1]))
    make_leader(member)
    assert options is not None
    return member


def sending_snapshot(**options: Any) -> Member:
    """A leader that waits for a peer to install a snapshot."""
    member = leader(**options)
    member.turn()
    member.storage.create_snapshot(LogIndex(6), THREE, b"s")
    member.storage.compact(LogIndex(6))
    term = member.raft.term
    member.take(message(T.HEARTBEAT_RESP, 3, term))
    member.take(message(T.APP_RESP, 3, term, index=LogIndex(5), reject=True, reject_hint=LogIndex(1)))
    return member


STATES: list[Callable[..., Member]] = [follower, unsaved, restoring, candidate, leader, joint, sending_snapshot]


# ---- messages --------------------------------------------------------------------------------------------------------

numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 9),
    st.sampled_from([100, 2**31, 2**32, 2**62, NUMBER_MAX - 1, NUMBER_MAX, NUMBER_MAX + 1, 2**64 - 3, -1]),
)
peers: st.SearchStrategy[Any] = st.one_of(st.integers(0, 6), st.sampled_from([NUMBER_MAX, 2**64 - 3]))
datas = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([encode_conf_change(ConfChange(kind, ids([4])[0]))[1] for kind in ConfChangeType]),
)
loose_entries = st.lists(st.builds(Entry, numbers, numbers, st.sampled_from(EntryType), datas), max_size=3)


@st.composite
def tidy_entries(draw: st.DrawFn) -> list[Entry]:
    """Entries that follow each other."""
    first = draw(st.integers(1, 8))
    terms = sorted(draw(st.lists(st.integers(1, 6), max_size=4)))
    return [
        Entry(Term(term), LogIndex(first + place), draw(st.sampled_from(EntryType)), draw(datas))
        for place, term in enumerate(terms)
    ]


groups = st.lists(peers, max_size=4).map(tuple)
conf_states = st.builds(ConfState, groups, groups, groups, groups, st.booleans())
snapshots = st.builds(Snapshot, st.binary(max_size=2), st.builds(SnapshotMetadata, conf_states, numbers, numbers))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Anything; half of the time nearly right."""
    kind = draw(st.sampled_from(MessageType))
    new = draw(st.one_of(loose_entries, tidy_entries()))
    tidy = draw(st.booleans())
    return Message(
        type=kind,
        to=draw(peers),
        sender=draw(peers),
        term=draw(st.integers(0, 6) if tidy else numbers),
        log_term=draw(st.integers(0, 5) if tidy else numbers),
        index=LogIndex(new[0].index - 1) if tidy and new else draw(numbers),
        entries=tuple(new),
        commit=draw(st.integers(0, 9) if tidy else numbers),
        vote=draw(peers),
        snapshot=draw(st.none() | snapshots),
        reject=draw(st.booleans()),
        reject_hint=draw(numbers),
        context=draw(st.sampled_from([b"", b"r", b"x", b"CampaignTransfer"])),
    )


options = st.fixed_dictionaries(
    {"pre_vote": st.booleans(), "check_quorum": st.booleans(), "step_down_on_removal": st.booleans()}
)


# ---- tests -----------------------------------------------------------------------------------------------------------


def picture(member: Member) -> tuple[Any, ...]:
    """Everything that a refused message must not change."""
    raft = member.raft
    log = raft.log
    return (
        (raft.term, raft.vote, raft.lead, raft.role, raft.election_elapsed, log.committed, log.applied, log.applying),
        (log.last_id(), list(log.unstable.entries), log.unstable.snapshot, log.unstable.offset, member.log),
        (list(raft.outbox), list(raft.promises), list(raft.read_states), raft.tracker.config),
        [(peer, progress.describe()) for peer, progress in raft.tracker.progress.items()],
    )


def committed_of(member: Member) -> dict[int, Entry]:
    """Entries that must not change any more."""
    log = member.raft.log
    return {entry.index: entry for entry in log.entries(log.first_index(), 1 << 40) if entry.index <= log.committed}


def check_whole(member: Member, before: dict[int, Entry]) -> None:
    """The node keeps its invariants and gets on."""
    log = member.raft.log
    assert log.applied <= log.applying <= log.committed <= log.last_index()
    after = committed_of(member)
    assert all(after[index] == entry for index, entry in before.items() if index >= log.first_index())
    terms = [term for term, _ in member.log]
    assert terms == sorted(terms)
    assert all(progress.match < progress.next for progress in member.raft.tracker.progress.values())
    member.turn()
    member.tick(3)
    term = Term(member.raft.term + 1)
    member.take(message(T.HEARTBEAT, 2, term))
    assert (member.raft.term, member.raft.lead, member.role) == (term, 2, Role.FOLLOWER)
    last_term, last = member.raft.log.last_id()
    fresh = [Entry(term, LogIndex(last + 1))]
    member.take(message(T.APP, 2, term, log_term=last_term, index=last, entries=fresh, commit=LogIndex(last + 1)))
    assert member.raft.log.last_index() == last + 1


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(STATES), options, st.lists(messages(), min_size=1, max_size=5), st.booleans())
def test_any_message_is_refused_or_survived(
    state: Callable[..., Member], configured: dict[str, bool], received: list[Message], eager: bool
) -> None:
    """Random fields in every role."""
    member = state(**configured)
    before = committed_of(member)
    for one in received:
        seen = picture(member)
        try:
            member.node.step(one)
        except ProposalDropped:
            pass
        except StepError:
            assert picture(member) == seen
        if eager:
            member.turn()
    check_whole(member, before)


@pytest.mark.parametrize("state", STATES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES), ids=lambda one: one.name)
def test_local_messages_of_peers_are_refused(state: Callable[..., Member], kind: MessageType) -> None:
    """Nobody else may speak for a node's own clock or disk."""
    with pytest.raises(StepLocalMessage):
        state().node.step(message(kind, 2, 3))


def test_answers_of_strangers_are_refused() -> None:
    """Who is no member has nothing to answer."""
    for kind in (T.APP_RESP, T.VOTE_RESP, T.HEARTBEAT_RESP, T.PRE_VOTE_RESP):
        with pytest.raises(StepPeerNotFound):
            leader().node.step(message(kind, 77, 4))


MALFORMED = {
    "nobody": message(T.APP, 0, 3),
    "huge sender": message(T.APP, NUMBER_MAX + 1, 3),
    "huge index": message(T.APP, 2, 3, index=LogIndex(2**64 - 1)),
    "negative commit": message(T.HEARTBEAT, 2, 3, commit=LogIndex(-1)),
    "huge log term": message(T.VOTE, 2, 3, log_term=Term(2**64 - 1)),
    "term of the far future": message(T.VOTE, 2, 4 + TERM_LEAD_MAX),
    "no term": message(T.HEARTBEAT, 2, 0),
    "proposal of a term": message(T.PROP, 2, 3, entries=entries([0])),
    "own append": message(T.APP, 1, 3),
    "own refusal": message(T.APP_RESP, 1, 3, reject=True),
    "commit beyond the log": message(T.HEARTBEAT, 2, 3, commit=LogIndex(6)),
    "gap": message(T.APP, 2, 3, index=LogIndex(5), log_term=Term(3), entries=entries([3], 7)),
    "terms that go back": message(T.APP, 2, 3, index=LogIndex(5), log_term=Term(3), entries=entries([3, 2], 6)),
    "entries of the future": message(T.APP, 2, 3, index=LogIndex(5), log_term=Term(3), entries=entries([4], 6)),
    "entries of no term": message(T.APP, 2, 3, index=LogIndex(0), entries=entries([0])),
    "no snapshot": message(T.SNAP, 2, 3),
    "empty snapshot": message(T.SNAP, 2, 3, snapshot=Snapshot()),
    "snapshot of the future": message(T.SNAP, 2, 3, snapshot=snapshot(9, 4, THREE)),
    "snapshot without voters": message(T.SNAP, 2, 3, snapshot=snapshot(9, 3, ConfState())),
    "voter and learner": message(T.SNAP, 2, 3, snapshot=snapshot(9, 3, ConfState(ids([1, 2]), ids([2])))),
    "auto leave of nothing": message(T.SNAP, 2, 3, snapshot=snapshot(9, 3, ConfState(ids([1]), auto_leave=True))),
    "nobody's vote": message(T.SNAP, 2, 3, snapshot=snapshot(9, 3, ConfState(ids([0, 1])))),
    "empty proposal": message(T.PROP, 2, 0),
    "unreadable change": Message(
        T.PROP, sender=ids([2])[0], entries=(Entry(Term(0), LogIndex(0), EntryType.CONF_CHANGE, b"\xc1"),)
    ),
    "read without context": message(T.READ_INDEX, 2, 0),
    "answer without context": message(T.READ_INDEX_RESP, 2, 3),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_contradictions_are_refused(name: str) -> None:
    """And nothing has changed."""
    member = follower()
    seen = picture(member)
    with pytest.raises(StepMalformed):
        member.node.step(MALFORMED[name])
    assert picture(member) == seen
    check_whole(member, committed_of(member))


@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT, T.SNAP])
def test_a_rival_leader_of_the_same_term_is_refused(kind: MessageType) -> None:
    """There is only one, and this is it."""
    member = leader()
    with pytest.raises(StepMalformed):
        member.node.step(message(kind, 2, member.raft.term, snapshot=snapshot(9, 3, THREE)))
    assert member.role is Role.LEADER


def test_an_ack_beyond_the_log_is_refused() -> None:
    """It would commit what does not exist."""
    member = leader()
    with pytest.raises(StepMalformed):
        member.node.step(message(T.APP_RESP, 2, member.raft.term, index=LogIndex(99)))


def test_contradictory_entries_do_not_replace_committed_ones() -> None:
    """A peer that calls itself leader offers another entry at a committed index: the answer says what is committed."""
    member = follower()
    before = committed_of(member)
    member.take(message(T.APP, 3, 9, log_term=Term(1), index=LogIndex(1), entries=entries([9, 9, 9], 2)))
    assert committed_of(member) == before


def test_local_threads_say_only_what_they_were_asked() -> None:
    """Answers about what was never handed out are refused."""
    member = lone(log=[1, 1, 2, 3, 3], async_storage_writes=True)
    for bad in (
        Message(T.APP, sender=LOCAL_APPEND_THREAD, term=Term(3)),
        Message(T.STORAGE_APPEND_RESP, sender=LOCAL_APPEND_THREAD, term=Term(99)),
        Message(T.STORAGE_APPLY_RESP, sender=LOCAL_APPLY_THREAD, entries=tuple(entries([3], 50))),
        Message(T.STORAGE_APPEND_RESP, sender=LOCAL_APPEND_THREAD, term=Term(3), snapshot=snapshot(50, 3, THREE)),
    ):
        with pytest.raises(StepError):
            member.node.step(bad)
