"""The command line as scripts meet it (N28): usage, exit codes, messages, light imports."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from nokv.cli.entry import run
from nokv.cli.node import COMMANDS, node
from nokv.cli.start import FLAGS, start
from nokv.config import NodeConfig
from nokv.exitcodes import EXIT_CONFIG, EXIT_DEGRADED, EXIT_UNREACHABLE, EXIT_USAGE
from nokv.node.settings import schema

HEAVY = ("zmq", "lmdb", "textual", "uvloop", "psutil", "asyncio")


def nokv_node(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nokv.cli.node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env=env)


def test_no_arguments_print_the_usage_and_exit_1() -> None:
    done = nokv_node()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: nokv-node")


@pytest.mark.parametrize("name", ["--help", "-h"])
def test_help_goes_to_stdout_and_exits_0(name: str) -> None:
    done = nokv_node(name)
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert f"  {command} " in done.stdout


def test_what_is_unknown_is_an_error_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["frobnicate"], ["status", "--frobnicate"], ["bench", "--keys", "many"]):
        assert run(node, "nokv-node", arguments) == EXIT_USAGE
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "from nokv.cli.entry import run; from nokv.cli.node import node\n"
        "code = run(node, 'nokv-node', ['--help'])\n"
        "took = time.perf_counter() - began\n"
        f"print([name for name in {HEAVY} if name in sys.modules], code, took < 1.0, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr.strip() == "[] 0 True"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_the_line_that_the_list_shows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node, "nokv-node", [name, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[name][1] in text


def test_every_flag_of_start_sets_something_that_exists() -> None:
    names = {parameter.name for parameter in start.params}
    assert names == set(FLAGS) | {"config_path", "sets", "die_with", "check_only"}
    assert set(FLAGS.values()) <= set(schema())


def test_start_check_says_whether_settings_are_sound(tmp_path: Path) -> None:
    ok = nokv_node("start", "--check", "--listen", "127.0.0.1:28461", "--peer-listen", "127.0.0.1:28462", cwd=tmp_path)
    assert (ok.returncode, ok.stderr) == (0, "configuration is sound\n")
    assert list(tmp_path.iterdir()) == []
    for arguments, reason in (
        (["--election-tick", "0"], "raft.election_ticks"),
        (["--heartbeat-tick", "0"], "raft.heartbeat_ticks"),
        (["--store-id", "0"], "node.store_id"),
        (["--set", "raft.electoin_ticks=3"], "did you mean raft.election_ticks"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--listen", "0.0.0.0:28463"], "--insecure-bind"),
        (["--pin", "4000"], "node.pin"),
    ):
        refused = nokv_node("start", "--check", *arguments, cwd=tmp_path)
        assert refused.returncode == EXIT_CONFIG, arguments
        assert refused.stderr.startswith("error: ") and reason in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_assertions_must_be_on(tmp_path: Path) -> None:
    command = [sys.executable, "-O", "-m", "nokv.cli.node", "start", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "without -O" in done.stderr


# ---- config ---------------------------------------------------------------------------------------------------------


def test_config_show_names_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nokv.toml").write_text("[raft]\ntick_ms = 20\n")
    env = {"NOKV_LOG__LEVEL": "debug"}
    found = CliRunner().invoke(node, ["config", "show", "--origin", "--set", "node.workers=3"], env=env)
    lines = {line.split()[0]: line.split() for line in found.stdout.splitlines()}
    assert lines["raft.tick_ms"] == ["raft.tick_ms", "20", "nokv.toml"]
    assert lines["log.level"] == ["log.level", '"debug"', "env", "NOKV_LOG__LEVEL"]
    assert lines["node.workers"][1:] == ["3", "--set"]
    assert lines["raft.election_ticks"][1:] == ["10", "default"]
    as_json = json.loads(CliRunner().invoke(node, ["config", "show", "--json", "--origin"], env=env).stdout)
    assert as_json["schema"] == "nokv.config.v1"
    assert as_json["values"]["raft.tick_ms"] == 20
    assert as_json["origins"]["log.level"] == "env NOKV_LOG__LEVEL"


def test_the_default_file_is_a_file_that_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(CliRunner().invoke(node, ["config", "default"]).stdout)
    assert run(node, "nokv-node", ["config", "check", str(path)]) == 0
    shown = json.loads(CliRunner().invoke(node, ["config", "show", "--json", "--config", str(path)]).stdout)["values"]
    for name, value in shown.items():
        section, _, field = name.partition(".")
        assert value == getattr(getattr(NodeConfig(), section), field)


def test_config_check_gives_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, reason in (
        ("a.toml", "[raft]\nelection_ticks = 1\n", "raft.election_ticks"),
        ("b.toml", '{"raft": {}}', "not TOML"),
        ("c.json", '{"cluster_id": 0, "stores": [], "regions": []}', "cluster_id"),
        ("d.toml", None, "d.toml"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        assert run(node, "nokv-node", ["config", "check", str(tmp_path / name)]) == EXIT_CONFIG
        assert reason in capsys.readouterr().err


def test_the_schema_describes_every_section() -> None:
    found = json.loads(CliRunner().invoke(node, ["config", "schema"]).stdout)
    assert set(NodeConfig.__struct_fields__) <= set(found["$defs"]["NodeConfig"]["properties"])


# ---- keys, version --------------------------------------------------------------------------------------------------


def test_keygen_makes_keys_once_and_shows_the_public_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node, "nokv-node", ["keygen", "node", str(tmp_path / "n1")]) == 0
    public = capsys.readouterr().out.strip()
    text = (tmp_path / "n1" / "node.key").read_text()
    assert len(public) == 40 and f"public {public}" in text
    assert run(node, "nokv-node", ["keygen", "node", str(tmp_path / "n1")]) == EXIT_CONFIG
    assert (tmp_path / "n1" / "node.key").read_text() == text
    assert run(node, "nokv-node", ["keygen", "client", str(tmp_path / "me.key"), "--json"]) == 0
    client = json.loads(capsys.readouterr().out)
    secret = next(line for line in (tmp_path / "me.key").read_text().splitlines() if line.startswith("secret "))
    assert secret.split()[1] not in json.dumps(client)
    allow = ["keygen", "allow", str(tmp_path / "n1"), client["public"], "--plane", "client", "--until", "2030-01-31"]
    assert run(node, "nokv-node", allow) == 0
    assert client["public"] in (tmp_path / "n1" / "clients.allow").read_text()
    assert client["public"] not in (tmp_path / "n1" / "peers.allow").read_text()
    assert run(node, "nokv-node", ["keygen", "allow", str(tmp_path / "n1"), "short", "--plane", "peer"]) == EXIT_CONFIG


def test_version_names_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node, "nokv-node", ["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "nokv.version.v1"
    assert {"lmdb", "pyzmq", "msgspec", "uvloop"} <= set(found["libraries"])
    assert time.strptime(found["ts"], "%Y-%m-%dT%H:%M:%SZ")


# ---- nobody there ---------------------------------------------------------------------------------------------------


def test_commands_that_reach_nobody_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--url", "nokv://127.0.0.1:28469", "--timeout", "0.2"]
    assert run(node, "nokv-node", ["status", *url, "--json"]) == EXIT_UNREACHABLE
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["state"]) == ("nokv.status.v1", "UNAVAILABLE")
    assert found["nodes"][0]["state"] == "DOWN"
    assert "no answer" in found["nodes"][0]["error"]
    assert run(node, "nokv-node", ["regions", *url]) == EXIT_UNREACHABLE
    assert run(node, "nokv-node", ["wait-ready", *url]) == EXIT_UNREACHABLE


def test_a_bad_url_or_topology_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node, "nokv-node", ["status", "--url", "http://x"]) == EXIT_USAGE
    assert run(node, "nokv-node", ["status", "--topology", str(tmp_path / "no.json")]) == EXIT_CONFIG
    assert "no.json" in capsys.readouterr().err


def test_offline_regions_of_an_empty_directory_wait_for_bootstrap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(node, "nokv-node", ["regions", "--data-dir", str(tmp_path)]) == 0
    assert "waiting for bootstrap" in capsys.readouterr().out
    assert run(node, "nokv-node", ["regions", "--data-dir", str(tmp_path), "show", "1"]) == EXIT_DEGRADED
    assert list(tmp_path.iterdir()) == []


def test_reports_are_json_that_msgspec_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(node, "nokv-node", ["config", "show", "--json"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert set(msgspec.json.decode(line)) == {"schema", "ts", "values", "sources"}
