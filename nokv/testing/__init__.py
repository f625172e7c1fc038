"""Real clusters on this machine for tests, demos and benchmarks, and what is needed to break and to check them.

`cluster.LocalCluster` starts nodes (`local_node`) on leased ports (`ports`), with keys where wanted (`keys`);
`writers` load it and keep a `ledger` of what they were promised; `audit` holds the cluster to it.
"""
