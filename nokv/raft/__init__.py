"""Raft: a replicated log, as a library without clock, socket, disk or thread.

For a reader who knows the paper ("In Search of an Understandable Consensus Algorithm", extended version) and, where it
is cited, Ongaro's thesis. The semantics are those of etcd/raft, whose published cases pass byte for byte
(tests/raft/conformance). Nothing in here knows of regions, keys or transactions; it may be used without the rest.

Vocabulary
    peer            one replica of one group, by an id that is never used again
    entry           a term, an index, a type and bytes; (term, index) names it, an index alone does not
    configuration   voters and learners; while it is *joint*, two sets of voters that both have to agree
    learner         gets entries, has no vote
    quorum          more than half of the voters; of both sets if joint
    committed       on a quorum and of the leader's own term, or before such an entry: will never change
    unstable        in memory and on its way to disk
    applying        handed out to the owner to be applied; applied when the owner has said so
    progress        what a leader knows of one peer: match, next, and how it sends (probe, replicate, snapshot)
    hard state      term, vote, commit: what a restart needs beside the log
    soft state      who leads and what this node is
    promise         a vote, or the ack of an append: true only when what it speaks of is durable
    tick            the owner's unit of time

Invariants
    - At most one leader per term: a vote is durable before it leaves, and a node has one vote per term.
    - Log matching: two logs that have the same (term, index) are equal up to there.
    - A leader has every committed entry: nobody votes for a log that is behind its own.
    - A leader never removes or replaces an entry of its own log.
    - Only an entry of the leader's term is committed by counting (figure 8).
    - applied <= applying <= committed <= last index; none of the four goes back, but the last one.
    - One configuration change at a time: the next is taken when the one before is applied on the leader.
    - What a peer sends is checked before it changes anything; what passes the check keeps all of the above.

How a message goes
    RawNode.step -> messages.check        Is it well formed? A StepError if not, and nothing has changed.
                 -> Raft.step, the gate   Is it of this term? A higher one makes a follower, a lower one is dropped,
                                          except where silence would keep two nodes apart for ever (thesis 9.6).
                 -> COMMON or BY_ROLE     What does this role do with it? The tables are at the end of core.py.
                 -> Raft.send, .post      Into `outbox`, or into `promises`.
    RawNode.ready                         Everything to be done, told once.

    election.py      campaigns, votes, the transitions between roles
    replication.py   proposals, appends, acks, commits, heartbeats
    snapshot.py      peers that are too far behind
    membership.py    when a change may be proposed, and what happens when it is applied; the rules are confchange.py's
    reads.py         linearizable reads without an entry; the queue of those that wait is read_index.py's
    transfer.py      handing over leadership
    log.py           stored and unstable entries as one log; unstable.py, storage.py
    quorum.py        the one place that counts

The owner's loop, with storage that is written at once
    node.tick()                                       at each tick
    node.step(message)                                for each message received
    while node.has_ready():
        ready = node.ready()
        save ready.hard_state, ready.entries, ready.snapshot; sync if ready.must_sync
        send ready.messages
        apply ready.committed_entries; for a change of the configuration, node.apply_conf_change(change)
        node.advance()

and with Config.async_storage_writes
    while node.has_ready():
        for message in node.ready().messages:
            to LOCAL_APPEND_THREAD    save term/vote/commit (unless all are 0), entries, snapshot, in this order of
                                      messages; when they are durable, deliver message.responses
            to LOCAL_APPLY_THREAD     apply entries; then deliver message.responses
            to a peer                 send it now: it rests on nothing that is not durable yet
    Responses go to peers, or to this node by step(). Many appends may be under way, one sync may cover several, and a
    leader's entries travel to followers while its own disk is still busy. Committed entries are handed out to be
    applied only when the local log has them, so that the log never ends below what was applied.

A timeline: three voters, asynchronous storage, one proposal in term 1
    1  propose(x)               entry 1/5 in 1's unstable log; an ack of 1 to itself waits among the promises
       ready()                  1->2 and 1->3 APP 1/5; 1->AppendThread STORAGE_APPEND 1/5, its responses: the ack, and
                                the thread's own STORAGE_APPEND_RESP 1/5
    2  step(APP)                1/4 matches: entry 1/5 is unstable, and an ack of it waits
       ready()                  2->AppendThread STORAGE_APPEND 1/5, responses: 2->1 APP_RESP 5, STORAGE_APPEND_RESP
    2  synced                   the ack leaves, and 2 forgets its unstable copy
    1  step(APP_RESP 5 from 2)  match of 2 is 5; 1's own disk is slow, its own ack is not there: one of three, no quorum
    1  synced                   its own ack is stepped: two of three, 1/5 is committed
       ready()                  hard state with commit 5; APP to 2 and 3 with commit 5; 1->ApplyThread STORAGE_APPLY 1/5
    1  applied                  STORAGE_APPLY_RESP: applied is 5
    Had 3's ack come before 1's own, 2 and 3 would have committed 1/5 without the leader's disk; the leader would then
    have handed it out to be applied only after its own sync.

Left out, on purpose
    - Clocks. Lease reads (ReadOnly.LEASE_BASED) rest on check-quorum and on ticks that are nearly as long everywhere.
    - Retries, deadlines, duplicate detection: the owner knows what a proposal is.
    - Moving a snapshot's data; the core only says that a peer needs one and asks how it went.
    - Bootstrapping by entries: a new group's storage simply has its first configuration.
    - Witnesses, priorities, group commit, batching of conf changes.
"""

from nokv.raft.config import Config, ReadOnly, Sink
from nokv.raft.errors import (
    Compacted,
    ConfChangeError,
    ConfigError,
    ProposalDropped,
    SnapshotOutOfDate,
    SnapshotTemporarilyUnavailable,
    StepError,
    StepLocalMessage,
    StepMalformed,
    StepPeerNotFound,
    StorageReadError,
    Unavailable,
)
from nokv.raft.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD
from nokv.raft.node import RawNode
from nokv.raft.progress import Flow
from nokv.raft.read_index import ReadState
from nokv.raft.ready import Ready, SoftState
from nokv.raft.roles import Role
from nokv.raft.status import BasicStatus, PeerStatus, Status
from nokv.raft.storage import MemoryStorage, Storage

__all__ = [
    "LOCAL_APPEND_THREAD",
    "LOCAL_APPLY_THREAD",
    "BasicStatus",
    "Compacted",
    "ConfChangeError",
    "Config",
    "ConfigError",
    "Flow",
    "MemoryStorage",
    "PeerStatus",
    "ProposalDropped",
    "RawNode",
    "ReadOnly",
    "ReadState",
    "Ready",
    "Role",
    "Sink",
    "SnapshotOutOfDate",
    "SnapshotTemporarilyUnavailable",
    "SoftState",
    "Status",
    "StepError",
    "StepLocalMessage",
    "StepMalformed",
    "StepPeerNotFound",
    "Storage",
    "StorageReadError",
    "Unavailable",
]
