"""What both ways of moving requests share: settings, and the shape of a request.

Why: async_net.py and blocking_net.py are twins; the generated synchronous code relies on their having the same surface.
Not here: either of them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import zmq

from nokv.client.config import ClientConfig
from nokv.client.endpoint import Endpoint
from nokv.client.errors import UsageError
from nokv.client.zmq_socket import CurveKey

Request = tuple[Endpoint, int, int, bytes, float]
"""(endpoint, kind, region id, body, due) of one request among several that are sent together."""

BUSY: Final = -4
"""A request that found no place among max_inflight until it was due; beside link.UNSENT and its like."""


@dataclass(frozen=True, slots=True)
class NetSettings:
    """What a net needs to know of a ClientConfig."""

    connect_timeout_s: float = 2.0
    max_inflight: int = 1024
    curve: bool = False
    key_file: str = ""
    random: Random = field(default_factory=Random)

    @classmethod
    def of(cls, config: ClientConfig, random: Random) -> "NetSettings":
        """From a checked configuration."""
        return cls(config.connect_timeout, config.max_inflight, config.curve, config.key_file, random)

    def curve_key(self) -> CurveKey | None:
        """Our key pair: from the file, or made up on the spot when only the server is to be proved.

        Raises:
            UsageError: the file cannot be used.
        """
        if not self.curve:
            return None
        if not self.key_file:
            return CurveKey(*zmq.curve_keypair())
        from nokv.router.curve import KeyFileError, read_key_file  # few clients have a key of their own

        try:
            pair = read_key_file(Path(self.key_file))
        except KeyFileError as error:
            raise UsageError(str(error)) from error
        return CurveKey(pair.public, pair.secret)
