"""A node as its operator meets it: settings, start, and the supervisor of its processes.

A start goes through these files, in this order: `settings` (layers into one configuration), `preflight` and `pinning`
(what must hold, which CPU for whom), `rundir`, then `start` writes the effective configuration and hands over to
`supervisor`, which fills the places of a `family` with `children`, decides about each death by `restarts`, passes
their lines on (`logs`, `console`) and acts on `signals`. `summary` is what it prints, `admin` how it (and every tool)
asks a node about itself.

Nothing here is imported by router, manifest or workers: those are processes, started with `python -m`.
"""
