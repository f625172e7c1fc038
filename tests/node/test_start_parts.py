"""The small parts of a start: run directory, port checks, log relay, summary lines, effective configuration."""

import json
import logging
import os
import socket
import stat
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.config import ConfigError, ListenSection, NodeConfig, NodeSection
from nokv.exitcodes import EXIT_CONFIG, EXIT_PORT
from nokv.node import rundir, summary
from nokv.node.children import node_children
from nokv.node.logs import LINE_BYTES_MAX, LineRelay
from nokv.node.pinning import Cpus
from nokv.node.preflight import check_bind, check_ports
from nokv.node.start import resolve
from nokv.process import JsonLines, ProcessRefused, TextLines
from nokv.proto.control import RegionRoute, RegionStatus, RoutesReply, StatusReply, StoreInfo
from nokv.proto.ids import ClusterId, LogIndex, PeerId, StoreId, Term, WorkerId
from nokv.proto.region import Region
from nokv.proto.stats import NodeStatus, RouterStats, WorkerStats, WorkerStatus
from nokv.topology import presplit

# ---- run directory --------------------------------------------------------------------------------------------------


def test_a_run_directory_is_private_and_cleared(tmp_path: Path) -> None:
    path = tmp_path / "run"
    rundir.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    rundir.make(path)  # an earlier run's is taken over
    for name in (rundir.EFFECTIVE_NAME, rundir.PID_NAME, "link.ipc"):
        (path / name).touch()
    rundir.clear(path)
    assert not path.exists()


