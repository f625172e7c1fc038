"""Replica hashes: proof that replicas hold the same data at the same applied index.

Why: replicas that differ answer differently after the next election; the difference must be found by comparing, not
by users.
Invariants: a page is bounded in records, so that hashing a large region never stalls the loop; the hash covers what the
three data column families hold in the region's range, byte for byte.
Not here: who compares (tools, tests, the scrubber).
"""

from hashlib import sha256
from typing import Final

import msgspec

from nokv.proto.control import ReplicaHashReply, ReplicaHashRequest, encode_body
from nokv.proto.errors import EpochNotMatch, ErrorDetail, MalformedFrame, ServerIsBusy, encode_error
from nokv.proto.frame import Frame, Kind, encode
from nokv.proto.ids import LogIndex, RegionId
from nokv.proto.region import Region
from nokv.storage import keys
from nokv.storage.engine import ColumnFamily, Reader
from nokv.workers.shard import Shard
from nokv.workers.turn import Turn

RECORDS_MAX: Final = 8192
"""Records of one page, whatever the request asks: about 10 ms."""

_FAMILIES: Final = (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)
_decoder: Final = msgspec.msgpack.Decoder(ReplicaHashRequest)


def answer_replica_hash(shard: Shard, reader: Reader, address: bytes, frame: Frame, turn: Turn) -> None:
    """Answer Kind.REPLICA_HASH from this replica's own state, whatever its role."""
    outcome: ReplicaHashReply | ErrorDetail
    peer = shard.peers.get(RegionId(frame.region_id))
    if peer is None:
        outcome = EpochNotMatch(RegionId(frame.region_id))
    elif shard.checkpointing:
        outcome = ServerIsBusy("checkpoint")
    else:
        try:
            request = _decoder.decode(frame.body)
            outcome = hash_page(reader, peer.region, peer.applied, request)
        except msgspec.DecodeError as error:
            outcome = MalformedFrame(str(error))
    if isinstance(outcome, ReplicaHashReply):
        turn.refuse(address, encode(Kind.OK, frame.request_id, frame.region_id, encode_body(outcome)))
    else:
        turn.refuse(address, encode(Kind.ERROR, frame.request_id, frame.region_id, encode_error(outcome)))


def hash_page(reader: Reader, region: Region, applied: LogIndex, request: ReplicaHashRequest) -> ReplicaHashReply:
    """Hash up to `limit` records behind the cursor. The cursor is a column family byte and the next raw key."""
    limit = min(max(request.limit, 1), RECORDS_MAX)
    low, high = keys.encode_bounds(region.start, region.end)
    family = request.cursor[0] if request.cursor else 0
    start = request.cursor[1:] or low
    digest, records = sha256(), 0
    for cf in _FAMILIES[family:]:
        for key, value in reader.scan(cf, max(start, low), high):
            if records == limit:
                return ReplicaHashReply(applied, records, digest.digest(), bytes([_FAMILIES.index(cf)]) + key)
            digest.update(b"%d.%d.%d." % (cf, len(key), len(value)) + key + value)
            records += 1
        start = low
    return ReplicaHashReply(applied, records, digest.digest(), b"")
