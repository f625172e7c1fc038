"""One connection without a network: greeting, answers in any order, and exactly one end for each request."""

import math
from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.client.errors import ProtocolError
from nokv.client.link import LOST_ANSWER, NO_ANSWER, UNSENT, Answer, Link, LinkState, Session
from nokv.proto.control import Hello, HelloReply, encode_body
from nokv.proto.errors import ClusterMismatch, ProtocolMismatch, ServerIsBusy, encode_error
from nokv.proto.frame import HEADER, MAGIC, VERSION, Kind, encode, split
from nokv.proto.ids import ClusterId, StoreId


class Waiter:
    """Remembers how it ended, and that it ended once."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.cancelled = False

    def done(self) -> bool:
        return bool(self.answers) or self.cancelled

    def set_result(self, answer: Answer, /) -> None:
        assert not self.done()
        self.answers.append(answer)


def greeting(cluster: int = 7, protocol: int = VERSION, limits: dict[str, int] | None = None) -> bytes:
    reply = HelloReply(protocol, ClusterId(cluster), StoreId(1), "x", limits or {})
    return encode(Kind.OK, 1, 0, encode_body(reply))


def new_link(session: Session | None = None) -> Link:
    return Link("h:1", session or Session(), hello_id=1, greet_due=2.0)


def ready_link() -> Link:
    link = new_link()
    assert link.feed(greeting())
    return link


def add(link: Link, request_id: int, due: float = 9.0, body: bytes = b"x") -> Waiter:
    waiter = Waiter()
    link.add(request_id, Kind.KV_GET, 5, body, waiter=waiter, due=due, deadline_ms=100)
    return waiter


def ids(messages: list[bytes]) -> list[list[int]]:
    return [[frame.request_id for frame in split(message)] for message in messages]


def flat(groups: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(groups))


def test_nothing_is_sent_before_the_greeting() -> None:
    link = new_link(Session(client_name="me", cluster_id=7))
    (frame,) = split(link.greeting())
    assert frame.kind == Kind.HELLO
    assert msgspec.msgpack.decode(frame.body, type=Hello) == Hello(VERSION, ClusterId(7), "me")
    add(link, 2)
    assert link.take() == []
    assert link.feed(greeting())
    assert link.state is LinkState.READY
    assert ids(link.take()) == [[2]]
    assert link.take() == []


def test_greeting_tells_cluster_and_limits() -> None:
    session = Session()
    new_link(session).feed(greeting(9, limits={"key_bytes_max": 30, "txn_keys_max": -1, "strange": 5}))
    assert session.cluster_id == 9
    assert (session.limits.key_bytes_max, session.limits.txn_keys_max) == (30, 10_000)


@pytest.mark.parametrize(
    "answer",
    [
        greeting(cluster=8),
        greeting(protocol=VERSION + 1),
        encode(Kind.ERROR, 1, 0, encode_error(ClusterMismatch(8, 7))),
        encode(Kind.ERROR, 1, 0, encode_error(ProtocolMismatch(VERSION + 1, VERSION))),
        encode(Kind.OK, 1, 0, b"\xc1"),
        encode(Kind.PING, 1, 0),
        HEADER.pack(MAGIC, VERSION + 1, Kind.OK, 0, 0, 0, 1, 0),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0",
    ],
)
def test_node_that_does_not_fit_is_refused_for_good(answer: bytes) -> None:
    link = new_link(Session(cluster_id=7))
    waiter = add(link, 2)
    assert link.feed(answer)
    assert link.state is LinkState.REFUSED
    assert isinstance(link.refusal, ProtocolError)
    assert waiter.answers[0][0] == UNSENT


def test_node_that_is_starting_is_asked_again_later() -> None:
    link = new_link()
    link.feed(encode(Kind.ERROR, 1, 0, encode_error(ServerIsBusy("starting"))))
    assert link.state is LinkState.LOST
    assert "starting" in str(link.refusal)


def test_greeting_in_time_or_not_at_all() -> None:
    link = new_link()
    waiter = add(link, 2)
    assert link.expire(1.0) == 2.0
    assert link.expire(2.0) == math.inf
    assert link.state is LinkState.LOST
    assert waiter.answers[0][0] == UNSENT


def test_answers_in_any_order_late_ones_dropped() -> None:
    link = ready_link()
    first, second, third = add(link, 2), add(link, 3), add(link, 4)
    assert ids(link.take()) == [[2, 3, 4]]
    link.forget(3)
    replies = [encode(Kind.OK, request_id, 5, b"r%d" % request_id) for request_id in (4, 3, 99, 2, 2)]
    assert not link.feed(b"".join(replies))
    assert first.answers == [(Kind.OK, b"r2")]
    assert second.answers == []
    assert third.answers == [(Kind.OK, b"r4")]
    assert len(link) == 0


def test_forgotten_before_sending_is_never_sent() -> None:
    link = ready_link()
    add(link, 2)
    add(link, 3)
    link.forget(2)
    assert ids(link.take()) == [[3]]
    add(link, 4)
    link.forget(4)
    assert link.take() == []


def test_expiry_ends_what_is_due_and_tells_the_next() -> None:
    link = ready_link()
    early, late = add(link, 2, due=3.0), add(link, 3, due=5.0)
    link.take()
    unsent = add(link, 4, due=3.0)
    assert link.expire(2.0) == 3.0
    assert link.expire(3.0) == 5.0
    assert early.answers[0][0] == NO_ANSWER
    assert unsent.answers[0][0] == UNSENT
    assert late.answers == []
    assert link.take() == [], "what expired in the outbox is not sent any more"


def test_loss_tells_sent_from_unsent() -> None:
    link = ready_link()
    sent = add(link, 2)
    link.take()
    unsent = add(link, 3)
    cancelled = add(link, 4)
    cancelled.cancelled = True
    link.lose("gone")
    assert sent.answers[0][0] == LOST_ANSWER
    assert unsent.answers[0][0] == UNSENT
    assert link.state is LinkState.LOST
    link.lose("again")
    assert len(sent.answers) == 1


def test_long_batches_are_cut() -> None:
    link = ready_link()
    for request_id in range(2, 12):
        add(link, request_id, body=b"x" * 300_000)
    messages = link.take()
    assert [len(group) for group in ids(messages)] == [3, 3, 3, 1]
    assert flat(ids(messages)) == list(range(2, 12))


@given(st.lists(st.sampled_from(["add", "take", "answer", "forget", "expire"]), max_size=60), st.booleans())
def test_every_request_ends_exactly_once(steps: list[str], lose: bool) -> None:
    link = ready_link()
    waiters: dict[int, Waiter] = {}
    forgotten: set[int] = set()
    on_wire: list[int] = []
    now, next_id = 0.0, 2
    for step in steps:
        now += 1.0
        if step == "add":
            waiters[next_id] = add(link, next_id, due=now + 5)
            next_id += 1
        elif step == "take":
            on_wire += flat(ids(link.take()))
        elif step == "answer" and on_wire:
            link.feed(encode(Kind.OK, on_wire.pop(0), 5, b"r"))
        elif step == "forget" and waiters:
            request_id = min(waiters)
            if not waiters[request_id].done():
                forgotten.add(request_id)
            link.forget(request_id)
        elif step == "expire":
            link.expire(now)
    link.lose("gone") if lose else link.expire(math.inf)
    assert len(link) == 0
    assert all(len(waiter.answers) == (request_id not in forgotten) for request_id, waiter in waiters.items())


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(message: bytes) -> None:
    link = ready_link()
    waiter = add(link, 2)
    link.take()
    link.feed(message)
    link.lose("end")
    assert len(waiter.answers) == 1
