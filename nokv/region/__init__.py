"""Regions: how the key space is cut, how the cuts are found, and how a replica's life goes.

Vocabulary
----------
key space   All byte strings in byte order. Keys are raw user keys; a region's borders are raw keys too.
region      A contiguous range `start <= key < end` with an id, replicated by one Raft group of its own. An empty
            `start` is the lowest key, an empty `end` is "no upper bound".
peer        One replica of one region, on one store. Its id is never used again, so a replica that was removed and
            added again is another peer, and messages to the first do not reach the second.
store       A node's durable identity. Transport, placement and leaders are named by store id, never by address.
epoch       (version, conf_ver). `version` rises with every change of range, `conf_ver` with every change of members.
            Every request names the epoch its sender believes in, and is refused with EpochNotMatch if that is not
            the region's own. Compared version first: who knows a newer range knows better, whatever the members were.
route       A region and who is thought to lead it. Routes are hints: a wrong one costs a round trip, never an error.
directory   Group 0's authoritative list of regions; `RouteTable` is everybody else's partial copy of it.
tombstone   What is left of a destroyed replica: the mark that this id was here and must not come back.

Invariants
----------
- At any time the regions of the cluster tile the key space: no gap, no overlap. `tiling_fault` checks a topology.
- Whenever the range that owns a key changes, the version of its new owner is above that of the old one. So between two
  overlapping regions the one with the higher version is the present, and equal versions never overlap.
- A table holds disjoint ranges and each region id once. It may have gaps: a gap means "ask", not "no such region".
- A replica never leaves TOMBSTONE, and state, range and applied index change in one storage transaction.
- Nothing here reads a clock, a socket or a file: two stores that are told the same conclude the same.

How a request finds its region
------------------------------
::

    client                                     node                                        group 0
      │ lookup(key) -> route                     │                                            │
      │ gap? ───────────── ROUTES ──────────────────────────────────────────────────────────► │
      │ learn(page) ◄──────────────────────────────────────────────────────────────────────── │
      │ request(region id, epoch) ─────────────► │ router: region id -> worker, body unread   │
      │                                          │ worker: epoch, range, leadership           │
      │ set_leader              ◄──── OK ─────── │                                            │
      │ apply_not_leader        ◄ NotLeader ──── │ try the leader it names, else the peers    │
      │ apply_epoch_not_match   ◄ EpochNotMatch  │ its regions replace older knowledge        │

A worked timeline
-----------------
Region 1 is everything, v1, and a client knows it so.

1. Region 1 splits at "m": region 1 [, m) v2 and region 2 [m, ) v2.
2. The client asks region 1 v1 for "x". The answer is EpochNotMatch with both regions. `put(1 v2)` replaces region 1;
   `put(2 v2)` fills the rest. The request goes to region 2.
3. Region 2 splits at "t" (v3); region 3 [t, ) v3 moves its leader. Another request of the client was still under
   way and now comes back with region 2 [m, ) v2: it is older than what an answer in between taught (v3), and ignored.
4. A NotLeader from store 1, which was asked while store 1 was thought to lead, clears or changes the leader. The same
   answer, arriving after store 2 has already answered as leader, changes nothing: it disproves only what was assumed
   when the question was asked.

What is left out, and why
-------------------------
- No leader terms in routes. A client that follows a stale hint is refused and told; terms would have to travel in each
  reply to save that round trip.
- No negative knowledge ("store 3 has no replica of region 7"): membership says it, and the epoch dates it.
- `presplit` looks at no data. Splits by size and load are decisions of the schedulers, not of this package.

Files: `route_table` (key -> route), `lifecycle` (states of a replica), `presplit` (first cuts of an empty store).
"""
