"""Progress of a peer and its window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.raft.progress import Flow, Inflights, Progress


def progress(match: int = 5, *, window: int = 3, max_bytes: int = 0) -> Progress:
    """One that has everything up to `match`."""
    return Progress(
        match=match, next_index=match + 1, inflights=Inflights(window, max_bytes), is_learner=False, active=True
    )


@given(
    st.integers(1, 4),
    st.integers(0, 20),
    st.lists(st.one_of(st.integers(1, 9), st.just(None)), max_size=40),
    st.data(),
)
def test_the_window_against_a_list(
    max_messages: int, max_bytes: int, sizes: list[int | None], data: st.DataObject
) -> None:
    """Sends and acks in any order: the window is full exactly when the list is."""
    window, twin, last = Inflights(max_messages, max_bytes), list[tuple[int, int]](), 0
    for size in sizes:
        if size is None:
            acked = data.draw(st.integers(0, last))
            window.free_to(acked)
            twin = [one for one in twin if one[0] > acked]
        elif not window.full:
            last += 1
            window.add(last, size)
            twin.append((last, size))
        in_bytes = sum(one[1] for one in twin)
        assert (len(window), window.bytes) == (len(twin), in_bytes)
        assert window.full == (len(twin) >= max_messages or (max_bytes > 0 and in_bytes >= max_bytes))
    window.clear()
    assert (len(window), window.bytes, window.full) == (0, 0, False)


def test_a_full_window_takes_nothing() -> None:
    """Adding to it would be our own bug."""
    window = Inflights(1, 0)
    window.add(1, 1)
    with pytest.raises(AssertionError, match="full"):
        window.add(2, 1)


def test_probing_sends_one_message_at_a_time() -> None:
    """Until an ack or a rejection that is news."""
    one = progress()
    one.sent_entries(2, 10)
    assert one.paused
    assert not one.rejected(9, 3)
    assert one.paused
    assert one.rejected(5, 3)
    assert (one.next, one.paused) == (6, False)


def test_streaming_moves_on_before_acks() -> None:
    """Up to the window; the message that fills it is the last."""
    one = progress()
    one.become_replicate()
    for _ in range(3):
        assert not one.paused
        one.sent_entries(1, 10)
    assert (one.next, one.paused) == (9, True)
    assert one.acked(7)
    one.inflights.free_to(7)
    assert (one.match, one.paused) == (7, False)
    assert not one.acked(7)
    assert not one.rejected(6, 3)
    assert one.rejected(8, 7)
    assert one.next == 8


def test_a_snapshot_stops_everything() -> None:
    """Then probing goes on behind it, or where the peer was if it was lost."""
    one = progress()
    one.become_snapshot(20)
    assert (one.flow, one.paused, one.next) == (Flow.SNAPSHOT, True, 21)
    one.become_probe()
    assert (one.next, one.pending_snapshot) == (21, 0)
    one.become_snapshot(30)
    one.pending_snapshot = 0
    one.become_probe()
    assert one.next == 6
    with pytest.raises(AssertionError, match="snapshot is on its way"):
        one.become_snapshot(9)
        one.sent_entries(1, 1)


def test_commit_indexes_travel_once() -> None:
    """Nothing is sent for a commit index that cannot move the peer's."""
    one = progress()
    assert one.wants_commit(4)
    one.sent_commit(4)
    assert not one.wants_commit(4)
    assert one.wants_commit(9)
    one.sent_commit(5)
    assert not one.wants_commit(9)


def test_it_describes_itself() -> None:
    """With all that is unusual about it."""
    one = progress(window=1)
    one.is_learner, one.recent_active = True, False
    one.become_replicate()
    one.sent_entries(1, 1)
    assert one.describe() == "StateReplicate match=5 next=7 learner paused inactive inflight=1[full]"
    twin = one.copy()
    assert twin.describe() == one.describe()
    twin.become_snapshot(9)
    assert twin.describe() == "StateSnapshot match=5 next=10 learner paused pendingSnap=9 inactive"
