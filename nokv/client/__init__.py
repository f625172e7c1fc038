"""The SDK: how a program's call becomes requests to the right nodes, and an answer or an error that can be acted on.

Import from `nokv`, not from here::

    import nokv

    with nokv.Client("nokv://127.0.0.1:6658") as db:          # or: async with nokv.AsyncClient(...) as db, and await
        db.put(b"hello", b"world")
        assert db.get(b"hello") == b"world"
        for key, value in db.scan(prefix=b"h"):
            ...

Vocabulary
----------
call        One method of the client as the program sees it. It has one budget of time, from its start to its end,
            whatever it takes: `timeout`, shortened by any `with nokv.deadline(s)` around it. In code: `Op`.
attempt     One request of a call, sent once to one store. An attempt waits a share of the budget (`Op.attempt_due`).
route       A region and who is thought to lead it. Routes are beliefs, kept in `RegionCache`; a wrong one costs a trip.
remedy      What to do about a refusal. There is one table for all (proto.errors.REMEDY) and one place that reads it.
link        One connection to one node, from its greeting to its end. A new connection is a new link.
net         Everything that moves requests: links, deadlines of attempts, the bound on requests under way.
oracle      Group 0's source of timestamps. A write takes a start timestamp from it, reads of many keys their snapshot.
maybe       Of a write: an attempt was sent and its answer never came, so it may have been carried out.

Invariants
----------
- Every call ends by its deadline, with a result, an error or a cancellation; nothing waits for ever.
- Every request ends exactly once: answer, loss of its connection, expiry, or its caller's leaving. A late answer finds
  nobody and is dropped. So cancelling a call can never damage another one on the same connection.
- A write is carried out at most once. All its attempts carry the same start timestamp, by which the store recognises a
  repeat and gives the first outcome; a new timestamp is taken only after the store has said that the old one wrote
  nothing and never will.
- An error tells the truth about writes: `outcome` is "not_applied" only where that is known, else "unknown".
- Nothing but the greeting is sent to a node before it has said which protocol it speaks and which cluster it is in.
- A timestamp is issued after the call that uses it began. Batching never hands out an older one.
- The logic sees no clock, socket or random source but those it is given: `AsyncClient(dial=..., random=...)` on a loop
  with virtual time runs a whole program deterministically.

How a call travels
------------------
::

    db.put(k, v)                                               client.py     checks k and v, opens the budget
      │ start_ts = oracle.fresh()                              async_oracle  many callers, one request
      │ build(region) -> body, with the region's epoch         writes.py
      ▼
    Caller.call ◄──────────────────────────────┐               caller.py
      │ lookup(k) -> route; leader -> endpoint │               region_cache
      │ net.request(...)                       │ wait
      ▼                                        │
    outbox of the node's link ── flush ──► one ZeroMQ message  async_net, link, zmq_connection
      :                                        │
    reply by request id ── OK ──► decode ──► done
      │                                        │
      └ refusal, silence, loss ──► judge ──────┘               retry.py: teaches the cache, sets the wait,
                                     │                         or says that it is final
                                     └─ lock in the way: ask its primary, finish it (resolver.py)

Requests made in one iteration of the event loop leave as one message for each node. There is no task and no timer for
each call: a call is its caller's own coroutine waiting for one future, and one timer, set to the earliest deadline
known, serves all.

A worked timeline
-----------------
Store 1 leads region 7. A program calls `put(b"k", b"v")` with a budget of 5 s.

1. 0 ms: the call joins the next timestamp request; 1 ms: start_ts = 96.
2. 1 ms: the write goes to store 1, which proposes it and dies before it answers.
3. 3 ms: the connection breaks. The attempt ends LOST_ANSWER: the call is now `maybe`, store 1 is passed over.
4. 3 ms: store 2 is asked, with the same bytes. It answers NotLeader(leader: store 1): not helpful, it is passed over
   too. Store 3 says the same. All have failed: the round begins anew after a jittered wait and fresh routes.
5. 1.2 s: store 3 has been elected, and its log holds the entry that store 1 had proposed. It finds start_ts 96 already
   committed and answers with that commit: the write happened once, and the call returns.
6. Had nobody been elected until 5 s: TimeoutError, outcome "unknown", and __cause__ tells the last thing met.

Two clients, one source
-----------------------
`_async/` is the source; `_sync/` is generated from it by `python -m nokv.client._unasync` and never edited. What cannot
be derived has twins with equal surfaces: AsyncNet and BlockingNet, AsyncOracle and BlockingOracle, RegionCache and
SharedRegionCache. The blocking client gives each thread connections of its own, so a call needs no other thread; routes
are shared. Types are exact in both: no method returns "an awaitable or a value".

What is left out, and why
-------------------------
- Transparent reconnection of sockets. libzmq would deliver a request long after its caller was told that it failed;
  here a connection that ends takes its requests with it, and each call decides what that means for it.
- Pools and checkouts. Requests are multiplexed by id, so there is nothing to check out and nothing to leak.
- Retries of conflicts. A blind write has no conflict a program could care about, and is repeated inside; what reads
  before it writes is a transaction, and those are begun again by their own function.
- str keys. Encodings are the program's business; a str is a TypeError with a hint.

Files: `_async/client` (the surface), `caller` (the way of a request), `reads`, `writes`, `scan`, `snapshot`, `cluster`,
`resolver`; pure: `op`, `retry`, `link`, `region_cache`, `key_range`, `limits`, `backoff`, `errors`; edges: `async_net`,
`blocking_net`, `zmq_connection`, `zmq_socket`, `topology_file`, `fork_guard`, `deadline`.
"""
