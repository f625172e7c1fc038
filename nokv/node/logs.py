"""What children write to stderr, passed on as whole lines.

Why: the lines of many processes share one stream, so each must say whose it is and none may be cut by another.
Rules: as text, lines get the process's name in front; as JSON lines, objects pass unchanged and anything else (a
traceback, a message of libc) is wrapped into one, so that the stream stays one object a line.
Invariants: an unfinished line is kept, up to LINE_BYTES_MAX, then passed on cut; nothing is lost at the end.
Not here: formatting of our own records (nokv.process).
"""

import json
from collections.abc import Iterator
from typing import Final

LINE_BYTES_MAX: Final = 64 << 10
"""A longer line is passed on in pieces; bounds what a child gone mad can take of the supervisor's memory."""


class LineRelay:
    """Turns the chunks of one child's stream into lines for the common one."""

    def __init__(self, process: str, *, as_text: bool) -> None:
        self._process = process
        self._as_text = as_text

        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Lines, with their ends, that `chunk` completes."""
        self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            yield self._shape(line)
        while len(self._rest) > LINE_BYTES_MAX:
            yield self._shape(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]

    def end(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        if self._rest:
            yield self._shape(self._rest)
            self._rest = b""

    def _shape(self, line: bytes) -> str:
        text = line.decode("utf-8", "backslashreplace").rstrip("\r")
        if self._as_text:
            return f"[{self._process}] {text}\n"
        if text.startswith("{") and text.endswith("}"):
            return text + "\n"
        wrapped = {"level": "error", "process": self._process, "logger": "stderr", "message": text}
        return json.dumps(wrapped, ensure_ascii=False) + "\n"
