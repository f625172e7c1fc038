"""Group 0: the Raft group that decides what all others must agree on.

Every node's manifest process hosts one replica of group 0 (region id 0), so a cluster has no separate placement or
timestamp service to run, and loses nothing of it while a majority of nodes lives. This package is its state machine
and the rules around it: pure and deterministic, over the engine contract. Raft carries the commands, the manifest
process (nokv.manifest) moves the bytes.

Vocabulary
----------
group 0     The control plane's Raft group. Its log holds `control.ControlCommand`s and nothing else.
directory   The authoritative list of regions: id, range, epoch, members. Not who leads: leaders are hints.
registry    The stores of the cluster with their addresses.
allocator   Hands out ids of regions and peers, each of them once for ever.
oracle      Hands out timestamps. Only group 0's leader runs it.
window      Timestamps the oracle may still issue: above everything issued, below the `until` of its newest committed
            TsoAhead command.
physical    The upper 46 bits of a timestamp, milliseconds since 1970. The lower 18 bits count within a millisecond.
slot        One of the TS_STEP - 1 numbers behind an issued timestamp, free for a region leader's commit timestamps.

What group 0 decides, and what it never decides
-----------------------------------------------
It decides, by log entries: which ids are taken (AllocIds), below which timestamp a leader may issue (TsoAhead), which
stores exist and where they are reached (PutStore), and which description of a region is the newest (PutRegion).

It never decides who leads a region, which entries of a region are committed, what a region's members are or whether
a transaction commits. A region's own log decides those, and its leader then reports the outcome; group 0 records it
if the epoch is newer. So group 0 may be behind a region, but the region is never wrong because of that: requests are
checked against the epoch the replica itself has applied. With group 0 unavailable, reads and writes of data go on as
long as the caller needs no new timestamp.

Invariants
----------
- No timestamp is issued twice, by whatever leaders, clocks and restarts. Issued timestamps are multiples of TS_STEP.
- A timestamp is greater than every timestamp whose issue had been answered before this one was asked for.
- No id is given out twice. Ids may be lost (a reply that never arrived, an entry applied again), never repeated.
- `tso_ahead` and `next_id` never go down: not by a command, not by a snapshot.
- Regions in the directory are disjoint. A description is replaced only by one with a newer epoch, version first.
- Applying a command changes the engine's open transaction only. The caller writes the applied index into the same
  transaction, so a checkpoint holds both or neither, and a replayed entry is skipped instead of applied again.

Why no timestamp is ever issued twice
-------------------------------------
Before a leader issues anything, it commits TsoAhead(until) in its own term, and it issues only below `until`. It learns
that the command is committed by applying it. Let A and B be two leaders, B in the later term.

1. B starts to issue only after an entry of its own term was applied. Everything in its log before that entry is then
   applied too, and by Raft's leader completeness that includes every entry that A could have known to be committed.
2. So each window A ever issued from ends at or below B's `tso_ahead` at that moment.
3. B begins at `tso_ahead` or above. A's timestamps are below, B's are not. No clock occurs in this argument.

Should A become leader again so soon that its oracle was never told of B, the log tells it: B's window is one that A
did not ask for, A applies it before it serves anything in its new term, and stops until it is told to lead again. Two
leaders may by chance ask for the same `until`; so the host goes by the entry's origin as well, and stops the oracle on
any TsoAhead that another process proposed.

The slots behind A's last timestamp lie below `tso_ahead` as well, since whole steps are taken from a window.

Why they also rise in real time
-------------------------------
Uniqueness is not enough. A may have been deposed without knowing it and still have a window: after B has answered
a client with 900, A could answer another one with 500, and a transaction that began later would read an older state.
So the leader may grant only while it holds group 0's **leader lease** (nokv.workers.lease): until the lease ends no
other leader can have been elected. Two conditions make this airtight:

- The lease is on a clock that counts suspended time, and is checked on a reading of that clock taken *after* the
  request has arrived (after the grant is simplest). A process that is stopped between the check and the reply sends a
  late answer to an old question, which is no violation: the timestamp was the newest at an instant between question
  and answer. One that is stopped between reading the clock and taking in the request would check nothing.
- Without a lease (switched off, or a transfer has begun) the requests wait for a ReadIndex round that began after they
  came, exactly like reads.

Timeline of a leader change
---------------------------
::

    store 1 (leader, term 4)              group 0's log                   store 2
    grant 1000..1040                      TsoAhead(5000) @4 committed     follower: tso_ahead 5000
    --- cut off ---
    grants 1100 while its lease runs      TsoAhead(8000) @4 never         campaigns after the lease is over
    lease ends: no more grants            "" @5 committed                 leads term 5: lead(5000)
                                          TsoAhead(9000) @5 committed     window_committed(9000)
                                                                          grants from max(5000, its clock)
    comes back, follows term 5            its TsoAhead(8000) is gone      ...

The gap between 1100 and 5000 is never used. With a window of 3 s a change of leaders may push timestamps up to 3 s
ahead of the wall clock, which the next paragraph takes back.

Clocks
------
Safety needs no clock; the physical part exists so that "this lock is 3 seconds old" can be told from two timestamps.
The oracle therefore keeps a clock of its own that only rises:

- The wall clock is ahead of it: it follows at once. The cluster may have been off for a month.
- The wall clock is behind it (it was set back, or the previous leader's was ahead): it goes on at half the wall's rate
  until the wall has caught up. Standing still instead would be fatal to locks: 16,384 timestamps fit into a
  millisecond, so on a quiet cluster a lock's time to live would never pass.
- The wall clock jumps ahead by a year: it is followed, since nobody can tell a jump from a long stop of the cluster,
  and a clock that is refused leaves a store without time. What it costs: locks alive at that moment expire early, so
  their transactions are rolled back and begin again, and until the wall has caught up locks live up to twice as long.
  Jumps are counted and shown. A reading beyond the year 3084 (PHYSICAL_MS_MAX) is not followed: timestamps never go
  back, so one absurd reading could use up the 46 bits for ever.

TS_STEP: room for one-phase commits
-----------------------------------
A put needs one round: the client takes a start_ts S from the oracle, and the region's leader assigns the commit
timestamp itself, without asking anybody. It must be above S, equal to nobody's start_ts, and below every start_ts
issued later, so that whoever begins after the put was answered sees it.

Issued timestamps are multiples of 16 (TS_STEP), so S + 1 .. S + 15 are nobody's start_ts, and the next one issued is
at least S + 16: a commit timestamp from these slots meets all three conditions. If the key already has a newer commit,
a blind write may be moved above it, up to the highest slot of the newest timestamp the leader knows to be issued
(`ts_limit` in nokv.proto.command): everything issued from then on is above that too. A new region leader knows no
timestamp yet, so it first asks the oracle for one (PEER_TSO), which is above all reads its predecessors answered.

What is left out, and why
-------------------------
- No timestamps from followers and no local oracles: mixing sources was a defect wherever it was done.
- No persisting on each grant: one log entry for each half window, about every 1.5 s while a leader serves.
- No leaders and no statistics in the log: they change often, and a wrong hint costs one round trip.
- No removal of stores. A store without replicas is only an address.

Files: `cluster` (the state machine), `directory` (regions), `tso` (the oracle), `allocator` (ids), `heartbeats` (who
was heard of when: the leader's soft state).
"""
