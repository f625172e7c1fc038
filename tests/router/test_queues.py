"""The queues' own limits, apart from what the dispatcher makes of them."""

import random

from nokv.config import RouterSection
from nokv.router.queues import DUE_CLIENTS_MAX, LinkQueue, SlowClients


def test_a_link_queue_counts_what_it_holds() -> None:
    queue = LinkQueue(b"w0", RouterSection(worker_queue_frames_max=10, flush_bytes=50))
    assert queue.take() == []
    for _ in range(9):
        queue.add(b"P", b"x" * 20, 1)
    assert (queue.full, queue.waiting_bytes, queue.waiting_frames) == (False, 180, 9)
    queue.add(b"P", b"x", 1)
    assert (queue.full, queue.waiting_frames) == (True, 10)
    batches = queue.take()
    assert (queue.full, queue.waiting_frames) == (False, 0)
    assert [batch.bytes for batch in batches] == [60, 60, 60, 1]
    assert queue.put_back(batches, 0) == []
    assert (queue.full, queue.waiting_frames) == (True, 10)


def test_one_message_above_the_limit_is_taken_when_the_queue_is_empty() -> None:
    queue = LinkQueue(b"w0", RouterSection(worker_queue_bytes_max=10))
    queue.add(b"P", b"x" * 1000, 1)
    assert (queue.full, queue.waiting_bytes) == (True, 1000)


def test_slow_clients_in_any_order_get_all_they_had_room_for() -> None:
    """Against a naive twin: one list for each client."""
    rng = random.Random(3)
    slow = SlowClients(RouterSection(flush_bytes=30, client_queue_bytes_max=500, clients_queue_bytes_max=5000))
    expected: dict[bytes, bytes] = {}
    got: dict[bytes, bytes] = {}
    now_ms = 0
    for step in range(2000):
        name = bytes((rng.randrange(20),))
        message = b"%d;" % step
        if name in slow:
            if slow.add(name, message):
                expected[name] = expected.get(name, b"") + message
        elif slow.put_back(name, message, now_ms):
            expected[name] = expected.get(name, b"") + message
        now_ms += rng.randrange(3)
        for identity, taken in slow.take_due(now_ms):
            if rng.random() < 0.5:
                assert slow.put_back(identity, taken, now_ms)
            else:
                got[identity] = got.get(identity, b"") + taken
    while len(slow):
        now_ms += 100
        for identity, taken in slow.take_due(now_ms):
            got[identity] = got.get(identity, b"") + taken
    assert got == expected and slow.bytes == 0


def test_one_turn_tries_a_bounded_number_of_slow_clients() -> None:
    slow = SlowClients(RouterSection())
    for i in range(500):
        slow.put_back(b"%d" % i, b"m", 0)
    assert len(slow) == 500
    seen = 0
    for _ in range(20):
        taken = slow.take_due(1)
        assert len(taken) <= DUE_CLIENTS_MAX
        seen += len(taken)
    assert seen == 500


def test_a_client_in_trouble_is_forgotten_once_it_reads() -> None:
    slow = SlowClients(RouterSection())
    slow.put_back(b"a", b"m", 0)
    assert slow.take_due(1) == [(b"a", b"m")] and b"a" in slow
    assert slow.take_due(2) == [] and b"a" not in slow and slow.next_due_ms() is None


def test_dropping_a_client_returns_what_waited() -> None:
    slow = SlowClients(RouterSection())
    slow.put_back(b"a", b"1", 0)
    slow.add(b"a", b"2")
    assert slow.drop(b"a") == [b"1", b"2"] and slow.bytes == 0 and slow.drop(b"a") == []
    assert slow.take_due(100) == []
