"""Faults: what is done to a running cluster from the outside, and how it is undone.

Why: a power cut takes everything at once, a crash takes one process, a stall takes a process's time and a partition
its peers; tests must be able to do each of them on purpose and to know when it has taken effect.
Invariants: after a kill returns, none of the processes it was aimed at lives; what is suspended or cut off by a context
manager is released when the block ends, however it ends.
Not here: starting and stopping nodes (local_node.py), what is expected of the survivors.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final, NamedTuple

import msgspec
import psutil

from nokv.node.admin import Asker, AskError, Question
from nokv.proto.control import ChaosReply, ChaosRequest
from nokv.proto.frame import Kind
from nokv.proto.ids import StoreId
from nokv.testing.cluster import LocalCluster
from nokv.testing.local_node import KINDS, POLL_S, LocalNode

GONE_S: Final = 20.0
"""How long a killed process may take to be gone: a core's worth of memory has to be unmapped first."""
CHAOS_TIMEOUT_MS: Final = 2000


def children_of(node: LocalNode) -> list[psutil.Process]:
    """Router, manifest and workers of a node, as far as they live."""
    return [child for kind in KINDS for child in node.children(kind)]


def kill_processes(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL all of them, one right after the other, then wait until none lives."""
    for process in processes:
        _quietly(process.kill)
    deadline = time.monotonic() + GONE_S
    for process in processes:
        while is_alive(process):
            assert time.monotonic() < deadline, f"process {process.pid} does not die"
            time.sleep(POLL_S)


def kill_everything(nodes: Iterable[LocalNode]) -> None:
    """A power cut: every process of every node, supervisors first so that none can start a child again."""
    nodes = [node for node in nodes if node.is_running()]
    children = [child for node in nodes for child in children_of(node)]
    kill_processes([psutil.Process(node.pid) for node in nodes] + children)
    for node in nodes:
        node.kill()


def kill_children(nodes: Iterable[LocalNode]) -> None:
    """Every process of every node except the supervisors, which are expected to start them again."""
    kill_processes([child for node in nodes for child in children_of(node)])


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that only waits to be buried does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def suspended(*processes: psutil.Process) -> Iterator[None]:
    """Stop processes (SIGSTOP) for the length of the block, as a stalled machine or a debugger would."""
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            _quietly(process.resume)


def is_whole(cluster: LocalCluster, node: LocalNode) -> bool:
    """Whether all of a node's processes live and its manifest has heard from these very ones.

    The status alone shows a worker as up until it has missed a few heartbeats.
    """
    pids = {kind: [child.pid for child in node.children(kind)] for kind in KINDS}
    if len(pids["worker"]) != cluster.workers:
        return False
    try:
        status = cluster.status(node).node
    except AskError:
        return False
    workers = [worker.pid for worker in status.workers]
    up = all(worker.state == "up" for worker in status.workers)
    return up and pids == {"manifest": [status.manifest_pid], "router": [status.router_pid], "worker": workers}


def supervisor_of(node: LocalNode) -> psutil.Process:
    """The supervisor; suspended it starts nothing again."""
    return psutil.Process(node.pid)


class Victim(NamedTuple):
    """One child of a node. `number` counts workers from 0."""

    node: LocalNode
    kind: str
    number: int
    process: psutil.Process

    @property
    def name(self) -> str:
        """For people: "node 2 worker 1"."""
        number = f" {self.number}" if self.kind == "worker" else ""
        return f"node {self.node.store_id} {self.kind}{number}"

    def is_replaced(self) -> bool:
        """Whether another process has taken its place."""
        pids = [child.pid for child in self.node.children(self.kind)]
        return len(pids) > self.number and pids[self.number] != self.process.pid


def pick_child(node: LocalNode, random: Random) -> Victim:
    """One of a node's children, each kind alike. All of them must live."""
    kind = random.choice(KINDS)
    children = node.children(kind)
    index = random.randrange(len(children))
    return Victim(node, kind, index, children[index])


# ---- partitions (nodes must run with chaos.enabled) -----------------------------------------------------------------


def block(asker: Asker, node: LocalNode, stores: Iterable[int]) -> None:
    """Cut a node off from these stores, both directions; an empty list heals it. Returns once the node obeys.

    Raises:
        AskError: no answer in time, or chaos is not enabled there.
    """
    body = msgspec.msgpack.encode(ChaosRequest(tuple(StoreId(store) for store in sorted(stores))))
    asker.ask(Question(node.address, Kind.CHAOS, body), ChaosReply, timeout_ms=CHAOS_TIMEOUT_MS)


def block_patiently(asker: Asker, node: LocalNode, stores: Iterable[int], *, timeout_s: float = 20.0) -> None:
    """As `block`, tried again while the node does not answer. Raises AskError."""
    deadline = time.monotonic() + timeout_s
    wanted = tuple(stores)
    while True:
        try:
            block(asker, node, wanted)
            return
        except AskError as error:
            if error.detail is not None or time.monotonic() >= deadline:
                raise
            time.sleep(POLL_S)


@contextmanager
def isolated(cluster: LocalCluster, *nodes: LocalNode) -> Iterator[None]:
    """Cut these nodes off from all others for the length of the block; among themselves they stay connected."""
    inside = {node.store_id for node in nodes}
    outside = {node.store_id for node in cluster.nodes} - inside
    try:
        for node in nodes:
            block_patiently(cluster.asker, node, outside)
        yield
    finally:
        for node in nodes:
            if node.is_running():
                block_patiently(cluster.asker, node, ())


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return  # it was faster
