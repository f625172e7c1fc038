"""The shape of the source: who may import whom, which files are pure, and how long files and functions may grow.

The first table is the import law of ARCHITECTURE.md; the second the closed list of files that may touch the world.
Both are walked over syntax trees, so an import inside a function counts like one at the top, and one that is only for
type checkers counts too: a name in a signature is a dependency.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "nokv"
LINES_MAX = 600
FUNCTION_LINES_MAX = 70

LEAVES = frozenset({"nokv"})
"""`from nokv import __version__`: the name of the whole, which imports nothing by itself."""

SERVER = frozenset(
    {
        "proto",
        "raft",
        "region",
        "storage",
        "mvcc",
        "control",
        "config",
        "topology",
        "process",
        "exitcodes",
        "router.curve",
    }
)
OUTSIDE = frozenset(
    {
        "client",
        "proto",
        "config",
        "config_rules",
        "topology",
        "process",
        "exitcodes",
        "router.curve",
        "node",
        "cli",
        "testing",
    }
)

ALLOWED: dict[str, frozenset[str]] = {
    "proto": frozenset(),
    "exitcodes": frozenset(),
    "config": frozenset({"proto"}),
    "config_rules": frozenset({"proto", "config"}),
    "topology": frozenset({"proto", "region"}),
    "process": frozenset({"config", "config_rules", "exitcodes"}),
    "raft": frozenset({"proto"}),
    "region": frozenset({"proto"}),
    "storage": frozenset({"proto", "raft.errors", "raft.sizes", "raft.storage"}),
    "mvcc": frozenset({"proto", "storage.engine", "storage.keys"}),
    "control": frozenset({"proto", "region", "storage.engine", "storage.keys"}),
    "workers": SERVER,
    "manifest": SERVER | {"workers"},
    "router": frozenset({"proto", "region.route_table", "config", "process", "exitcodes"}),
    "client": frozenset({"proto", "region.route_table", "topology", "config", "router.curve"}),
    "node": OUTSIDE | {"storage.datadir", "storage.engine"},
    "testing": OUTSIDE,
    "cli": OUTSIDE,
}
"""A package and what of ours it may import: whole packages, or single modules of one. Itself goes without saying.

`manifest` runs its replica of group 0 on the same peer, pipeline and loop that workers use. `router.curve` is a leaf
in all but its place: key files are one format for router, tools and clients. `node` holds the data directory's lock."""

EXCEPTIONS: dict[str, frozenset[str]] = {
    "cli.offline": frozenset({"manifest.catalog", "manifest.identity", "storage"}),
}
"""Single modules that may import more, each with its reason: `offline` reads a stopped node's catalog."""

WORLD = frozenset(
    {
        "asyncio",
        "fcntl",
        "lmdb",
        "multiprocessing",
        "os",
        "psutil",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uvloop",
        "zmq",
    }
)
"""Modules with clocks, sockets, files, threads, tasks and global randomness in them."""

PURE_NAMES = frozenset({("random", "Random")})
"""Names of those modules that are no door to the world: a generator that was handed in."""

PURE = [
    "proto",
    "raft",
    "mvcc",
    "region",
    "control",
    "topology",
    "exitcodes",
    "config",
    "config_rules",
    "workers.admission",
    "workers.figures",
    "workers.hashing",
    "workers.lease",
    "workers.machine",
    "workers.peer",
    "workers.pipeline",
    "workers.reads",
    "workers.shard",
    "workers.starting",
    "workers.turn",
    "workers.worker",
    "router.auth",
    "router.dispatch",
    "router.framing",
    "router.greeting",
    "router.queues",
    "router.refusals",
    "manifest.bootstrap",
    "manifest.catalog",
    "manifest.host",
    "manifest.identity",
    "manifest.machine",
    "manifest.processes",
    "manifest.requests",
    "manifest.status",
    "storage.engine",
    "storage.entry_cache",
    "storage.keys",
    "storage.memory_engine",
    "storage.memory_raft_log",
    "storage.raft_log",
    "storage.wal",
    "storage.wal_collector",
    "storage.wal_groups",
    "storage.wal_records",
    "storage.wal_segments",
    "client.backoff",
    "client.errors",
    "client.key_range",
    "client.limits",
    "client.link",
    "client.results",
    "client.retry",
    "node.logs",
    "node.restarts",
    "cli.histogram",
    "cli.verdict",
    "testing.ledger",
]
"""Packages and modules whose decisions depend on their arguments alone. Only ever grows."""


