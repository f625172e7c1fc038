"""Numbers near the end of their range, from a peer: refused, so that no node has to live with them.

Why: a term that was taken is durable and contagious. At the end of the range a node can neither campaign nor be
understood, and a restart brings it back to exactly that.
"""

from random import Random

import pytest

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import (
    NUMBER_MAX,
    ConfState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    decode_message,
    encode_message,
)
from nokv.raft import LOCAL_APPEND_THREAD, Config, MemoryStorage, RawNode, StepMalformed
from nokv.raft.messages import SNAPSHOT_INDEX_MAX, TERM_LEAD_MAX

MEMBERS = ConfState(voters=(PeerId(1), PeerId(2), PeerId(3)))
OF_A_TERM = [
    MessageType.VOTE,
    MessageType.PRE_VOTE,
    MessageType.APP,
    MessageType.HEARTBEAT,
    MessageType.APP_RESP,
    MessageType.HEARTBEAT_RESP,
    MessageType.VOTE_RESP,
    MessageType.PRE_VOTE_RESP,
    MessageType.TIMEOUT_NOW,
    MessageType.TRANSFER_LEADER,
]


def make_node() -> RawNode:
    """A follower that has heard of nobody."""
    return RawNode(
        Config(id=PeerId(1), storage=MemoryStorage(MEMBERS), rng=Random(1), async_storage_writes=True, pre_vote=False)
    )


def snapshot_message(index: int) -> Message:
    """A snapshot that ends at `index`."""
    metadata = SnapshotMetadata(conf_state=MEMBERS, index=LogIndex(index), term=Term(1))
    return Message(
        type=MessageType.SNAP, to=PeerId(1), sender=PeerId(2), term=Term(1), snapshot=Snapshot(metadata=metadata)
    )


@pytest.mark.parametrize("kind", OF_A_TERM)
@pytest.mark.parametrize("term", [TERM_LEAD_MAX + 1, NUMBER_MAX - 1, NUMBER_MAX])
def test_a_term_of_the_far_future_is_refused(kind: MessageType, term: int) -> None:
    """Nothing has changed, and the node goes on with terms as it knows them."""
    node = make_node()
    before = node.status()
    with pytest.raises(StepMalformed, match="far future"):
        node.step(Message(type=kind, to=PeerId(1), sender=PeerId(2), term=Term(term)))
    assert node.status() == before
    assert not node.has_ready()
    node.campaign()
    assert node.basic_status().term == 1


def test_a_node_that_was_away_for_long_is_told_the_term() -> None:
    """The largest lead is still taken, and the next campaign can be read by everybody."""
    node = make_node()
    node.step(Message(type=MessageType.HEARTBEAT, to=PeerId(1), sender=PeerId(2), term=Term(TERM_LEAD_MAX)))
    assert node.basic_status().term == TERM_LEAD_MAX
    node.campaign()
    ready = node.ready()
    assert node.basic_status().term == TERM_LEAD_MAX + 1
    for message in ready.messages:
        if message.to == LOCAL_APPEND_THREAD:
            for response in message.responses:
                if response.to == 1:
                    node.step(response)  # Its own vote is not refused.
        else:
            assert decode_message(encode_message(message)) == message


def test_a_snapshot_leaves_room_for_a_log() -> None:
    """Entries behind a snapshot have to have indexes."""
    node = make_node()
    with pytest.raises(StepMalformed):
        node.step(snapshot_message(SNAPSHOT_INDEX_MAX + 1))
    assert node.basic_status().commit == 0
    node.step(snapshot_message(SNAPSHOT_INDEX_MAX))
    assert node.basic_status().commit == SNAPSHOT_INDEX_MAX
