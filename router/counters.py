"""The router's counters while they change.

Invariants: the fields are those of proto.stats.RouterStats, in its order; counters only rise, `clients` and
`queued_frames` are gauges.
Not here: what they mean (RouterStats), who counts (dispatch.py; connections and handshakes: loop.py).
"""

from msgspec import Struct
from msgspec.structs import astuple

from nokv.proto.stats import RouterStats


class Counters(Struct):
    """Mutable twin of RouterStats: plain attributes, so that counting costs an addition."""

    client_messages: int = 0
    client_frames: int = 0
    peer_messages: int = 0
    peer_frames: int = 0
    replies: int = 0
    clients: int = 0
    busy_replies: int = 0
    malformed: int = 0
    refused_plane: int = 0
    unknown_region: int = 0
    dropped_peer: int = 0
    dropped_reply: int = 0
    blocked: int = 0
    auth_refused: int = 0
    queued_frames: int = 0
    dropped_local: int = 0
    handshakes_failed: int = 0

    def statistics(self) -> RouterStats:
        """The values of now."""
        return RouterStats(*astuple(self))


assert Counters.__struct_fields__ == RouterStats.__struct_fields__