def modules() -> dict[str, Path]:
    """Dotted name below nokv -> file, for every module of ours. Links to the top-level folders are followed."""
    found = {}
    for path in sorted(walk(SOURCE)):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from walk(entry)
        elif entry.suffix == ".py":
            yield entry


MODULES = modules()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[tuple[str, str, int]]:
    """(module, imported name or "", line) of every import in a module, with relative ones resolved."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative imports hide who is imported"
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno


def imported_modules(name: str) -> Iterator[tuple[str, int]]:
    """Modules of ours that a module imports, as names below nokv."""
    for module, attribute, line in imports(name):
        if module != "nokv" and not module.startswith("nokv."):
            continue
        dotted = f"{module}.{attribute}".removeprefix("nokv.") if attribute else module.removeprefix("nokv.")
        while dotted and dotted not in MODULES:
            dotted = dotted.rpartition(".")[0]
        yield dotted, line


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def test_the_table_names_every_package() -> None:
    packages = {name.partition(".")[0] for name in MODULES} - {""}
    assert packages == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    package = name.partition(".")[0]
    if not package:
        return  # nokv itself re-exports lazily; its own test guards what that loads
    may = ALLOWED[package] | EXCEPTIONS.get(name, frozenset()) | {package}
    wrong = [
        f"{MODULES[name]}:{line} imports nokv.{other}"
        for other, line in imported_modules(name)
        if other and not any(within(other, place) for place in may)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if any(within(name, place) for place in PURE)])
def test_pure_files_touch_nothing(name: str) -> None:
    wrong = [
        f"{MODULES[name]}:{line} imports {module}"
        for module, attribute, line in imports(name)
        if module.partition(".")[0] in WORLD and (module, attribute) not in PURE_NAMES
    ]
    wrong += [
        f"{MODULES[name]}:{node.lineno} opens a file"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_list_of_pure_files_names_what_exists() -> None:
    assert [place for place in PURE if place not in MODULES] == []


def test_only_the_engine_knows_lmdb() -> None:
    users = {name for name in MODULES for module, _, _ in imports(name) if module.partition(".")[0] == "lmdb"}
    assert users <= {"storage.lmdb_engine"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_and_functions_stay_readable(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= LINES_MAX, f"{MODULES[name]} has {lines} lines: split it by noun"
    long = [
        f"{MODULES[name]}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_say_what_they_are_for(name: str) -> None:
    if MODULES[name].read_text().strip():
        assert ast.get_docstring(TREES[name]), f"{MODULES[name]} has no docstring"


THREAD_MAINS = frozenset({"workers.syncer"})
"""Modules with the main of a helper thread, which hands every error to the loop that owns it."""


def test_nothing_catches_everything_but_process_mains() -> None:
    """`except Exception` hides our own bugs; a process main may turn one into an exit code."""
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = node.type.id if isinstance(node.type, ast.Name) else ""
            raises_again = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            everything = node.type is None or caught in ("Exception", "BaseException")
            if everything and not raises_again and not (name.endswith("__main__") or name in THREAD_MAINS):
                wrong.append(f"{MODULES[name]}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_no_dangerous_calls() -> None:
    """No eval, exec, pickle or shell: A7 of the reliability goals."""
    wrong = []
    for name, tree in TREES.items():
        wrong += [f"{MODULES[name]}:{line} imports pickle" for module, _, line in imports(name) if module == "pickle"]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                wrong.append(f"{MODULES[name]}:{node.lineno} calls {node.func.id}")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(f"{MODULES[name]}:{node.lineno} uses a shell")
    assert not wrong, "\n".join(wrong)
