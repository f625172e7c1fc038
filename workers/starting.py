"""Starting a replica from what is on disk, or from nothing where nothing was ever confirmed.

Why: a replica that silently starts empty although it once voted can elect two leaders; a replica that refuses to start
when it was only half made would need a person. Which of the two it is, the manifest knows.
Invariants:
- An empty replica is made only if its seed is fresh, and it is durable before its peer takes part in anything.
- The log holds everything above the checkpointed applied index, or the replica does not start.
- A raised commit index is never lowered: what was applied was committed, even if the lazily written commit mark is
  older.
Not here: which regions belong to this worker (nokv.manifest.catalog).
"""

from random import Random
from typing import Final

import msgspec

from nokv.config import NodeConfig, election_timeout_ms
from nokv.proto.ids import Incarnation, LogIndex, PeerId, StoreId, Term, WorkerId
from nokv.proto.raft import ConfState, HardState
from nokv.proto.region import PeerRole, Region
from nokv.raft import Config, RawNode
from nokv.storage import keys
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine
from nokv.storage.raft_log import RaftLog
from nokv.workers.machine import Machine
from nokv.workers.peer import APPLY_STATE, Peer

FIRST_LEADER_TICKS: Final = 30
"""How long a new region's first leader asks for votes: the other stores may be seconds behind in starting."""

_encode_region: Final = msgspec.msgpack.Encoder().encode
_decode_region: Final = msgspec.msgpack.Decoder(Region).decode


def conf_state_of(region: Region) -> ConfState:
    """The Raft membership that a region's peers make."""
    voters = tuple(sorted(peer.id for peer in region.peers if peer.role is PeerRole.VOTER))
    learners = tuple(sorted(peer.id for peer in region.peers if peer.role is PeerRole.LEARNER))
    return ConfState(voters=voters, learners=learners)


def stored_region(engine: Engine, region: Region) -> Region | None:
    """The region as this engine has it, or None if it has no replica of it."""
    found = engine.get(ColumnFamily.META, keys.region_state_key(region.id))
    return None if found is None else _decode_region(found)


def stored_applied(engine: Engine, region: Region) -> tuple[LogIndex, Term]:
    """Index and term of the last entry whose effect is in the engine."""
    found = engine.get(ColumnFamily.META, keys.apply_state_key(region.id))
    if found is None:
        raise CorruptionError(f"region {region.id} has a description but no apply state")
    index, term = APPLY_STATE.unpack(found)
    return LogIndex(index), Term(term)


def make_replica(engine: Engine, log: RaftLog, region: Region) -> None:
    """An empty replica in the engine's open transaction and the log's buffer; the caller makes both durable."""
    engine.put(ColumnFamily.META, keys.region_state_key(region.id), _encode_region(region))
    engine.put(ColumnFamily.META, keys.apply_state_key(region.id), APPLY_STATE.pack(0, 0))
    log.set_conf_state(conf_state_of(region))


def check_log(log: RaftLog, applied: LogIndex) -> None:
    """Refuse a log that does not reach what the engine has applied, and repair a commit mark that was not synced.

    Raises:
        CorruptionError: entries are missing; the replica must be rebuilt from the others.
    """
    log.check_applied(applied)
    hard_state, _conf_state = log.initial_state()
    if hard_state.commit < applied:
        log.set_hard_state(HardState(hard_state.term, hard_state.vote, applied))


def make_node(config: NodeConfig, peer_id: PeerId, log: RaftLog, applied: LogIndex, rng: Random) -> RawNode:
    """The Raft core of a replica, with asynchronous storage writes."""
    raft = config.raft
    return RawNode(
        Config(
            id=peer_id,
            election_tick=raft.election_ticks,
            heartbeat_tick=raft.heartbeat_ticks,
            storage=log,
            applied=applied,
            async_storage_writes=True,
            max_size_per_msg=raft.max_message_bytes,
            max_committed_size_per_ready=raft.max_committed_bytes,
            max_uncommitted_entries_size=raft.uncommitted_bytes,
            max_inflight_msgs=raft.max_inflight,
            check_quorum=True,
            pre_vote=True,
            disable_proposal_forwarding=True,
            step_down_on_removal=True,
            rng=rng,
        )
    )


def start_peer(
    *,
    config: NodeConfig,
    engine: Engine,
    log: RaftLog,
    machine: Machine,
    worker_id: WorkerId,
    incarnation: Incarnation,
    fresh: bool,
    now_ms: int,
    rng: Random,
    first_leader: bool = False,
) -> Peer:
    """This store's replica of `machine.region`, which the engine has.

    A voter that is not fresh keeps out of elections for one election timeout: the leader may hold a lease that this
    replica granted before it restarted. A lone voter has nobody to grant anything to, and campaigns at once.
    `first_leader`: the topology names this store to lead a region that nobody has led yet.

    Raises:
        CorruptionError: the log does not reach what the engine has applied.
    """
    region, store_id = machine.region, StoreId(config.node.store_id)
    replica = region.peer_on(store_id)
    assert replica is not None, f"{region.describe()} has no replica on store {store_id}"
    applied, applied_term = stored_applied(engine, region)
    check_log(log, applied)
    alone = len(region.peers) == 1
    node = make_node(config, replica.id, log, applied, rng)
    if alone:
        node.campaign()
    return Peer(
        config=config,
        store_id=store_id,
        worker_id=worker_id,
        peer_id=replica.id,
        node=node,
        log=log,
        machine=machine,
        engine=engine,
        applied=applied,
        applied_term=applied_term,
        incarnation=incarnation,
        campaign_ticks=FIRST_LEADER_TICKS if fresh and first_leader else 0,
        vote_grace_until_ms=0 if fresh or alone else now_ms + election_timeout_ms(config.raft),
    )
