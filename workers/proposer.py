"""Proposer: writes of one group on their way into its log.

Why: what arrives in one turn becomes one entry, and whoever leads must give each one-phase write a commit timestamp
that no answered read and no issued start_ts can contradict.
Invariants:
- Commit timestamps are above every timestamp at which this leader answered a snapshot read, and after `lift` above
  everything any leader before it answered; and below every timestamp the oracle will issue from now on (`ts_limit`).
- Nothing is proposed before `lift`: a new leader does not know what its predecessors have answered.
- A write ends once: in a proposal's waiters, or refused.
- At most one small entry is under way (as Nagle's algorithm does with packets): what arrives meanwhile makes the next
  one, so under load entries are as full as the round trip is long, and an idle group proposes at once.
Not here: waiting for the outcome (pipeline.py), whether this replica leads (peer.py), the checks before (admission.py).
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from nokv.config import NodeConfig
from nokv.proto import command, errors
from nokv.proto.ids import TS_STEP, Incarnation, LogIndex, RegionId, Ts
from nokv.proto.region import RegionEpoch
from nokv.raft import ProposalDropped, RawNode
from nokv.workers.pipeline import Pipeline, Waiter


class Gathered:
    """A write that waits to be proposed.

    `start_ts` 0: it has none. `assign`: the leader chooses its commit timestamp.
    """

    __slots__ = ("assign", "frame", "start_ts", "waiter")

    def __init__(self, waiter: Waiter, frame: bytes, start_ts: Ts, assign: bool) -> None:
        self.waiter = waiter
        self.frame = frame
        self.start_ts = start_ts
        self.assign = assign


_start_ts: Final = attrgetter("start_ts")


class Proposer:
    """Gathers writes and proposes them. Times are monotonic milliseconds."""

    def __init__(self, config: NodeConfig, region_id: RegionId, node: RawNode, incarnation: Incarnation) -> None:
        self._limits: Final = config.limits
        self._eager_bytes: Final = config.raft.proposal_eager_bytes
        self._region_id: Final = region_id
        self._node: Final = node
        self._incarnation: Final = incarnation
        self.pipeline: Final = Pipeline(incarnation=incarnation, proposals_max=config.raft.proposals_inflight_max)

        self.lifted = False
        self._gathered: list[Gathered] = []
        self._gathered_bytes = 0
        self._max_read_ts = Ts(0)  # highest timestamp a snapshot read was answered at
        self.max_known_ts = Ts(0)
        """Highest timestamp known to have been issued."""

        self.proposals = 0

    def __len__(self) -> int:
        return len(self._gathered)

    # ---- what comes in ---------------------------------------------------------------------------------------------

    def offer(
        self, waiter: Waiter, frame: bytes, start_ts: Ts, *, assign: bool, looks: bool
    ) -> errors.ErrorDetail | None:
        """Take a validated write, or say why not. See Peer.offer_write."""
        if len(self._gathered) >= self._limits.proposals_max:
            return errors.ServerIsBusy("proposals_max")
        if len(frame) > self._limits.entry_bytes_max:
            return errors.EntryTooLarge(self._region_id, self._limits.entry_bytes_max, len(frame))
        self.max_known_ts = max(self.max_known_ts, start_ts)
        if looks:
            self._max_read_ts = max(self._max_read_ts, start_ts)
        self._gathered.append(Gathered(waiter, frame, start_ts, assign))
        self._gathered_bytes += len(frame)
        return None

    def note_read(self, ts: Ts) -> None:
        """A snapshot read at `ts` was admitted: what it sees must stay as it is."""
        self._max_read_ts = max(self._max_read_ts, ts)
        self.max_known_ts = max(self.max_known_ts, ts)

    def lift(self, ts: Ts) -> None:
        """The oracle issued `ts` after this replica became leader: no earlier leader answered a read above it."""
        self.lifted = True
        self.note_read(ts)

    # ---- what goes out ---------------------------------------------------------------------------------------------

    def propose(self, epoch: RegionEpoch) -> list[Waiter]:
        """Turn gathered writes into as few entries as fit, as far as the pipeline has room; returns who was refused."""
        refused: list[Waiter] = []
        while self._gathered and self._may_propose():
            batch = self._next_batch()
            if not self._propose(batch, epoch):
                refused += [write.waiter for write in batch]
        return refused

    def _may_propose(self) -> bool:
        if not self.lifted or self.pipeline.full:
            return False
        return not len(self.pipeline) or self._gathered_bytes >= self._eager_bytes

    def propose_control(self, body: bytes, waiter: Waiter | None) -> bool:
        """Propose one control command of group 0. False: not now."""
        return not self.pipeline.full and self._enter(command.CONTROL, body, (waiter,) if waiter else ())

    def propose_compaction(self, floor: LogIndex) -> bool:
        """Propose that logs may begin behind `floor`. False: not now."""
        return not self.pipeline.full and self._enter(command.COMPACT, command.encode_index(floor), ())

    def _enter(self, marker: int, body: bytes, waiters: Sequence[Waiter]) -> bool:
        sequence = self.pipeline.next_sequence()
        origin = command.Origin(marker, self._incarnation, sequence, 0, 0, Ts(0))
        return self._hand_over(sequence, command.encode_origin(origin) + body, waiters)

    def _propose(self, batch: list[Gathered], epoch: RegionEpoch) -> bool:
        """One entry for the whole batch, commit timestamps assigned. False: Raft does not take proposals now.

        Requests of one turn are concurrent, so their order is free: by start_ts, each gets a slot of its own
        (proto.ids.TS_STEP) and writes of one key seldom have to be moved up.
        """
        batch.sort(key=_start_ts)
        floor = self._max_read_ts
        commands = [(max(write.start_ts, floor) + 1 if write.assign else 0, write.frame) for write in batch]
        sequence = self.pipeline.next_sequence()
        ts_limit = Ts(self.max_known_ts + TS_STEP - 1)
        origin = command.Origin(command.COMMANDS, self._incarnation, sequence, epoch.version, epoch.conf_ver, ts_limit)
        return self._hand_over(sequence, command.encode_commands(origin, commands), [w.waiter for w in batch])

    def _hand_over(self, sequence: int, data: bytes, waiters: Sequence[Waiter]) -> bool:
        try:
            self._node.propose(data)
        except ProposalDropped:
            return False
        self.pipeline.add(sequence, waiters)
        self.proposals += 1
        return True

    def _next_batch(self) -> list[Gathered]:
        """The longest run of gathered writes that makes one entry of about `entry_batch_bytes`."""
        limit, gathered = self._limits.entry_batch_bytes, self._gathered
        if self._gathered_bytes <= limit:
            self._gathered, self._gathered_bytes = [], 0
            return gathered
        taken, size = 0, 0
        for write in gathered:
            if taken and size + len(write.frame) > limit:
                break
            size += len(write.frame)
            taken += 1
        self._gathered, self._gathered_bytes = gathered[taken:], self._gathered_bytes - size
        return gathered[:taken]

    # ---- what ends otherwise ---------------------------------------------------------------------------------------

    def give_back(self) -> list[Waiter]:
        """Everybody whose write was not proposed; they are no longer gathered."""
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        return [write.waiter for write in gathered]

    def expire(self, now_ms: int) -> list[Waiter]:
        """Those whose time was over before their write was proposed."""
        late = [write.waiter for write in self._gathered if write.waiter.deadline_ms <= now_ms]
        if late:
            self._gathered = [write for write in self._gathered if write.waiter.deadline_ms > now_ms]
            self._gathered_bytes = sum(len(write.frame) for write in self._gathered)
        return late
