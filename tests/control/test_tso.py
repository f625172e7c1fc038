"""The oracle: never twice, never back, whatever leaders and clocks do."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nokv.control.tso import (
    JUMP_MS,
    PHYSICAL_MS_MAX,
    TSO_COUNT_MAX,
    TSO_WINDOW_MS,
    WINDOW_RETRY_MS,
    Oracle,
)
from nokv.proto.errors import InvalidArgument, LimitExceeded
from nokv.proto.ids import TS_LOGICAL_BITS, TS_STEP, Ts, physical_ms, ts_of

NOW_MS = 1_800_000_000_000
YEAR_MS = 365 * 24 * 3600 * 1000
PER_MS = (1 << TS_LOGICAL_BITS) // TS_STEP


def granted(oracle: Oracle, now_ms: int, count: int = 1) -> range:
    """What a grant hands out; fails the test if it must wait."""
    reply = oracle.grant(now_ms, count)
    assert reply is not None
    assert reply.count == count
    return range(reply.first, reply.first + count * reply.step, reply.step)


def leader(now_ms: int = NOW_MS, ahead_until: int = 0, **options: int) -> Oracle:
    """An oracle that leads and has its first window."""
    oracle = Oracle(**options)
    oracle.lead(Ts(ahead_until))
    until = oracle.wanted_window(now_ms)
    assert until is not None
    oracle.window_committed(until)
    return oracle


# ---- windows --------------------------------------------------------------------------------------------------------


def test_nothing_is_issued_before_a_window_of_this_leadership_is_committed() -> None:
    oracle = Oracle()
    oracle.lead(ts_of(NOW_MS + 10_000))
    assert oracle.grant(NOW_MS, 1) is None
    until = oracle.wanted_window(NOW_MS)
    assert until is not None
    assert oracle.grant(NOW_MS, 1) is None
    oracle.window_committed(until)
    assert granted(oracle, NOW_MS)[0] >= ts_of(NOW_MS + 10_000)


def test_the_first_timestamp_is_the_clock_where_the_clock_is_ahead() -> None:
    oracle = leader(ahead_until=ts_of(NOW_MS - 5))
    assert granted(oracle, NOW_MS)[0] == ts_of(NOW_MS)


def test_a_start_that_is_no_multiple_of_the_step_is_rounded_up() -> None:
    start = ts_of(NOW_MS + 1000) + 5
    assert granted(leader(ahead_until=start), NOW_MS)[0] == ts_of(NOW_MS + 1000) + TS_STEP


def test_a_grant_never_reaches_beyond_the_window_and_takes_it_to_the_last_step() -> None:
    oracle = leader(window_ms=4, count_max=PER_MS)
    issued: list[int] = []
    while (reply := oracle.grant(NOW_MS, PER_MS)) is not None:
        issued += range(reply.first, reply.first + reply.count * reply.step, reply.step)
    assert len(issued) == 5 * PER_MS
    assert issued[-1] + TS_STEP == ts_of(NOW_MS + 5)
    assert oracle.statistics().waits == 1


def test_a_window_is_wanted_again_when_less_than_half_is_left_and_only_once() -> None:
    oracle = leader()
    assert oracle.wanted_window(NOW_MS + TSO_WINDOW_MS // 2 - 10) is None
    until = oracle.wanted_window(NOW_MS + TSO_WINDOW_MS // 2 + 10)
    assert until is not None
    assert until >= ts_of(NOW_MS + TSO_WINDOW_MS // 2 + 10 + TSO_WINDOW_MS)
    assert oracle.wanted_window(NOW_MS + TSO_WINDOW_MS // 2 + 20) is None
    assert granted(oracle, NOW_MS + TSO_WINDOW_MS // 2 + 20)  # the old window still serves
    oracle.window_committed(until)
    assert oracle.wanted_window(NOW_MS + TSO_WINDOW_MS // 2 + 30) is None


def test_a_dropped_proposal_is_asked_for_at_once_a_silent_one_after_a_while() -> None:
    oracle = Oracle()
    oracle.lead(Ts(0))
    first = oracle.wanted_window(NOW_MS)
    assert first is not None
    assert oracle.wanted_window(NOW_MS + 1) is None
    oracle.window_dropped()
    again = oracle.wanted_window(NOW_MS + 2)
    assert again is not None
    assert again > first
    assert oracle.wanted_window(NOW_MS + 3) is None
    assert oracle.wanted_window(NOW_MS + 2 + WINDOW_RETRY_MS) is not None


def test_a_new_leadership_does_not_wait_for_a_window_of_the_last_one() -> None:
    oracle = Oracle()
    oracle.lead(Ts(0))
    assert oracle.wanted_window(NOW_MS) is not None
    oracle.stop()
    oracle.lead(Ts(0))
    assert oracle.wanted_window(NOW_MS + 1) is not None


def test_demand_beyond_the_window_asks_for_more_although_little_time_passed() -> None:
    oracle = leader()
    for _ in range(TSO_WINDOW_MS * PER_MS // TSO_COUNT_MAX * 6 // 10):
        granted(oracle, NOW_MS, TSO_COUNT_MAX)
    until = oracle.wanted_window(NOW_MS)
    assert until is not None
    assert until > ts_of(NOW_MS + TSO_WINDOW_MS)


def test_a_committed_window_after_the_leadership_ended_is_not_used() -> None:
    oracle = Oracle()
    oracle.lead(Ts(0))
    until = oracle.wanted_window(NOW_MS)
    assert until is not None
    oracle.stop()
    oracle.window_committed(until)
    oracle.lead(until)
    assert oracle.grant(NOW_MS, 1) is None
    assert oracle.statistics().windows == 0


def test_a_window_that_was_not_asked_for_ends_the_leadership() -> None:
    """Another replica has led in between, and this one was elected again before anybody told its oracle."""
    oracle = leader()
    mine = granted(oracle, NOW_MS)[0]
    theirs = ts_of(NOW_MS + 2 * TSO_WINDOW_MS, 7)
    oracle.window_committed(theirs)
    assert not oracle.leading
    assert oracle.statistics().foreign_windows == 1
    oracle.lead(theirs)
    assert oracle.grant(NOW_MS, 1) is None
    until = oracle.wanted_window(NOW_MS)
    assert until is not None
    oracle.window_committed(until)
    assert granted(oracle, NOW_MS)[0] >= theirs > mine


def test_every_window_under_way_is_its_own_in_any_case() -> None:
    oracle = Oracle()
    oracle.lead(Ts(0))
    asked = [oracle.wanted_window(NOW_MS + at * WINDOW_RETRY_MS) for at in range(5)]
    for until in asked:
        assert until is not None
        oracle.window_committed(until)
        assert oracle.leading
    assert oracle.statistics().windows == 5


def test_a_frozen_clock_asks_for_the_same_window_again() -> None:
    oracle = Oracle()
    oracle.lead(ts_of(NOW_MS))
    first = oracle.wanted_window(NOW_MS - 1)
    assert oracle.wanted_window(NOW_MS - 1) is None
    oracle.window_dropped()
    assert oracle.wanted_window(NOW_MS - 1) == first
    assert first is not None
    oracle.window_committed(first)
    assert oracle.leading


def test_a_stopped_oracle_wants_nothing() -> None:
    oracle = leader()
    oracle.stop()
    assert not oracle.leading
    assert oracle.wanted_window(NOW_MS + 100_000) is None
    assert oracle.describe() == "oracle idle"


def test_a_lower_window_does_not_shrink_the_one_at_hand() -> None:
    oracle = leader()
    oracle.window_committed(ts_of(NOW_MS + 1))
    assert granted(oracle, NOW_MS + TSO_WINDOW_MS - 1)


# ---- timestamps -----------------------------------------------------------------------------------------------------


def test_timestamps_are_steps_apart_and_carry_into_the_next_millisecond() -> None:
    oracle = leader()
    batch = granted(oracle, NOW_MS, PER_MS + 2)
    assert batch[0] == ts_of(NOW_MS)
    assert batch[-1] == ts_of(NOW_MS + 1) + TS_STEP
    assert all(ts % TS_STEP == 0 for ts in batch)
    assert granted(oracle, NOW_MS)[0] == batch[-1] + TS_STEP


def test_counts_out_of_range_are_refused_by_type() -> None:
    oracle = leader(count_max=10)
    assert oracle.refusal(0) == InvalidArgument("count", "must be at least 1")
    assert oracle.refusal(11) == LimitExceeded("tso_count_max", 10, 11)
    assert oracle.refusal(10) is None
    with pytest.raises(AssertionError):
        oracle.grant(NOW_MS, 11)


def test_a_window_too_small_for_the_largest_grant_is_refused_when_constructed() -> None:
    with pytest.raises(AssertionError):
        Oracle(window_ms=7, count_max=TSO_COUNT_MAX)


def test_describe_names_the_next_timestamp_and_what_is_left() -> None:
    oracle = leader()
    granted(oracle, NOW_MS, 2)
    assert oracle.describe() == f"oracle leads: next {NOW_MS}.{2 * TS_STEP}, window {TSO_WINDOW_MS + 1} ms"


# ---- clocks ---------------------------------------------------------------------------------------------------------


def run(oracle: Oracle, wall_ms: int, *, steps: int, step_ms: int) -> list[int]:
    """Let the wall clock advance evenly, one grant and a committed window at each step."""
    issued = []
    for _ in range(steps):
        until = oracle.wanted_window(wall_ms)
        if until is not None:
            oracle.window_committed(until)
        issued.append(granted(oracle, wall_ms)[0])
        wall_ms += step_ms
    return issued


def is_rising(issued: list[int]) -> bool:
    return all(left < right for left, right in pairwise(issued))


def test_a_clock_set_back_goes_on_at_half_speed_until_the_wall_has_caught_up() -> None:
    oracle = leader()
    before = granted(oracle, NOW_MS)[0]
    wall_ms = NOW_MS - 10_000
    behind = run(oracle, wall_ms, steps=101, step_ms=100)
    assert before < behind[0]
    assert is_rising(behind)
    assert physical_ms(Ts(behind[-1])) == NOW_MS + 100 * 100 // 2  # 10 s of wall time count as 5
    assert oracle.statistics().steps_back == 1
    assert oracle.statistics().ahead_ms == 5_000
    caught_up = run(oracle, wall_ms + 101 * 100, steps=101, step_ms=100)
    assert is_rising(behind + caught_up)
    assert caught_up[-1] == ts_of(wall_ms + 201 * 100)
    assert oracle.statistics().ahead_ms == 0


def test_slow_steps_are_not_lost_to_rounding() -> None:
    oracle = leader()
    granted(oracle, NOW_MS)
    last = run(oracle, NOW_MS - 5_000, steps=1001, step_ms=1)[-1]
    assert physical_ms(Ts(last)) == NOW_MS + 500


def test_a_jump_ahead_is_followed_and_counted_and_taken_back_slowly() -> None:
    oracle = leader()
    granted(oracle, NOW_MS)
    future_ms = NOW_MS + YEAR_MS
    until = oracle.wanted_window(future_ms)
    assert until is not None
    assert oracle.grant(future_ms, 1) is None  # the old window has passed
    oracle.window_committed(until)
    ahead = granted(oracle, future_ms)[0]
    assert ahead == ts_of(future_ms)
    assert oracle.statistics().jumps == 1
    assert oracle.statistics().jump_ms_max == YEAR_MS
    after = run(oracle, NOW_MS, steps=50, step_ms=100)
    assert ahead < after[0]
    assert is_rising(after)
    assert physical_ms(Ts(after[-1])) == future_ms + 49 * 100 // 2
    assert oracle.statistics().steps_back == 1


def test_a_jump_below_the_oracles_clock_is_no_passing_time() -> None:
    oracle = leader()
    granted(oracle, NOW_MS)
    run(oracle, NOW_MS - 10 * YEAR_MS, steps=1, step_ms=0)
    last = run(oracle, NOW_MS - YEAR_MS, steps=1, step_ms=0)[0]
    assert physical_ms(Ts(last)) == NOW_MS
    assert oracle.statistics().jumps == 1


@pytest.mark.parametrize("reading", [-1, PHYSICAL_MS_MAX, 1 << 60])
def test_an_absurd_reading_is_refused_and_the_oracle_goes_on(reading: int) -> None:
    oracle = leader()
    first = granted(oracle, NOW_MS)[0]
    assert granted(oracle, reading)[0] == first + TS_STEP
    assert oracle.wanted_window(reading) is None
    assert oracle.statistics().refused_readings == 2
    assert granted(oracle, NOW_MS + 7)[0] == ts_of(NOW_MS + 7)


def test_the_greatest_reading_that_is_followed_leaves_room_to_go_on() -> None:
    oracle = leader(now_ms=PHYSICAL_MS_MAX - 1)
    assert is_rising(run(oracle, PHYSICAL_MS_MAX - 1, steps=20_000, step_ms=0))


def test_a_frozen_wall_clock_does_not_stop_the_oracle() -> None:
    oracle = leader(window_ms=8, count_max=PER_MS)
    issued = []
    for _ in range(100):
        until = oracle.wanted_window(NOW_MS)
        if until is not None:
            oracle.window_committed(until)
        issued.append(granted(oracle, NOW_MS, PER_MS)[0])
    assert is_rising(issued)
    assert issued[-1] == ts_of(NOW_MS + 99)


# ---- leader changes -------------------------------------------------------------------------------------------------


def test_a_successor_with_a_slow_clock_begins_above_everything_its_predecessor_could_issue() -> None:
    first = Oracle()
    first.lead(Ts(0))
    until = first.wanted_window(NOW_MS)
    assert until is not None
    first.window_committed(until)
    second = leader(now_ms=NOW_MS - YEAR_MS, ahead_until=until)
    theirs = granted(second, NOW_MS - YEAR_MS)
    last_of_first = granted(first, NOW_MS + TSO_WINDOW_MS)[0]
    assert last_of_first + TS_STEP <= until <= theirs[0]


def test_a_successor_with_a_slow_clock_lets_time_pass_all_the_same() -> None:
    oracle = leader(now_ms=NOW_MS - 10_000, ahead_until=ts_of(NOW_MS))
    issued = run(oracle, NOW_MS - 10_000, steps=51, step_ms=100)
    assert issued[0] == ts_of(NOW_MS)
    assert issued[-1] == ts_of(NOW_MS + 50 * 100 // 2)


def test_leader_changes_do_not_push_timestamps_ahead_for_good() -> None:
    ahead, wall_ms = Ts(0), NOW_MS
    for _ in range(20):
        oracle = Oracle()
        oracle.lead(ahead)
        for _ in range(100):
            until = oracle.wanted_window(wall_ms)
            if until is not None:
                ahead = until
                oracle.window_committed(until)
            granted(oracle, wall_ms)
            wall_ms += 100
        assert oracle.statistics().ahead_ms <= TSO_WINDOW_MS


class _Cluster(RuleBasedStateMachine):
    """Three replicas with clocks of their own, which apply the log as late as they like.

    A deposed leader keeps its window until it applies another leader's, and goes on using it. A proposal that has no
    outcome yet when the leader changes is either committed before the successor begins, or lost: Raft allows nothing
    else. A replica that is elected again may not have noticed that it was deposed.
    """

    REPLICAS = 3

    def __init__(self) -> None:
        super().__init__()
        self.oracles = [Oracle(window_ms=40, count_max=PER_MS) for _ in range(self.REPLICAS)]
        self.runs = [0] * self.REPLICAS
        self.walls = [NOW_MS] * self.REPLICAS
        self.log: list[tuple[tuple[int, int], Ts]] = []  # (replica, its run) and until
        self.applied = [0] * self.REPLICAS
        self.pending: list[tuple[tuple[int, int], Ts]] = []
        self.leader: int | None = None
        self.issued: set[int] = set()
        self.by_leader: list[int] = []

    @property
    def tso_ahead(self) -> Ts:
        return max((until for _origin, until in self.log), default=Ts(0))

    def take(self, replica: int, count: int) -> list[int]:
        reply = self.oracles[replica].grant(self.walls[replica], count)
        if reply is None:
            return []
        fresh = [reply.first + at * reply.step for at in range(reply.count)]
        assert not self.issued.intersection(fresh), "issued twice"
        assert fresh[-1] + TS_STEP <= self.tso_ahead, "a timestamp or one of its slots is outside the durable window"
        self.issued.update(fresh)
        return fresh

    @rule(replica=st.integers(0, REPLICAS - 1))
    def apply(self, replica: int) -> None:
        for origin, until in self.log[self.applied[replica] :]:
            if origin == (replica, self.runs[replica]):
                self.oracles[replica].window_committed(until)
            else:
                self.oracles[replica].stop()
        self.applied[replica] = len(self.log)

    @rule(replica=st.integers(0, REPLICAS - 1), survives=st.booleans(), noticed=st.booleans())
    def elect(self, replica: int, survives: bool, noticed: bool) -> None:
        if survives:
            self.log += self.pending
        self.pending = []
        self.leader = replica
        self.apply(replica)
        if noticed or not self.oracles[replica].leading:
            self.oracles[replica].lead(self.tso_ahead)

    @rule(replica=st.integers(0, REPLICAS - 1))
    def restart(self, replica: int) -> None:
        self.oracles[replica] = Oracle(window_ms=40, count_max=PER_MS)
        self.runs[replica] += 1
        self.applied[replica] = 0
        if replica == self.leader:
            self.leader = None

    @rule(replica=st.integers(0, REPLICAS - 1), step_ms=st.one_of(st.integers(-200, 200), st.integers(-(10**9), 10**9)))
    def move_clock(self, replica: int, step_ms: int) -> None:
        self.walls[replica] += step_ms

    @precondition(lambda self: self.leader is not None)
    @rule()
    def propose(self) -> None:
        assert self.leader is not None
        until = self.oracles[self.leader].wanted_window(self.walls[self.leader])
        if until is not None:
            self.pending.append(((self.leader, self.runs[self.leader]), until))

    @precondition(lambda self: self.pending and self.leader is not None)
    @rule(dropped=st.booleans())
    def decide(self, dropped: bool) -> None:
        assert self.leader is not None
        if dropped:
            self.pending.pop()
            self.oracles[self.leader].window_dropped()
            return
        self.log.append(self.pending.pop(0))
        self.apply(self.leader)
        assert self.oracles[self.leader].leading

    @precondition(lambda self: self.leader is not None)
    @rule(count=st.integers(1, 50))
    def grant(self, count: int) -> None:
        assert self.leader is not None
        self.by_leader += self.take(self.leader, count)

    @rule(replica=st.integers(0, REPLICAS - 1), count=st.integers(1, 50))
    def grant_without_lease(self, replica: int, count: int) -> None:
        """A deposed leader that was not told. Its lease is over, so the host would not ask; even so nothing repeats."""
        if replica != self.leader and self.oracles[replica].leading:
            self.take(replica, count)

    @invariant()
    def the_lease_holders_timestamps_rise(self) -> None:
        assert is_rising(self.by_leader[-120:])


_Cluster.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCluster: Any = _Cluster.TestCase


@pytest.mark.parametrize("seed", range(20))
def test_long_random_runs_reach_many_leaderships_and_never_repeat(seed: int) -> None:
    """The same model, driven to the depths that short examples do not reach."""
    rng = random.Random(seed)
    cluster = _Cluster()
    for _ in range(1_500):
        leads = cluster.leader is not None
        choice = rng.random()
        if choice < 0.03 or not leads:
            cluster.elect(rng.randrange(3), rng.random() < 0.5, rng.random() < 0.5)
        elif choice < 0.04:
            cluster.restart(rng.randrange(3))
        elif choice < 0.2:
            cluster.move_clock(
                rng.randrange(3), rng.choice([1, 5, 20, 50, -30, -JUMP_MS, 2 * JUMP_MS, YEAR_MS, -YEAR_MS])
            )
        elif choice < 0.4:
            cluster.propose()
        elif choice < 0.58:
            if cluster.pending and leads:
                cluster.decide(rng.random() < 0.1)
        elif choice < 0.6:
            cluster.apply(rng.randrange(3))
        elif choice < 0.9:
            cluster.grant(rng.randint(1, 50))
        else:
            cluster.grant_without_lease(rng.randrange(3), rng.randint(1, 50))
        assert is_rising(cluster.by_leader[-120:])
    assert len(cluster.by_leader) > 1_000
