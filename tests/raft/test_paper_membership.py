"""Rules on membership: Raft paper section 6, thesis 4.1, 4.2 and 4.3."""

import pytest

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    Transition,
    encode_conf_change,
)
from nokv.raft import ConfChangeError, Role, confchange
from tests.raft.rig import Member, Rig, Storage, T, entries, ids, lone, make_leader, message, of, snapshot

ADD, REMOVE, LEARN = ConfChangeType.ADD_VOTER, ConfChangeType.REMOVE, ConfChangeType.ADD_LEARNER


def change(kind: ConfChangeType, peer: int) -> ConfChange:
    """A change of one peer."""
    return ConfChange(kind, ids([peer])[0])


def joint(*changes: tuple[ConfChangeType, int], transition: Transition = Transition.JOINT_EXPLICIT) -> ConfChangeV2:
    """A change of several peers."""
    return ConfChangeV2(transition, tuple(ConfChangeSingle(kind, ids([peer])[0]) for kind, peer in changes))


def propose(rig: Rig, peer: int, wanted: ConfChange | ConfChangeV2) -> None:
    """Propose a change, and let it get through."""
    rig[peer].node.propose_conf_change(wanted)
    rig.settle()


def group(voters: int, spares: int = 0, **settings: object) -> Rig:
    """Voters 1..n whose log begins behind a snapshot, and further nodes that know of nobody."""
    state = ConfState(voters=ids(range(1, voters + 1)))
    members = {}
    for peer in range(1, voters + spares + 1):
        storage = Storage()
        if peer <= voters:
            storage.apply_snapshot(snapshot(3, 1, state))
            storage.state = state
        members[peer] = Member(peer, storage, **settings)
    for peer in range(1, voters + 1):
        members[peer].node.step(message(T.APP, 1 if peer > 1 else 2, 1, log_term=Term(1), index=LogIndex(3)))
        members[peer].turn()
    return Rig(members)


def test_one_change_at_a_time() -> None:
    """Thesis 4.1: a leader takes no further change until the one before is committed; here, until it is applied."""
    rig = group(3)
    rig.elect(1)
    rig.isolated = {2, 3}
    rig[1].node.propose_conf_change(change(REMOVE, 3))
    rig[1].node.propose_conf_change(change(REMOVE, 2))
    rig[1].turn()
    kinds = [entry.type for entry in rig[1].raft.log.entries(5, 1 << 20)]
    assert kinds == [EntryType.CONF_CHANGE, EntryType.NORMAL]


def test_a_new_leader_takes_no_change_before_it_has_applied_what_it_found() -> None:
    """Thesis 4.1: an uncommitted change of an earlier leader may be in its log."""
    member = lone(log=[1, 1])
    make_leader(member)
    member.node.propose_conf_change(change(ADD, 4))
    member.turn()
    assert member.raft.log.entries(4, 1 << 20)[0].type is EntryType.NORMAL


def test_a_change_of_one_voter_needs_no_joint_configuration() -> None:
    """Thesis 4.1: majorities of two configurations that differ in one server always overlap."""
    rig = group(3, spares=1)
    rig.elect(1)
    propose(rig, 1, change(ADD, 4))
    rig.tick(4)
    assert rig[4].storage.state == ConfState(voters=ids([1, 2, 3, 4]))
    rig.isolated = {3, 4}
    rig.propose(1)
    assert rig[1].committed < rig[1].log[-1][1]  # Two of four are no quorum.
    rig.isolated = {4}
    rig.tick(4)
    assert rig[1].committed == rig[1].log[-1][1]


def test_two_voters_at_once_are_refused_without_a_joint_configuration() -> None:
    """Thesis 4.1, figure 4.3: only changes of a single server are safe in one step."""
    tracker = group(1)[1].raft.tracker
    with pytest.raises(ConfChangeError, match="more than one voter changed"):
        confchange.simple(tracker, 1, joint((ADD, 2), (ADD, 3)).changes)
    assert tracker.voter_ids == (1,)


