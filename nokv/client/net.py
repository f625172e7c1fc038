"""What both ways of moving requests share: settings, and the shape of a request.

Why: async_net.py and blocking_net.py are twins; the generated synchronous code relies on their having the same surface.
Not here: either of them.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final

import zmq

from nokv.client.config import ClientConfig
from nokv.client.curve_key import read_key_file
from nokv.client.region_cache import Endpoint
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
        if self.key_file:
            return read_key_file(self.key_file)
        public, secret = zmq.curve_keypair()
        return CurveKey(public, secret)
