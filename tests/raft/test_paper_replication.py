"""Rules of the Raft paper on replication, commits, failures and timing: sections 5.3, 5.4.2, 5.5 and 5.6."""

import pytest

from nokv.proto.ids import LogIndex, Term
from nokv.proto.raft import EntryType
from nokv.raft import ProposalDropped, Role
from tests.raft.rig import Member, Rig, T, entries, lone, make_candidate, make_leader, message, of


def data_of(member: Member) -> list[bytes]:
    """What a member has applied, without the empty entries of new leaders."""
    return [entry.data for entry in member.applied if entry.data]


def test_a_leader_appends_and_sends_what_is_proposed() -> None:
    """5.3: the leader appends the command to its log, then issues AppendEntries in parallel to the other servers, with
    index and term of the entry that precedes the new ones."""
    member = lone()
    make_leader(member)
    member.take(message(T.APP_RESP, 2, 1, index=LogIndex(1)), message(T.APP_RESP, 3, 1, index=LogIndex(1)))
    member.node.propose(b"some data")
    sent = of(T.APP, member.turn())
    assert member.log == [(1, 1), (1, 2)]
    assert [(one.to, one.log_term, one.index, one.commit) for one in sent] == [(2, 1, 1, 1), (3, 1, 1, 1)]
    assert all(one.entries[0].data == b"some data" for one in sent)


@pytest.mark.parametrize(
    ("size", "acks", "committed"),
    [
        (1, 0, True),
        (3, 0, False),
        (3, 1, True),
        (3, 2, True),
        (4, 1, False),
        (4, 2, True),
        (5, 1, False),
        (5, 2, True),
        (5, 4, True),
    ],
)
def test_an_entry_on_a_majority_is_committed(size: int, acks: int, committed: bool) -> None:
    """5.3: an entry is committed once the leader that created it has replicated it on a majority of the servers."""
    member = lone(size)
    if size == 1:
        member.node.campaign()
        member.turn()
    else:
        make_leader(member)
    for peer in range(2, 2 + acks):
        member.take(message(T.APP_RESP, peer, 1, index=LogIndex(1)))
    assert member.committed == committed


@pytest.mark.parametrize("log", [[], [2], [1, 2], [1]])
def test_a_commit_takes_all_preceding_entries_with_it(log: list[int]) -> None:
    """5.3: this also commits all preceding entries in the leader's log, including entries of previous leaders."""
    member = lone(log=log, term=2)
    make_leader(member)
    member.node.propose(b"data")
    member.turn()
    member.take(message(T.APP_RESP, 2, 3, index=LogIndex(len(log) + 2)))
    assert [entry.term for entry in member.applied] == [*log, 3, 3]


def test_followers_learn_of_a_commit_and_apply_in_order() -> None:
    """5.3: the leader includes the highest index it knows to be committed in later AppendEntries RPCs; once a follower
    learns that an entry is committed, it applies it, in log order."""
    rig = Rig(3)
    rig.elect(1)
    for number in range(3):
        rig.propose(1, b"%d" % number)
    rig.tick(2)
    assert [data_of(member) for member in rig.members.values()] == [[b"0", b"1", b"2"]] * 3
    assert [member.committed for member in rig.members.values()] == [4, 4, 4]


@pytest.mark.parametrize(
    ("previous", "new", "commit", "committed"),
    [(1, 0, 1, 1), (1, 0, 3, 1), (1, 1, 3, 2), (2, 0, 3, 2), (2, 2, 3, 3), (2, 2, 4, 4)],
)
def test_a_follower_commits_no_further_than_the_last_new_entry(
    previous: int, new: int, commit: int, committed: int
) -> None:
    """Figure 2, AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry)."""
    member = lone(log=[1, 1])
    fresh = entries([1] * new, previous + 1)
    member.take(message(T.APP, 2, 1, log_term=Term(1), index=LogIndex(previous), entries=fresh, commit=commit))
    assert member.committed == committed


