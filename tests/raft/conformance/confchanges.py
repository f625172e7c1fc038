"""Configuration change scripts: `simple`, `enter-joint` and `leave-joint` on one configuration.

Why: the rules of confchange.py, seen from outside.
Not here: when a node may do what (interaction scripts).
"""

from nokv.proto.ids import PeerId
from nokv.proto.raft import ConfChangeSingle, ConfChangeType
from nokv.raft.confchange import enter_joint, leave_joint, simple
from nokv.raft.errors import ConfChangeError
from nokv.raft.tracker import Tracker
from tests.raft.conformance.script import Directive, ScriptError

LETTERS = {
    "v": ConfChangeType.ADD_VOTER,
    "l": ConfChangeType.ADD_LEARNER,
    "r": ConfChangeType.REMOVE,
    "u": ConfChangeType.UPDATE,
}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """Changes as in `v1 l2 r3 u4`. Raises ScriptError."""
    changes = []
    for token in text.split():
        if len(token) < 2 or not token[1:].isdigit():
            raise ScriptError(f"unknown token {token}")
        if token[0] not in LETTERS:
            raise ScriptError(f"unknown input: {token}")
        changes.append(ConfChangeSingle(LETTERS[token[0]], PeerId(int(token[1:]))))
    return tuple(changes)


class ConfChangeScript:
    """One script's configuration. The last index rises by one with each directive."""

    def __init__(self) -> None:
        self._tracker = Tracker(10, 0)
        self._last_index = 0

    def __call__(self, directive: Directive) -> str:
        """One directive."""
        last_index, self._last_index = self._last_index, self._last_index + 1
        try:
            changes = parse_changes(directive.input)
            if directive.command == "simple":
                changed = simple(self._tracker, last_index, changes)
            elif directive.command == "enter-joint":
                auto_leave = directive.value("autoleave", "false") == "true"
                changed = enter_joint(self._tracker, last_index, changes, auto_leave=auto_leave)
            elif directive.command == "leave-joint":
                if changes:
                    return "this command takes no input\n"
                changed = leave_joint(self._tracker, last_index)
            else:
                return "unknown command"
        except (ConfChangeError, ScriptError) as error:
            return f"{error}\n"
        self._tracker.switch(*changed)
        progress = "".join(f"{peer}: {one.describe()}\n" for peer, one in self._tracker.progress.items())
        return f"{self._tracker.config.describe()}\n{progress}"