def test_new_servers_catch_up_as_learners() -> None:
    """6, thesis 4.2.1: new servers join as non-voting members: they get entries, but are not counted for majorities."""
    rig = group(3, spares=1)
    rig.elect(1)
    propose(rig, 1, change(LEARN, 4))
    rig.tick(4)
    assert rig[4].committed == rig[1].committed
    rig.isolated = {2, 3}
    rig.propose(1)
    assert rig[1].committed < rig[1].log[-1][1]
    rig[4].tick(50)
    assert rig[4].role is Role.FOLLOWER


def test_a_learner_may_vote_when_asked() -> None:
    """Thesis 4.2.1 and 4.1: a server votes by its log alone, as it may have been promoted without knowing it."""
    learner = lone(ConfState(voters=ids([1, 2]), learners=ids([3])), peer=3)
    (answer,) = learner.take(message(T.VOTE, 2, 5, to=3))
    assert (answer.type, answer.reject) == (T.VOTE_RESP, False)


def test_votes_of_learners_do_not_elect() -> None:
    """Thesis 4.2.1: a learner is not counted."""
    member = lone(ConfState(voters=ids([1, 2, 3]), learners=ids([4, 5])))
    member.tick(member.node.election_timeout)
    member.take(message(T.VOTE_RESP, 4, 1), message(T.VOTE_RESP, 5, 1))
    assert member.role is Role.CANDIDATE


def test_a_leader_removes_itself() -> None:
    """6, thesis 4.2.2: a leader that is not in the new configuration manages it without counting itself, and steps down
    when the change is committed."""
    rig = group(3, step_down_on_removal=True)
    rig.elect(1)
    propose(rig, 1, change(REMOVE, 1))
    assert rig[1].role is Role.FOLLOWER
    assert rig[1].raft.tracker.voter_ids == (2, 3)
    rig[1].tick(50)
    assert rig[1].role is Role.FOLLOWER
    rig.elect(2)


def test_a_removed_leader_does_not_count_itself() -> None:
    """6: it replicates log entries but does not count itself in majorities."""
    member = lone()
    make_leader(member)
    member.take(message(T.APP_RESP, 2, 1, index=LogIndex(1)), message(T.APP_RESP, 3, 1, index=LogIndex(1)))
    member.node.propose_conf_change(change(REMOVE, 1))
    member.turn()
    member.node.propose(b"x")
    member.take(message(T.APP_RESP, 2, 1, index=LogIndex(3)))
    assert member.committed == 2 or member.raft.tracker.voter_ids == (2, 3)
    assert member.committed == 2
    member.take(message(T.APP_RESP, 3, 1, index=LogIndex(3)))
    assert member.committed == 3
    assert member.role is Role.LEADER


def test_removed_servers_do_not_disrupt() -> None:
    """6, thesis 4.2.3: servers disregard RequestVote RPCs when they believe a current leader exists, that is within the
    minimum election timeout of hearing from it: neither term nor vote change."""
    member = lone(check_quorum=True, term=1)
    member.take(message(T.HEARTBEAT, 2, 1))
    assert member.take(message(T.VOTE, 3, 9)) == []
    assert (member.raft.term, member.raft.lead) == (1, 2)
    member.tick(10)
    assert member.take(message(T.VOTE, 3, 10))[-1].type is T.VOTE_RESP


def test_a_joint_configuration_needs_both_majorities_to_commit() -> None:
    """6, thesis 4.3: agreement requires separate majorities from both the old and new configurations."""
    state = ConfState(voters=ids([1, 4, 5]), voters_outgoing=ids([1, 2, 3]))
    member = lone(state)
    make_leader(member)
    for peer in (2, 3):
        member.take(message(T.APP_RESP, peer, 1, index=LogIndex(1)))
    assert member.committed == 0
    member.take(message(T.APP_RESP, 4, 1, index=LogIndex(1)))
    assert member.committed == 1


def test_a_joint_configuration_needs_both_majorities_to_elect() -> None:
    """6, thesis 4.3: elections as well."""
    state = ConfState(voters=ids([1, 4, 5]), voters_outgoing=ids([1, 2, 3]))
    member = lone(state)
    member.tick(member.node.election_timeout)
    member.take(message(T.VOTE_RESP, 4, 1), message(T.VOTE_RESP, 5, 1))
    assert member.role is Role.CANDIDATE
    member.take(message(T.VOTE_RESP, 2, 1))
    assert [member.role] == [Role.LEADER]


