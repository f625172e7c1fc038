"""Rules of the Raft paper on terms and elections: sections 5.1, 5.2 and 5.4.1."""

from random import Random

import pytest

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import EntryType, HardState
from nokv.raft import ProposalDropped, Role
from tests.raft.rig import Rig, T, ids, lone, make_candidate, make_leader, message, of

ANY_HIGHER = [
    message(T.APP, 2, 9, log_term=0, index=0),
    message(T.HEARTBEAT, 2, 9),
    message(T.VOTE, 2, 9, index=LogIndex(9), log_term=Term(8)),
    message(T.APP_RESP, 2, 9),
    message(T.HEARTBEAT_RESP, 2, 9),
    message(T.VOTE_RESP, 2, 9, reject=True),
]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
@pytest.mark.parametrize("higher", ANY_HIGHER, ids=lambda one: one.type.name)
def test_a_higher_term_makes_a_follower_of_that_term(role: Role, higher: object) -> None:
    """5.1: if one server's term is smaller than the other's, it updates its term; leaders and candidates step down."""
    member = lone()
    if role is Role.CANDIDATE:
        make_candidate(member)
    elif role is Role.LEADER:
        make_leader(member)
    member.take(higher)  # type: ignore[arg-type]
    assert member.role is Role.FOLLOWER
    assert member.raft.term == 9


def test_a_request_with_a_stale_term_is_rejected() -> None:
    """5.1: a server rejects a request with a stale term number."""
    member = lone(term=5)
    assert member.take(message(T.APP, 2, 4, entries=())) == []
    assert member.raft.lead == 0
    assert member.take(message(T.VOTE, 2, 4)) == []
    assert member.raft.vote == 0


@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_stale_leader_learns_of_the_newer_term(check_quorum: bool) -> None:
    """5.1, 9.6: current terms are exchanged; with check_quorum or pre_vote an answer is the only way to exchange it."""
    member = lone(term=5, check_quorum=check_quorum, pre_vote=not check_quorum)
    (answer,) = member.take(message(T.HEARTBEAT, 2, 4))
    assert (answer.type, answer.term) == (T.APP_RESP, 5)


def test_term_and_vote_survive_a_restart() -> None:
    """5.1, figure 2: currentTerm and votedFor are on stable storage before RPCs are answered."""
    member = lone()
    (answer,) = member.take(message(T.VOTE, 2, 3))
    assert (answer.type, answer.reject) == (T.VOTE_RESP, False)
    assert member.storage.initial_state()[0] == HardState(Term(3), ids([2])[0], LogIndex(0))
    member.restart()
    (answer,) = member.take(message(T.VOTE, 3, 3))
    assert answer.reject


def test_servers_start_as_followers() -> None:
    """5.2: when servers start up, they begin as followers."""
    assert lone(term=7).role is Role.FOLLOWER


def test_a_leader_sends_heartbeats_to_all_followers() -> None:
    """5.2: leaders send periodic heartbeats to all followers to maintain their authority."""
    member = lone(heartbeat_tick=3)
    make_leader(member)
    assert [of(T.HEARTBEAT, member.tick()) for _ in range(2)] == [[], []]
    assert [(one.to, one.term) for one in member.tick()] == [(2, 1), (3, 1)]


@pytest.mark.parametrize("as_candidate", [False, True])
def test_without_a_leader_a_node_starts_an_election(as_candidate: bool) -> None:
    """5.2: a follower that hears of no leader over an election timeout becomes candidate of a new term, votes for
    itself and asks all others; a candidate whose election timed out does so again."""
    member = lone()
    if as_candidate:
        make_candidate(member)
    before = member.raft.term
    sent = make_candidate(member)
    assert (member.role, member.raft.term, member.raft.vote) == (Role.CANDIDATE, before + 1, 1)
    assert [(one.type, one.to, one.term) for one in sent] == [(T.VOTE, 2, before + 1), (T.VOTE, 3, before + 1)]


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 0, 0, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (3, 1, 0, Role.LEADER),
        (3, 1, 1, Role.LEADER),
        (4, 1, 0, Role.CANDIDATE),
        (4, 1, 2, Role.FOLLOWER),
        (5, 1, 1, Role.CANDIDATE),
        (5, 2, 2, Role.LEADER),
        (5, 1, 3, Role.FOLLOWER),
    ],
)
def test_a_majority_of_votes_elects(size: int, granted: int, refused: int, role: Role) -> None:
    """5.2: a candidate wins with votes from a majority of the full cluster for the same term."""
    member = lone(size)
    make_candidate(member)
    for peer in range(2, 2 + granted):
        member.take(message(T.VOTE_RESP, peer, 1))
    for peer in range(2 + granted, 2 + granted + refused):
        member.take(message(T.VOTE_RESP, peer, 1, reject=True))
    assert member.role is role
    assert member.raft.term == 1


def test_votes_are_counted_once() -> None:
    """5.2: each server votes for at most one candidate in a term; a repeated message is no second vote."""
    member = lone(5)
    make_candidate(member)
    member.take(*[message(T.VOTE_RESP, 2, 1)] * 3, message(T.VOTE_RESP, 2, 1, reject=True))
    assert member.role is Role.CANDIDATE


@pytest.mark.parametrize(
    ("vote", "candidate", "reject"), [(0, 2, False), (0, 3, False), (2, 2, False), (3, 3, False), (2, 3, True)]
)
def test_one_vote_per_term_first_come_first_served(vote: int, candidate: int, reject: bool) -> None:
    """5.2: each server will vote for at most one candidate in a given term, on a first-come-first-served basis."""
    member = lone(term=1, vote=vote)
    (answer,) = member.take(message(T.VOTE, candidate, 1))
    assert (answer.type, answer.to, answer.term, answer.reject) == (T.VOTE_RESP, candidate, 1, reject)


