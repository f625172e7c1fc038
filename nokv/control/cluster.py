"""Group 0's state machine: what its log decides, durable in the engine and mirrored in memory.

Why: timestamps, ids, stores and regions must survive any minority of nodes, so they change only by applied entries.
Invariants: `apply` is deterministic: the same commands give the same state and replies on every replica, so it reads no
clock, no setting and no leader hint; it writes to the engine's open transaction only, and the caller puts the applied
index into the same transaction; `tso_ahead` and `next_id` never go down. A refusal is a reply, a StorageError is not.
Not here: issuing timestamps (tso.py), proposing and matching replies (the host), who leads a region (directory.py).
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar, assert_never

import msgspec
from msgspec import Struct

from nokv.control.allocator import FIRST_ID, IdAllocator
from nokv.control.directory import Directory, region_fault
from nokv.control.tso import TS_MAX
from nokv.proto.control import (
    AllocIds,
    AllocIdsReply,
    ControlCommand,
    PutRegion,
    PutStore,
    StoreInfo,
    TsoAhead,
    encode_body,
)
from nokv.proto.errors import InvalidArgument, LimitExceeded
from nokv.proto.ids import StoreId, Ts
from nokv.proto.region import Region
from nokv.region.route_table import tiling_fault
from nokv.storage.engine import ColumnFamily, CorruptionError, Engine, Reader
from nokv.storage.keys import (
    CONTROL_NEXT_ID_KEY,
    CONTROL_REGION_PREFIX,
    CONTROL_STORE_PREFIX,
    CONTROL_TSO_KEY,
    control_region_key,
    control_store_key,
    prefix_bounds,
)

SNAPSHOT_FORMAT: Final = 1

Refusal = InvalidArgument | LimitExceeded
ControlReply = AllocIdsReply | bool | Refusal | None
"""TsoAhead: None. AllocIds: AllocIdsReply. PutStore, PutRegion: whether anything changed. Any: a refusal, no effect."""

T = TypeVar("T")

_META: Final = ColumnFamily.META
_command_decoder: Final = msgspec.msgpack.Decoder(ControlCommand)
_store_decoder: Final = msgspec.msgpack.Decoder(StoreInfo)
_region_decoder: Final = msgspec.msgpack.Decoder(Region)
_int_decoder: Final = msgspec.msgpack.Decoder(int)


class ControlSnapshot(Struct, array_like=True, frozen=True):
    """All of group 0's state at one applied index, as it travels to a replica that is too far behind for entries."""

    format: int
    tso_ahead: Ts
    next_id: int
    stores: tuple[StoreInfo, ...]
    regions: tuple[Region, ...]


_snapshot_decoder: Final = msgspec.msgpack.Decoder(ControlSnapshot)


class ControlSnapshotError(ValueError):
    """Bytes handed to `restore` are no snapshot, of another format, or older than the state here. It is unchanged."""


class ControlSeedError(ValueError):
    """Stores and regions handed to `seed` cannot found a cluster. Nothing was changed."""


def decode_command(body: bytes) -> ControlCommand:
    """The command in the body of a CONTROL entry.

    Raises:
        msgspec.DecodeError: the bytes are no command.
    """
    command: ControlCommand = _command_decoder.decode(body)
    return command


