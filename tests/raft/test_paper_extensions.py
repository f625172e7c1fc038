"""Rules of the paper's sections 7 and 8, and of the thesis: transfers (3.10), reads (6.4), pre-votes (9.6), and writing
to the leader's disk in parallel (10.2.1)."""

import pytest

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import ConfState, Entry, Message
from nokv.raft import LOCAL_APPEND_THREAD, Flow, ProposalDropped, Role
from nokv.raft.config import ReadOnly
from nokv.raft.election import TRANSFER_CONTEXT
from tests.raft.rig import Member, Rig, T, entries, ids, lone, make_candidate, make_leader, message, of, snapshot

THREE = ConfState(voters=ids([1, 2, 3]))


def compact(member: Member) -> None:
    """Make a snapshot of what a member has applied, and forget the log up to there."""
    index = member.applied[-1].index
    member.storage.create_snapshot(index, member.storage.state, b"state")
    member.storage.compact(index)


def ack(peer: int, term: int, index: int) -> Message:
    """An ack of a follower."""
    return message(T.APP_RESP, peer, term, index=LogIndex(index))


# ---- 7: snapshots ----------------------------------------------------------------------------------------------------


def test_a_leader_sends_a_snapshot_when_entries_are_gone() -> None:
    """7: the leader sends a snapshot when it has discarded the next log entry that it needs to send."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {3}
    for _ in range(3):
        rig.propose(1)
    compact(rig[1])
    rig.isolated = set()
    rig.tick(6)
    assert len([one for one in rig.delivered if one.type is T.SNAP]) == 1
    assert rig[3].committed == rig[1].committed
    assert rig[3].storage.snapshot().metadata.index == 4
    assert rig[1].raft.tracker.progress[rig[3].peer].flow is Flow.REPLICATE


def test_a_snapshot_replaces_a_log_it_has_news_for() -> None:
    """7: if the snapshot contains new information, the follower discards its entire log."""
    member = lone(log=[1, 1, 2], term=2)
    (answer,) = member.take(message(T.SNAP, 2, 3, snapshot=snapshot(5, 3, THREE)))
    assert (member.log, member.committed) == ([], 5)
    assert (answer.type, answer.index) == (T.APP_RESP, 5)
    member.take(message(T.APP, 2, 3, log_term=Term(3), index=LogIndex(5), entries=entries([3], 6)))
    assert member.log == [(3, 6)]


def test_a_snapshot_of_a_prefix_keeps_what_follows() -> None:
    """7: entries following the snapshot are still valid and must be retained."""
    member = lone(log=[1, 1, 1], term=1)
    member.take(message(T.SNAP, 2, 1, snapshot=snapshot(2, 1, THREE)))
    assert member.log == [(1, 1), (1, 2), (1, 3)]
    assert member.committed == 2


def test_an_old_snapshot_is_ignored() -> None:
    """7: retransmission or mistake; the answer says how far the follower is."""
    member = lone(log=[1, 1, 1], term=1, commit=3)
    (answer,) = member.take(message(T.SNAP, 2, 1, snapshot=snapshot(2, 1, THREE)))
    assert (answer.type, answer.index, answer.reject) == (T.APP_RESP, 3, False)
    assert len(member.log) == 3


def test_a_snapshot_brings_the_configuration() -> None:
    """7, 6: the snapshot includes the latest configuration as of its last index."""
    state = ConfState(voters=ids([1, 4]), learners=ids([5]))
    member = lone()
    member.take(message(T.SNAP, 4, 2, snapshot=snapshot(7, 2, state)))
    assert member.raft.tracker.config.conf_state() == state
    stranger = lone(peer=3)
    stranger.take(message(T.SNAP, 4, 2, to=3, snapshot=snapshot(7, 2, state)))
    assert stranger.raft.tracker.config.conf_state() == THREE


def test_the_consistency_check_works_at_the_end_of_a_snapshot() -> None:
    """7: term and index of the last included entry are kept for the first append behind it."""
    member = lone()
    member.take(message(T.SNAP, 2, 2, snapshot=snapshot(7, 2, THREE)))
    right = message(T.APP, 2, 3, log_term=Term(2), index=LogIndex(7), entries=entries([3], 8))
    assert member.take(right)[0].index == 8
    voter = lone()
    voter.take(message(T.SNAP, 2, 2, snapshot=snapshot(7, 2, THREE)))
    assert voter.take(message(T.VOTE, 3, 4, log_term=Term(1), index=LogIndex(9)))[0].reject


def test_a_node_with_a_waiting_snapshot_does_not_campaign() -> None:
    """7: until the snapshot is installed there is no state to lead with."""
    member = lone()
    member.node.step(message(T.SNAP, 2, 1, snapshot=snapshot(7, 1, THREE)))
    member.node.campaign()
    assert member.role is Role.FOLLOWER


# ---- 8 and thesis 6.4: reads -----------------------------------------------------------------------------------------


def test_a_read_waits_for_the_first_commit_of_the_term() -> None:
    """8, thesis 6.4 step 1: a leader does not know what is committed before its no-op is."""
    member = lone(log=[1], commit=1)
    make_leader(member)
    member.node.read_index(b"early")
    assert of(T.HEARTBEAT, member.turn()) == []
    assert len(of(T.HEARTBEAT, member.take(ack(2, 2, 2)))) == 2
    assert member.reads == []
    member.take(message(T.HEARTBEAT_RESP, 2, 2, context=b"early"))
    assert [(read.index, read.context) for read in member.reads] == [(2, b"early")]


def test_a_lone_leader_waits_for_the_first_commit_of_the_term_as_well() -> None:
    """8: its commit index may be older than what it had committed before a crash, for that is not synced."""
    member = lone(1, log=[1, 1], commit=0)
    member.node.campaign()
    member.node.step(message(T.VOTE_RESP, 1, 2))
    assert member.role is Role.LEADER
    member.node.read_index(b"r")
    assert member.node.ready_without_accept().read_states == []
    member.turn()
    assert [read.index for read in member.reads] == [3]


def test_a_read_is_answered_after_a_round_of_heartbeats() -> None:
    """8, thesis 6.4 steps 2 to 4: readIndex is the commit index; a majority has to acknowledge a new heartbeat."""
    member = lone(5)
    make_leader(member)
    member.take(ack(2, 1, 1), ack(3, 1, 1))
    member.node.read_index(b"a")
    sent = of(T.HEARTBEAT, member.turn())
    assert [(one.to, one.context) for one in sent] == [(2, b"a"), (3, b"a"), (4, b"a"), (5, b"a")]
    member.take(message(T.HEARTBEAT_RESP, 2, 1, context=b""), message(T.HEARTBEAT_RESP, 3, 1, context=b"b"))
    member.take(message(T.HEARTBEAT_RESP, 2, 1, context=b"a"))
    assert member.reads == []
    member.take(message(T.HEARTBEAT_RESP, 4, 1, context=b"a"))
    assert [(read.index, read.context) for read in member.reads] == [(1, b"a")]


def test_one_round_answers_all_reads_before_it() -> None:
    """Thesis 6.4: the leader can amortize a round of heartbeats across any number of reads."""
    member = lone()
    make_leader(member)
    member.take(ack(2, 1, 1))
    for context in (b"a", b"b", b"c"):
        member.node.read_index(context)
    member.turn()
    member.take(message(T.HEARTBEAT_RESP, 2, 1, context=b"b"))
    assert [read.context for read in member.reads] == [b"a", b"b"]


def test_an_isolated_leader_answers_no_read() -> None:
    """8: a leader that has been replaced without its knowledge must not read stale data."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {1}
    rig.elect(2)
    rig.propose(2)
    rig[1].node.read_index(b"stale")
    rig.settle()
    assert rig[1].reads == []


