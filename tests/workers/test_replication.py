"""Writes and reads through real worker cores on virtual time: replication, refusals, leadership, crashes."""

import pytest

from nokv.proto import errors, kv
from nokv.proto.frame import Kind
from nokv.proto.ids import LATEST, RegionId, StoreId, Ts
from nokv.proto.region import FIRST_EPOCH, RegionEpoch
from tests.workers.cluster import Cluster, region


def others(cluster: Cluster, store_id: int) -> list[int]:
    return [int(other) for other in cluster.stores if other != store_id]


def test_a_put_is_acknowledged_and_reaches_every_replica() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    assert not cluster.answer(cluster.put(leader, b"k", b"v")).refused
    assert cluster.value(cluster.answer(cluster.get(leader, b"k"))) == b"v"
    cluster.run(300)
    applied = {core.shard.peers[RegionId(1)].applied for core in map(cluster.core, (1, 2, 3))}
    assert len(applied) == 1
    tables = [list(cluster.stores[StoreId(i)].engine.scan(2, b"", b"")) for i in (1, 2, 3)]
    assert tables[0] == tables[1] == tables[2] and tables[0]


def test_the_topologys_first_leader_waits_for_the_others() -> None:
    """Stores of a new cluster do not start at the same moment; the load is spread as the topology says all the same."""
    cluster = Cluster()
    cluster.cut(1)  # store 1, the first leader by the topology, is reached later than its first attempt
    cluster.run(700)
    cluster.heal()
    assert cluster.leader() == 1


def test_a_follower_names_the_leader() -> None:
    """S24, S44."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(300)
    follower = others(cluster, leader)[0]
    for token in (cluster.put(follower, b"k", b"v"), cluster.get(follower, b"k")):
        detail = cluster.answer(token).detail
        assert isinstance(detail, errors.NotLeader)
        assert detail.leader_store == leader


@pytest.mark.parametrize("epoch", [RegionEpoch(2, 1), RegionEpoch(1, 2), RegionEpoch(0, 0)])
def test_another_epoch_is_refused_with_the_current_region(epoch: RegionEpoch) -> None:
    """S24: both numbers must be equal."""
    cluster = Cluster()
    leader = cluster.leader()
    detail = cluster.answer(cluster.put(leader, b"k", b"v", epoch=epoch)).detail
    assert isinstance(detail, errors.EpochNotMatch)
    assert [one.id for one in detail.regions] == [1]


def test_unknown_region_and_key_out_of_range() -> None:
    """S24: no regions for an unknown one; the current region for a key outside it."""
    cluster = Cluster(region(1, b"", b"m"), region(2, b"m", b""))
    leader = cluster.leader()
    unknown = cluster.send(leader, Kind.KV_GET, kv.GetRequest(FIRST_EPOCH, b"k", LATEST), region_id=999)
    assert cluster.answer(unknown).detail == errors.EpochNotMatch(RegionId(999))
    detail = cluster.answer(cluster.put(leader, b"zoo", b"v")).detail
    assert isinstance(detail, errors.EpochNotMatch) and detail.regions[0].end == b"m"


def test_bad_requests_are_refused_before_they_are_proposed() -> None:
    """I3, N5: empty key, key and value too large, no budget, garbage body; and the shard lives on."""
    cluster = Cluster()
    leader = cluster.leader()
    last = cluster.core(leader).shard.peers[RegionId(1)].last_index
    assert isinstance(cluster.answer(cluster.put(leader, b"", b"v")).detail, errors.InvalidArgument)
    assert isinstance(cluster.answer(cluster.put(leader, b"k" * 401, b"v")).detail, errors.LimitExceeded)
    too_long = b"v" * (1 << 20 | 1)
    assert isinstance(cluster.answer(cluster.put(leader, b"k", too_long)).detail, errors.LimitExceeded)
    late = cluster.send(leader, Kind.KV_GET, kv.GetRequest(FIRST_EPOCH, b"k", LATEST), deadline_ms=0)
    assert isinstance(cluster.answer(late).detail, errors.DeadlineExceeded)
    garbage = cluster.send(leader, Kind.KV_GET, kv.GetReply(b"x"))
    assert isinstance(cluster.answer(garbage).detail, errors.MalformedFrame)
    far = Ts(LATEST - 1)
    future = cluster.send(leader, Kind.KV_GET, kv.GetRequest(FIRST_EPOCH, b"k", far))
    if isinstance(cluster.answer(future).detail, errors.ServerIsBusy):  # the oracle is asked first
        cluster.run(50)
        future = cluster.send(leader, Kind.KV_GET, kv.GetRequest(FIRST_EPOCH, b"k", far))
    assert isinstance(cluster.answer(future).detail, errors.InvalidArgument)
    assert cluster.core(leader).shard.peers[RegionId(1)].last_index == last
    assert not cluster.answer(cluster.put(leader, b"k", b"v")).refused


def test_a_timestamp_ahead_of_this_node_is_believed_if_the_oracle_is_ahead_too() -> None:
    """A wall clock that jumped a year ahead took the oracle with it; this node's clock did not."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(1500)
    cluster.oracle_ms += 365 * 24 * 3600 * 1000
    assert isinstance(cluster.answer(cluster.put(leader, b"k", b"v")).detail, errors.ServerIsBusy)
    cluster.run(50)
    assert not cluster.answer(cluster.put(leader, b"k", b"v")).refused


