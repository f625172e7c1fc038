"""Peer: one replica of one group, from the raw Raft node to the applied state.

Why: everything that belongs to one group is decided in one place: what it proposes, what it hands to the log, what it
applies, who gets which answer, and what happens to them when leadership is lost.
Invariants:
- A message that promises durability leaves only after the log record it promises was synced (kept in `unsynced`).
- Epoch and leadership are checked when a command is offered, the epoch again when it is applied.
- Every offered request is answered once: result, refusal, or OutcomeUnknown after it was proposed.
- A restarted voter keeps out of elections for one election timeout: it may have promised a leader to, and has
  forgotten.
Not here: the log's bytes (nokv.storage), the order of a turn (shard.py), the effect of commands (machine.py).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct as Layout
from typing import Final

from nokv.config import NodeConfig, lease_ms
from nokv.proto import command, errors
from nokv.proto.control import PeerTsoRequest, RegionStatus
from nokv.proto.control import encode_body as encode_control
from nokv.proto.frame import Kind, encode
from nokv.proto.ids import LATEST, Incarnation, LogIndex, PeerId, StoreId, Term, Ts, WorkerId
from nokv.proto.raft import Entry, EntryType, HardState, Message, MessageType, encode_message
from nokv.proto.region import PeerRole, Region
from nokv.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, RawNode, Role, StepError, StepPeerNotFound
from nokv.storage import keys
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.raft_log import RaftLog
from nokv.workers.lease import Lease
from nokv.workers.machine import Machine, Result, as_result
from nokv.workers.pipeline import Waiter
from nokv.workers.proposer import Proposer
from nokv.workers.reads import PendingRead, ReadQueue
from nokv.workers.turn import TO_MANIFEST, Turn

APPLY_STATE: Final = Layout(">QQ")
"""Value of META apply state: applied index, term of the entry at that index."""

LIFT_RETRY_TICKS: Final = 3
"""Ticks between two requests for the timestamp a new leader needs: group 0 may be electing too."""


ORACLE_NEWS_MS: Final = 1000
"""How long an answer of the oracle counts as its present."""

CAMPAIGN_EVERY_TICKS: Final = 3
"""Distance of a first leader's attempts; each costs one round of pre-votes, which disturb nobody."""

FROM_PEERS: Final = frozenset(
    {
        MessageType.APP,
        MessageType.APP_RESP,
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESP,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESP,
        MessageType.TIMEOUT_NOW,
    }
)
"""What replicas of this version say to each other.

Proposals and reads are never forwarded; snapshots do not exist yet.
"""