def test_a_run_directory_with_other_things_in_it_stays(tmp_path: Path) -> None:
    rundir.make(tmp_path / "run")
    (tmp_path / "run" / "mine").touch()
    rundir.clear(tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_run_directory_others_could_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 700"):
        rundir.make(tmp_path / "open")
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(ConfigError, match="not a directory of user"):
        rundir.make(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError):
        rundir.make(tmp_path / "file")


def test_the_run_directory_is_named_after_the_data_and_fits_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    first = rundir.choose("", deep, {})
    assert first == rundir.choose("", deep, {}) != rundir.choose("", tmp_path, {})
    assert len(os.fsencode(first / "link.ipc")) <= 107
    assert rundir.choose("", deep, {"RUNTIME_DIRECTORY": "/run/nokv:/run/other"}).parent == Path("/run/nokv")
    assert rundir.choose("", deep, {"RUNTIME_DIRECTORY": "/" + "r" * 110}) == first
    assert rundir.choose("/r", deep, {}) == Path("/r")
    with pytest.raises(ConfigError, match="too long"):
        rundir.choose("/" + "r" * 110, deep, {})


# ---- checks before anything starts ----------------------------------------------------------------------------------


def config_on(client: str, peer: str, **changes: object) -> NodeConfig:
    return NodeConfig(listen=msgspec.structs.replace(ListenSection(client, peer), **changes))


def test_a_taken_port_is_named_with_its_owner() -> None:
    with socket.socket() as held, socket.socket() as other:
        held.bind(("127.0.0.1", 0))
        held.listen()
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        free = f"127.0.0.1:{other.getsockname()[1]}"
        other.close()
        with pytest.raises(ProcessRefused) as caught:
            check_ports(config_on(free, address))
        assert caught.value.exit_code == EXIT_PORT
        assert f"listen.peer {address}" in str(caught.value)
        assert str(os.getpid()) in str(caught.value)


def test_strangers_are_not_served_without_keys() -> None:
    open_config = config_on("0.0.0.0:7000", "127.0.0.1:7001")
    with pytest.raises(ProcessRefused) as caught:
        check_bind(open_config)
    assert caught.value.exit_code == EXIT_CONFIG
    check_bind(config_on("0.0.0.0:7000", "127.0.0.1:7001", insecure_bind=True))
    check_bind(msgspec.structs.replace(open_config, curve=msgspec.structs.replace(open_config.curve, dir="/keys")))
    check_bind(config_on("127.0.0.9:7000", "localhost:7001"))


# ---- what children get ----------------------------------------------------------------------------------------------


def test_children_get_absolute_paths_and_a_worker_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve(NodeConfig(node=NodeSection(data_dir="d", topology="t.json")), Cpus((0, 1, 2), {}), {})
    assert config.node.workers == 3
    assert config.node.data_dir == str(tmp_path / "d")
    assert config.node.topology == str(tmp_path / "t.json")
    assert config.curve.dir == ""
    assert config.log.format in ("text", "json")


def test_one_manifest_one_router_and_all_workers_are_started() -> None:
    specs = node_children("/run/effective.json", (0, None))
    assert [spec.name for spec in specs] == ["manifest", "router", "worker 0", "worker 1"]
    assert [spec.cpu for spec in specs] == [None, None, 0, None]
    assert specs[3].command == (
        *(sys.executable, "-m", "nokv.workers", "--config", "/run/effective.json"),
        *("--worker", "1"),
    )


# ---- lines ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_lines_come_out_whole_however_they_were_cut(chunks: list[bytes]) -> None:
    relay = LineRelay("w", as_text=True)
    lines = [line for chunk in chunks for line in relay.feed(chunk)]
    lines += relay.end()
    once = LineRelay("w", as_text=True)
    assert lines == [*once.feed(b"".join(chunks)), *once.end()]
    assert all(line.startswith("[w] ") and line.endswith("\n") for line in lines)


def test_a_child_gone_mad_costs_bounded_memory() -> None:
    relay = LineRelay("w", as_text=False)
    for _ in range(10):
        for line in relay.feed(b"x" * LINE_BYTES_MAX):
            assert len(json.loads(line)["message"]) <= LINE_BYTES_MAX


def test_log_records_become_one_line_or_one_object() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("nokv.x", logging.WARNING, "f", 1, "queue of %d", (3,), sys.exc_info())
    text = TextLines().format(record)
    assert "warning nokv.x  queue of 3\nTraceback" in text
    fields = json.loads(JsonLines("worker 3").format(record))
    assert (fields["level"], fields["process"], fields["message"]) == ("warning", "worker 3", "queue of 3")
    assert "ValueError: broken" in fields["error"]


# ---- the first screen (S22) -----------------------------------------------------------------------------------------


def status(regions: tuple[Region, ...]) -> StatusReply:
    workers = tuple(WorkerStatus(WorkerId(at), 100 + at, "up", 0, 0, WorkerStats()) for at in range(2))
    node = NodeStatus(
        ClusterId(1), StoreId(1), "0.1.0", 5, 1, 2, workers, RouterStats(), "leader", StoreId(1), 1, 2, 1, 0
    )
    zero = LogIndex(0)
    started = tuple(
        RegionStatus(region, PeerId(9), WorkerId(0), "follower", PeerId(0), Term(1), zero, zero, zero, zero)
        for region in regions
        if region.peer_on(StoreId(1))
    )
    return StatusReply(node, started)


def test_the_ready_lines_say_what_is_served_here() -> None:
    stores = tuple(StoreInfo(StoreId(at), f"h{at}:1", f"h{at}:2") for at in (1, 2))
    topology = presplit(ClusterId(1), stores, regions=7, replicas=1)
    routes = RoutesReply(ClusterId(1), stores, tuple(RegionRoute(region) for region in topology.regions))
    text = "\n".join(summary.ready(NodeConfig(), status(topology.regions), routes, took_ms=900))
    assert "peers    2 at h2:2" in text
    assert "7 in the directory, 4 peers started here, 3 without this store" in text
    assert text.count("region ") == 5
    assert "[-inf, " in text
    assert "... and 2 more" in text
    assert "2/2 workers, 7 regions, 1 led here     0.9 s" in text


def test_a_node_without_regions_waits_for_bootstrap() -> None:
    routes = RoutesReply(ClusterId(1), (StoreInfo(StoreId(1), "h:1", "h:2"),), ())
    text = "\n".join(summary.ready(NodeConfig(), status(()), routes, took_ms=10))
    assert "no regions, waiting for bootstrap" in text
    assert "peers    none" in text


def test_the_opening_lines_name_sources_and_addresses() -> None:
    lines = summary.opening(
        NodeConfig(), pid=7, sources=("defaults", "nokv.toml"), data_is_new=True, cpus="2 usable", stores=0
    )
    text = "\n".join(lines)
    assert "node 1  pid 7" in text
    assert "defaults < nokv.toml" in text and "nokv-data (new)" in text
    assert "client 127.0.0.1:6658   peer 127.0.0.1:6659   no encryption" in text