def test_a_pending_request_id_is_refused_on_the_same_connection_only() -> None:
    """S43."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.cut(leader)
    request = kv.GetRequest(FIRST_EPOCH, b"k", LATEST)
    cluster.run(1000)  # the lease is over, so the reads wait; the leader has not noticed yet that it is alone
    first = cluster.send(leader, Kind.KV_GET, request, request_id=9001)
    again = cluster.send(leader, Kind.KV_GET, request, request_id=9001)
    other = cluster.send(leader, Kind.KV_GET, request, request_id=9001, client=b"Cy")
    cluster.run(5)
    assert first == again
    assert [answer.detail for answer in cluster.answers[first]] == [errors.DuplicateRequest(9001)]
    assert other not in cluster.answers


def test_a_cut_off_leader_never_answers_an_old_value() -> None:
    """S25, M1, M2: whatever the moment, it answers the newest acknowledged value, refuses, or says nothing."""
    for after_ms in range(0, 2500, 250):
        cluster = Cluster(seed=after_ms + 1)
        old = cluster.leader()
        assert not cluster.answer(cluster.put(old, b"k", b"old")).refused
        cluster.value(cluster.answer(cluster.get(old, b"k")))  # takes a lease
        cluster.cut(old)
        cluster.run(after_ms)
        new = cluster.leader(among=iter(others(cluster, old)))
        assert not cluster.answer(cluster.put(new, b"k", b"new")).refused
        token = cluster.get(old, b"k")
        cluster.run(4000)
        answers = cluster.answers.get(token, [])
        assert all(answer.refused or cluster.value(answer) == b"new" for answer in answers)


def test_a_leader_that_was_stopped_does_not_answer_from_the_past() -> None:
    """R4: SIGSTOP of the leader, a new leader, a new value, SIGCONT: the waiting read must not see the old one."""
    cluster = Cluster()
    old = cluster.leader()
    cluster.answer(cluster.put(old, b"k", b"old"))
    cluster.value(cluster.answer(cluster.get(old, b"k")))
    cluster.stores[StoreId(old)].paused = True
    new = cluster.leader(among=iter(others(cluster, old)))
    cluster.answer(cluster.put(new, b"k", b"new"))
    token = cluster.get(old, b"k")
    cluster.stores[StoreId(old)].paused = False
    cluster.run(4000)
    assert all(a.refused or cluster.value(a) == b"new" for a in cluster.answers.get(token, []))


def test_proposals_of_a_lost_leader_are_answered_at_once() -> None:
    """M9: with the lost leadership, not with the deadline; the outcome is unknown, the remedy is to ask again."""
    cluster = Cluster()
    old = cluster.leader()
    cluster.cut(old)
    token = cluster.put(old, b"k", b"v")
    cluster.run(50)
    assert token not in cluster.answers
    cluster.leader(among=iter(others(cluster, old)))
    cluster.heal()
    assert isinstance(cluster.answer(token, within_ms=1500).detail, errors.OutcomeUnknown)


def test_a_repeated_write_is_applied_once() -> None:
    """Exactly-once: the same start_ts through two leaders finds its own commit."""
    cluster = Cluster()
    leader = cluster.leader()
    mutation = kv.Mutation(kv.MutationOp.PUT, b"k", b"v")
    request = kv.OnePhaseRequest(FIRST_EPOCH, (mutation,), cluster.timestamp(), True)
    first = cluster.answer(cluster.send(leader, Kind.KV_ONE_PHASE, request))
    assert not cluster.answer(cluster.put(leader, b"k", b"later")).refused
    again = cluster.answer(cluster.send(leader, Kind.KV_ONE_PHASE, request))
    assert first.frame.body == again.frame.body
    assert cluster.value(cluster.answer(cluster.get(leader, b"k"))) == b"later"


def test_without_a_majority_writes_end_as_unknown_in_time() -> None:
    """S27."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.cut(leader)
    token = cluster.put(leader, b"k", b"v")
    assert isinstance(cluster.answer(token, within_ms=3500).detail, errors.OutcomeUnknown)