def test_followers_ask_the_leader() -> None:
    """Thesis 6.4: a follower may serve a read at an index that the leader has confirmed for it."""
    rig = Rig(3)
    rig.elect(1)
    rig.propose(1)
    rig[3].node.read_index(b"f")
    rig.settle()
    assert [(read.index, read.context) for read in rig[3].reads] == [(2, b"f")]
    alone = lone()
    alone.node.read_index(b"nobody")
    assert alone.turn() == []


def test_a_lease_answers_at_once() -> None:
    """Thesis 6.4.1: with bounded clocks a leader may answer within its lease, which check-quorum renews."""
    member = lone(check_quorum=True, read_only=ReadOnly.LEASE_BASED)
    make_leader(member)
    member.node.read_index(b"early")
    member.turn()
    assert member.reads == []
    member.take(ack(2, 1, 1))
    member.node.read_index(b"late")
    assert of(T.HEARTBEAT, member.turn()) == []
    assert [read.context for read in member.reads] == [b"early", b"late"]


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Thesis 6.2: a leader steps down if an election timeout elapses without a round of heartbeats to a majority."""
    member = lone(check_quorum=True, election_tick=10)
    make_leader(member)
    for _ in range(3):
        member.take(message(T.HEARTBEAT_RESP, 2, 1))
        member.tick(10)
        assert member.role is Role.LEADER
    member.tick(10)
    assert [member.role] == [Role.FOLLOWER]


# ---- thesis 3.10: leadership transfer --------------------------------------------------------------------------------


def test_a_transfer_to_a_server_that_is_up_to_date() -> None:
    """3.10: the prior leader sends a TimeoutNow request; the target starts an election at once and wins."""
    rig = Rig(3)
    rig.elect(1)
    rig[1].node.transfer_leader(rig[2].peer)
    rig.settle()
    assert [rig[peer].role for peer in (1, 2)] == [Role.FOLLOWER, Role.LEADER]


def test_a_transfer_brings_the_target_up_to_date_first() -> None:
    """3.10 steps 1 and 2: the prior leader stops accepting new requests and updates the target's log to match."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {3}
    rig.propose(1)
    rig.isolated = set()
    rig[1].node.transfer_leader(rig[3].peer)
    assert of(T.TIMEOUT_NOW, rig[1].turn()) == []
    with pytest.raises(ProposalDropped):
        rig[1].node.propose(b"x")
    rig.tick(6)
    assert rig[3].role is Role.LEADER
    assert rig[3].log == rig[1].log


