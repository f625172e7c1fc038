"""`python -m tests.raft.bench`: what the core costs, in CPU time of this process, for a whole group in memory.

Why: every proposal and every tick of every group passes through it, so its cost has a budget.
Invariants: three voters with asynchronous storage, as workers run them; only CPU time is counted, so other processes
on the machine do not; a figure is the median of many batches.
Not here: sockets, disks, a state machine.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from random import Random
from statistics import median
from time import process_time
from typing import Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import ConfState, HardState, Message
from nokv.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Config, MemoryStorage, RawNode, Role

PROPOSAL_US_MAX: Final = 200.0
"""One proposal, from propose() until all three have applied it."""
BATCH: Final = 64
BATCH_RATIO_MAX: Final = 2.0
"""A batch of 64 entries costs at most so many times one proposal."""
TICK_US_MAX: Final = 3.0
"""One tick of one idle member, between heartbeats."""
COMPACT_EVERY: Final = 200
HEARTBEAT_TICKS: Final = 2
DATA: Final = b"x" * 100


class Group:
    """Three members; messages arrive at once, writes are durable at once."""

    def __init__(self) -> None:
        voters = (PeerId(1), PeerId(2), PeerId(3))
        self.storages = {peer: MemoryStorage(ConfState(voters=voters)) for peer in voters}
        self.nodes = {
            peer: RawNode(
                Config(
                    id=peer,
                    storage=storage,
                    rng=Random(peer),
                    heartbeat_tick=HEARTBEAT_TICKS,
                    async_storage_writes=True,
                    check_quorum=True,
                    pre_vote=True,
                )
            )
            for peer, storage in self.storages.items()
        }
        self.applied = 0
        self.leader = self.nodes[voters[0]]
        self.leader.campaign()
        self.settle()
        assert self.leader.basic_status().role is Role.LEADER

    def settle(self) -> None:
        """Do everything there is to do."""
        nodes = self.nodes
        working = True
        while working:
            working = False
            for node in nodes.values():
                while node.has_ready():
                    working = True
                    for message in node.ready().messages:
                        self._take(node, message)

    def _take(self, node: RawNode, message: Message) -> None:
        to = message.to
        if to == LOCAL_APPEND_THREAD:
            storage = self.storages[message.sender]
            storage.append(message.entries)
            if message.term or message.vote or message.commit:
                storage.set_hard_state(HardState(message.term, message.vote, message.commit))
            for response in message.responses:
                self.nodes[response.to].step(response)
        elif to == LOCAL_APPLY_THREAD:
            self.applied += len(message.entries)
            for response in message.responses:
                node.step(response)
        else:
            self.nodes[to].step(message)

    def compact(self) -> None:
        """Keep the logs short, as owners do."""
        for peer, storage in self.storages.items():
            applied = self.nodes[peer].basic_status().applied
            if applied >= storage.first_index():
                storage.compact(applied)


def cost_us(work: Callable[[], None], *, rounds: int, per_round: int, between: Callable[[], None]) -> float:
    """Median CPU time of one call, in microseconds."""
    times = []
    for _ in range(rounds):
        between()
        started = process_time()
        for _ in range(per_round):
            work()
        times.append((process_time() - started) / per_round * 1e6)
    return median(times)


def measure(rounds: int) -> tuple[float, float, float, float]:
    """Microseconds of one proposal, of a batch, of one idle tick, and of a heartbeat with its answers."""
    group = Group()
    leader, settle = group.leader, group.settle
    batch = (DATA,) * BATCH

    def one() -> None:
        leader.propose(DATA)
        settle()

    def many() -> None:
        leader.propose_batch(batch)
        settle()

    gc.collect()
    gc.disable()
    try:
        proposal_us = cost_us(one, rounds=rounds, per_round=COMPACT_EVERY, between=group.compact)
        batch_us = cost_us(many, rounds=rounds, per_round=COMPACT_EVERY // 10, between=group.compact)
        expected = 3 * (1 + rounds * (COMPACT_EVERY + COMPACT_EVERY // 10 * BATCH))
        assert group.applied == expected, f"applied {group.applied} of {expected}"
        tick_us, heartbeat_us = _tick_us(rounds), _heartbeat_us(rounds)
    finally:
        gc.enable()
    return proposal_us, batch_us, tick_us, heartbeat_us


def _tick_us(rounds: int) -> float:
    """One tick of one member, with the look whether it wants anything; what heartbeats cause is not in it."""
    group = Group()
    nodes = list(group.nodes.values())

    def ticks() -> None:
        for node in nodes:
            node.tick()
            node.has_ready()

    return cost_us(ticks, rounds=rounds * 50, per_round=10, between=group.settle) / len(nodes)


def _heartbeat_us(rounds: int) -> float:
    """One heartbeat of a whole idle group: HEARTBEAT_TICKS ticks of three members, two messages and two answers."""
    group = Group()
    nodes = list(group.nodes.values())

    def heartbeat() -> None:
        for _ in range(HEARTBEAT_TICKS):
            for node in nodes:
                node.tick()
        group.settle()

    return cost_us(heartbeat, rounds=rounds, per_round=50, between=group.compact)


def main() -> int:
    """The command; 1 if anything is over its budget."""
    parser = argparse.ArgumentParser(prog="tests.raft.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    proposal_us, batch_us, tick_us, heartbeat_us = measure(options.rounds)
    rows = (
        ("one proposal on three nodes", proposal_us, PROPOSAL_US_MAX),
        (f"a batch of {BATCH} on three nodes", batch_us, proposal_us * BATCH_RATIO_MAX),
        ("an idle tick of an awake group", tick_us, TICK_US_MAX),
    )
    for name, figure_us, limit_us in rows:
        verdict = "ok" if figure_us <= limit_us else "TOO SLOW"
        print(f"{name:32} {figure_us:8.2f} µs  limit {limit_us:8.2f} µs  {verdict}")
    print(f"{'a heartbeat of a whole group':32} {heartbeat_us:8.2f} µs")
    return 0 if all(figure_us <= limit_us for _, figure_us, limit_us in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
