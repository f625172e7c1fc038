"""The `nokv` command: what it prints where, and how it exits."""

import json
import os
import pty
import subprocess
import sys

import pytest

from nokv.cli.data import data
from nokv.cli.entry import run
from nokv.cli.output import escaped, in_json
from tests.client.fake_cluster import FakeCluster, Fault
from tests.client.fake_nodes import FakeNodes

Bytes = pytest.CaptureFixture[bytes]


@pytest.fixture(autouse=True)
def url(nodes: FakeNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the fake cluster through the environment, as users would."""
    monkeypatch.setenv("NOKV_URL", nodes.url)


def call(capture: Bytes, *arguments: str) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr."""
    capture.readouterr()
    code = run(data, "nokv", arguments)
    out, err = capture.readouterr()
    return code, out, err


def test_put_get_del(capfdbinary: Bytes) -> None:
    assert call(capfdbinary, "put", "hello", "world") == (0, b"", b"")
    assert call(capfdbinary, "get", "hello") == (0, b"world", b"")
    assert call(capfdbinary, "del", "hello", "other") == (0, b"", b"")
    assert call(capfdbinary, "get", "hello") == (3, b"", b"error: not found\n")


def test_pipe_gets_raw_bytes(capfdbinary: Bytes, cluster: FakeCluster) -> None:
    cluster.put([(b"k", b"\x00\xff\n\x1b[2J")])
    assert call(capfdbinary, "get", "k") == (0, b"\x00\xff\n\x1b[2J", b"")


def test_terminal_gets_escaped_text(cluster: FakeCluster) -> None:
    """A value must not be able to steer the terminal it is shown on."""
    cluster.put([(b"k", b"caf\xc3\xa9 \x00\xff\n\x1b[2J\\")])
    primary, secondary = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "nokv.cli.data", "get", "k"], stdout=secondary, check=True, timeout=20, env=os.environ
    )
    os.close(secondary)
    shown = os.read(primary, 1000)
    os.close(primary)
    assert done.returncode == 0
    assert shown == "café \\x00\\xff\\x0a\\x1b[2J\\\\\r\n".encode()


def test_hex_goes_both_ways(capfdbinary: Bytes, cluster: FakeCluster) -> None:
    assert call(capfdbinary, "put", "--hex", "00ff", "0a")[0] == 0
    assert call(capfdbinary, "get", "--hex", "00ff") == (0, b"0a\n", b"")
    assert call(capfdbinary, "scan", "--hex") == (0, b"00ff\t0a\n", b"")
    code, out, err = call(capfdbinary, "get", "--hex", "0g")
    assert (code, out) == (2, b"")
    assert b"hexadecimal" in err


def test_value_from_stdin(cluster: FakeCluster, capfdbinary: Bytes) -> None:
    for arguments in (["put", "k"], ["put", "k", "-"]):
        subprocess.run(
            [sys.executable, "-m", "nokv.cli.data", *arguments],
            input=b"\x00 raw",
            check=True,
            timeout=20,
            env=os.environ,
        )
        assert call(capfdbinary, "get", "k")[1] == b"\x00 raw"
        call(capfdbinary, "del", "k")


def test_scan(capfdbinary: Bytes, cluster: FakeCluster) -> None:
    cluster.put([(b"a", b"1"), (b"ab", b"2"), (b"k", b"3"), (b"z", b"4")])
    assert call(capfdbinary, "scan") == (0, b"a\t1\nab\t2\nk\t3\nz\t4\n", b"")
    assert call(capfdbinary, "scan", "ab", "z")[1] == b"ab\t2\nk\t3\n"
    assert call(capfdbinary, "scan", "--prefix", "a")[1] == b"a\t1\nab\t2\n"
    assert call(capfdbinary, "scan", "--limit", "2", "--reverse", "--keys-only")[1] == b"z\nk\n"
    assert call(capfdbinary, "scan", "--limit", "0")[0] == 2
    assert call(capfdbinary, "scan", "a", "--prefix", "a")[0] == 2


def test_json(capfdbinary: Bytes, cluster: FakeCluster) -> None:
    cluster.put([(b"a", b"1"), (b"b", b"\xff")])

    def lines(*arguments: str) -> list[dict[str, object]]:
        _, out, _ = call(capfdbinary, *arguments, "--json")
        return [json.loads(line) for line in out.splitlines()]

    (got,) = lines("get", "a")
    assert got.pop("ts")
    assert got == {"schema": "nokv.get.v1", "key": "a", "found": True, "value": "1"}
    assert lines("get", "b")[0]["value"] == "hex:ff"
    assert [line["found"] for line in lines("get", "nothing")] == [False]
    assert [(line["schema"], line["key"], line["value"]) for line in lines("scan")] == [
        ("nokv.pair.v1", "a", "1"),
        ("nokv.pair.v1", "b", "hex:ff"),
    ]
    assert [line["value"] for line in lines("scan", "--keys-only")] == [None, None]
    assert lines("put", "a", "12")[0]["value_bytes"] == 2
    assert [line["key"] for line in lines("del", "a", "b")] == ["a", "b"]


def test_exit_codes(capfdbinary: Bytes, cluster: FakeCluster, nodes: FakeNodes) -> None:
    """interfaces 2.5, and N28: no arguments print the usage and exit 1."""
    code, out, err = call(capfdbinary)
    assert (code, out) == (1, b"")
    assert err.startswith(b"Usage: nokv")
    code, out, err = call(capfdbinary, "fetch")
    assert (code, out) == (2, b"")
    assert err.startswith(b"error: ")
    assert call(capfdbinary, "--help")[0] == 0
    assert call(capfdbinary, "put", "--help")[0] == 0
    assert call(capfdbinary, "get")[0] == 2
    assert call(capfdbinary, "get", "")[0] == 2
    assert call(capfdbinary, "get", "k" * 401)[0] == 2
    assert call(capfdbinary, "get", "k", "--url", "http://h")[0] == 2
    cluster.rule(lambda asked: Fault.LOSE_REQUEST if asked.kind.name == "KV_ONE_PHASE" else None)
    code, _, err = call(capfdbinary, "put", "k", "v", "--timeout", "0.3")
    assert code == 4
    assert b"outcome unknown" in err
    for store in (1, 2, 3):
        nodes.kill(store)
    assert call(capfdbinary, "get", "k", "--timeout", "0.3")[0] == 4


def test_help_is_light() -> None:
    """No ZeroMQ, LMDB or msgspec for --help; a budget of 120 ms is watched by the import list, not by a stopwatch."""
    code = (
        "import sys\n"
        "from nokv.cli.data import data\n"
        "from nokv.cli.entry import run\n"
        "assert run(data, 'nokv', ['get', '--help']) == 0\n"
        "heavy = {'zmq', 'lmdb', 'textual', 'msgspec', 'asyncio', 'uvloop', 'nokv.client'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, stdout=subprocess.DEVNULL)


def test_reader_that_leaves_early_is_no_error(cluster: FakeCluster) -> None:
    cluster.put((b"%05d" % i, b"x" * 100) for i in range(3000))
    command = f"{sys.executable} -m nokv.cli.data scan"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"00000\t")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


def test_text_for_people_and_programs() -> None:
    assert escaped(b"a\xffb\n\\") == "a\\xffb\\x0a\\\\"
    assert in_json("é".encode(), as_hex=False) == "é"
    assert in_json(b"hex:00", as_hex=False) == "hex:" + b"hex:00".hex()
    assert in_json(b"a\n", as_hex=False) == "hex:610a"