def test_a_transfer_that_takes_too_long_is_given_up() -> None:
    """3.10: if it does not complete after about an election timeout, the prior leader resumes accepting requests."""
    rig = Rig(3, election_tick=10)
    rig.elect(1)
    rig.isolated = {3}
    rig[1].node.transfer_leader(rig[3].peer)
    rig[1].tick(9)
    with pytest.raises(ProposalDropped):
        rig[1].node.propose(b"x")
    rig[1].tick(1)
    rig.propose(1, b"x")
    assert rig[2].log[-1] == rig[1].log[-1]


def test_a_transfer_passes_leases_and_pre_votes() -> None:
    """3.10, 4.2.3: a request that the leader asked for carries a flag, as voters would disregard it otherwise."""
    rig = Rig(3, check_quorum=True, pre_vote=True)
    rig.elect(1)
    rig.tick(2)
    rig[2].node.transfer_leader(rig[2].peer)
    rig.settle()
    assert rig[2].role is Role.LEADER
    assert not [one for one in rig.delivered if one.type is T.PRE_VOTE and one.sender == 2]
    assert {one.context for one in rig.delivered if one.type is T.VOTE and one.sender == 2} == {TRANSFER_CONTEXT}


@pytest.mark.parametrize("target", [1, 4, 9])
def test_a_transfer_to_somebody_who_cannot_lead_is_ignored(target: int) -> None:
    """3.10: to itself, to a learner, to a stranger: the leader goes on."""
    member = lone(ConfState(voters=ids([1, 2, 3]), learners=ids([4])))
    make_leader(member)
    member.node.transfer_leader(ids([target])[0])
    member.node.propose(b"x")
    assert member.role is Role.LEADER


