"""Configuration changes: laws that hold whatever is changed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.proto.ids import PeerId
from nokv.proto.raft import ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Transition
from nokv.raft import ConfChangeError, confchange
from nokv.raft.tracker import Tracker
from tests.raft.rig import ids

singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 5).map(PeerId))
changes = st.builds(ConfChangeV2, st.sampled_from(Transition), st.lists(singles, max_size=4).map(tuple))


def tracker_of(state: ConfState) -> Tracker:
    """A tracker with this configuration."""
    tracker = Tracker(4, 0)
    tracker.switch(*confchange.restore(tracker, 10, state))
    return tracker


@given(st.lists(changes, max_size=8))
def test_every_configuration_that_is_reached_can_be_stored_and_restored(wanted: Sequence[ConfChangeV2]) -> None:
    """Refused changes change nothing; restoring what was stored gives the same; consecutive majorities overlap."""
    tracker = tracker_of(ConfState(voters=ids([1, 2, 3])))
    for change in wanted:
        before = tracker.config
        known = list(tracker.progress)
        try:
            changed = confchange.apply_change(tracker, 10, change)
        except ConfChangeError:
            assert tracker.config == before
            assert list(tracker.progress) == known
            continue
        tracker.switch(*changed)
        state = tracker.config.conf_state()
        assert confchange.is_possible(state)
        assert tracker_of(state).config == tracker.config
        assert tracker_of(state).config.describe() == tracker.config.describe()
        if not before.joint and not tracker.config.joint:
            assert len(before.incoming ^ tracker.config.incoming) <= 1
        if tracker.config.joint:
            assert before.incoming == tracker.config.outgoing
        assert set(tracker.voter_ids) == tracker.config.incoming | tracker.config.outgoing


@given(
    st.builds(
        ConfState,
        *[st.lists(st.integers(0, 4).map(PeerId), max_size=3, unique=True).map(tuple) for _ in range(4)],
        st.booleans(),
    )
)
def test_what_is_called_possible_can_be_restored(state: ConfState) -> None:
    """And nothing else can."""
    if confchange.is_possible(state):
        assert confchange.same_conf_state(tracker_of(state).config.conf_state(), state)
    elif any(state.voters):
        with pytest.raises((ConfChangeError, AssertionError)):
            tracker_of(state)


def test_a_joint_configuration_is_entered_and_left_once() -> None:
    """Typed refusals."""
    tracker = tracker_of(ConfState(voters=ids([1, 2]), voters_outgoing=ids([1])))
    with pytest.raises(ConfChangeError, match="already joint"):
        confchange.enter_joint(tracker, 1, (), auto_leave=False)
    with pytest.raises(ConfChangeError, match="in joint config"):
        confchange.simple(tracker, 1, ())
    tracker.switch(*confchange.leave_joint(tracker, 1))
    with pytest.raises(ConfChangeError, match="non-joint"):
        confchange.leave_joint(tracker, 1)
    with pytest.raises(ConfChangeError, match="zero-voter"):
        confchange.enter_joint(Tracker(1, 0), 1, (), auto_leave=False)
