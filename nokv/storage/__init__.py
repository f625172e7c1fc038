"""Storage: what a worker keeps on its disk, and the promises that come with it.

A worker has two stores in its data directory. The **log** takes every turn's Raft entries and hard states of all its
groups in one write and one sync; nothing is acknowledged before. The **engine** holds the applied state in one write
transaction that stays open over many turns; a **checkpoint** commits it. After a crash the engine is at some past
applied index exactly, and the log replays the rest. So the log may forget an entry only when a checkpoint has it.

    proposals ──► RaftLog.append ─► Wal buffer ─► flush ─► sync ──► acknowledgements
                                                                       │
    committed entries ──► Engine.put/delete ─► ... ─► checkpoint ──► RaftLog.compact ──► Collector.step

Files:

- `engine`           the engine's contract, the column families, and the errors of everything here
- `lmdb_engine`      the engine on LMDB; the only file that imports it. `page_bound` tells it what a commit may cost
- `memory_engine`    its twin in memory, which crashes on demand
- `keys`             every key in an engine, both ways
- `disk`             what the log needs from a directory: `RealDisk`, and `MemoryDisk` that forgets what was not synced
- `wal`              the log; `wal_records` its bytes, `wal_segments` its files and what a torn tail is, `wal_groups`
                     what its records mean for a group, `wal_collector` how its old end is dropped
- `raft_log`         one group's view of it (`GroupLog` is the contract); `memory_raft_log` and `engine_raft_log` are
                     the other two backends; `entry_cache` keeps the newest entries of all groups
- `datadir`          the directory: lock, format stamp, owner

Three answers to trouble. A full disk raises OutOfSpaceError, and what was not written is kept and may be tried again.
Damage raises CorruptionError, which names the place and the remedy, and is never returned as data. Any other failure
raises StorageError, and the object refuses to go on, because nobody knows what the disk holds.

Not promised: that a cut at the end of the log is noticed by the log itself. To it, a file cut by hand looks like a
crash; `RaftLog.check_applied` finds it where the engine has applied more. Nor that a flipped bit in a key of the engine
is found by looking for that key, which is then absent; a scan finds it.
"""