def test_a_later_transfer_replaces_an_earlier_one() -> None:
    """3.10: the latest wish counts; the same wish again changes nothing."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {3}
    rig[1].node.transfer_leader(rig[3].peer)
    rig.settle()
    rig[1].node.transfer_leader(rig[3].peer)
    rig[1].node.transfer_leader(rig[2].peer)
    rig.settle()
    assert rig[2].role is Role.LEADER


# ---- thesis 9.6: pre-votes -------------------------------------------------------------------------------------------


def test_a_pre_vote_changes_no_term() -> None:
    """9.6: a candidate only increments its term if it first learns from a majority that they would vote for it."""
    member = lone(5, pre_vote=True, term=3)
    sent = make_candidate(member)
    assert (member.role, member.raft.term, member.raft.vote) == (Role.PRE_CANDIDATE, 3, 0)
    assert {(one.type, one.term) for one in sent} == {(T.PRE_VOTE, 4)}
    member.take(message(T.PRE_VOTE_RESP, 2, 4))
    assert member.raft.term == 3
    sent = member.take(message(T.PRE_VOTE_RESP, 3, 4))
    assert [(member.role, member.raft.term)] == [(Role.CANDIDATE, 4)]
    assert {(one.type, one.term) for one in sent} == {(T.VOTE, 4)}


def test_a_pre_vote_takes_no_vote_away() -> None:
    """9.6: granting one neither records a vote nor changes the term."""
    member = lone(pre_vote=True, term=3, vote=2)
    (answer,) = member.take(message(T.PRE_VOTE, 3, 9))
    assert (answer.type, answer.term, answer.reject) == (T.PRE_VOTE_RESP, 9, False)
    assert (member.raft.term, member.raft.vote) == (3, 2)


@pytest.mark.parametrize(
    ("last_term", "last_index", "reject"), [(1, 2, True), (2, 1, True), (2, 2, False), (3, 1, False)]
)
def test_pre_votes_go_by_the_log(last_term: int, last_index: int, reject: bool) -> None:
    """9.6: others would vote for it only if its log is sufficiently up-to-date."""
    member = lone(pre_vote=True, log=[1, 2])
    asked = message(T.PRE_VOTE, 3, 4, log_term=Term(last_term), index=LogIndex(last_index))
    (answer,) = member.take(asked)
    assert answer.reject is reject


def test_pre_votes_are_refused_while_a_leader_is_heard_of() -> None:
    """9.6: and only if the voters have not received heartbeats from a valid leader for an election timeout."""
    member = lone(pre_vote=True, check_quorum=True, term=1)
    member.take(message(T.HEARTBEAT, 2, 1))
    assert member.take(message(T.PRE_VOTE, 3, 2)) == []


def test_a_partitioned_server_does_not_disrupt() -> None:
    """9.6: its term does not grow while it is alone, so its return does not depose the leader."""
    rig = Rig(3, pre_vote=True, check_quorum=True)
    rig.elect(1)
    rig.isolated = {3}
    for _ in range(10):
        rig[3].tick(20)
    rig.tick(20)
    rig.propose(1)
    rig.isolated = set()
    rig.tick(20)
    assert (rig[1].role, rig[1].raft.term, rig[3].raft.lead) == (Role.LEADER, 1, 1)


def test_a_refused_pre_candidate_follows_again() -> None:
    """9.6: most have said no, so it waits for the next timeout, in its old term."""
    member = lone(pre_vote=True, term=3)
    make_candidate(member)
    member.take(message(T.PRE_VOTE_RESP, 2, 3, reject=True), message(T.PRE_VOTE_RESP, 3, 3, reject=True))
    assert (member.role, member.raft.term) == (Role.FOLLOWER, 3)


# ---- thesis 10.2.1: writing to the leader's disk in parallel ---------------------------------------------------------


def parallel_leader() -> tuple[Member, list[Message]]:
    """A leader with asynchronous storage, and the append message of its first entry."""
    member = lone(async_storage_writes=True)
    node = member.node
    node.campaign()
    for one in node.ready().messages:
        if one.to == LOCAL_APPEND_THREAD:
            for response in one.responses:
                node.step(response)
    node.step(message(T.VOTE_RESP, 2, 1))
    return member, list(node.ready().messages)


def test_entries_leave_before_the_leaders_own_disk_has_them() -> None:
    """10.2.1: the leader can write to its disk in parallel with replicating to the followers."""
    _, sent = parallel_leader()
    kinds = [one.type for one in sent]
    assert kinds.count(T.APP) == 2
    assert kinds.count(T.STORAGE_APPEND) == 1


def test_the_leaders_own_copy_counts_when_it_is_durable() -> None:
    """10.2.1: the leader counts itself towards the majority only after the write has completed."""
    member, sent = parallel_leader()
    member.node.step(message(T.APP_RESP, 2, 1, index=LogIndex(1)))
    assert member.committed == 0
    (append,) = [one for one in sent if one.type is T.STORAGE_APPEND]
    member.storage.append(append.entries)
    for response in append.responses:
        member.node.step(response)
    assert member.committed == 1


def test_followers_may_commit_before_the_leaders_disk() -> None:
    """10.2.1: if a majority of followers have written it, an entry is committed without the leader's own disk; but it
    is not handed out to be applied before the local log has it."""
    member, _ = parallel_leader()
    for peer in (2, 3):
        member.node.step(message(T.APP_RESP, peer, 1, index=LogIndex(1)))
    assert member.committed == 1
    assert member.node.ready().committed_entries == []


def test_a_followers_ack_waits_for_its_disk() -> None:
    """10.2.1, 5.6: parallel writes are the leader's privilege: a follower's ack is a promise."""
    member = lone(async_storage_writes=True)
    member.node.step(message(T.APP, 2, 1, entries=[Entry(Term(1), LogIndex(1))]))
    (append,) = member.node.ready().messages
    assert append.type is T.STORAGE_APPEND
    assert [one.type for one in append.responses] == [T.APP_RESP, T.STORAGE_APPEND_RESP]


def test_forgetting_a_dead_leader_frees_the_vote() -> None:
    """9.6, 4.2.3: who knows that the leader is dead may vote at once; not under leases, which rest on silence."""
    for read_only, forgotten in ((ReadOnly.SAFE, True), (ReadOnly.LEASE_BASED, False)):
        member = lone(check_quorum=True, read_only=read_only)
        member.take(message(T.HEARTBEAT, 2, 1))
        member.node.forget_leader()
        assert (member.raft.lead == 0) is forgotten
        assert bool(member.take(message(T.VOTE, 3, 2))) is forgotten


def test_a_lease_does_not_depend_on_terms_or_indexes() -> None:
    """4.2.3: whatever a request claims."""
    member = lone(check_quorum=True, term=1)
    member.take(message(T.HEARTBEAT, 2, 1))
    for kind in (T.VOTE, T.PRE_VOTE):
        assert member.take(message(kind, 3, 50, log_term=Term(49), index=LogIndex(1000))) == []
    assert (member.raft.term, member.raft.vote) == (1, 0)