def test_any_server_of_either_configuration_may_lead() -> None:
    """6: any server from either configuration may serve as leader, also one that is on its way out."""
    state = ConfState(voters=ids([2, 3]), voters_outgoing=ids([1, 2]))
    member = lone(state)
    make_leader(member)


def test_a_joint_configuration_is_left_by_itself() -> None:
    """6, thesis 4.3: once C(old,new) is committed, the leader creates an entry for C(new); then only that counts."""
    rig = group(3, spares=2)
    rig.elect(1)
    propose(rig, 1, joint((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3), transition=Transition.AUTO))
    rig.tick(6)
    assert rig[1].storage.state == ConfState(voters=ids([1, 4, 5]))
    rig.isolated = {2, 3}
    rig.propose(1, b"x")
    assert rig[4].applied[-1].data == b"x"


def test_an_explicit_joint_configuration_waits() -> None:
    """Thesis 4.3: the second step is the owner's if it asked for it; meanwhile no other change is taken."""
    rig = group(3, spares=1)
    rig.elect(1)
    propose(rig, 1, joint((ADD, 4), (REMOVE, 3)))
    rig.tick(6)
    both = ConfState(voters=ids([1, 2, 4]), voters_outgoing=ids([1, 2, 3]))
    assert rig[1].storage.state == both
    propose(rig, 1, change(ADD, 3))
    assert rig[1].applied[-1].type is EntryType.NORMAL
    propose(rig, 1, ConfChangeV2())
    assert rig[1].storage.state == ConfState(voters=ids([1, 2, 4]))
    propose(rig, 1, ConfChangeV2())
    assert rig[1].applied[-1].type is EntryType.NORMAL


def test_a_new_leader_finishes_what_the_old_one_began() -> None:
    """6: if the leader crashes in a joint configuration, the next one leaves it."""
    rig = group(3, spares=1)
    rig.elect(1)
    rig.blocked = lambda one: (
        one.type in (T.APP, T.PROP)
        and any(entry.type is EntryType.CONF_CHANGE_V2 and not entry.data for entry in one.entries)
    )
    propose(rig, 1, joint((ADD, 4), (REMOVE, 3), transition=Transition.JOINT_IMPLICIT))
    assert rig[2].raft.tracker.config.joint
    rig.isolated, rig.blocked = {1}, lambda _: False
    rig.tick(4)
    rig[2].node.campaign()
    rig.settle()
    assert rig[2].role is Role.LEADER
    rig.tick(6)
    assert rig[2].storage.state == ConfState(voters=ids([1, 2, 4]))


def test_a_campaign_waits_for_committed_changes_to_be_applied() -> None:
    """Thesis 4.1: a server acts by its latest configuration, so one that has not applied it yet must not campaign."""
    member = lone()
    kind, data = encode_conf_change(change(REMOVE, 3))
    fresh = [*entries([1]), Entry(Term(1), LogIndex(2), kind, data)]
    member.node.step(message(T.APP, 2, 1, entries=fresh, commit=LogIndex(2)))
    member.save(member.node.ready())
    member.node.campaign()
    assert member.role is Role.FOLLOWER


def test_a_change_handed_out_before_a_snapshot_does_not_change_the_snapshots_configuration() -> None:
    """7, thesis 4.1: with the snapshot comes the configuration; an older change that is applied late was in it."""
    member = lone(4)
    kind, data = encode_conf_change(change(REMOVE, 4))
    fresh = [Entry(Term(1), LogIndex(1), kind, data)]
    member.node.step(message(T.APP, 2, 1, entries=fresh, commit=LogIndex(1)))
    ready = member.node.ready()
    member.save(ready)
    new = ConfState(voters=ids([1, 2, 5]))
    member.node.step(message(T.SNAP, 2, 1, snapshot=snapshot(9, 1, new)))
    assert ready.committed_entries[0].index == 1
    assert member.node.apply_conf_change(change(REMOVE, 4)) == ConfState(voters=ids([1, 2, 3]))
    member.node.advance()
    member.turn()
    assert member.raft.tracker.config.conf_state() == new
    assert of(T.APP, member.tick()) == []
