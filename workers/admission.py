"""Admission: everything that can be refused is refused here, before it costs anything or reaches a log.

Why: an entry that cannot be applied would stop every replica of its group, and a request that cannot be served should
not wait in a queue to learn it.
Invariants: checks go from cheap to dear and from general to particular: duplicate id, full queue, budget, decoding,
limits, then the order of the acceptance table: unknown region, epoch, key range, leadership. A refusal says which,
and nothing was changed by it. The caller's view of a region is compared with the applied one: version before
conf_ver.
Not here: the second check of the epoch, at apply (machine.py); what peers may send (shard.py).
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nokv.config import NodeConfig
from nokv.mvcc.evaluate import ASSIGNED
from nokv.mvcc.limits import Limits
from nokv.mvcc.validate import keys_of, observed_ts, range_of, validate
from nokv.proto import errors
from nokv.proto.control import TransferLeaderReply, TransferLeaderRequest
from nokv.proto.control import encode_body as encode_control
from nokv.proto.frame import Frame, Kind, encode
from nokv.proto.ids import LATEST, RegionId, StoreId, Ts, physical_ms
from nokv.proto.kv import (
    READ_KINDS,
    REQUEST_DECODERS,
    AtomicRequest,
    BatchRollbackRequest,
    CheckTxnStatusRequest,
    CommitRequest,
    DeleteRangeRequest,
    GcRequest,
    KvRequest,
    MutationOp,
    OnePhaseRequest,
    ReadRequest,
    ResolveLockRequest,
    TxnHeartbeatRequest,
)
from nokv.proto.region import Region
from nokv.workers.peer import Peer
from nokv.workers.pipeline import Waiter
from nokv.workers.turn import Turn

TS_AHEAD_MS_MAX: Final = 60_000
"""A timestamp further than this ahead of every clock we know was not issued by the oracle. A read at such a
timestamp would push all later commits of the region into the future."""

ORACLE_WAIT_MS: Final = 50
"""When to come back after the oracle was asked about a timestamp."""

BLIND_OPS: Final = frozenset({MutationOp.PUT, MutationOp.DELETE})

_transfer_decoder: Final = msgspec.msgpack.Decoder(TransferLeaderRequest)


class AdmissionStatistics(msgspec.Struct):
    """Counts since start."""

    requests: int = 0
    reads: int = 0
    writes: int = 0
    refusals: int = 0
    expired: int = 0
    bad_input: int = 0


class Admission:
    """Takes client frames to the peers that must answer them."""

    def __init__(self, config: NodeConfig, limits: Limits, store_id: StoreId, peers: Mapping[RegionId, Peer]) -> None:
        self._config: Final = config
        self._limits: Final = limits
        self._store_id: Final = store_id
        self._peers: Final = peers

        self.free_bytes = 0
        self.disk_full = False
        self.draining = False
        self.wall_ms = 0

        self.statistics = AdmissionStatistics()

    def admit(self, address: bytes, frame: Frame, turn: Turn, now_ms: int) -> Peer | None:
        """Offer a client's request to its region's peer. Returns that peer, or None if the request was refused."""
        statistics = self.statistics
        statistics.requests += 1
        request_id = frame.request_id
        waiting = (address, request_id)
        if waiting in turn.pending:
            self._refuse(address, frame, errors.DuplicateRequest(request_id), turn)
            return None
        if len(turn.pending) >= self._config.limits.requests_waiting_max:
            self._refuse(address, frame, errors.ServerIsBusy("requests_waiting_max"), turn)
            return None
        if not frame.deadline_ms:
            statistics.expired += 1
            self._refuse(address, frame, errors.DeadlineExceeded("arrival"), turn)
            return None
        decoder = REQUEST_DECODERS.get(frame.kind)
        if decoder is None:
            return self._admin(address, frame, turn)
        try:
            request = decoder.decode(frame.body)
        except msgspec.DecodeError as error:
            statistics.bad_input += 1
            self._refuse(address, frame, errors.MalformedFrame(str(error)), turn)
            return None
        refusal = validate(request, self._limits)
        if refusal is not None:
            statistics.bad_input += 1
            self._refuse(address, frame, refusal, turn)
            return None
        peer = self._peers.get(RegionId(frame.region_id))
        if peer is None:
            self._refuse(address, frame, errors.EpochNotMatch(RegionId(frame.region_id)), turn)
            return None
        detail = self._misrouted(request, peer.region) or self._offer(address, frame, request, peer, turn, now_ms)
        if detail is not None:
            self._refuse(address, frame, detail, turn)
            return None
        turn.pending.add(waiting)
        return peer

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _misrouted(self, request: KvRequest, region: Region) -> errors.EpochNotMatch | None:
        """Epoch first, then every key of the request against the region's range."""
        if request.epoch != region.epoch:
            return errors.EpochNotMatch(region.id, (region,))
        bounds = range_of(request)
        if bounds is None:
            inside = all(region.covers(key) for key in keys_of(request))
        else:  # an empty end means the region's own
            start, end = bounds
            inside = region.start <= start and (not region.end or (start < region.end and end <= region.end))
        return None if inside else errors.EpochNotMatch(region.id, (region,))

    def _offer(
        self, address: bytes, frame: Frame, request: KvRequest, peer: Peer, turn: Turn, now_ms: int
    ) -> errors.ErrorDetail | None:
        limits = self._config.limits
        if frame.kind in READ_KINDS:
            read: ReadRequest = request  # type: ignore[assignment]  # READ_KINDS decode to ReadRequest only
            if read.ts != LATEST and (detail := self._unissued("ts", read.ts, peer, turn, now_ms)):
                return detail
            self.statistics.reads += 1
            deadline_ms = now_ms + min(frame.deadline_ms, limits.read_timeout_ms)
            return peer.offer_read(address, frame.request_id, frame.kind, read, read.ts, deadline_ms)
        if self.disk_full and not frees_space(request):
            return errors.DiskFull(self._store_id, self.free_bytes, self._config.storage.free_bytes_min)
        if self.draining and peer.leads and len(peer.region.peers) > 1:
            return errors.ShuttingDown(self._store_id)
        start_ts = observed_ts(request)
        if start_ts and (detail := self._unissued("start_ts", start_ts, peer, turn, now_ms)):
            return detail
        self.statistics.writes += 1
        deadline_ms = now_ms + min(frame.deadline_ms, limits.command_timeout_ms)
        waiter = Waiter(address, frame.request_id, deadline_ms)
        assign = type(request) in ASSIGNED
        return peer.offer_write(waiter, frame.whole, start_ts, assign=assign, looks=not is_blind(request))

    def _unissued(
        self, field: str, ts: Ts, peer: Peer, turn: Turn, now_ms: int
    ) -> errors.InvalidArgument | errors.ServerIsBusy | None:
        """Refuse a timestamp that the oracle cannot have issued.

        This node's clock may be the one that is wrong, so a timestamp far ahead of it is believed once the oracle
        itself has been asked; the caller waits that long.
        """
        ahead_ms = physical_ms(ts) - TS_AHEAD_MS_MAX
        if ahead_ms <= self.wall_ms or ahead_ms <= physical_ms(peer.proposer.max_known_ts) or not peer.leads:
            return None
        if peer.asked_oracle_lately(now_ms):
            return errors.InvalidArgument(field, f"{ts} lies more than {TS_AHEAD_MS_MAX} ms ahead of the oracle")
        peer.ask_oracle(turn)
        return errors.ServerIsBusy("a timestamp ahead of this node's clock: asking the oracle", ORACLE_WAIT_MS)

    def _admin(self, address: bytes, frame: Frame, turn: Turn) -> Peer | None:
        """Requests to a region that are no reads or writes of data."""
        peer = self._peers.get(RegionId(frame.region_id))
        if frame.kind != Kind.TRANSFER_LEADER:
            self._refuse(address, frame, errors.UnknownKind(frame.kind), turn)
            return None
        if peer is None:
            self._refuse(address, frame, errors.EpochNotMatch(RegionId(frame.region_id)), turn)
            return None
        try:
            request = _transfer_decoder.decode(frame.body)
        except msgspec.DecodeError as error:
            self._refuse(address, frame, errors.MalformedFrame(str(error)), turn)
            return None
        detail = peer.transfer_leader(request.to_store)
        if detail is not None:
            self._refuse(address, frame, detail, turn)
            return None
        body = encode_control(TransferLeaderReply())
        turn.refuse(address, encode(Kind.OK, frame.request_id, frame.region_id, body))
        return peer

    def _refuse(self, address: bytes, frame: Frame, detail: errors.ErrorDetail, turn: Turn) -> None:
        self.statistics.refusals += 1
        turn.refuse(address, encode(Kind.ERROR, frame.request_id, frame.region_id, errors.encode_error(detail)))


def is_blind(request: KvRequest) -> bool:
    """Whether nothing that the write finds at its start_ts has to stay true there: it commits above what it finds."""
    if isinstance(request, OnePhaseRequest):
        return request.blind and all(mutation.op in BLIND_OPS for mutation in request.mutations)
    return isinstance(request, AtomicRequest)


def frees_space(request: KvRequest) -> bool:
    """Whether a write is taken although the disk is nearly full: it deletes, or it ends a transaction."""
    match request:
        case OnePhaseRequest():
            return all(mutation.op == MutationOp.DELETE for mutation in request.mutations)
        case CommitRequest() | BatchRollbackRequest() | ResolveLockRequest() | DeleteRangeRequest() | GcRequest():
            return True
        case CheckTxnStatusRequest() | TxnHeartbeatRequest():
            return True
        case _:
            return False
