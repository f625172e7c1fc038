"""World of the explorer: a few machines, a network that loses, repeats and reorders, and a seed that decides.

Why: bugs of consensus need coincidences; a seed draws which coincidences are likely, which limits are tiny, and then
every single step.
Invariants: everything comes from the one random generator, so a seed is a run; in the second phase nothing fails any
more, and the group has to get on: to elect, to commit, and to bring everybody up to date.
Not here: what is checked (explorer_rules.py).
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, Final

from nokv.proto.ids import PeerId
from nokv.proto.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Message,
    MessageType,
    Transition,
)
from nokv.raft.describe import describe_message
from nokv.raft.roles import Role
from tests.raft.explorer_machine import Machine
from tests.raft.explorer_rules import Ledger, Violation

FLIGHTS_MAX: Final = 60
"""Messages on the network; beyond, the oldest are lost."""
TURNS_MAX: Final = 20_000
"""Turns of the machines after one tick of a healed group until nothing is left to be done."""
HEALED_ROUNDS_MAX: Final = 600
"""Rounds in which a healed group has to get on; some twenty are usual."""
ACTIONS: Final[dict[str, float]] = {
    "deliver": 400,
    "work": 400,
    "tick": 80,
    "propose": 36,
    "read": 24,
    "change": 12,
    "transfer": 6,
    "campaign": 2,
    "forget": 3,
    "crash": 1.5,
    "start": 10,
    "cut": 1,
    "heal": 7,
    "snapshot": 12,
    "unreachable": 4,
}
"""Weights of what may happen next."""
RARE: Final = ("change", "transfer", "campaign", "forget", "crash", "cut", "snapshot", "unreachable", "read")
"""Whose weights a seed may change, to nothing or to a multiple."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Two runs of one seed have equal outcomes."""

    steps: int
    committed: int
    term: int
    changes: int
    fingerprint: int
    left_behind: bool
    """Whether the group could not get on, for a reason that is known (World._left_behind)."""