class ControlState:
    """The replicated state of the control plane."""

    def __init__(self, engine: Engine) -> None:
        """Load what the engine holds; an engine without it gives the empty state.

        Raises:
            CorruptionError: a stored record is not what was written.
        """
        self._engine: Final = engine

        # Durable mirrors
        self._tso_ahead = Ts(_read_int(engine, CONTROL_TSO_KEY, 0))
        self._ids = IdAllocator(_read_int(engine, CONTROL_NEXT_ID_KEY, FIRST_ID))
        self._stores = {store.id: store for store in read_stores(engine)}
        self._directory = Directory(read_regions(engine))

    @classmethod
    def seed(
        cls, engine: Engine, *, stores: Iterable[StoreInfo], regions: Sequence[Region], next_id: int = FIRST_ID
    ) -> "ControlState":
        """The state a new cluster begins with. Every founding replica must be given the same arguments.

        `next_id`: first id to allocate; raised above every id in use here. Requires: the engine holds no state yet.

        Raises:
            ControlSeedError: the regions do not tile the key space, or a store or region is unfit.
        """
        founders = tuple(stores)
        fault = _seed_fault(founders, regions)
        if fault is not None:
            raise ControlSeedError(fault)
        state = cls(engine)
        assert not state._stores and not len(state._directory), "a cluster is founded once"
        state._replace(ControlSnapshot(SNAPSHOT_FORMAT, Ts(0), max(next_id, FIRST_ID), founders, tuple(regions)))
        return state

    # ---- questions --------------------------------------------------------------------------------------------------

    @property
    def tso_ahead(self) -> Ts:
        """The highest `until` of any TsoAhead applied: what `Oracle.lead` is to be given."""
        return self._tso_ahead

    @property
    def next_id(self) -> int:
        """The next id to be allocated."""
        return self._ids.next_id

    @property
    def directory(self) -> Directory:
        """The regions. Another object after `restore`: do not keep it."""
        return self._directory

    def store(self, store_id: StoreId) -> StoreInfo | None:
        """A store's addresses, None if it was never registered."""
        return self._stores.get(store_id)

    def stores(self) -> tuple[StoreInfo, ...]:
        """All stores by id."""
        return tuple(self._stores[store_id] for store_id in sorted(self._stores))

    # ---- changes ----------------------------------------------------------------------------------------------------

    def apply(self, command: ControlCommand) -> ControlReply:
        """Apply one committed command and say what came of it.

        Applying it again is harmless: TsoAhead, PutStore and PutRegion have no further effect, AllocIds takes further
        ids, so that some are lost and none is given out twice.
        """
        match command:
            case TsoAhead():
                return self._apply_tso_ahead(command)
            case AllocIds():
                return self._apply_alloc_ids(command)
            case PutStore():
                return self._apply_put_store(command.store)
            case PutRegion():
                return self._apply_put_region(command.region)
            case _:
                assert_never(command)

    def _apply_tso_ahead(self, command: TsoAhead) -> InvalidArgument | None:
        if not 0 < command.until <= TS_MAX:
            return InvalidArgument("until", f"must be above 0 and at most {TS_MAX}")
        if command.until > self._tso_ahead:
            self._tso_ahead = command.until
            self._put_int(CONTROL_TSO_KEY, command.until)
        return None

    def _apply_alloc_ids(self, command: AllocIds) -> AllocIdsReply | Refusal:
        refusal = self._ids.refusal(command.count)
        if refusal is not None:
            return refusal
        reply = self._ids.take(command.count)
        self._put_int(CONTROL_NEXT_ID_KEY, self._ids.next_id)
        return reply

    def _apply_put_store(self, store: StoreInfo) -> bool | InvalidArgument:
        fault = _store_fault(store)
        if fault is not None:
            return InvalidArgument("store", fault)
        if self._stores.get(store.id) == store:
            return False
        self._put_store(store)
        return True

    def _apply_put_region(self, region: Region) -> bool | InvalidArgument:
        fault = region_fault(region)
        if fault is not None:
            return InvalidArgument("region", fault)
        swallowed = self._directory.put(region)
        if swallowed is None:
            return False
        for gone in swallowed:
            self._engine.delete(_META, control_region_key(gone.id))
        self._put_region(region)
        return True

    # ---- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Everything as applied so far, for a replica that needs it whole. Equal states give equal bytes."""
        return encode_body(
            ControlSnapshot(SNAPSHOT_FORMAT, self._tso_ahead, self.next_id, self.stores(), tuple(self._directory))
        )

    def restore(self, data: bytes) -> None:
        """Become the state in `data`, as Raft orders when this replica lags behind the log's beginning.

        Leader hints are lost; they come back with the next heartbeats.

        Raises:
            ControlSnapshotError: nothing was changed.
        """
        try:
            snapshot = _snapshot_decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ControlSnapshotError(f"no snapshot of group 0: {error}") from error
        if snapshot.format != SNAPSHOT_FORMAT:
            raise ControlSnapshotError(f"snapshot format {snapshot.format}, this version reads {SNAPSHOT_FORMAT}")
        if snapshot.tso_ahead < self._tso_ahead or snapshot.next_id < self.next_id:
            raise ControlSnapshotError("the snapshot is older than what is applied here")
        fault = _snapshot_fault(snapshot)
        if fault is not None:
            raise ControlSnapshotError(fault)
        self._replace(snapshot)

    def _replace(self, snapshot: ControlSnapshot) -> None:
        for prefix in (CONTROL_STORE_PREFIX, CONTROL_REGION_PREFIX):
            for key, _value in list(self._engine.scan(_META, *prefix_bounds(prefix))):
                self._engine.delete(_META, key)
        self._tso_ahead = snapshot.tso_ahead
        self._put_int(CONTROL_TSO_KEY, snapshot.tso_ahead)
        self._ids = IdAllocator(snapshot.next_id)
        self._put_int(CONTROL_NEXT_ID_KEY, snapshot.next_id)
        self._stores = {}
        for store in snapshot.stores:
            self._put_store(store)
        self._directory = Directory(snapshot.regions)
        for region in snapshot.regions:
            self._put_region(region)

    # ---- records ----------------------------------------------------------------------------------------------------

    def _put_store(self, store: StoreInfo) -> None:
        self._stores[store.id] = store
        self._engine.put(_META, control_store_key(store.id), encode_body(store))
        self._reserve(store.id)

    def _put_region(self, region: Region) -> None:
        self._engine.put(_META, control_region_key(region.id), encode_body(region))
        self._reserve(max(region.id, *(peer.id for peer in region.peers)))

    def _reserve(self, used_id: int) -> None:
        """Ids that reached the directory by another way than the allocator must not be given out later."""
        if self._ids.reserve(used_id):
            self._put_int(CONTROL_NEXT_ID_KEY, self._ids.next_id)

    def _put_int(self, key: bytes, value: int) -> None:
        self._engine.put(_META, key, encode_body(value))


