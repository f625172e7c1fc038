"""Transactions on versioned keys: Percolator's two-phase commit, one-phase commit, atomic operations, collection.

This package is pure. Its functions take an engine, a decoded request and, where the request needs one, a commit
timestamp that the region's leader assigned; they read and write the engine and return a reply or a refusal. They run
when a Raft entry is applied, on every replica, in log order, so they must give the same result everywhere: no clock, no
randomness, no order of hashes, no node's configuration.

Vocabulary
----------
- *timestamp*: 64 bits from group 0's oracle, physical milliseconds and a logical counter. A transaction has a
  `start_ts`, the snapshot it reads and its name at once, and, if it commits, a `commit_ts`, where others see it.
- *version*: a committed PUT or DELETE of a key. A committed LOCK is no version: it changes nothing but conflicts.
- *lock*: a change that was prewritten and is not decided. One key of each transaction is its *primary*: the
  transaction is committed when, and only when, the primary's commit record exists.
- *fate* of a transaction on a key: a commit timestamp, "never" (rolled back), or open.
- *blind* write: its writer has read nothing, so a newer version is not a conflict; it goes on top.
- *safe point*: nobody reads below it, and no lock below it exists when collection begins.

What lies where (bytes in records.py, keys in nokv.storage.keys)
----------------------------------------------------------------
    LOCK     key                the one lock
    WRITE    key, commit_ts     what was committed: kind, start_ts, and the value if it has at most 255 bytes
    DEFAULT  key, start_ts      the *trace* of a transaction: its long value; or the mark of its rollback; or, for a
                                write that was moved up, the commit_ts where it went

Invariants
----------
1. A key's commit records are added in ascending order of commit_ts and only there. (While a key is locked nobody else
   commits it. A prewrite needs the newest commit at or below its start_ts and commits above it. Everything else
   commits above the newest.)
2. Hence a transaction that found no newer commit is the first commit above its own start_ts, for ever: one seek tells
   whether it committed. One that did find newer commits (a blind write) leaves a RAISED trace: one get tells.
3. Rollback marks lie at (key, start_ts) in DEFAULT, where no commit can lie. A mark and the commit record of another
   transaction with commit_ts equal to this start_ts are two records: neither can destroy the other (M32).
4. A committed LOCK names the newest version beneath it. So a read never walks: one lock lookup, one seek, at most one
   jump and one fetch of a long value, whatever the key has been through (M31, M51).
5. Refused means untouched: everything is checked before anything is written. The exceptions are blind writes and
   atomic operations that are refused for good: they leave a mark, so that a late duplicate is refused as well.
6. Exactly once: every write is named by (key, start_ts), and repeating it finds its fate first.

Percolator (and TiKV after it) keeps rollback marks among the commit records. Then a mark and a commit can meet at one
key and must be merged, and a key whose transactions keep failing gets a run of marks that every reader has to step
over until collection: 10,000 marks cost a read some 10 ms. With marks beside the commits a write costs one more lookup,
about a microsecond, and all of that is gone. `tests/mvcc/test_cost.py` counts the calls.

A transaction, worked
---------------------
Two keys in two regions, a (primary) and b; the client's start_ts is 10.

    client -> region of a   Prewrite a=1, primary a    LOCK a: PUT, primary a, @10
    client -> region of b   Prewrite b=2, primary a    LOCK b: PUT, primary a, @10
    client -> oracle        commit_ts = 20             taken after the last prewrite: a reader at 15 has either met the
                                                       lock or was answered before it, and 20 is above 15 (M29)
    client -> region of a   Commit a @10 -> 20         WRITE a@20: PUT 1 by 10; LOCK a gone: *this is the commit*
    client -> region of b   Commit b @10 -> 20         WRITE b@20: PUT 2 by 10; LOCK b gone. The client may have told
                                                       its user before: nothing can undo it any more.

The client dies before the last line. A reader of b at 30 meets the lock: KeyIsLocked(primary a, @10). It asks a's
region, CheckTxnStatus(a, @10): no lock, the first commit above 10 is by 10, so "committed at 20". It resolves b with
commit_ts 20 and reads on. Had the client died before `Commit a`, the status check would find a's lock: alive until its
TTL (raised by heartbeats) has passed in the oracle's physical time, then rolled back with a mark, and b after it. A
`Commit a` that arrives later finds the mark: RolledBack.

A reader that does not want to wait for a live transaction lets CheckTxnStatus push the lock's `min_commit_ts` above its
own timestamp: the transaction will commit above the reader, who may read what is beneath the lock. Only locks that were
prewritten with a min_commit_ts can be pushed: their owners expect CommitTsTooLow and fetch a newer timestamp.

One phase, and why its timestamp is safe
----------------------------------------
A transaction within one region needs no locks: its checks and its writes are one log entry. The region's leader assigns
the commit timestamp when it proposes:

    commit_ts > start_ts               as always
    commit_ts > every ts read at       no answered read changes; `observed_ts` names what a request reads at, writes
                                       included; a new leader begins with a timestamp from the oracle, since it does
                                       not know what its predecessors answered
    commit_ts < every ts still to be   issued by the oracle: whoever starts after the answer sees the write, and no
    issued                             start_ts or commit_ts of anybody can be equal to it (proto.ids.TS_STEP)

A conflict (a commit above start_ts) refuses the request, unless it is blind: then all its mutations go to
max(commit_ts, newest commit + 1), as long as that is at most `ts_limit`, up to which the leader vouches for the third
line. The two further rules are those of duplicates: a request that finds its own commit on any key answers with it and
does nothing; one that finds its own mark on any key is refused.

Why a refusal that leaves no mark is final too: a conflict without `blind` is a commit above start_ts, which stays;
below the safe point, where it might not, new writes are refused (SnapshotTooOld). The one refusal that is *not* final
is KeyIsLocked: the same request may succeed later. A caller that gives up on it rolls its keys back first.

A client that does not know the outcome of a one-phase write and cannot repeat it (its region was split, so that one
request no longer covers the keys) asks CheckTxnStatus on any of the keys, with rollback_if_not_exist: the answer is the
commit timestamp, or the mark that makes sure that it never happens. It must not fall back to Prewrite before.

Atomic operations (atomic.py) follow the same rules. An operation that had no effect (a failed comparison, a value of
the wrong type) leaves a trace that names the version it looked at, so that its repetition gets the same answer.

What is left out, and why
-------------------------
- Pessimistic locks: they need a lock manager between propose and apply; optimistic retries serve our workloads.
- Async commit: it saves a round trip of two-phase commit at the price of a second definition of "committed". One-phase
  commit covers the common case.
- Collapsing rollback marks: in TiKV it keeps runs of marks short. Ours are in nobody's way, and each one is exact.
- Serializable isolation: this is snapshot isolation. A transaction that must not see write skew locks what it reads.
- Raw keys without versions and TTLs of values.

Files: records (bytes), lookup (fate, newest commit, value), site (one key as a writer finds it), reader and scan,
prewrite, commit, rollback, resolve, status, one_phase, atomic, delete_range, gc, limits, validate, evaluate (the way
in), history (one key for human eyes).
"""
