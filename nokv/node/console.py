"""Writing to stderr from the process that must not die of it.

Why: when the reader of a node's log goes away (a closed terminal, a crashed log shipper), every write fails; a
supervisor that dies of that takes a healthy node with it.
Invariants: never raises for a broken or full stream; what could not be written is lost, and counted. Nothing is kept
in a buffer, which the interpreter would try to write once more at its end and turn into another exit code.
"""

import os
from typing import Final

STDERR: Final = 2


class Console:
    """The supervisor's stderr."""

    def __init__(self) -> None:
        self.lost_writes = 0

    def write(self, text: str) -> None:
        """Write whole lines."""
        rest = text.encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(STDERR, rest) :]
        except OSError:
            self.lost_writes += 1
