"""Interaction scripts: each command does one thing to a cluster and shows what came of it.

Why: the order of events is the scenario, so a script spells it out.
Not here: the cluster (cluster.py).
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from nokv.proto.ids import LogIndex, PeerId, Term
from nokv.proto.raft import (
    ConfChange,
    ConfChangeV2,
    ConfState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    Transition,
)
from nokv.raft import Config, ConfigError, MemoryStorage, ProposalDropped, ReadOnly, StorageReadError
from nokv.raft.config import UNLIMITED_BYTES
from nokv.raft.describe import ROLE_NAMES, TYPE_NAMES, describe_entry, describe_message
from tests.raft.conformance.cluster import Cluster, CommandError
from tests.raft.conformance.confchanges import parse_changes
from tests.raft.conformance.script import Directive, ScriptError

_MESSAGE_TYPES: Final = {name: kind for kind, name in TYPE_NAMES.items()}
_TRANSITIONS: Final = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}
_READ_ONLY: Final = {"safe": ReadOnly.SAFE, "lease-based": ReadOnly.LEASE_BASED}


class InteractionScript:
    """One script's cluster."""

    def __init__(self) -> None:
        self._cluster: Final = Cluster()
        self._out: Final = self._cluster.out

    def __call__(self, directive: Directive) -> str:
        """One directive. An error is part of the output, whatever the log level."""
        command = _COMMANDS.get(directive.command)
        try:
            if command is None:
                raise CommandError("unknown command")
            command(self, directive)
        except (CommandError, ScriptError, ConfigError, ProposalDropped, StorageReadError) as error:
            return self._out.take() + (str(error) or type(error).__name__)
        return self._out.take() or "ok"

    def _peer(self, directive: Directive) -> int:
        """The node a command is about: its first argument."""
        words = directive.words()
        if not words or not words[0].isdigit():
            raise ScriptError(f"{directive.place}: needs the id of a node")
        self._cluster.node(int(words[0]))
        return int(words[0])

    def _peers(self, directive: Directive) -> list[int]:
        return [int(word) for word in directive.words()]

    # ---- setting up ----

    def _add_nodes(self, directive: Directive) -> None:
        config = Config(
            id=PeerId(1),
            storage=MemoryStorage(),
            rng=Random(0),
            election_tick=3,
            heartbeat_tick=1,
            max_size_per_msg=UNLIMITED_BYTES,
            max_inflight_msgs=(1 << 31) - 1,
        )
        members: dict[str, tuple[PeerId, ...]] = {}
        index, data = LogIndex(0), b""
        for key, values in directive.arguments[1:]:
            if key in ("voters", "learners"):
                members[key] = tuple(PeerId(int(value)) for value in values)
            elif key == "content":
                data = values[0].encode()
            elif key == "index":
                index = LogIndex(int(values[0]))
                config = replace(config, applied=index)
            else:
                config = _configured(config, key, values[0])
        # A read-only option may rest on another one, so that only the whole is checked.
        if directive.values("read-only"):
            config = replace(config, read_only=_READ_ONLY[directive.value("read-only", "safe")])
        state = ConfState(voters=members.get("voters", ()), learners=members.get("learners", ()))
        first = Snapshot(data, SnapshotMetadata(state, index))
        if first != Snapshot():
            first = Snapshot(data, SnapshotMetadata(state, index, Term(1)))
        self._cluster.add_nodes(int(directive.arguments[0][0]), config, first)

    def _log_level(self, directive: Directive) -> None:
        problem = self._out.set_level(directive.words()[0])
        if problem is not None:
            raise CommandError(problem)

    def _set_timeout(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).raw.election_timeout = int(directive.value("timeout", ""))

    # ---- what a node is told ----

    def _campaign(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).raw.campaign()

    def _tick_election(self, directive: Directive) -> None:
        node = self._cluster.node(self._peer(directive))
        for _ in range(node.config.election_tick):
            node.raw.tick()

    def _tick_heartbeat(self, directive: Directive) -> None:
        node = self._cluster.node(self._peer(directive))
        for _ in range(node.config.heartbeat_tick):
            node.raw.tick()

    def _propose(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).raw.propose(directive.words()[1].encode())

    def _propose_conf_change(self, directive: Directive) -> None:
        changes = parse_changes(directive.input)
        transition = _TRANSITIONS[directive.value("transition", "auto")]
        change: ConfChange | ConfChangeV2 = ConfChangeV2(transition, changes)
        if directive.value("v1", "false") == "true":
            if len(changes) != 1 or transition is not Transition.AUTO:
                raise CommandError("v1 conf change can only have one operation and no transition")
            change = ConfChange(changes[0].type, changes[0].peer_id)
        self._cluster.node(self._peer(directive)).raw.propose_conf_change(change)

    def _transfer(self, directive: Directive) -> None:
        source, target = int(directive.value("from", "0")), int(directive.value("to", "0"))
        if not 1 <= source <= len(self._cluster.nodes) or target == 0:
            raise CommandError('expected valid "from" and "to" arguments')
        self._cluster.node(source).raw.transfer_leader(PeerId(target))

    def _forget_leader(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).raw.forget_leader()

    def _report_unreachable(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).raw.report_unreachable(PeerId(int(directive.words()[1])))

    def _send_snapshot(self, directive: Directive) -> None:
        source, target = self._peers(directive)
        node = self._cluster.node(source)
        message = Message(
            type=MessageType.SNAP,
            to=PeerId(target),
            sender=PeerId(source),
            term=node.raw.basic_status().term,
            snapshot=node.storage.snapshot(),
        )
        self._cluster.messages.append(message)
        self._out.line(describe_message(message))

    def _compact(self, directive: Directive) -> None:
        self._cluster.node(self._peer(directive)).storage.compact(LogIndex(int(directive.words()[1])))
        self._raft_log(directive)

    # ---- letting things happen ----

    def _stabilize(self, directive: Directive) -> None:
        level, wanted = self._out.level, directive.values("log-level")
        if wanted:
            problem = self._out.set_level(wanted[0])
            if problem is not None:
                raise CommandError(problem)
        self._cluster.stabilize(self._peers(directive) or range(1, len(self._cluster.nodes) + 1))
        self._out.level = level

    def _deliver(self, directive: Directive) -> None:
        name = directive.value("type", "")
        if name and name not in _MESSAGE_TYPES:
            raise ScriptError(f"{directive.place}: unknown type of message {name}")
        kind = _MESSAGE_TYPES.get(name)
        count = 0
        for key, values in directive.arguments:
            if not values:
                count += self._cluster.deliver(int(key), kind)
            elif key == "drop":
                for value in values:
                    if value in directive.words():
                        raise ScriptError(f"{directive.place}: can't both deliver and drop msgs to {value}")
                    count += self._cluster.deliver(int(value), kind, drop=True)
        if count == 0:
            self._out.line("no messages")

    def _process_ready(self, directive: Directive) -> None:
        self._each(directive, "handling Ready", self._cluster.process_ready)

    def _process_append(self, directive: Directive) -> None:
        self._each(directive, "processing append thread", self._cluster.process_append)

    def _process_apply(self, directive: Directive) -> None:
        self._each(directive, "processing apply thread", self._cluster.process_apply)

    def _each(self, directive: Directive, doing: str, action: Callable[[int], None]) -> None:
        peers = self._peers(directive)
        for peer in peers:
            if len(peers) > 1:
                self._cluster.under(f"> {peer} {doing}", action, peer)
            else:
                action(peer)

    # ---- looking ----

    def _status(self, directive: Directive) -> None:
        for peer, progress in self._cluster.node(self._peer(directive)).raw.status().progress.items():
            self._out.line(f"{peer}: {progress.text}")

    def _raft_log(self, directive: Directive) -> None:
        storage = self._cluster.node(self._peer(directive)).storage
        first, last = storage.first_index(), storage.last_index()
        if last < first:
            self._out.write(f"log is empty: first index={first}, last index={last}")
            return
        for entry in storage.entries(first, LogIndex(last + 1), UNLIMITED_BYTES):
            self._out.line(describe_entry(entry))

    def _raft_state(self, _directive: Directive) -> None:
        for node in self._cluster.nodes:
            status = node.raw.status()
            basic = status.basic
            votes = basic.id in status.config.incoming | status.config.outgoing
            self._out.line(
                f"{basic.id}: {ROLE_NAMES[basic.role]} ({'Voter' if votes else 'Non-Voter'}) Term:{basic.term} "
                f"Lead:{basic.lead}"
            )

    commands: Final[dict[str, "Callable[[InteractionScript, Directive], None]"]] = {
        "add-nodes": _add_nodes,
        "campaign": _campaign,
        "compact": _compact,
        "deliver-msgs": _deliver,
        "forget-leader": _forget_leader,
        "log-level": _log_level,
        "process-append-thread": _process_append,
        "process-apply-thread": _process_apply,
        "process-ready": _process_ready,
        "propose": _propose,
        "propose-conf-change": _propose_conf_change,
        "raft-log": _raft_log,
        "raft-state": _raft_state,
        "report-unreachable": _report_unreachable,
        "send-snapshot": _send_snapshot,
        "set-randomized-election-timeout": _set_timeout,
        "stabilize": _stabilize,
        "status": _status,
        "tick-election": _tick_election,
        "tick-heartbeat": _tick_heartbeat,
        "transfer-leadership": _transfer,
    }


_COMMANDS: Final = InteractionScript.commands


def _configured(config: Config, key: str, value: str) -> Config:
    """A Config with one argument of add-nodes worked in."""
    if key == "inflight":
        return replace(config, max_inflight_msgs=int(value))
    if key == "max-committed-size-per-ready":
        return replace(config, max_committed_size_per_ready=int(value))
    on = value == "true"
    if key == "async-storage-writes":
        return replace(config, async_storage_writes=on)
    if key == "prevote":
        return replace(config, pre_vote=on)
    if key == "checkquorum":
        return replace(config, check_quorum=on)
    if key == "disable-conf-change-validation":
        return replace(config, disable_conf_change_validation=on)
    if key == "step-down-on-removal":
        return replace(config, step_down_on_removal=on)
    if key == "read-only":
        return config
    raise ScriptError(f"add-nodes does not know {key}")
