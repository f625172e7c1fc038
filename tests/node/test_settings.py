"""Layers of settings: precedence, origins, units, refusals with a path and the nearest name."""

import json
from pathlib import Path

import pytest

from nokv import config as config_module
from nokv.config import ConfigError, NodeConfig, lease_ms, to_json
from nokv.config_rules import check, from_json, parse_cpu_list
from nokv.node.settings import Settings, env_layer, file_layer, flag_layer, flatten, load, merge, schema

TOPOLOGY = {
    "cluster_id": 9,
    "stores": [
        {"id": 1, "client": "127.0.0.1:7001", "peer": "127.0.0.1:7002"},
        {"id": 2, "client": "127.0.0.1:7003", "peer": "127.0.0.1:7004"},
    ],
    "presplit": {"regions": 2},
}


def loaded(
    cwd: Path,
    *,
    config_path: str | None = None,
    env: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
    sets: tuple[str, ...] = (),
) -> Settings:
    return load(config_path=config_path, environ=env or {}, flags=flags or {}, sets=sets, cwd=cwd)


def test_defaults_alone_are_a_valid_configuration(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.config == NodeConfig()
    assert set(settings.origins.values()) == {"default"}
    assert settings.sources == ("defaults",)
    assert settings.config.raft.election_ticks == 10
    assert settings.config.raft.heartbeat_ticks == 2
    assert settings.config.raft.max_message_bytes == 1 << 20
    assert settings.config.raft.max_inflight == 256


def test_later_layers_win_and_every_layer_counts(tmp_path: Path) -> None:
    (tmp_path / "nokv.toml").write_text("[raft]\ntick_ms = 20\nelection_ticks = 20\nmax_inflight = 8\n")
    env = {"NOKV_RAFT__ELECTION_TICKS": "30", "NOKV_LOG__LEVEL": "debug", "NOKV_URL": "nokv://x"}
    settings = loaded(tmp_path, env=env, flags={"log.level": "error"}, sets=("raft.max_inflight=9",))
    raft = settings.config.raft
    assert (raft.tick_ms, raft.election_ticks, raft.max_inflight) == (20, 30, 9)
    assert settings.config.log.level == "error"
    assert settings.origins["raft.tick_ms"] == "nokv.toml"
    assert settings.origins["raft.election_ticks"] == "env NOKV_RAFT__ELECTION_TICKS"
    assert settings.origins["raft.max_inflight"] == "--set"
    assert settings.origins["log.level"] == "flag"
    assert settings.origins["raft.heartbeat_ticks"] == "default"
    assert settings.sources == ("defaults", "nokv.toml", "env (2 keys)", "flags (2 keys)")


def test_which_file_is_read(tmp_path: Path) -> None:
    for name, ticks in (("nokv.toml", 11), ("env.toml", 12), ("flag.toml", 13)):
        (tmp_path / name).write_text(f"[raft]\nelection_ticks = {ticks}\n")
    env = {"NOKV_CONFIG": "env.toml"}
    assert loaded(tmp_path).config.raft.election_ticks == 11
    assert loaded(tmp_path, env=env).config.raft.election_ticks == 12
    assert loaded(tmp_path, env=env, config_path="flag.toml").config.raft.election_ticks == 13
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        loaded(tmp_path, config_path="gone.toml")


def test_addresses_come_from_the_topology_unless_set_nearer(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TOPOLOGY))
    flags: dict[str, object] = {"node.topology": "t.json", "node.store_id": 2}
    settings = loaded(tmp_path, flags=flags)
    assert settings.config.listen.client == "127.0.0.1:7003"
    assert settings.origins["listen.peer"] == "topology"
    assert settings.topology is not None and len(settings.topology.regions) == 2
    nearer = loaded(tmp_path, flags=flags, sets=("listen.client=127.0.0.1:9999",))
    assert nearer.config.listen.client == "127.0.0.1:9999"
    assert nearer.config.listen.peer == "127.0.0.1:7004"
    with pytest.raises(ConfigError, match="which lists 1, 2"):
        loaded(tmp_path, flags=flags | {"node.store_id": 3})