class World:
    """One run.

    Args:
        seed: decides everything.
        trace: takes a line for each thing that happens.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.rng = Random(seed)
        self._trace = trace

        rng = self.rng
        count = rng.randint(3, 5)
        self._peers = [PeerId(peer) for peer in range(1, count + 1)]
        founders = tuple(self._peers[: rng.choice((3, 3, count))])
        self._loss = rng.choice((0.0, 0.02, 0.1, 0.3))
        self._repeat = rng.choice((0.0, 0.02, 0.1))
        self._reorder = rng.choice((0.0, 0.3, 1.0))
        self._steps = rng.choice((1500, 4000, 8000))
        weights = dict(ACTIONS)
        for name in RARE:
            weights[name] *= rng.choice((0, 0.3, 1, 1, 3))
        self._names: Final = list(weights)
        self._weights: Final = list(accumulate(weights.values()))
        self._actions: Final[dict[str, Callable[[], None]]] = {
            name: getattr(self, f"_do_{name}") for name in self._names
        }

        self.ledger = Ledger({}, ConfState(voters=founders))
        self._settings = draw_settings(rng)
        self.machines = {
            peer: Machine(
                peer, self._settings | {"async_storage_writes": rng.random() < 0.6}, self.ledger, self._send, rng
            )
            for peer in self._peers
        }
        self.ledger.disks.update({peer: machine.disk for peer, machine in self.machines.items()})
        for peer in founders:
            self.machines[peer].found(ConfState(voters=founders))
        self.flights: list[Message] = []
        self._cut: set[tuple[int, int]] = set()
        self._healed = False
        self._made = 0
        self._print = 0

    # ---- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Both phases. Raises Violation, or what a bug in the core raises."""
        for machine in self.machines.values():
            machine.start()
        rng, names, weights, actions = self.rng, self._names, self._weights, self._actions
        for _ in range(self._steps):
            actions[rng.choices(names, cum_weights=weights)[0]]()
        rounds = self._heal()
        for number in self.ledger.numbers():
            self._mix(number)
        terms = [machine.node.basic_status().term for machine in self.machines.values() if machine.node is not None]
        conf_index, _ = self.ledger.last_conf_state()
        left_behind = rounds == HEALED_ROUNDS_MAX
        return Outcome(self._steps + rounds, self.ledger.commit, max(terms), conf_index, self._print, left_behind)

    def _heal(self) -> int:
        """The second phase: nothing fails any more. Returns how many rounds it took."""
        self._note("---- healed")
        self._loss = self._repeat = self._reorder = 0.0
        self._cut.clear()
        self._healed = True
        for machine in self.machines.values():
            machine.disk.busy = False
            machine.freshness = 1.0
            if machine.node is None:
                machine.start()
            for peer in self._peers:
                machine.call(machine.node_or_fail().report_snapshot, peer, False)
        goal = 0
        for rounds in range(HEALED_ROUNDS_MAX):
            self._round()
            leader = self._leader()
            if leader is None:
                continue
            if not goal:
                before = self.ledger.commit
                data = self._data()
                if leader.call(leader.node_or_fail().propose, data):
                    goal = before + 1
            elif self._all_have(goal):
                return rounds
            elif rounds % 50 == 49:
                goal = 0  # The proposal may have been lost with its leader.
        if self._left_behind():
            return HEALED_ROUNDS_MAX
        raise Violation(f"nothing more is committed on a healed group, at {self._describe()}")

    def _left_behind(self) -> bool:
        """Whether the group is stuck for one of two known reasons, neither of which endangers what is committed.

        First: only a leader that removed or demoted itself knows of that, and is not a leader any more. The others
        still go by a configuration in which they need its vote, and do not get it if its log is longer than theirs.
        Second: without pre_vote and check_quorum nobody tells a leader that a removed peer has raised the others' term.
        """
        index, state = self.ledger.last_conf_state()
        if all(self.machines[peer].applied < index for peer in state.voters):
            return True
        leader = self._leader()
        if leader is None or self._settings["pre_vote"] or self._settings["check_quorum"]:
            return False
        term = leader.node_or_fail().basic_status().term
        nodes = [machine.node for machine in self.machines.values()]
        return any(node is not None and node.basic_status().term > term for node in nodes)

    def _round(self) -> None:
        """Every machine ticks once, and everything that follows from it happens."""
        self._switch()
        for machine in self.machines.values():
            if machine.node is not None:
                machine.call(machine.node.tick)
        for _ in range(TURNS_MAX):
            busy = [machine for machine in self.machines.values() if machine.busy]
            for machine in busy:
                self._work(machine)
            while self.flights:
                self._deliver(self.flights.pop(0))
            if not busy:
                return
        raise Violation("the machines never come to rest")

    def _switch(self) -> None:
        """Members are on; others are off as soon as all members know of it: their campaigns would go on for ever."""
        index, state = self.ledger.last_conf_state()
        members = members_of(state)
        for peer in members:
            if self.machines[peer].node is None:
                self.machines[peer].start()
        if all(self.machines[peer].applied >= index for peer in members):
            for peer, machine in self.machines.items():
                if peer not in members and machine.node is not None:
                    machine.crash()

    def _leader(self) -> Machine | None:
        leaders = [
            machine
            for machine in self.machines.values()
            if machine.node is not None and machine.node.basic_status().role is Role.LEADER
        ]
        return max(leaders, key=lambda one: one.node_or_fail().basic_status().term, default=None)

    def _all_have(self, goal: int) -> bool:
        commit = self.ledger.commit
        _, state = self.ledger.last_conf_state()
        return commit >= goal and all(self.machines[peer].applied == commit for peer in members_of(state))

    # ---- what may happen -------------------------------------------------------------------------------------------

    def _any(self) -> Machine | None:
        """A machine that is up."""
        machine = self.machines[self.rng.choice(self._peers)]
        return machine if machine.node is not None else None

    def _do_deliver(self) -> None:
        rng, flights = self.rng, self.flights
        if not flights:
            return
        place = rng.randrange(len(flights)) if self._reorder and rng.random() < self._reorder else 0
        message = flights.pop(place)
        if rng.random() < self._loss:
            self._lose(message)
            return
        if rng.random() < self._repeat:
            flights.append(message)
        self._deliver(message)

    def _deliver(self, message: Message) -> None:
        if (message.sender, message.to) in self._cut or message.to not in self.machines:
            self._lose(message)
            return
        if self._trace is not None:
            self._trace(f"deliver {describe_message(message)}")
        receiver = self.machines[message.to]
        if message.type is MessageType.SNAP:
            up = receiver.node is not None
            receiver.deliver(message)
            if not up or self._healed or self.rng.random() < 0.8:
                self.machines[message.sender].report_snapshot(message, up)
        else:
            receiver.deliver(message)

    def _lose(self, message: Message) -> None:
        if self._trace is not None:
            self._trace(f"lose {describe_message(message)}")
        sender = self.machines[message.sender]
        if message.type is MessageType.SNAP:
            sender.report_snapshot(message, False)
        elif sender.node is not None and self.rng.random() < 0.2:
            sender.call(sender.node.report_unreachable, message.to)

    def _do_work(self) -> None:
        busy = [machine for machine in self.machines.values() if machine.busy]
        if busy:
            self._work(self.rng.choice(busy))

    def _work(self, machine: Machine) -> None:
        choices: list[Callable[[], None]] = [machine.turn]
        if machine.appends:
            choices.append(machine.write)
        if machine.applies:
            choices.append(machine.apply)
        if machine.responses:
            choices.append(machine.respond)
        chosen = self.rng.choice(choices)
        if self._trace is not None:
            self._trace(f"{machine.peer} {chosen.__name__}")
        chosen()

    def _do_tick(self) -> None:
        if machine := self._any():
            self._note("tick", machine)
            machine.call(machine.node_or_fail().tick)

    def _do_propose(self) -> None:
        if machine := self._any():
            node = machine.node_or_fail()
            self._note("propose", machine)
            if self.rng.random() < 0.2:
                machine.call(node.propose_batch, tuple(self._data() for _ in range(self.rng.randint(1, 5))))
            else:
                machine.call(node.propose, self._data())

    def _do_read(self) -> None:
        if machine := self._any():
            self._note("read", machine)
            self._made += 1
            machine.read(b"r%d" % self._made)

    def _do_change(self) -> None:
        if machine := self._any():
            change = self._change()
            self._note(f"change {change}", machine)
            machine.call(machine.node_or_fail().propose_conf_change, change)

    def _do_transfer(self) -> None:
        if machine := self._any():
            target = self.rng.choice(self._peers)
            self._note(f"transfer to {target}", machine)
            machine.call(machine.node_or_fail().transfer_leader, target)

    def _do_campaign(self) -> None:
        if machine := self._any():
            self._note("campaign", machine)
            machine.call(machine.node_or_fail().campaign)

    def _do_forget(self) -> None:
        if machine := self._any():
            self._note("forget", machine)
            machine.call(machine.node_or_fail().forget_leader)

    def _do_crash(self) -> None:
        if machine := self._any():
            self._note("crash", machine)
            machine.crash()

    def _do_start(self) -> None:
        down = [machine for machine in self.machines.values() if machine.node is None]
        if down:
            machine = self.rng.choice(down)
            self._note("start", machine)
            machine.start()

    def _do_cut(self) -> None:
        one, other = self.rng.sample(self._peers, 2)
        if self.rng.random() < 0.5:
            self._cut.add((one, other))
        else:
            for peer in self._peers:
                self._cut |= {(one, peer), (peer, one)}

    def _do_heal(self) -> None:
        self._cut.clear()

    def _do_snapshot(self) -> None:
        if machine := self._any():
            self._note("snapshot", machine)
            machine.disk.busy = self.rng.random() < 0.1
            machine.snapshot()
            if self.rng.random() < 0.7:
                machine.compact()

    def _do_unreachable(self) -> None:
        if machine := self._any():
            machine.call(machine.node_or_fail().report_unreachable, self.rng.choice(self._peers))

    # ---- values ----------------------------------------------------------------------------------------------------

    def _data(self) -> bytes:
        self._made += 1
        return b"%d" % self._made + b"." * self.rng.choice((0, 3, 60))

    def _change(self) -> ConfChange | ConfChangeV2:
        rng = self.rng
        kinds = (ConfChangeType.ADD_VOTER, ConfChangeType.ADD_VOTER, ConfChangeType.REMOVE, ConfChangeType.ADD_LEARNER)
        form = rng.random()
        if form < 0.3:
            return ConfChange(rng.choice(kinds), rng.choice(self._peers))
        if form < 0.5:
            return ConfChangeV2()
        changes = tuple(
            ConfChangeSingle(rng.choice(kinds), rng.choice(self._peers)) for _ in range(rng.choice((1, 2, 3)))
        )
        return ConfChangeV2(rng.choice(list(Transition)), changes)

    def _send(self, message: Message) -> None:
        self.ledger.check_promise(message)
        self._mix(message.type * 65536 + message.term * 256 + message.index)
        self.flights.append(message)
        if len(self.flights) > FLIGHTS_MAX:
            self._lose(self.flights.pop(0))

    def _mix(self, number: int) -> None:
        self._print = zlib.crc32(b"%d" % number, self._print)

    def _note(self, text: str, machine: Machine | None = None) -> None:
        if self._trace is not None:
            self._trace(f"{machine.peer} {text}" if machine is not None else text)

    def _describe(self) -> str:
        states = [
            f"{peer}: {machine.node.basic_status() if machine.node is not None else 'down'}"
            for peer, machine in self.machines.items()
        ]
        return f"{self.ledger.last_conf_state()}\n" + "\n".join(states)


def members_of(state: ConfState) -> list[PeerId]:
    """Everybody a configuration names, in order."""
    return sorted({*state.voters, *state.learners, *state.voters_outgoing})


def draw_settings(rng: Random) -> dict[str, Any]:
    """Arguments of Config that all machines share; tiny limits are as likely as generous ones."""
    heartbeat = rng.choice((1, 1, 2))
    message_bytes = rng.choice((0, 40, 200, 1 << 20))
    return {
        "heartbeat_tick": heartbeat,
        "election_tick": heartbeat + rng.choice((2, 4, 8)),
        "max_size_per_msg": message_bytes,
        "max_committed_size_per_ready": rng.choice((0, 30, 1 << 20)),
        "max_uncommitted_entries_size": rng.choice((0, 50, 1000)),
        "max_inflight_msgs": rng.choice((1, 2, 256)),
        "max_inflight_bytes": rng.choice((0, max(message_bytes, 1))),
        "check_quorum": rng.random() < 0.5,
        "pre_vote": rng.random() < 0.5,
        "step_down_on_removal": rng.random() < 0.5,
        "disable_proposal_forwarding": rng.random() < 0.2,
    }
