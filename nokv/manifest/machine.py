"""Group 0's state machine as a replica's machine: control commands from the log into `ControlState`.

Invariants: see workers.machine.Machine; an entry with another marker than CONTROL is refused alike on every replica.
Not here: the commands' rules (nokv.control.cluster).
"""

from typing import Final

import msgspec

from nokv.control.cluster import ControlState, decode_command
from nokv.control.tso import Oracle
from nokv.proto.command import CONTROL, ORIGIN_BYTES, EntryError, Origin
from nokv.proto.control import TsoAhead, TsoRequest, encode_body
from nokv.proto.errors import InvalidArgument, LimitExceeded, encode_error
from nokv.proto.frame import Kind
from nokv.proto.ids import Incarnation
from nokv.proto.region import Region
from nokv.workers.machine import Result


class ControlMachine:
    """Applies group 0's entries."""

    needs_lift: Final = False

    def __init__(self, state: ControlState, region: Region, oracle: Oracle, incarnation: Incarnation) -> None:
        self.state: Final = state
        self.oracle: Final = oracle
        self._incarnation: Final = incarnation

        self.region = region
        self.wall_ms = 0
        """The wall clock as last handed in; the oracle's only view of time."""

        self.commands = 0
        self.refused = 0

    def apply(self, origin: Origin, data: bytes, *, answer: bool) -> list[Result]:
        """See Machine.apply: one command, one result."""
        if origin.marker != CONTROL:
            raise EntryError(f"marker {origin.marker:#x} in the log of group 0")
        try:
            command = decode_command(data[ORIGIN_BYTES:])
        except msgspec.DecodeError as error:
            raise EntryError(f"no control command: {error}") from error
        self.commands += 1
        reply = self.state.apply(command)
        if isinstance(command, TsoAhead):
            self._note_window(origin, command)
        if not answer:
            return []
        if isinstance(reply, InvalidArgument | LimitExceeded):
            return [(Kind.ERROR, encode_error(reply))]
        return [(Kind.OK, encode_body(reply))]

    def _note_window(self, origin: Origin, window: TsoAhead) -> None:
        """A window opens the oracle that proposed it, and closes every other: somebody else has led meanwhile.

        At apply and nowhere later: the entry that lets this replica serve again may be the very next one.
        """
        if origin.incarnation == self._incarnation:
            self.oracle.window_committed(window.until)
        else:
            self.oracle.stop()

    def read(self, request: object) -> msgspec.Struct | None:
        """Grant timestamps; None: not before a window is committed. The caller proves the leadership (reads.py)."""
        assert isinstance(request, TsoRequest)
        if not self.oracle.leading:
            return None
        return self.oracle.grant(self.wall_ms, request.count)