@pytest.mark.parametrize("content", [None, "{", '{"cluster_id": 1, "stores": []}'])
def test_a_bad_topology_is_a_config_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, flags={"node.topology": "t.json"})
    assert caught.value.path == "node.topology"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("raft.tick_ms=0.2s", "raft.tick_ms", 200),
        ("raft.tick_ms=50ms", "raft.tick_ms", 50),
        ("node.drain_timeout_s=1m", "node.drain_timeout_s", 60.0),
        ("storage.segment_bytes=32MiB", "storage.segment_bytes", 32 << 20),
        ("limits.scan_page_bytes=2MB", "limits.scan_page_bytes", 2_000_000),
        ("storage.sync=false", "storage.sync", False),
        ("node.pin=0-1", "node.pin", "0-1"),
        ("limits.value_bytes_max=512 KiB", "limits.value_bytes_max", 512 << 10),
    ],
)
def test_values_may_carry_the_unit_of_their_field(tmp_path: Path, text: str, path: str, value: object) -> None:
    assert flatten(loaded(tmp_path, sets=(text,)).config)[path] == value


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("raft.election_tick=5", "raft.election_tick", "did you mean raft.election_ticks"),
        ("raft.segment_bytes=5", "raft.segment_bytes", "did you mean storage.segment_bytes"),
        ("nonsense=1", "nonsense", "unknown setting"),
        ("raft.tick_ms=fast", "raft.tick_ms", "fast"),
        ("raft.tick_ms=5MiB", "raft.tick_ms", "5MiB"),
        ("raft.tick_ms=0.5ms", "raft.tick_ms", "0.5"),
        ("storage.sync=maybe", "storage.sync", "maybe"),
        ("raft.tick_ms", "", "write section.key=value"),
    ],
)
def test_what_cannot_be_set_is_refused_by_path(tmp_path: Path, text: str, path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, sets=(text,))
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_files_that_are_no_settings_are_refused() -> None:
    for text in ('{"raft": {}}', "[raft\n", "tick_ms = 3\n"):
        with pytest.raises(ConfigError):
            file_layer(text, "f.toml")
    with pytest.raises(ConfigError, match=r"did you mean raft\.tick_ms"):
        file_layer("tick_ms = 3\n", "f.toml")
    with pytest.raises(ConfigError, match="unknown setting"):
        merge([file_layer("[raft]\n[raft.deep]\nx = 1\n", "f.toml")])


def test_one_underscore_in_the_environment_is_refused_not_ignored() -> None:
    with pytest.raises(ConfigError, match="two underscores"):
        env_layer({"NOKV_RAFT_ELECTION_TICKS": "5"})
    assert env_layer({"NOKV_VERSION": "1", "PATH": "x"}).values == {}