def test_a_new_leader_writes_nothing_before_the_oracle_has_lifted_it() -> None:
    """A snapshot read answered by the old leader must stay as it was: commit timestamps start above it."""
    cluster = Cluster()
    old = cluster.leader()
    cluster.answer(cluster.put(old, b"k", b"1"))
    start_ts = cluster.timestamp()  # issued before the snapshot
    snapshot = cluster.timestamp()
    assert cluster.value(cluster.answer(cluster.get(old, b"k", ts=snapshot))) == b"1"
    cluster.oracle_answers = False
    cluster.crash(old)
    rest = others(cluster, old)
    cluster.until(lambda: any(cluster.core(i).shard.peers[RegionId(1)].serves_reads for i in rest))
    new = next(i for i in rest if cluster.core(i).shard.peers[RegionId(1)].leads)
    mutation = kv.Mutation(kv.MutationOp.PUT, b"k", b"2")
    request = kv.OnePhaseRequest(FIRST_EPOCH, (mutation,), start_ts, True)
    token = cluster.send(new, Kind.KV_ONE_PHASE, request)
    cluster.run(500)
    assert token not in cluster.answers
    cluster.oracle_answers = True
    reply = kv.REPLY_DECODERS[Kind.KV_ONE_PHASE].decode(cluster.answer(token).frame.body)
    assert isinstance(reply, kv.OnePhaseReply)
    assert reply.commit_ts > snapshot
    assert cluster.value(cluster.answer(cluster.get(new, b"k", ts=snapshot))) == b"1"


def test_a_restarted_voter_keeps_out_of_elections_for_an_election_timeout() -> None:
    """It may have acknowledged the leader's lease and has forgotten: it must not help to elect another one."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(300)
    a, b = others(cluster, leader)
    term = cluster.core(leader).shard.peers[RegionId(1)].term
    cluster.value(cluster.answer(cluster.get(leader, b"k")))  # lease granted by a and b
    cluster.cut(leader)
    for follower in (a, b):
        cluster.crash(follower)
        cluster.restart(follower)
    cluster.until(lambda: all(RegionId(1) in cluster.core(i).shard.peers for i in (a, b)))
    cluster.core(a).shard.peers[RegionId(1)].node.campaign()
    cluster.core(a).shard.touch(cluster.core(a).shard.peers[RegionId(1)])
    cluster.run(800)
    assert all(cluster.core(i).shard.peers[RegionId(1)].term == term for i in (a, b))
    assert cluster.leader(among=iter((a, b))) in (a, b)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_acknowledged_is_lost_when_all_stores_lose_power(seed: int) -> None:
    """S33: at a random moment under writes; the logs' tails are torn, the engines fall back to their checkpoints."""
    cluster = Cluster(seed=seed)
    acknowledged: dict[bytes, bytes] = {}
    for round_ in range(3):
        leader = cluster.leader()
        tokens = {}
        for n in range(20):
            key = b"%d.%d" % (round_, n)
            tokens[cluster.put(leader, key, key)] = key
            cluster.run(cluster.rng.randrange(3))
            if n == 10 and cluster.rng.random() < 0.5:
                cluster.checkpoint(leader)
        acknowledged |= {
            key: key
            for token, key in tokens.items()
            if token in cluster.answers and not cluster.answers[token][0].refused
        }
        for store_id in (1, 2, 3):
            cluster.crash(store_id)
        for store_id in (1, 2, 3):
            cluster.restart(store_id)
    leader = cluster.leader()
    for key, value in acknowledged.items():
        assert cluster.value(cluster.answer(cluster.get(leader, key))) == value
    assert acknowledged
    cluster.run(500)
    assert len({core.shard.peers[RegionId(1)].applied for core in map(cluster.core, (1, 2, 3))}) == 1
    tables = [list(cluster.stores[StoreId(i)].engine.scan(2, b"", b"")) for i in (1, 2, 3)]
    assert tables[0] == tables[1] == tables[2]


