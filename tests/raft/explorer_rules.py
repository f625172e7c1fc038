"""Ledger of a run: what Raft promises, checked against everything that every machine has ever shown.

Why: a run of the explorer must fail at the step that breaks a promise, not at the end, and the check must not share
code with what it checks: quorums are counted here once more, in the most naive way.
Invariants: an entry is known by a number that stands for itself and all before it, so that two logs which agree on
(term, index) agree on the number only if they are equal up to there.
Not here: what happens to the machines (explorer_world.py).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from nokv.proto.raft import ConfState, Entry, EntryType, Message, MessageType
from nokv.raft.core import Raft
from nokv.raft.roles import Role

BASE_INDEX: Final = 5
BASE_TERM: Final = 1
"""Every group starts behind a snapshot, so that a machine that joins needs one: it has no configuration of its own."""
BASE_NUMBER: Final = 0
EMPTY_NUMBER: Final = -1
"""Stands for the empty log of a machine that has not joined yet."""


class Violation(AssertionError):
    """A promise was broken."""


class Durable(Protocol):
    """What a disk holds, whether its machine is up or not."""

    def term_at(self, index: int) -> int | None:
        """Term of an entry that is durable, 0 if it was compacted, None if it is not there."""
        ...

    def saved(self) -> tuple[int, int]:
        """Durable term and vote."""
        ...


class View:
    """The last log that was seen of one machine, in one run of it.

    Args:
        peer: its id.
        incarnation: counts its restarts.
    """

    __slots__ = ("base", "commit", "entries", "incarnation", "led_term", "numbers", "peer", "term")

    def __init__(self, peer: int, incarnation: int) -> None:
        self.peer = peer
        self.incarnation = incarnation
        self.base = (0, 0)
        self.entries: list[Entry] = []
        self.numbers = [EMPTY_NUMBER]
        """Of the base, then of each entry."""
        self.commit = 0
        self.term = 0
        self.led_term = 0

    def number_at(self, index: int) -> int | None:
        """Number of an entry, None if it was compacted or is not there."""
        place = index - self.base[1]
        return self.numbers[place] if 0 <= place < len(self.numbers) else None


class Ledger:
    """Everything that must never change, for the group as a whole.

    Args:
        disks: by peer.
        conf_state: the first configuration.
    """

    def __init__(self, disks: dict[int, Durable], conf_state: ConfState) -> None:
        self.disks = disks

        self.views: dict[int, View] = {}
        """Of the machines that are up, or were last."""
        self._numbers: dict[tuple[int, int], int] = {(BASE_TERM, BASE_INDEX): BASE_NUMBER, (0, 0): EMPTY_NUMBER}
        self._origins: list[tuple[int, EntryType, bytes]] = [(EMPTY_NUMBER, EntryType.NORMAL, b"")]
        self.leaders: dict[int, tuple[int, int]] = {}
        """Of each term: peer and incarnation."""
        self.committed: list[tuple[int, int, int]] = [(BASE_NUMBER, BASE_TERM, 0)]
        """From BASE_INDEX on: number, term, and the term in which it was committed."""
        self._conf_indexes = [BASE_INDEX]
        self._conf_states = [conf_state]
        self._floors: dict[bytes, int] = {}

    @property
    def commit(self) -> int:
        """The highest index that was ever committed."""
        return BASE_INDEX + len(self.committed) - 1

    # ---- after each step of a machine ------------------------------------------------------------------------------

    def observe(self, view: View, raft: Raft, base: tuple[int, int], entries: list[Entry]) -> None:
        """A machine has moved; `base` and `entries` are its log now."""
        if raft.term < view.term:
            raise Violation(f"the term of {view.peer} went back from {view.term} to {raft.term}")
        leads = raft.role is Role.LEADER
        if leads:
            holder = self.leaders.setdefault(raft.term, (view.peer, view.incarnation))
            if holder != (view.peer, view.incarnation):
                raise Violation(f"two leaders in term {raft.term}: {holder} and {(view.peer, view.incarnation)}")
        if base != view.base or entries != view.entries:
            self._observe_log(view, raft, base, entries)
        if leads and view.led_term != raft.term:
            view.led_term = raft.term
            self._check_completeness(view, raft.term)
        if raft.log.committed != view.commit:
            self._observe_commit(view, raft)
        view.term = raft.term

    def _observe_log(self, view: View, raft: Raft, base: tuple[int, int], entries: list[Entry]) -> None:
        before, before_base = view.numbers, view.base[1]
        numbers = self.chain(base, entries, creator=view.peer)
        if raft.role is Role.LEADER and view.led_term == raft.term:
            kept = before[base[1] - before_base :]
            if base[1] < before_base or numbers[: len(kept)] != kept:
                raise Violation(f"leader {view.peer} of term {raft.term} replaced entries of its own log")
        view.base, view.entries, view.numbers = base, list(entries), numbers

    def chain(self, base: tuple[int, int], entries: Sequence[Entry], creator: int = 0) -> list[int]:
        """Numbers of a log. Only the leader of a term, as `creator`, may bring in entries that were never seen."""
        known = self._numbers
        previous = known.get(base)
        if previous is None:
            raise Violation(f"a log of {creator} starts behind entry {base}, which never was")
        numbers, index = [previous], base[1]
        for entry in entries:
            index += 1
            if entry.index != index:
                raise Violation(f"a log of {creator} has entry {entry.index} in place {index}")
            position = (int(entry.term), int(entry.index))
            number = known.get(position)
            if number is None:
                if self.leaders.get(entry.term, (0, 0))[0] != creator:
                    raise Violation(f"entry {position} on {creator} was not made by the leader of its term")
                number = len(self._origins)
                self._origins.append((previous, entry.type, entry.data))
                known[position] = number
            elif self._origins[number] != (previous, entry.type, entry.data):
                raise Violation(f"log matching: {creator} has another entry or another past at {position}")
            numbers.append(number)
            previous = number
        return numbers

    def _check_completeness(self, view: View, term: int) -> None:
        for index, (number, _, committed_in) in enumerate(self.committed, BASE_INDEX):
            if index > view.base[1] and committed_in < term and view.number_at(index) != number:
                raise Violation(f"leader completeness: {view.peer} leads term {term} without entry {index}")

    def _observe_commit(self, view: View, raft: Raft) -> None:
        committed = raft.log.committed
        if committed < view.commit:
            raise Violation(f"the commit index of {view.peer} went back from {view.commit} to {committed}")
        if raft.role is Role.LEADER and view.entries[committed - view.base[1] - 1].term != raft.term:
            raise Violation(f"leader {view.peer} of term {raft.term} counted {committed}, of an earlier term")
        for index in range(max(view.commit + 1, view.base[1], BASE_INDEX), committed + 1):
            number = view.number_at(index)
            if number is None:
                raise Violation(f"{view.peer} has committed {index}, which is not in its log")
            if index <= self.commit:
                if self.committed[index - BASE_INDEX][0] != number:
                    raise Violation(f"{view.peer} has committed another entry at {index} than was committed before")
                continue
            self._check_chosen(view, raft, index)
            term = view.entries[index - view.base[1] - 1].term
            self.committed.append((number, term, raft.term))
        view.commit = committed

    def _check_chosen(self, view: View, raft: Raft, index: int) -> None:
        """An entry is committed for the first time: by a leader, and because enough disks have it."""
        if raft.role is not Role.LEADER:
            raise Violation(f"{view.peer} has committed {index} before any leader")
        term = view.entries[index - view.base[1] - 1].term
        config = raft.tracker.config
        for voters in (config.incoming, config.outgoing):
            holders = [peer for peer in sorted(voters) if self.disks[peer].term_at(index) in (0, term)]
            if voters and 2 * len(holders) <= len(voters):
                raise Violation(f"{view.peer} committed {index}, durable on {holders} of {sorted(voters)} only")

    # ---- what leaves a machine -------------------------------------------------------------------------------------

    def check_promise(self, message: Message) -> None:
        """A message is on the network now: if it is a promise, what it speaks of must be durable."""
        if message.reject or message.type not in (MessageType.VOTE_RESP, MessageType.APP_RESP):
            return
        disk = self.disks[message.sender]
        term, vote = disk.saved()
        if message.type is MessageType.VOTE_RESP:
            if term < message.term or (term == message.term and vote != message.to):
                raise Violation(f"a vote of {message.sender} left before it was saved: {message}")
        elif term < message.term:
            raise Violation(f"an ack of {message.sender} left before its term was saved: {message}")
        elif term == message.term:
            stored = disk.term_at(message.index)
            expected = self._of_leader(message.term, message.index)
            if stored is None or (stored and expected is not None and stored != expected):
                raise Violation(f"an ack of {message.sender} left before its entries were saved: {message}")

    def _of_leader(self, term: int, index: int) -> int | None:
        """Term of an entry in the log of the leader of `term`, None if it leads no more or lacks it."""
        peer, incarnation = self.leaders.get(term, (0, 0))
        view = self.views.get(peer)
        if view is None or view.incarnation != incarnation or view.term != term or index <= view.base[1]:
            return None
        place = index - view.base[1] - 1
        return view.entries[place].term if place < len(view.entries) else None

    # ---- what a machine applies ------------------------------------------------------------------------------------

    def apply(self, peer: int, entry: Entry, previous: int) -> int:
        """A machine applies an entry on top of the state `previous`; the number of the state after it."""
        if entry.index > self.commit:
            raise Violation(f"{peer} applies {entry.index}, but only {self.commit} was committed")
        number, term, _ = self.committed[entry.index - BASE_INDEX]
        if (term, self._origins[number]) != (entry.term, (previous, entry.type, entry.data)):
            raise Violation(f"{peer} applies another entry at {entry.index} than was committed")
        return number

    def set_conf_state(self, peer: int, index: int, state: ConfState) -> None:
        """A machine has applied a change of the configuration: all do so with the same result."""
        if index > self._conf_indexes[-1]:
            self._conf_indexes.append(index)
            self._conf_states.append(state)
        elif self.conf_state(index) != state:
            raise Violation(f"{peer} has {state} after {index}, others had {self.conf_state(index)}")

    def conf_state(self, index: int) -> ConfState:
        """The configuration after an applied entry; of a machine that has not joined, none."""
        place = bisect_right(self._conf_indexes, index)
        return self._conf_states[place - 1] if place else ConfState()

    def last_conf_state(self) -> tuple[int, ConfState]:
        """The newest configuration that any machine has applied, and the index it came with."""
        return self._conf_indexes[-1], self._conf_states[-1]

    def check_snapshot(self, peer: int, position: tuple[int, int], state: ConfState, number: int) -> None:
        """A machine installs a snapshot: of something committed, with the state and configuration that belong to it."""
        term, index = position
        if not BASE_INDEX <= index <= self.commit:
            raise Violation(f"{peer} installs a snapshot of {index}, but only {self.commit} was committed")
        if self.committed[index - BASE_INDEX][:2] != (number, term):
            raise Violation(f"{peer} installs a snapshot of {position} that is not what was committed")
        if state != self.conf_state(index):
            raise Violation(f"{peer} installs a snapshot with {state} instead of {self.conf_state(index)}")

    # ---- reads -----------------------------------------------------------------------------------------------------

    def ask(self, context: bytes) -> None:
        """A read is asked now."""
        self._floors[context] = self.commit

    def answer(self, peer: int, context: bytes, index: int) -> None:
        """A read may be served once `index` is applied."""
        floor = self._floors[context]
        if index < floor:
            raise Violation(f"{peer} reads at {index}, but {floor} was committed before the read was asked")
        if index > self.commit:
            raise Violation(f"{peer} reads at {index}, but only {self.commit} was committed")

    def numbers(self) -> Iterable[int]:
        """Numbers of all committed entries, for the fingerprint."""
        return (number for number, _, _ in self.committed)