RELATIONS = [
    ("raft.election_ticks=0", "raft.election_ticks"),
    ("raft.heartbeat_ticks=0", "raft.heartbeat_ticks"),
    ("raft.heartbeat_ticks=-1", "raft.heartbeat_ticks"),
    ("raft.election_ticks=2", "raft.election_ticks"),
    ("raft.lease_drift_ms=900", "raft.lease_drift_ms"),
    ("raft.max_message_bytes=64MiB", "raft.max_message_bytes"),
    ("raft.peer_message_bytes_max=1MiB", "raft.peer_message_bytes_max"),
    ("raft.uncommitted_bytes=1MiB", "raft.uncommitted_bytes"),
    ("storage.segment_bytes=10", "storage.segment_bytes"),
    ("storage.map_bytes_step=100001", "storage.map_bytes_step"),
    ("storage.free_bytes_resume=1MiB", "storage.free_bytes_resume"),
    ("storage.checkpoint_bytes=200MiB", "storage.checkpoint_bytes"),
    ("limits.key_bytes_max=401", "limits.key_bytes_max"),
    ("limits.value_bytes_max=20MiB", "limits.txn_bytes_max"),
    ("limits.scan_page_bytes=1MiB", "limits.scan_page_bytes"),
    ("limits.scan_page_bytes=8MiB", "limits.scan_page_bytes"),
    ("limits.txn_bytes_max=24MiB", "limits.entry_bytes_max"),
    ("limits.entry_bytes_max=64MiB", "limits.entry_bytes_max"),
    ("limits.entry_batch_bytes=25MiB", "limits.entry_batch_bytes"),
    ("limits.proposals_max=20000", "limits.proposals_max"),
    ("router.message_bytes_max=65MiB", "router.message_bytes_max"),
    ("router.heartbeat_timeout_ms=2000", "router.heartbeat_timeout_ms"),
    ("router.clients_queue_bytes_max=1MiB", "router.clients_queue_bytes_max"),
    ("router.reconnect_ms=2000", "router.reconnect_ms_max"),
    ("manifest.down_after_ms=1000", "manifest.down_after_ms"),
    ("log.level=loud", "log.level"),
    ("log.format=xml", "log.format"),
    ("node.store_id=0", "node.store_id"),
    ("node.workers=-1", "node.workers"),
    ("node.workers=257", "node.workers"),
    ("node.data_dir=", "node.data_dir"),
    ("node.pin=x", "node.pin"),
    ("node.pin=3-1", "node.pin"),
    ("node.pin=0,0-2", "node.pin"),
    ("node.run_dir=/" + "d" * 107, "node.run_dir"),
    ("listen.client=6658", "listen.client"),
    ("listen.client=[::1]:6658", "listen.client"),
    ("listen.peer=127.0.0.1:6658", "listen.peer"),
    ("listen.advertise_peer=host", "listen.advertise_peer"),
]


@pytest.mark.parametrize(("text", "path"), RELATIONS)
def test_contradictions_are_refused_by_the_field_to_change(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, sets=(text,))
    assert caught.value.path == path


def test_effective_configuration_survives_json(tmp_path: Path) -> None:
    config = loaded(tmp_path, sets=("raft.tick_ms=20", "node.pin=0-1")).config
    assert from_json(to_json(config)) == config
    with pytest.raises(ConfigError):
        from_json(b"{")
    with pytest.raises(ConfigError, match="tick_mss"):
        from_json(b'{"raft": {"tick_mss": 1}}')
    with pytest.raises(ConfigError) as caught:
        from_json(b'{"raft": {"election_ticks": 1}}')
    assert caught.value.path == "raft.election_ticks"


def test_the_lease_is_shorter_than_any_election() -> None:
    raft = NodeConfig().raft
    assert lease_ms(raft) == 800 < raft.tick_ms * (raft.election_ticks - 1)


def test_every_field_has_its_reason() -> None:
    """Each field is followed by a docstring, so that nobody can add a limit without saying why."""
    source = Path(config_module.__file__).read_text()
    for path in schema():
        name = path.rpartition(".")[2]
        field = source.index(f"\n    {name}: ")
        after = source[source.index("\n", field + 1) :].lstrip()
        assert after.startswith('"""'), f"{path} has no docstring"


def test_cpu_lists_keep_their_order() -> None:
    assert parse_cpu_list("node.pin", "6,0-2") == (6, 0, 1, 2)


def test_layers_know_their_origins() -> None:
    layer = flag_layer({"raft.tick_ms": 5}, ["raft.tick_ms=7"])
    assert layer.values == {"raft.tick_ms": "7"}
    assert layer.origins == {"raft.tick_ms": "--set"}


def test_advertised_limits_are_limits_of_the_configuration() -> None:
    flat = flatten(NodeConfig())
    for name, value in config_module.advertised_limits(NodeConfig()).items():
        assert value in (flat.get(f"limits.{name}"), flat.get(f"router.{name}"))
    check(NodeConfig())