def test_a_replica_that_vanished_is_not_made_again() -> None:
    """A voter that forgot its votes is dangerous; the manifest knows that there was one."""
    from nokv.storage.disk import MemoryDisk
    from nokv.storage.engine import CorruptionError
    from nokv.storage.memory_engine import MemoryEngine

    cluster = Cluster()
    cluster.leader()
    cluster.run(300)  # the workers' heartbeats confirm their replicas
    cluster.crash(2)
    store = cluster.stores[StoreId(2)]
    store.engine, store.disk = MemoryEngine(), MemoryDisk()
    cluster.restart(2)
    with pytest.raises(CorruptionError, match="must not start empty"):
        cluster.run(500)


def test_a_full_disk_refuses_writes_takes_deletes_and_clears_by_itself() -> None:
    """M46, M49."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.answer(cluster.put(leader, b"k", b"v"))
    cluster.core(leader).set_disk(free_bytes=1, full=True)
    assert isinstance(cluster.answer(cluster.put(leader, b"k", b"w")).detail, errors.DiskFull)
    assert cluster.value(cluster.answer(cluster.get(leader, b"k"))) == b"v"
    delete = kv.OnePhaseRequest(FIRST_EPOCH, (kv.Mutation(kv.MutationOp.DELETE, b"k"),), cluster.timestamp(), True)
    assert not cluster.answer(cluster.send(leader, Kind.KV_ONE_PHASE, delete)).refused
    cluster.core(leader).set_disk(free_bytes=1 << 40, full=False)
    assert not cluster.answer(cluster.put(leader, b"k", b"w")).refused


def test_one_peer_that_is_gone_delays_nobody() -> None:
    """M15, M16."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.crash(others(cluster, leader)[0])
    assert not cluster.answer(cluster.put(leader, b"k", b"v"), within_ms=100).refused


def test_hostile_peer_messages_change_nothing() -> None:
    """S17, I5: garbage, unknown regions, unknown peers, absurd terms for other replicas."""
    from nokv.proto.frame import encode
    from nokv.proto.raft import Message, MessageType, encode_message

    cluster = Cluster()
    leader = cluster.leader()
    core = cluster.core(leader)
    term = core.shard.peers[RegionId(1)].term
    stray = encode_message(Message(type=MessageType.APP, to=9999, sender=1, term=term))
    for body, region_id in ((b"garbage", 1), (stray, 1), (stray, 77)):
        core.receive(b"P", encode(Kind.RAFT, 0, region_id, body), cluster.now_ms)
    assert core.shard.statistics.peer_frames_refused == 3
    assert not cluster.answer(cluster.put(leader, b"k", b"v")).refused


def test_leadership_is_handed_over_on_request_and_reads_stay_right() -> None:
    """M2: no lease in a term in which a transfer was begun."""
    from nokv.proto.control import TransferLeaderRequest

    cluster = Cluster()
    old = cluster.leader()
    cluster.answer(cluster.put(old, b"k", b"v"))
    target = others(cluster, old)[0]
    assert not cluster.answer(cluster.send(old, Kind.TRANSFER_LEADER, TransferLeaderRequest(StoreId(target)))).refused
    assert (
        not cluster.core(old)
        .shard.peers[RegionId(1)]
        .lease.valid(cluster.core(old).shard.peers[RegionId(1)].term, cluster.now_ms)
    )
    cluster.until(lambda: cluster.core(target).shard.peers[RegionId(1)].leads, within_ms=2000)


def test_the_same_seed_gives_the_same_run() -> None:
    def fingerprint() -> list[object]:
        cluster = Cluster(seed=3)
        leader = cluster.leader()
        cluster.answer(cluster.put(leader, b"k", b"v"))
        cluster.crash(leader)
        cluster.run(3000)
        return [cluster.core(i).shard.peers[RegionId(1)].status() for i in others(cluster, leader)]

    assert fingerprint() == fingerprint()
