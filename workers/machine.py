"""What a group replicates: the state machine behind a Raft log.

Why: a region's commands and the control plane's commands are logged, matched to waiters and checkpointed the same way;
only their effect differs.
Invariants: `apply` is deterministic: the same entries in the same order give the same state and results on every
replica; it reads no clock, no random source and no process state. A refusal is a result. A StorageError is not: it
stops the shard.
Not here: the rules of each command (nokv.mvcc, nokv.control).
"""

from typing import Final, Protocol

import msgspec

from nokv.mvcc.evaluate import evaluate, evaluate_read
from nokv.mvcc.limits import Limits
from nokv.proto.command import COMMANDS, EntryError, Origin, commands_of
from nokv.proto.errors import REMEDY, MalformedFrame, StaleCommand, UnknownKind
from nokv.proto.frame import Frame, Kind
from nokv.proto.ids import Ts
from nokv.proto.kv import (
    WRITE_DECODERS,
    BatchGetRequest,
    GetRequest,
    ScanRequest,
    encode_body,
)
from nokv.proto.region import Region
from nokv.storage.engine import Engine

Result = tuple[int, bytes]
"""Kind.OK or Kind.ERROR, and the body of the reply frame."""


class Machine(Protocol):
    """A replicated state machine."""

    region: Region
    """The group's description as applied so far."""
    commands: int
    """Commands applied since the process started."""
    refused: int
    """Entries refused at apply."""

    @property
    def needs_lift(self) -> bool:
        """Whether a new leader must learn a fresh timestamp before it proposes (see Peer.lift)."""
        ...

    def apply(self, origin: Origin, data: bytes, *, answer: bool) -> list[Result]:
        """Apply one non-empty entry; one result per command if `answer`, else an empty list.

        Raises:
            EntryError: the entry is none of this machine's; nothing was changed.
        """
        ...

    def read(self, request: object) -> msgspec.Struct | None:
        """Answer an admitted read from the applied state: a reply, a refusal, or None for "not yet, ask again"."""
        ...


class RegionMachine:
    """A region's key-value state: commands evaluated in log order over the shared engine."""

    needs_lift: Final = True

    def __init__(self, engine: Engine, region: Region, limits: Limits) -> None:
        self._engine: Final = engine
        self._limits: Final = limits

        self.region = region

        self.commands = 0
        self.refused = 0

    def apply(self, origin: Origin, data: bytes, *, answer: bool) -> list[Result]:
        """See Machine.apply.

        An entry proposed under another epoch has no effect (checked here again, not only when proposed).
        """
        if origin.marker != COMMANDS:
            raise EntryError(f"marker {origin.marker:#x} in the log of region {self.region.id}")
        epoch = self.region.epoch
        stale = origin.version != epoch.version or origin.conf_ver != epoch.conf_ver
        results: list[Result] = []
        for commit_ts, frame in commands_of(data):
            self.commands += 1
            outcome = StaleCommand(self.region.id) if stale else self._evaluate(frame, commit_ts, origin.ts_limit)
            if answer:
                results.append(as_result(outcome))
        return results

    def _evaluate(self, frame: Frame, commit_ts: Ts, ts_limit: Ts) -> msgspec.Struct:
        """Apply one command. What was admitted decodes; what does not is refused alike everywhere."""
        decoder = WRITE_DECODERS.get(frame.kind)
        if decoder is None:
            return UnknownKind(frame.kind)
        try:
            request = decoder.decode(frame.body)
        except msgspec.DecodeError as error:
            return MalformedFrame(str(error))
        return evaluate(
            self._engine,
            request,
            commit_ts=commit_ts,
            ts_limit=ts_limit,
            region_start=self.region.start,
            region_end=self.region.end,
        )

    def read(self, request: object) -> msgspec.Struct | None:
        """See Machine.read. Data reads always have an answer."""
        assert isinstance(request, GetRequest | BatchGetRequest | ScanRequest)
        return evaluate_read(
            self._engine,
            request,
            region_start=self.region.start,
            region_end=self.region.end,
            limits=self._limits,
        )


def as_result(outcome: msgspec.Struct) -> Result:
    """A reply Struct as the body of an OK frame, a refusal as that of an ERROR frame."""
    return Kind.ERROR if type(outcome) in REMEDY else Kind.OK, encode_body(outcome)