# ---- stored records, also for readers without a ControlState --------------------------------------------------------


def read_stores(reader: Reader) -> tuple[StoreInfo, ...]:
    """The stored registry, by id.

    Raises:
        CorruptionError: a record is not what was written.
    """
    return tuple(
        _decode(_store_decoder, key, value) for key, value in reader.scan(_META, *prefix_bounds(CONTROL_STORE_PREFIX))
    )


def read_regions(reader: Reader) -> tuple[Region, ...]:
    """The stored directory, by id.

    Raises:
        CorruptionError: a record is not what was written.
    """
    return tuple(
        _decode(_region_decoder, key, value) for key, value in reader.scan(_META, *prefix_bounds(CONTROL_REGION_PREFIX))
    )


def _read_int(reader: Reader, key: bytes, default: int) -> int:
    value = reader.get(_META, key)
    return default if value is None else _decode(_int_decoder, key, value)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", key: bytes, value: bytes) -> T:
    try:
        return decoder.decode(value)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"group 0 record {key!r}: {error}") from error


# ---- gateway checks -------------------------------------------------------------------------------------------------


def _store_fault(store: StoreInfo) -> str | None:
    if store.id < 1:
        return "store ids begin at 1"
    if not store.client_addr or not store.peer_addr:
        return f"store {store.id} needs a client and a peer address"
    return None


def _seed_fault(stores: Sequence[StoreInfo], regions: Sequence[Region]) -> str | None:
    """Why these cannot found a cluster, None if they can."""
    ids = [store.id for store in stores]
    if not ids or len(set(ids)) < len(ids):
        return "there is no store, or a store id occurs twice"
    for store in stores:
        fault = _store_fault(store)
        if fault is not None:
            return fault
    for region in regions:
        fault = region_fault(region)
        if fault is not None:
            return f"region {region.id}: {fault}"
        strangers = [peer.store_id for peer in region.peers if peer.store_id not in ids]
        if strangers:
            return f"region {region.id} has a peer on store {strangers[0]}, which is not listed"
    peer_ids = [peer.id for region in regions for peer in region.peers]
    if len(set(peer_ids)) < len(peer_ids):
        return "a peer id occurs twice"
    return tiling_fault(regions)


def _snapshot_fault(snapshot: ControlSnapshot) -> str | None:
    """Why a decoded snapshot cannot be a state of group 0. Gaps are legal: a split may be half reported."""
    if not 0 <= snapshot.tso_ahead <= TS_MAX or snapshot.next_id < FIRST_ID:
        return "its counters are out of range"
    for store in snapshot.stores:
        fault = _store_fault(store)
        if fault is not None:
            return fault
    ends = b""
    for at, region in enumerate(snapshot.regions):
        fault = region_fault(region)
        if fault is not None:
            return f"region {region.id}: {fault}"
        if at and (not ends or region.start < ends):
            return f"region {region.id} overlaps the one before it"
        ends = region.end
    if len({region.id for region in snapshot.regions}) < len(snapshot.regions):
        return "a region id occurs twice"
    return None
