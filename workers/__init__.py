"""The worker process: one core's share of a node's regions.

A worker owns the replicas (`peer`) of the regions placed on it, one write-ahead log shared by all of them, and one LMDB
environment. It shares nothing with its siblings and talks to them, to clients and to other nodes in frames only.

One turn of the loop (`loop`), always in this order:

    drain       every socket, a bounded number of messages                             loop -> shard's peers
    propose     one log entry per region, the clients' frames as they came             peer.propose_gathered, proposer
    collect     what every touched Raft group wants done                               peer.collect
    write       one append to the log for all groups; a helper thread syncs it         loop -> wal.flush, syncer
    send        what rests on nothing unsynced; others can work while we apply         loop -> transport, link
    apply       committed entries into the open LMDB transaction, answer waiters       peer.apply, machine
    read        what the lease or a confirmed read index covers                        peer.serve_reads, reads
    write, send once more, where applying has led to something

What waits for the disk (votes, append acknowledgements) is held back by the position of its log record and released
by `shard.synced(position)`; what does not (a leader's appends, thesis 10.2.1) leaves in the turn that made it.

    receive -> [inbox] -> propose -> raft -> [log buffer] --fdatasync--> synced -> raft -> commit -> apply -> reply
                                       \\-> MsgApp to followers leaves here, before our own sync

Rules that hold everywhere in this package:

- Everything but `loop`, `syncer`, `transport` and `__main__` is sans-IO: it takes time, messages, an engine and a log
  and returns a `Turn`. The simulator runs the very same objects.
- Every request gets exactly one answer: a result, a typed refusal, or an unknown outcome when leadership or time ran
  out.
- A proposal is known by (incarnation of this process, sequence); an entry of anybody else can never complete it.
- A checkpoint of the engine runs on its own thread; while it does, nobody reads or applies, but Raft goes on.
"""
