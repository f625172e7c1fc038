"""A real cluster on this machine: real processes, real sockets, real disk, for tests, demos and benchmarks.

    with LocalCluster(nodes=3, workers=2) as cluster:
        with nokv.Client(cluster.url) as db:
            db.put(b"hello", b"world")
        cluster.nodes[1].kill()

Invariants: ports are leased for the cluster's whole life; sockets lie in a short private folder; nothing runs after
`stop`; when a block ends by an exception, data and logs are kept and their place is noted on the exception.
Not here: one node (local_node.py), ports (ports.py).
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Final
from urllib.parse import quote

from nokv.node.admin import Address, Asker, AskError
from nokv.proto.control import RegionRoute, StatusReply, StoreInfo
from nokv.proto.ids import ClusterId, StoreId
from nokv.testing.keys import make_keys
from nokv.testing.local_node import POLL_S, LocalNode
from nokv.testing.ports import PortLease
from nokv.topology import Topology, encode, parse, presplit

READY_TIMEOUT_S: Final = 60.0
REGIONS_PER_WORKER: Final = 2
LOOK_TIMEOUT_MS: Final = 500


class ClusterError(AssertionError):
    """The cluster did not become what was waited for. The text has the ends of all logs."""


class LocalCluster:
    """`nodes` stores with `workers` shard workers each. A context manager; `start` and `stop` do the same by hand."""

    def __init__(
        self,
        nodes: int = 3,
        workers: int = 1,
        *,
        regions: int | None = None,
        ports: Sequence[tuple[int, int]] | None = None,
        data_dir: Path | None = None,
        settings: Mapping[str, object] | None = None,
        curve: bool = False,
        keep: bool = False,
    ) -> None:
        """`regions`: how many to start with (default: enough for every worker). `ports`: a (client, peer) pair for each
        node instead of leased ones. `data_dir`: where data and logs go and stay, instead of a temporary folder.
        `settings`: dotted settings of every node, e.g. {"raft.tick_ms": 20}. `curve`: both planes encrypted, with one
        client key. `keep`: leave temporary data behind.
        """
        assert nodes > 0
        assert workers > 0
        self.workers = workers
        self._keep = keep
        self.run_root = Path(tempfile.mkdtemp(prefix="nokv-", dir="/tmp"))
        self.data_root = data_dir.absolute() if data_dir is not None else self.run_root
        self._lease = None if ports is not None else PortLease(2 * nodes)
        if self._lease is not None:
            ports = list(zip(self._lease.ports[::2], self._lease.ports[1::2], strict=True))
        assert ports is not None
        assert len(ports) == nodes
        self.data_root.mkdir(parents=True, exist_ok=True)
        self.keys = make_keys(self.data_root, nodes) if curve else None
        self.topology_path = self.data_root / "topology.json"
        self.topology = self._topology(ports, regions or max(1, REGIONS_PER_WORKER * workers * min(nodes, 2)))
        self.nodes = [self._node(store, settings or {}) for store in self.topology.stores]
        self.asker = Asker(self.keys.client if self.keys is not None else None)

    def _topology(self, ports: Sequence[tuple[int, int]], regions: int) -> Topology:
        """The one that the data directory already has, else a new one."""
        if self.topology_path.exists():
            return parse(self.topology_path.read_bytes())
        public = self.keys.public if self.keys is not None else [""] * len(ports)
        stores = tuple(
            StoreInfo(StoreId(at), f"127.0.0.1:{client}", f"127.0.0.1:{peer}", "", public[at - 1])
            for at, (client, peer) in enumerate(ports, start=1)
        )
        made = presplit(ClusterId(SystemRandom().randrange(1, 1 << 53)), stores, regions=regions)
        self.topology_path.write_bytes(encode(made))
        return made

    def _node(self, store: StoreInfo, settings: Mapping[str, object]) -> LocalNode:
        name = f"node-{store.id}"
        arguments = ["--topology", str(self.topology_path), "--store-id", str(store.id)]
        arguments += ["--data-dir", str(self.data_root / name), "--run-dir", str(self.run_root / f"n{store.id}")]
        arguments += ["--workers", str(self.workers), "--pin", "none", "--log-format", "text"]
        if self.keys is not None:
            arguments += ["--curve-dir", str(self.keys.node_dirs[store.id - 1])]
        for path, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["--set", f"{path}={text}"]
        address = Address(store.client_addr, store.server_key)
        return LocalNode(store.id, address, arguments, self.data_root / f"{name}.log")

    @property
    def url(self) -> str:
        """For a client: all nodes, or with keys the first one, which tells the others' keys."""
        if self.keys is None:
            return "nokv://" + ",".join(node.client_addr for node in self.nodes)
        server_key = quote(self.keys.public[0], safe="")
        return f"nokv+curve://{self.nodes[0].client_addr}?server_key={server_key}&key={self.keys.client_file}"

    # ---- life ----

    def __enter__(self) -> "LocalCluster":
        try:
            self.start()
            self.wait_ready()
        except BaseException as error:
            self._keep = True
            error.add_note(f"data and logs are kept in {self.data_root}")
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._keep = True
            error.add_note(f"data and logs are kept in {self.data_root}")
            error.add_note(self.log_tails())
        self.stop()

    def start(self) -> None:
        """Start every node that does not run."""
        for node in self.nodes:
            if not node.is_running():
                node.start()

    def stop(self) -> None:
        """End every node, give the ports back, and remove what is temporary."""
        for node in self.nodes:
            node.kill()
        self.asker.close()
        if self._lease is not None:
            self._lease.close()
        if not self._keep or self.data_root != self.run_root:
            shutil.rmtree(self.run_root, ignore_errors=True)

    def keep_data(self) -> None:
        """Leave data and logs behind, whatever comes."""
        self._keep = True

    def drain(self) -> list[int]:
        """Stop every node gracefully, all at once; their exit codes."""
        for node in self.nodes:
            node.ask_to_stop()
        return [node.stop() for node in self.nodes]

    # ---- looking ----

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every running node has all workers up and every region has a leader that runs.

        Raises:
            ClusterError: not in time, or a node ended.
        """
        deadline = time.monotonic() + timeout_s
        while (lacks := self._lacks()) is not None:
            if time.monotonic() >= deadline:
                raise ClusterError(f"not ready after {timeout_s:g} s: {lacks}\n{self.log_tails()}")
            time.sleep(POLL_S)

    def status(self, node: LocalNode) -> StatusReply:
        """A node's own view. Raises AskError."""
        return self.asker.status(node.address, regions=True, timeout_ms=LOOK_TIMEOUT_MS)

    def routes(self) -> tuple[RegionRoute, ...]:
        """The directory as the first node that answers knows it. Raises ClusterError."""
        for node in self.nodes:
            if node.is_running():
                try:
                    return self.asker.routes(node.address, timeout_ms=LOOK_TIMEOUT_MS).regions
                except AskError:
                    continue
        raise ClusterError(f"no node answers\n{self.log_tails()}")

    def leader_count(self) -> dict[int, int]:
        """How many regions each running node says it leads."""
        counts = {}
        for node in self.nodes:
            if node.is_running():
                try:
                    counts[node.store_id] = self.status(node).node.leaders
                except AskError:
                    counts[node.store_id] = 0
        return counts

    def node(self, store_id: int) -> LocalNode:
        """The node with this store id."""
        return self.nodes[store_id - 1]

    def log_tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"---- node {node.store_id}: {node.log_path}\n{node.log_tail()}" for node in self.nodes)

    def complaints(self) -> list[str]:
        """Lines of all logs that no fault from outside explains: tracebacks and broken assertions."""
        words = ("Traceback", "AssertionError", "Fatal Python error")
        found: list[str] = []
        for node in self.nodes:
            lines = node.log_path.read_text(errors="replace").splitlines() if node.log_path.exists() else []
            found += [f"node {node.store_id}: {text}" for text in lines if any(word in text for word in words)]
        return found

    def _lacks(self) -> str | None:
        """What is missing for the cluster to be ready; None if nothing is."""
        led = 0
        for node in self.nodes:
            if not node.is_running():
                if node.has_ended():
                    raise ClusterError(f"node {node.store_id} ended with {node.exit_code(0)}\n{self.log_tails()}")
                continue
            try:
                status = self.status(node)
            except AskError as error:
                return f"node {node.store_id}: {error.reason}"
            workers = status.node.workers
            if len(workers) < self.workers or any(worker.state != "up" for worker in workers):
                return f"node {node.store_id}: workers are {', '.join(worker.state for worker in workers)}"
            led += status.node.leaders
            if not status.node.control_leader:
                return f"node {node.store_id}: no leader of group 0"
        regions = len(self.topology.regions)
        return None if led == regions else f"{led} of {regions} regions have a leader"
