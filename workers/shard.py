"""Shard: every replica of one worker (or the manifest's one), and the order of a turn.

Why: the turn is the unit of batching and of correctness: what arrived together is proposed, logged, applied and
answered together, and nothing leaves before its promise holds.
Invariants:
- Deterministic: its output depends on the calls made to it, the engine and the log; it reads the clock only through the
  function handed in. Peers are visited in the order in which they were touched.
- One peer's bad input never stops another peer's turn.
- While a checkpoint runs nothing is applied and no read is evaluated; Raft, proposals and the log go on.
- Log positions are stamped on promises only after the records were flushed.
Not here: how regions come to be here (worker.py), sockets and threads (loop.py).
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from nokv.proto.control import PeerTsoGrant
from nokv.proto.frame import Frame, Kind
from nokv.proto.ids import LogIndex, RegionId, StoreId
from nokv.proto.raft import decode_message
from nokv.storage.engine import Engine
from nokv.workers.peer import Peer
from nokv.workers.turn import Turn

_grant_decoder: Final = msgspec.msgpack.Decoder(PeerTsoGrant)


class ShardStatistics(msgspec.Struct):
    """Counts since start."""

    peer_frames: int = 0
    peer_frames_refused: int = 0
    turns: int = 0


class Shard:
    """The deterministic multi-Raft heart of a process. Times are monotonic milliseconds."""

    def __init__(self, engine: Engine, clock_ms: Callable[[], int]) -> None:
        self._engine: Final = engine
        self._clock_ms: Final = clock_ms

        self.peers: Final[dict[RegionId, Peer]] = {}

        self._touched: dict[RegionId, Peer] = {}
        self._checkpointing: dict[RegionId, LogIndex] | None = None

        self.statistics = ShardStatistics()

    # ---- peers -----------------------------------------------------------------------------------------------------

    def add(self, peer: Peer) -> None:
        """Serve a replica from now on."""
        assert peer.region_id not in self.peers
        self.peers[peer.region_id] = peer
        self.touch(peer)

    def touch(self, peer: Peer) -> None:
        """Look at this peer in the coming turn."""
        self._touched[peer.region_id] = peer

    # ---- input -----------------------------------------------------------------------------------------------------

    def peer_frame(self, frame: Frame, now_ms: int) -> bool:
        """A frame of the peer plane. False: refused or ignored (unknown region, bad bytes, not for this replica)."""
        self.statistics.peer_frames += 1
        peer = self.peers.get(RegionId(frame.region_id))
        taken = peer is not None and self._take(peer, frame, now_ms)
        if peer is not None and taken:
            self._touched[peer.region_id] = peer
        else:
            self.statistics.peer_frames_refused += 1
        return taken

    def _take(self, peer: Peer, frame: Frame, now_ms: int) -> bool:
        try:
            if frame.kind == Kind.RAFT:
                return peer.step(decode_message(frame.body), now_ms)
            if frame.kind == Kind.PEER_TSO_GRANT:
                grant = _grant_decoder.decode(frame.body)
                peer.lift(grant.ts, grant.term, now_ms)
                return True
        except msgspec.DecodeError:
            return False
        return False

    def tick(self, turn: Turn, now_ms: int) -> None:
        """One logical tick of every group."""
        for peer in self.peers.values():
            peer.tick(turn, now_ms)
            self._touched[peer.region_id] = peer

    def unreachable(self, store_ids: Iterable[StoreId]) -> None:
        """Messages to these stores were dropped; leaders probe instead of streaming until they hear from them."""
        gone = sorted(set(store_ids))
        for peer in self.peers.values():
            if peer.leads:
                for store_id in gone:
                    replica = peer.region.peer_on(store_id)
                    if replica is not None:
                        peer.node.report_unreachable(replica.id)

    def synced(self, position: int, turn: Turn) -> None:
        """The log is durable up to `position`."""
        for peer in self.peers.values():
            if peer.synced(position, turn):
                self._touched[peer.region_id] = peer

    # ---- the turn --------------------------------------------------------------------------------------------------

    def propose(self, turn: Turn, now_ms: int) -> bool:
        """First half of a turn: propose what was gathered, collect what Raft wants. True: the log has new records.

        The loop flushes them and sends before the second half: applying would only delay what others wait for.
        """
        self.statistics.turns += 1
        logged = False
        for peer in self._touched.values():
            peer.propose_gathered(turn, now_ms)
            logged |= peer.collect(turn)
        return logged

    def apply(self, turn: Turn, now_ms: int) -> bool:
        """Second half: apply what is committed, serve reads. True: the log has new records again."""
        touched, self._touched = self._touched, {}
        if self._checkpointing is not None:
            return False
        logged = False
        for peer in touched.values():
            while peer.apply(turn):  # each round frees room in the pipeline for what was gathered meanwhile
                peer.propose_gathered(turn, now_ms)
                logged |= peer.collect(turn)
            if peer.reads:
                peer.serve_reads(turn, now_ms, self._clock_ms)
                logged |= peer.collect(turn)
        return logged

    @property
    def idle(self) -> bool:
        """Whether the next turn has nothing to do unless something arrives."""
        return not self._touched

    def stamp(self, position: int) -> None:
        """Everything logged so far was flushed and is durable once the log is synced up to `position`."""
        for peer in self.peers.values():
            peer.stamp(position)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    @property
    def checkpointing(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._checkpointing is not None

    def begin_checkpoint(self) -> None:
        """Write applied indexes beside the data; until `end_checkpoint` the engine is left alone."""
        assert self._checkpointing is None
        self._checkpointing = {peer.region_id: peer.applied for peer in self.peers.values() if peer.write_apply_state()}

    def end_checkpoint(self, *, committed: bool) -> None:
        """The checkpoint is durable, or was put off (`committed` False: the transaction is still open)."""
        assert self._checkpointing is not None
        done, self._checkpointing = self._checkpointing, None
        for peer in self.peers.values():
            if committed and peer.region_id in done:
                peer.checkpoint_done(done[peer.region_id])
            self._touched[peer.region_id] = peer
