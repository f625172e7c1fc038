"""Keys of a test cluster: every node may be every other's peer, and one client may use them all.

Not here: the files' format (nokv.router.curve).
"""

from pathlib import Path

from msgspec import Struct

from nokv.router.curve import (
    CLIENTS_ALLOW,
    NODE_KEY,
    PEERS_ALLOW,
    KeyPair,
    allow,
    make_key_file,
    make_node_dir,
    read_key_file,
)

CLIENT_KEY = "client.key"


class ClusterKeys(Struct, frozen=True):
    """Where the keys of a cluster are. `public[i]` is node i + 1's public key, Z85 text."""

    client: KeyPair
    client_file: Path
    node_dirs: tuple[Path, ...]
    public: tuple[str, ...]


def make_keys(folder: Path, nodes: int) -> ClusterKeys:
    """Keys for `nodes` nodes and one client in `folder`; those of an earlier run are used again."""
    dirs = tuple(folder / f"keys-{at}" for at in range(1, nodes + 1))
    client_file = folder / CLIENT_KEY
    if not client_file.exists():
        client = make_key_file(client_file)
        pairs = [make_node_dir(directory) for directory in dirs]
        for directory in dirs:
            allow(directory / CLIENTS_ALLOW, client.public.decode(), note="client")
            for pair in pairs:
                allow(directory / PEERS_ALLOW, pair.public.decode())
    pairs = [read_key_file(directory / NODE_KEY) for directory in dirs]
    return ClusterKeys(read_key_file(client_file), client_file, dirs, tuple(pair.public.decode() for pair in pairs))