@pytest.mark.parametrize(
    ("previous", "term", "reject", "hint"),
    [(0, 0, False, 0), (1, 1, False, 0), (2, 2, False, 0), (1, 2, True, 1), (3, 3, True, 2), (3, 1, True, 1)],
)
def test_a_follower_checks_the_preceding_entry(previous: int, term: int, reject: bool, hint: int) -> None:
    """5.3: if the follower does not find an entry with the same index and term, it refuses the new entries."""
    member = lone(log=[1, 2], term=3)
    (answer,) = member.take(message(T.APP, 2, 3, log_term=Term(term), index=LogIndex(previous)))
    assert (answer.type, answer.reject, answer.index) == (T.APP_RESP, reject, previous)
    assert answer.reject_hint == hint


@pytest.mark.parametrize(
    ("previous", "term", "fresh", "log"),
    [
        (2, 2, [3], [1, 2, 3]),
        (1, 1, [3, 4], [1, 3, 4]),
        (0, 0, [1], [1, 2]),
        (0, 0, [3], [3]),
        (0, 0, [1, 2], [1, 2]),
        (0, 0, [1, 2, 3], [1, 2, 3]),
    ],
)
def test_a_follower_replaces_what_conflicts_and_only_that(
    previous: int, term: int, fresh: list[int], log: list[int]
) -> None:
    """5.3, figure 2: an existing entry that conflicts with a new one is deleted with all that follow it; entries that
    are there already stay, with all that follow them."""
    member = lone(log=[1, 2], term=4)
    new = entries(fresh, previous + 1)
    member.take(message(T.APP, 2, 4, log_term=Term(term), index=LogIndex(previous), entries=new))
    assert [entry_term for entry_term, _ in member.log] == log
    assert [entry.term for entry in member.storage.entries(LogIndex(1), LogIndex(len(log) + 1), 1 << 20)] == log


LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    "log",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_a_leader_brings_followers_into_agreement(log: list[int]) -> None:
    """5.3, figure 7: the leader forces the followers' logs to duplicate its own, whatever they have."""
    leader = lone(log=LEADER, term=7, peer=1, commit=3)
    rig = Rig({1: leader, 2: lone(log=log, term=max(log), peer=2, commit=3), 3: lone(peer=3)})
    rig.elect(1)
    assert rig[2].log == rig[1].log
    assert rig[3].log == rig[1].log
    assert [term for term, _ in rig[1].log[:-1]] == LEADER


def test_a_leader_never_replaces_its_own_entries() -> None:
    """5.3, leader append-only: a leader only appends to its log."""
    member = lone(log=[1, 2, 2])
    make_leader(member)
    member.take(message(T.APP_RESP, 2, 3, index=LogIndex(3), reject=True, reject_hint=LogIndex(0)))
    assert member.log == [(1, 1), (2, 2), (2, 3), (3, 4)]


def test_whole_terms_are_skipped_when_logs_differ() -> None:
    """5.3: with the term of the conflicting entry in the rejection, one probe per conflicting term is enough."""
    leader = lone(log=[1] + [5] * 30, term=5, peer=1)
    follower = lone(log=[1] + [2] * 20, term=2, peer=2)
    rig = Rig({1: leader, 2: follower, 3: lone(peer=3)})
    rig.isolated = {3}
    rig.elect(1)
    assert rig[2].log == rig[1].log
    assert len([one for one in rig.delivered if one.type is T.APP_RESP and one.reject]) <= 2


def test_lost_appends_are_sent_again() -> None:
    """5.3, 5.5: the leader retries AppendEntries indefinitely, until all followers store all entries."""
    rig = Rig(3)
    rig.elect(1)
    rig.blocked = lambda one: one.type is T.APP and one.to == 3
    for _ in range(3):
        rig.propose(1)
    rig[1].node.report_unreachable(rig[3].peer)
    assert len(rig[3].log) < 4
    rig.blocked = lambda _: False
    rig.tick(4)
    assert rig[3].log == rig[1].log


def test_what_arrives_twice_or_late_changes_nothing() -> None:
    """5.5: Raft RPCs are idempotent, so a repeated AppendEntries causes no harm; nor does one that was overtaken."""
    member = lone(term=1)
    first = message(T.APP, 2, 1, entries=entries([1, 1]), commit=LogIndex(2))
    second = message(T.APP, 2, 1, log_term=Term(1), index=LogIndex(2), entries=entries([1, 1], 3), commit=LogIndex(4))
    member.take(first, second)
    applied = list(member.applied)
    answers = member.take(first, second, first)
    assert member.log == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert member.applied == applied
    assert {(one.reject, one.index) for one in answers} == {(False, 4)}


