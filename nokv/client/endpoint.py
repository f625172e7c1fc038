"""Where a node listens.

Not here: which node that is (region_cache.py).
"""

from msgspec import Struct


class Endpoint(Struct, frozen=True):
    """Where a node listens: "host:port" and, with CURVE, its public key."""

    address: str
    server_key: str = ""
