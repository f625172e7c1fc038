"""Writing to stderr from the process that must not die of it.

Why: when the reader of a node's log goes away (a closed terminal, a crashed log shipper), every write fails; a
supervisor that dies of that takes a healthy node with it.
Invariants: never raises for a broken or full stream; what could not be written is lost, and counted.
"""

import sys


class Console:
    """The supervisor's stderr."""

    def __init__(self) -> None:
        self.lost_writes = 0

    def write(self, text: str) -> None:
        """Write whole lines."""
        if not text:
            return
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # ValueError: the stream object is closed
            self.lost_writes += 1