@pytest.mark.parametrize("term", [1, 2])
@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT])
def test_a_candidate_follows_the_leader_of_its_term(term: int, kind: T) -> None:
    """5.2: if a leader's term is at least as large as the candidate's, the candidate returns to follower state."""
    member = lone()
    make_candidate(member)
    member.take(message(kind, 2, term))
    assert (member.role, member.raft.lead, member.raft.term) == (Role.FOLLOWER, 2, term)


def test_a_candidate_ignores_a_leader_of_an_older_term() -> None:
    """5.2: if the term in the RPC is smaller, the candidate rejects it and continues in candidate state."""
    member = lone(term=3)
    make_candidate(member)
    member.take(message(T.APP, 2, 3))
    assert (member.role, member.raft.term) == (Role.CANDIDATE, 4)


def test_a_split_vote_is_followed_by_a_new_election() -> None:
    """5.2: with votes split no candidate wins; each times out and starts a new election with another term."""
    rig = Rig(4)
    rig.blocked = lambda one: one.type is T.VOTE and {one.sender, one.to} not in ({1, 3}, {2, 4})
    rig[1].node.campaign()
    rig[2].node.campaign()
    rig.settle()
    assert [rig[peer].role for peer in (1, 2)] == [Role.CANDIDATE, Role.CANDIDATE]
    rig.blocked = lambda _: False
    rig[1].tick(rig[1].node.election_timeout - 1)
    rig[1].node.tick()
    rig.settle()
    assert (rig[1].role, rig[1].raft.term) == (Role.LEADER, 2)


@pytest.mark.parametrize("candidate", [False, True])
def test_election_timeouts_are_random(candidate: bool) -> None:
    """5.2: election timeouts are chosen randomly from a fixed interval, [n, 2n) here, anew for each election."""
    member = lone(election_tick=10, rng=Random(1))
    timeouts = set()
    for round_ in range(500):
        if candidate:
            make_candidate(member)
        else:
            member.take(message(T.HEARTBEAT, 2, 1000 + round_))
        timeouts.add(member.node.election_timeout)
    assert timeouts == set(range(10, 20))


def test_split_votes_are_rare() -> None:
    """5.2: timeouts are spread out so that in most cases only a single server times out first."""
    collisions = 0
    for seed in range(300):
        timeouts = sorted(
            lone(5, peer=peer, rng=Random(seed * 10 + peer)).node.election_timeout for peer in range(1, 6)
        )
        collisions += timeouts[0] == timeouts[1]
    assert collisions < 120


@pytest.mark.parametrize(
    "kept_quiet",
    [message(T.HEARTBEAT, 2, 1), message(T.APP, 2, 1), message(T.VOTE, 2, 1)],
    ids=lambda one: one.type.name,
)
def test_a_leader_or_a_granted_vote_resets_the_timeout(kept_quiet: object) -> None:
    """5.2, figure 2: a follower waits anew after an append of the current leader or a vote that it granted."""
    member = lone(term=1)
    member.tick(member.node.election_timeout - 1)
    member.take(kept_quiet)  # type: ignore[arg-type]
    member.tick()
    assert member.raft.term == 1
    member.tick(member.node.election_timeout)
    assert member.raft.term == 2


def test_a_refused_vote_does_not_reset_the_timeout() -> None:
    """5.2, figure 2: only a granted vote does."""
    member = lone(log=[1], term=1, vote=3)
    member.tick(member.node.election_timeout - 1)
    member.take(message(T.VOTE, 2, 1))
    member.tick()
    assert member.role is Role.CANDIDATE


@pytest.mark.parametrize(
    ("log", "last_term", "last_index", "reject"),
    [
        ([1], 1, 1, False),
        ([1], 1, 2, False),
        ([1, 1], 1, 1, True),
        ([1], 2, 1, False),
        ([1], 2, 2, False),
        ([1, 1], 2, 1, False),
        ([2], 1, 1, True),
        ([2], 1, 2, True),
        ([1, 2], 1, 1, True),
    ],
)
def test_votes_only_for_logs_that_are_up_to_date(log: list[int], last_term: int, last_index: int, reject: bool) -> None:
    """5.4.1: a voter denies its vote if its own log is more up-to-date: by last term, then by length."""
    member = lone(log=log)
    (answer,) = member.take(message(T.VOTE, 2, 5, log_term=Term(last_term), index=LogIndex(last_index)))
    assert answer.reject is reject


def test_a_vote_request_tells_of_the_candidates_log() -> None:
    """5.4.1: the RequestVote RPC includes information about the candidate's log."""
    for request in make_candidate(lone(log=[1, 1, 3])):
        assert (request.type, request.log_term, request.index) == (T.VOTE, 3, 3)


def test_no_candidate_with_a_shorter_log_is_elected() -> None:
    """5.4.1, leader completeness: a candidate needs a majority, and one of it has every committed entry."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {3}
    rig.propose(1)
    rig.isolated = {1}
    rig[3].node.campaign()
    rig.settle()
    assert rig[3].role is not Role.LEADER
    rig.elect(2)
    assert rig[3].log == rig[2].log


def test_leaders_only_take_what_is_proposed_to_them() -> None:
    """5.1: only a leader handles requests; a follower sends them on to it, a candidate has nobody to ask."""
    follower = lone()
    follower.take(message(T.HEARTBEAT, 2, 1))
    follower.node.propose(b"x")
    (forwarded,) = follower.turn()
    assert (forwarded.type, forwarded.to, forwarded.entries[0].type) == (T.PROP, 2, EntryType.NORMAL)
    candidate = lone()
    make_candidate(candidate)
    with pytest.raises(ProposalDropped):
        candidate.node.propose(b"x")
