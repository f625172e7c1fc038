"""A supervisor over small fake children, run as a process of its own by test_supervisor.

`python -m tests.node.supervised SPEC` with SPEC as JSON: {"children": [[kind, name, python code], ...], "ready_file":
path or null, "as_text": bool, "drain_timeout_s": number}. The node counts as ready once ready_file exists.
"""

import json
import sys
from pathlib import Path
from random import Random

from nokv.node.children import ChildSpec
from nokv.node.console import Console
from nokv.node.supervisor import Supervisor


def say(level: str, message: str) -> None:
    Console().write(f"[node] {level}: {message}\n")


def main() -> int:
    spec = json.loads(sys.argv[1])
    ready_file = Path(spec["ready_file"]) if spec["ready_file"] else None
    return Supervisor(
        [ChildSpec(kind, name, (sys.executable, "-u", "-c", code)) for kind, name, code in spec["children"]],
        waits_for=lambda: None if ready_file is None or ready_file.exists() else "the ready file",
        on_ready=lambda took_ms: say("info", f"ready after {took_ms} ms"),
        on_reload=lambda: say("info", "reloaded"),
        say=say,
        write=Console().write,
        as_text=spec["as_text"],
        drain_timeout_s=spec["drain_timeout_s"],
        random=Random(1),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