class Peer:
    """One replica. Times are monotonic milliseconds; frames and messages are bytes as proto describes them."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        store_id: StoreId,
        worker_id: WorkerId,
        peer_id: PeerId,
        node: RawNode,
        log: RaftLog,
        machine: Machine,
        engine: Engine,
        applied: LogIndex,
        applied_term: Term,
        incarnation: Incarnation,
        vote_grace_until_ms: int,
        campaign_ticks: int = 0,
    ) -> None:
        """`campaign_ticks`: so long it campaigns again and again while no leader is known."""
        self.peer_id: Final = peer_id
        self.region_id: Final = machine.region.id
        self._config: Final = config
        self._store_id: Final = store_id
        self._worker_id: Final = worker_id
        self._vote_grace_until_ms: Final = vote_grace_until_ms

        self.node: Final = node
        self.log: Final = log
        self.machine: Final = machine
        self._engine: Final = engine
        self.lease: Final = Lease(length_ms=lease_ms(config.raft))
        self.proposer: Final = Proposer(config, machine.region.id, node, incarnation)
        self.pipeline: Final = self.proposer.pipeline
        self.reads: Final = ReadQueue(self.lease)

        # mirrors of what is durable or on its way to be
        self.applied = applied
        self.applied_term = applied_term
        self.checkpointed = applied
        self.last_index = log.last_index()

        # volatile
        self.term = Term(0)
        self.leader = PeerId(0)
        self.leads = False
        self.commit = applied
        self._to_apply: list[Message] = []
        self._unsynced: list[tuple[int, Message]] = []
        self._new_responses: list[Message] = []
        self._held: dict[PeerId, Message] = {}
        self._campaign_ticks = campaign_ticks
        self._lift_wait_ticks = 0
        self._oracle_answered_ms = -ORACLE_NEWS_MS
        self._compact_floor = LogIndex(0)
        self.changed = True

        # counters
        self.applied_entries = 0
        self._note_state()

    # ---- what this replica is --------------------------------------------------------------------------------------

    @property
    def region(self) -> Region:
        """The group's description as applied so far."""
        return self.machine.region

    @property
    def serves_reads(self) -> bool:
        """Leading, and the first entry of this term is applied: so is everything acknowledged in earlier terms."""
        return self.leads and self.applied_term == self.term

    @property
    def lifted(self) -> bool:
        """Leading, and group 0 has granted this term its first timestamp: writes are proposed."""
        return self.leads and self.proposer.lifted

    def status(self) -> RegionStatus:
        """This replica for status, heartbeats and tools."""
        return RegionStatus(
            region=self.region,
            peer_id=self.peer_id,
            worker_id=self._worker_id,
            role=self.node.basic_status().role.name.lower(),
            leader_peer=self.leader,
            term=self.term,
            commit=self.commit,
            applied=self.applied,
            first_index=self.log.first_index(),
            last_index=self.last_index,
            pending_proposals=len(self.pipeline),
        )

    def not_leader(self) -> errors.NotLeader:
        """The refusal that sends a caller to the leader, if one is known."""
        peer = self.region.peer(self.leader)
        return errors.NotLeader(self.region_id, peer.store_id if peer else StoreId(0), self.leader)

    # ---- offered work ----------------------------------------------------------------------------------------------

    def offer_write(
        self, waiter: Waiter, frame: bytes, start_ts: Ts, *, assign: bool, looks: bool
    ) -> errors.ErrorDetail | None:
        """Take a validated write to be proposed at the end of the turn, or say why not.

        `assign`: this leader must choose its commit timestamp. `looks`: what it finds at `start_ts` must stay true,
        so it counts as a snapshot read there.
        """
        if not self.leads:
            return self.not_leader()
        return self.proposer.offer(waiter, frame, start_ts, assign=assign, looks=looks)

    def offer_read(
        self, address: bytes, request_id: int, kind: int, request: object, ts: Ts, deadline_ms: int
    ) -> errors.ErrorDetail | None:
        """Take a read at `ts` whose epoch and range were checked, or say why not.

        A snapshot read fixes what later one-phase writes may do (their timestamps go above it) and waits for those
        already proposed, which may lie below it. A read at LATEST is linearizable without either.
        """
        if not self.leads:
            return self.not_leader()
        wait_index = LogIndex(0)
        if ts != LATEST:
            self.proposer.note_read(ts)
            if len(self.pipeline):
                wait_index = self.last_index
        self.reads.add(PendingRead(address, request_id, kind, request, deadline_ms, wait_index, self.lease.next_round))
        return None

    def lift(self, ts: Ts, term: Term, now_ms: int) -> None:
        """Group 0's answer to this leader: every timestamp issued before this term's request is below `ts`."""
        if self.leads and term == self.term:
            self.proposer.lift(ts)
            self._oracle_answered_ms = now_ms

    def asked_oracle_lately(self, now_ms: int) -> bool:
        """Whether the oracle has answered this leader so lately that a timestamp ahead of its answer is not its own."""
        return now_ms - self._oracle_answered_ms < ORACLE_NEWS_MS

    def transfer_leader(self, to_store: StoreId) -> errors.ErrorDetail | None:
        """Begin to hand the leadership to the replica on `to_store`."""
        if not self.leads:
            return self.not_leader()
        target = self.region.peer_on(to_store)
        if target is None:
            return errors.InvalidArgument("to_store", f"region {self.region_id} has no replica on store {to_store}")
        if target.id != self.peer_id:
            self.lease.void(self.term)
            self.node.transfer_leader(target.id)
        return None

    def best_successor(self) -> StoreId | None:
        """The store whose voter has most of the log, among the others; None if there is none."""
        matches = self.node.match_indexes()
        voters = [peer for peer in self.region.peers if peer.role is PeerRole.VOTER and peer.id != self.peer_id]
        if not voters:
            return None
        return max(voters, key=lambda peer: (matches.get(peer.id, 0), -peer.id)).store_id

    # ---- Raft input ------------------------------------------------------------------------------------------------

    def step(self, message: Message, now_ms: int) -> bool:
        """Take a message of another replica. False: it was refused or ignored, and nothing changed."""
        if message.to != self.peer_id or message.type not in FROM_PEERS or message.sender == self.peer_id:
            return False  # what claims to come from ourselves would pass for a promise that our own disk has made
        if now_ms < self._vote_grace_until_ms and message.type in (MessageType.VOTE, MessageType.PRE_VOTE):
            return False
        try:
            self.node.step(message)
        except StepError:
            return False
        return True

    def tick(self, turn: Turn, now_ms: int) -> None:
        """One logical tick, and whoever has waited too long gets an answer."""
        self.node.tick()
        if self._campaign_ticks:
            self._campaign_ticks = 0 if self.leader else self._campaign_ticks - 1
            if self._campaign_ticks % CAMPAIGN_EVERY_TICKS == 1:
                self.node.campaign()
        self._expire(turn, now_ms)
        if self._held:
            self._send_held(turn)
        if self.leads:
            self._propose_compaction()
        if self.leads and not self.proposer.lifted:
            self._lift_wait_ticks -= 1
            if self._lift_wait_ticks <= 0:
                self._ask_lift(turn)

    def synced(self, position: int, turn: Turn) -> bool:
        """The log is durable up to `position`: release what was promised behind it. True if anything was."""
        unsynced = self._unsynced
        released = 0
        for at, message in unsynced:
            if at > position:
                break
            released += 1
            if message.to == self.peer_id:
                with suppress(StepPeerNotFound):  # it was removed while its own promise waited for the disk
                    self.node.step(message)
            else:
                self._send(message, turn)
        if released:
            del unsynced[:released]
        return released > 0

    # ---- a turn, step by step --------------------------------------------------------------------------------------

    def propose_gathered(self, turn: Turn, now_ms: int) -> None:
        """Turn gathered writes into as few entries as fit, as far as the pipeline has room."""
        proposer = self.proposer
        if not len(proposer):
            return
        if not self.leads:
            self._answer_all(proposer.give_back(), self.not_leader(), turn)
        elif self.commit - self.applied < self._config.limits.apply_backlog_entries_max:
            refused = proposer.propose(self.region.epoch)
            if refused:
                self._answer_all(refused, errors.ServerIsBusy("raft takes no proposals now"), turn)

    def propose_control(self, body: bytes, waiter: Waiter | None) -> bool:
        """Propose one control command (group 0). False: not now."""
        return self.leads and self.proposer.propose_control(body, waiter)

    def collect(self, turn: Turn) -> bool:
        """Carry out what the Raft node has ready. True if records were added to the log's buffer."""
        logged = False
        node = self.node
        while node.has_ready():
            ready = node.ready()
            if ready.soft_state is not None or ready.hard_state is not None:
                self._note_state(turn)
            for state in ready.read_states:
                self.reads.confirm(state.context, state.index)
            for message in ready.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    logged |= self._append(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    self._to_apply.append(message)
                else:
                    self._send(message, turn)
        return logged

    def stamp(self, position: int) -> None:
        """What `collect` logged since the last call is durable once the log is synced up to `position`."""
        if self._new_responses:
            self._unsynced.extend((position, message) for message in self._new_responses)
            self._new_responses.clear()

    def apply(self, turn: Turn) -> bool:
        """Apply what was committed. True if anything was, so that Raft has to be looked at again."""
        if not self._to_apply:
            return False
        messages, self._to_apply = self._to_apply, []
        for message in messages:
            for entry in message.entries:
                self._apply_entry(entry, turn)
            for response in message.responses:
                assert response.to == self.peer_id
                self.node.step(response)
        return True

    def serve_reads(self, turn: Turn, now_ms: int, clock_ms: Callable[[], int]) -> None:
        """Answer the reads that are proven, start a round for those that are not."""
        if not self.leads:
            return
        if self.serves_reads:
            leased, indexed = self.reads.take(self.term, self.applied, now_ms)
            if indexed:
                self._answer_reads(indexed, self._evaluate(indexed), turn)
                self.reads.by_index += len(indexed)
            if leased:
                frames = self._evaluate(leased)
                if self.reads.settle(leased, self.term, clock_ms):
                    self._answer_reads(leased, frames, turn)
                    self.reads.by_lease += len(leased)
                    if self.lease.wants_renewal(self.term, now_ms):
                        self._begin_round(now_ms)
        if self.reads.wants_round(self.term, now_ms):
            self._begin_round(now_ms)

    def write_apply_state(self) -> bool:
        """Put the applied index beside the data, in the transaction that a checkpoint is about to commit."""
        if self.applied == self.checkpointed:
            return False
        self._engine.put(
            ColumnFamily.META, keys.apply_state_key(self.region_id), APPLY_STATE.pack(self.applied, self.applied_term)
        )
        return True

    def checkpoint_done(self, applied: LogIndex) -> None:
        """Everything up to `applied` is in a synced checkpoint; the log may begin behind what all replicas have."""
        self.checkpointed = applied
        keep_from = min(applied, self._compact_floor) - self._config.raft.log_retain_entries
        if keep_from >= self.log.first_index():
            self.log.compact(LogIndex(keep_from))

    def _propose_compaction(self) -> None:
        """Let all logs begin behind what every replica has, once that saves a good part of a log.

        Snapshots of data do not exist yet, so a follower can only catch up from the log: the slowest one decides.
        """
        floor = min(self.node.match_indexes().values(), default=LogIndex(0))
        if floor - self._compact_floor >= self._config.raft.log_retain_entries:
            self.proposer.propose_compaction(floor)

    # ---- Raft output -----------------------------------------------------------------------------------------------

    def _append(self, message: Message) -> bool:
        """Buffer entries and hard state of one STORAGE_APPEND; its responses wait for the sync. False: no hurry.

        A commit index alone need not be durable: the log without it gives an older one, which is as true. It goes with
        the next record that has to.
        """
        assert message.snapshot is None, "no replica sends snapshots in this version"
        urgent = bool(message.entries or message.responses)
        if message.entries:
            self.log.append(message.entries)
            self.last_index = message.entries[-1].index
        if message.term or message.vote or message.commit:
            known, _conf_state = self.log.initial_state()
            urgent |= message.term != known.term or message.vote != known.vote
            self.log.set_hard_state(HardState(message.term, message.vote, message.commit))
        self._new_responses.extend(message.responses)
        return urgent

    def _send(self, message: Message, turn: Turn) -> None:
        """Send a Raft message, except that an append without entries is held back until the next tick.

        It only carries a commit index, which the next entries carry as well; followers may apply that little later.
        """
        if message.type is MessageType.APP:
            if not message.entries:
                self._held[message.to] = message
                return
            self._held.pop(message.to, None)
        self._address(message, turn)

    def _address(self, message: Message, turn: Turn) -> None:
        """Send a Raft message to the store of the replica it is for."""
        peer = self.region.peer(message.to)
        if peer is not None:
            turn.to_store(peer.store_id, encode(Kind.RAFT, 0, self.region_id, encode_message(message)))

    def _send_held(self, turn: Turn) -> None:
        """Nothing else has carried these commit indexes."""
        held, self._held = self._held, {}
        for message in held.values():
            if message.term == self.term:
                self._address(message, turn)

    def _note_state(self, turn: Turn | None = None) -> None:
        """Mirror term, leader and role; settle what hangs on the leadership when it ends or begins."""
        status = self.node.basic_status()
        self.commit = status.commit
        leads = status.role is Role.LEADER
        if status.term == self.term and leads == self.leads and status.lead == self.leader:
            return
        was_leader = self.leads
        new_term = status.term != self.term
        self.term, self.leader, self.leads = status.term, status.lead, leads
        self.changed = True
        if turn is None:
            return
        if was_leader and (not leads or new_term):
            self._lose_leadership(turn)
        if leads and (not was_leader or new_term):
            self._ask_lift(turn)

    def _lose_leadership(self, turn: Turn) -> None:
        """Answer everybody at once: what was proposed may still commit under the next leader, the rest never will."""
        self.lease.drop()
        self.proposer.lifted = False
        self._answer_all(self.pipeline.abandon(), errors.OutcomeUnknown(self.region_id), turn)
        refusal = self.not_leader()
        self._answer_all(self.proposer.give_back(), refusal, turn)
        for read in self.reads.abandon():
            self._answer_error(read.address, read.request_id, refusal, turn)

    def _ask_lift(self, turn: Turn) -> None:
        """A new leader proposes nothing before the oracle has answered it."""
        self.proposer.lifted = not self.machine.needs_lift
        if self.proposer.lifted:
            return
        self._lift_wait_ticks = LIFT_RETRY_TICKS
        self.ask_oracle(turn)

    def ask_oracle(self, turn: Turn) -> None:
        """Ask group 0 for a timestamp, through this node's manifest; the answer comes to `lift`."""
        request = PeerTsoRequest(self._store_id, self.region_id, self.term)
        turn.local.append((TO_MANIFEST, encode(Kind.PEER_TSO, 0, 0, encode_control(request))))

    def _begin_round(self, now_ms: int) -> None:
        context = self.lease.begin_round(self.term, now_ms)
        if context is not None:
            self.node.read_index(context)

    # ---- applying --------------------------------------------------------------------------------------------------

    def _apply_entry(self, entry: Entry, turn: Turn) -> None:
        """One committed entry: its effect, the waiters' answers, and the applied index, in this order."""
        assert entry.index == self.applied + 1, f"entry {entry.index} follows {self.applied}"
        if entry.type is EntryType.NORMAL and entry.data:
            try:
                self._apply_data(entry.data, turn)
            except command.EntryError:
                self.machine.refused += 1  # every replica refuses it alike; the group lives on
        self.applied = entry.index
        self.applied_term = entry.term
        self.applied_entries += 1

    def _apply_data(self, data: bytes, turn: Turn) -> None:
        origin = command.decode_origin(data)
        if origin.marker == command.COMPACT:
            self._compact_floor = max(self._compact_floor, command.compact_index_of(data))
            return
        waiters = self.pipeline.complete(origin.incarnation, origin.sequence)
        results: list[Result] = self.machine.apply(origin, data, answer=bool(waiters))
        if not waiters:
            return
        assert len(waiters) == len(results)
        region_id = self.region_id
        for waiter, (kind, body) in zip(waiters, results, strict=True):
            if waiter.address:
                turn.reply(waiter.address, waiter.request_id, encode(kind, waiter.request_id, region_id, body))

    # ---- answering -------------------------------------------------------------------------------------------------

    def _evaluate(self, reads: Sequence[PendingRead]) -> list[bytes]:
        """Reply frames of proven reads; b"" where the machine has no answer yet."""
        frames: list[bytes] = []
        for read in reads:
            outcome = self.machine.read(read.request)
            if outcome is None:
                frames.append(b"")
                continue
            kind, body = as_result(outcome)
            frames.append(encode(kind, read.request_id, self.region_id, body))
        return frames

    def _answer_reads(self, reads: Sequence[PendingRead], frames: Sequence[bytes], turn: Turn) -> None:
        """Let the answers go; reads without one go back into the queue."""
        later: list[PendingRead] = []
        for read, frame in zip(reads, frames, strict=True):
            if frame:
                turn.reply(read.address, read.request_id, frame)
            else:
                later.append(read)
        if later:
            self.reads.put_back(later)

    def _expire(self, turn: Turn, now_ms: int) -> None:
        """Answer what has waited longer than it may."""
        self._answer_all(self.pipeline.expire(now_ms), errors.OutcomeUnknown(self.region_id), turn)
        self._answer_all(self.proposer.expire(now_ms), errors.DeadlineExceeded("propose"), turn)
        for read in self.reads.expire(now_ms):
            self._answer_error(read.address, read.request_id, errors.DeadlineExceeded("read"), turn)

    def _answer_all(self, waiters: Sequence[Waiter], detail: errors.ErrorDetail, turn: Turn) -> None:
        for waiter in waiters:
            self._answer_error(waiter.address, waiter.request_id, detail, turn)

    def _answer_error(self, address: bytes, request_id: int, detail: errors.ErrorDetail, turn: Turn) -> None:
        turn.reply(address, request_id, encode(Kind.ERROR, request_id, self.region_id, errors.encode_error(detail)))
