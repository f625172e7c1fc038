"""Every pair of states and every event: what is legal is exactly what the rule says."""

from itertools import product

import pytest

from nokv.proto.region import RegionState as S
from nokv.region.lifecycle import (
    NEXT,
    IllegalTransition,
    RegionEvent,
    check_change,
    diagram,
    may_become,
    next_state,
)

LEGAL = {(S.NEW, S.RUNNING), (S.RUNNING, S.REMOVING), (S.REMOVING, S.TOMBSTONE), (S.RUNNING, S.TOMBSTONE)}


@pytest.mark.parametrize(("old", "new"), list(product(S, S)))
def test_legal_changes_are_the_rule_and_nothing_else(old: S, new: S) -> None:
    legal = old is new or (old, new) in LEGAL
    assert may_become(old, new) == legal
    if legal:
        check_change(old, new)
    else:
        with pytest.raises(IllegalTransition) as refused:
            check_change(old, new)
        assert (refused.value.old, refused.value.wanted) == (old, new)


@pytest.mark.parametrize(("state", "event"), list(product(S, RegionEvent)))
def test_events_lead_to_legal_states_or_are_refused(state: S, event: RegionEvent) -> None:
    if (state, event) in NEXT:
        assert may_become(state, next_state(state, event))
    else:
        with pytest.raises(IllegalTransition, match=state.name):
            next_state(state, event)


def test_nothing_revives_a_tombstone() -> None:
    for event in RegionEvent:
        assert NEXT.get((S.TOMBSTONE, event), S.TOMBSTONE) is S.TOMBSTONE
    with pytest.raises(IllegalTransition):
        next_state(S.TOMBSTONE, RegionEvent.ACTIVATED)


@pytest.mark.parametrize("event", list(RegionEvent))
def test_an_event_repeated_changes_nothing(event: RegionEvent) -> None:
    for state in S:
        once = NEXT.get((state, event))
        if once is not None:
            assert next_state(once, event) is once


def test_diagram_shows_every_change_of_state() -> None:
    text = diagram()
    assert all(f"{old.name} --> {new.name}: " in text for old, new in LEGAL)
    assert text.count(": ") == len(LEGAL)
