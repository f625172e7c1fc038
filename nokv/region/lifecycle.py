"""Life of a region's replica on one store: the legal states, and the events that change them.

Why: a replica that was removed must never serve again under the same id, whatever arrives late or is replayed twice.
Invariants: NEXT is the only home of transitions; TOMBSTONE is final; an event that was already taken in may arrive
again (a crash between writing and telling) and changes nothing.
Not here: what to do on a transition (nokv.workers), the states' meaning on disk (nokv.proto.region.RegionState).
"""

from enum import Enum
from typing import Final

from nokv.proto.region import RegionState


class RegionEvent(Enum):
    """What happens to a replica; the value is the word for diagrams and logs."""

    CREATED = "created"
    """Somebody sent Raft messages for it, or a split made it: it exists, without data, and must not campaign."""
    ACTIVATED = "activated"
    """Its data is complete: bootstrapped, split off, or restored from a snapshot. It serves from now on."""
    CHANGED = "changed"
    """Range or membership changed and this store still has a replica: split, merge into it, peer added or removed."""
    REMOVED = "removed"
    """Its peer was removed, or its range merged away: it takes no new work and finishes what it has."""
    DESTROYED = "destroyed"
    """Its log and data are gone. What is left is the mark that this id was here."""


NEXT: Final[dict[tuple[RegionState, RegionEvent], RegionState]] = {
    (RegionState.NEW, RegionEvent.CREATED): RegionState.NEW,
    (RegionState.NEW, RegionEvent.ACTIVATED): RegionState.RUNNING,
    (RegionState.RUNNING, RegionEvent.ACTIVATED): RegionState.RUNNING,
    (RegionState.RUNNING, RegionEvent.CHANGED): RegionState.RUNNING,
    (RegionState.RUNNING, RegionEvent.REMOVED): RegionState.REMOVING,
    (RegionState.RUNNING, RegionEvent.DESTROYED): RegionState.TOMBSTONE,  # nothing was in flight: no need to drain
    (RegionState.REMOVING, RegionEvent.REMOVED): RegionState.REMOVING,
    (RegionState.REMOVING, RegionEvent.DESTROYED): RegionState.TOMBSTONE,
    (RegionState.TOMBSTONE, RegionEvent.REMOVED): RegionState.TOMBSTONE,
    (RegionState.TOMBSTONE, RegionEvent.DESTROYED): RegionState.TOMBSTONE,
}

_LEGAL: Final = frozenset((old, new) for (old, _event), new in NEXT.items()) | {(s, s) for s in RegionState}


class IllegalTransition(ValueError):
    """A replica cannot go from `old` to what was asked. Refused; the replica stays as it was."""

    def __init__(self, old: RegionState, wanted: RegionEvent | RegionState) -> None:
        super().__init__(f"a {old.name} region cannot become {wanted.name}")
        self.old = old
        self.wanted = wanted


def next_state(state: RegionState, event: RegionEvent) -> RegionState:
    """The state after `event`.

    Raises:
        IllegalTransition: the event makes no sense in this state, e.g. anything that would revive a tombstone.
    """
    found = NEXT.get((state, event))
    if found is None:
        raise IllegalTransition(state, event)
    return found


def may_become(old: RegionState, new: RegionState) -> bool:
    """Whether some event, or none, leads from `old` to `new` in one step."""
    return (old, new) in _LEGAL


def check_change(old: RegionState, new: RegionState) -> None:
    """Gateway check for a state that comes from a catalog or a message instead of from an event.

    Raises:
        IllegalTransition: no single event leads from `old` to `new`.
    """
    if (old, new) not in _LEGAL:
        raise IllegalTransition(old, new)


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {RegionState.NEW.name}"]
    lines += [f"    {old.name} --> {new.name}: {event.value}" for (old, event), new in NEXT.items() if old != new]
    lines.append(f"    {RegionState.TOMBSTONE.name} --> [*]")
    return "\n".join(lines)
