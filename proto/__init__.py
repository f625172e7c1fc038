"""The vocabulary of NoKV: ids, frames, messages and errors. Imports msgspec and nothing of ours.

Every byte that crosses a socket and every record that a log keeps is described in this package:

- `ids`      what an integer means (Term, LogIndex, RegionId, Ts, ...)
- `frame`    the fixed 32-byte header in front of every body, and how one message carries many frames
- `raft`     messages and entries of the Raft core
- `region`   a region's range, epoch, peers and life cycle
- `kv`       requests and replies of the data plane
- `command`  how client requests lie inside one Raft log entry
- `control`  the control plane: stores, directory, timestamp oracle, heartbeats
- `stats`    what processes tell about themselves
- `errors`   the closed set of refusals, each with its remedy

Schema law: bodies are msgpack arrays of msgspec Structs. A field is never removed, renamed in meaning or
reordered; a new field goes last and has a default, so that an older reader ignores it and an older writer omits it.
Enum values and struct tags are frozen once released: they are on disks.
"""
