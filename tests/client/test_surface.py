"""The package from outside: what importing costs, what is exported, how it is typed, and that nothing drifted."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import nokv
from nokv.client import _unasync

ALLOWED = {"zmq", "msgspec", "sortedcontainers", "cython_runtime", "typing_extensions"}
"""The last two come with pyzmq."""
ROOT = Path(__file__).parents[2]


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules loaded after running `code` in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30)
    return {name.partition(".")[0] for name in done.stdout.split()}


def third_party(names: set[str]) -> set[str]:
    """Without the standard library, ourselves, and what the interpreter's start-up files of this environment bring."""
    private = {name for name in names if name.startswith("_")}
    return names - set(sys.stdlib_module_names) - private - modules_after("") - {"nokv"}


def test_import_is_light() -> None:
    assert third_party(modules_after("import nokv")) == set()
    everything = modules_after("import nokv\nfor name in dir(nokv): getattr(nokv, name)")
    assert third_party(everything) <= ALLOWED


def test_every_exported_name_is_there() -> None:
    for name in dir(nokv):
        assert getattr(nokv, name) is not None
    with pytest.raises(AttributeError, match="no_such_thing"):
        nokv.no_such_thing  # noqa: B018


def test_blocking_client_is_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nokv.client._unasync", "--check"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_drift_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_unasync, "TARGET", tmp_path / "_sync")
    assert _unasync.main([]) == 0
    assert _unasync.main(["--check"]) == 0
    (tmp_path / "_sync" / "reads.py").write_text("edited by hand")
    (tmp_path / "_sync" / "stranger.py").write_text("")
    assert _unasync.main(["--check"]) == 1
    assert capsys.readouterr().err.count("differs") == 2
    assert _unasync.main([]) == 0
    assert _unasync.main(["--check"]) == 0


def test_words_are_replaced_whole() -> None:
    source = "async def f(x): # async only\nasync with a: await b()\nx = AsyncClient\ny = MyAsyncClient\nz = awaited\n"
    assert _unasync.blocking(source) == "with a: b()\nx = Client\ny = MyAsyncClient\nz = awaited\n"


@pytest.mark.parametrize(("one", "other"), [("AsyncClient", "Client"), ("AsyncSnapshot", "Snapshot")])
def test_both_clients_have_the_same_surface(one: str, other: str) -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {
            name: [p for p in inspect.signature(member).parameters if p != "dial"]
            for name, member in inspect.getmembers(kind, callable)
            if not name.startswith("_") or name == "__init__"
        }

    assert surface(getattr(nokv, one)) == surface(getattr(nokv, other))


def test_types_are_what_the_surface_promises() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "tests/client/typed_surface.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout


def test_public_names_are_not_any() -> None:
    """No `Any` in a public signature of either client."""
    for kind in (nokv.Client, nokv.AsyncClient, nokv.Snapshot, nokv.AsyncSnapshot):
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                assert "Any" not in str(inspect.signature(member)), f"{kind.__name__}.{name}"
