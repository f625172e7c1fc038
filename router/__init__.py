"""The router process: three sockets, one table, no opinion about what it carries.

Flow
----
::

    clients ── tcp ──► client plane ─┐                             ┌─► worker 0 .. n-1   "w<i>"
    stores  ── tcp ──► peer plane  ──┼─► Dispatcher ─► link (ipc) ─┼─► manifest          "m"
                                     └─◄ replies   ◄───────────────┘

- `dispatch`  decisions, pure: which frames go where, what is answered at once, what is dropped and counted
- `queues`    bounded queues in front of pipes that are full, pure
- `greeting`  who may talk: client hello, peer hello, cluster and store ids, pure
- `auth`      CURVE keys: the ZAP handler's decisions, pure
- `refusals`  what is logged about refused sources, at most once a minute each, pure
- `curve`     key files and key pairs
- `z85`       the text form of keys
- `sockets`   creation of every socket, with all options set explicitly
- `loop`      the turn: poll, drain, dispatch, flush
- `__main__`  arguments, signals, exit codes

Link messages are `[address, frames, address, frames, ...]` in both directions; an address towards a worker says where
the frames came from, one from a worker says where they go: `C<client identity>`, `P` peer plane, `M` manifest,
`W<index>` worker, `R` the router itself.

What may be lost: Raft and other one-way frames (their senders repeat them) and replies to clients that do not read.
What may not: a client's request. It reaches its worker or is answered with a typed error.
"""