def test_a_crashed_follower_catches_up() -> None:
    """5.5: retries to a crashed server complete when it has restarted."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {2}
    rig.propose(1, b"a")
    rig[2].restart()
    rig.isolated = set()
    rig.tick(4)
    assert data_of(rig[2]) == [b"a"]


def test_entries_of_earlier_terms_are_not_counted() -> None:
    """5.4.2, figure 8: only entries of the leader's current term are committed by counting replicas."""
    member = lone(5, log=[1, 2], term=3)
    make_leader(member)
    for peer in (2, 3, 4):
        member.take(message(T.APP_RESP, peer, 4, index=LogIndex(2)))
    assert member.committed == 0
    for peer in (2, 3):
        member.take(message(T.APP_RESP, peer, 4, index=LogIndex(3)))
    assert member.committed == 3


def test_figure_8_in_full() -> None:
    """5.4.2, figure 8: an entry on a majority may still be replaced, so it must not have been committed."""
    log1 = {1: [1, 2], 2: [1, 2], 3: [1], 4: [1], 5: [1, 3]}
    rig = Rig({peer: lone(5, log=log, term=3, peer=peer, commit=1, max_size_per_msg=0) for peer, log in log1.items()})
    rig.isolated = {5}
    # Servers 3 and 4 get the entry of term 2, and nobody that of term 4.
    rig.blocked = lambda one: one.type is T.APP and (one.to == 2 or len(rig[one.to].log) == 2)
    rig.elect(1)
    assert [rig[peer].log for peer in (2, 3, 4)] == [[(1, 1), (2, 2)]] * 3
    assert rig[1].raft.tracker.committed() == 2
    assert rig[1].committed == 1
    rig.isolated, rig.blocked = {1}, lambda _: False
    rig[5].node.campaign()
    rig.settle()
    rig[5].node.campaign()
    rig.settle()
    assert rig[5].role is Role.LEADER
    assert all(rig[peer].log[1] == (3, 2) for peer in (2, 3, 4, 5))


def test_a_new_leader_starts_with_an_empty_entry() -> None:
    """5.4.2, 8: each leader commits a blank no-op entry at the start of its term, to know what is committed."""
    rig = Rig(3)
    rig.elect(1)
    rig.elect(2)
    assert [(entry.term, entry.type, entry.data) for entry in rig[2].applied] == [
        (1, EntryType.NORMAL, b""),
        (2, EntryType.NORMAL, b""),
    ]


def test_nothing_is_lost_in_a_change_of_leaders() -> None:
    """5.4.3, 5.6: whatever was committed is there under every later leader, and applied by all in the same order."""
    rig = Rig(5)
    for number in range(10):
        leader = number % 5 + 1
        rig.elect(leader)
        rig.isolated = {(leader + 2) % 5 + 1}
        rig.propose(leader, b"%d" % number)
        rig.isolated = set()
        rig.tick(4)
    rig.tick(4)
    assert [data_of(member) for member in rig.members.values()] == [[b"%d" % number for number in range(10)]] * 5


def test_a_minority_commits_nothing_and_loses_its_entries() -> None:
    """5.6, 5.3: a leader without a majority makes no progress; what it appended meanwhile is replaced later."""
    rig = Rig(3)
    rig.elect(1)
    rig.isolated = {1}
    rig.propose(1, b"lost")
    rig.elect(2)
    rig.propose(2, b"kept")
    assert data_of(rig[1]) == []
    rig.isolated = set()
    rig.tick(4)
    assert data_of(rig[1]) == [b"kept"]
    assert rig[1].log == rig[2].log


def test_promises_leave_after_what_they_rest_on() -> None:
    """5.6, figure 2: servers update stable storage before they respond."""
    member = lone()
    member.node.step(message(T.APP, 2, 1, entries=entries([1])))
    ready = member.node.ready()
    assert ready.must_sync
    assert [entry.index for entry in ready.entries] == [1]
    assert [one.type for one in ready.messages] == [T.APP_RESP]
    assert member.storage.last_index() == 0


def test_a_proposal_during_an_election_is_refused() -> None:
    """5.1, 8: without a leader there is nobody to order commands."""
    member = lone()
    make_candidate(member)
    with pytest.raises(ProposalDropped):
        member.node.propose(b"x")
    assert member.log == []
