"""Three etcd nodes on this machine, and load on them by wrk: the peer that compare_etcd measures beside NoKV.

Why wrk and the HTTP gateway: etcd's own `etcdctl check perf` limits its rate and prints no percentiles; wrk reaches the
same store through the gateway that every etcd serves, in C, so that the client costs next to nothing. The gateway does
cost etcd something (JSON to protobuf); the report says so.
Fairness: all requests go to the leader, which saves etcd the forwarding; linearizable reads, the default; default
settings otherwise; data on the same disk as NoKV's.
"""

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from nokv.testing.ports import PortLease
from nokv.testing.writers import key_of

READY_S: Final = 30.0
FILL_BATCH: Final = 100
"""Keys of one filling transaction; etcd allows 128 operations."""
THREADS: Final = 1
"""wrk threads: one is far from busy at the rates three nodes on two cores reach."""

LUA: Final = """
local keys = {}
local value = "@VALUE@"
local at = 0
function setup(thread) thread:set("seed", @SEED@) end
function init(args)
  math.randomseed(seed)
  for line in io.lines("@KEYS@") do keys[#keys + 1] = line end
end
function request()
  local key = keys[math.random(#keys)]
  return wrk.format("POST", "@PATH@", {["Content-Type"] = "application/json"}, string.format('@BODY@', key))
end
function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"count": %d, "seconds": %f, "status": %d, "socket": %d, "p50": %f, "p90": %f, "p99": %f, "max": %f}\\n',
    summary.requests, summary.duration / 1e6, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


def missing_programs() -> list[str]:
    """Programs of this comparison that are not installed."""
    return [name for name in ("etcd", "wrk") if shutil.which(name) is None]


class EtcdCluster:
    """Three nodes in `folder`; a context manager that ends with nothing running."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lease = PortLease(6)
        ports = self._lease.ports
        self._clients = [f"http://127.0.0.1:{port}" for port in ports[:3]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "EtcdCluster":
        cluster = ",".join(f"n{at}={url}" for at, url in enumerate(self._peers))
        for at in range(3):
            with (self._folder / f"etcd-{at}.log").open("wb") as log:
                self._processes.append(subprocess.Popen(self._command(at, cluster), stdout=log, stderr=log))
        try:
            self.leader = self._wait_leader()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._lease.close()

    def _command(self, at: int, cluster: str) -> list[str]:
        return [
            "etcd",
            *("--name", f"n{at}"),
            *("--data-dir", str(self._folder / f"etcd-{at}")),
            *("--listen-client-urls", self._clients[at], "--advertise-client-urls", self._clients[at]),
            *("--listen-peer-urls", self._peers[at], "--initial-advertise-peer-urls", self._peers[at]),
            *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
            *("--log-level", "error", "--logger", "zap"),
        ]

    def _wait_leader(self) -> str:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            for url in self._clients:
                try:
                    status = post(url, "/v3/maintenance/status", {})
                except (urllib.error.URLError, OSError):
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return url
            time.sleep(0.05)
        raise RuntimeError(f"etcd has no leader after {READY_S:g} s, see {self._folder}/etcd-*.log")

    def version(self) -> str:
        """What runs."""
        with urllib.request.urlopen(f"{self.leader}/version", timeout=5) as answer:
            return str(json.load(answer)["etcdserver"])

    def fill(self, keys: int, value: bytes) -> None:
        """Write every key once."""
        for begin in range(0, keys, FILL_BATCH):
            puts = [
                {"requestPut": {"key": _b64(key_of(number)), "value": _b64(value)}}
                for number in range(begin, min(begin + FILL_BATCH, keys))
            ]
            post(self.leader, "/v3/kv/txn", {"success": puts})

    def count(self) -> int:
        """How many keys it holds."""
        request = {"key": _b64(b"\0"), "range_end": _b64(b"\0"), "count_only": True}
        return int(post(self.leader, "/v3/kv/range", request).get("count", 0))

    def load(
        self, workload: str, *, keys: int, value: bytes, in_flight: int, seconds: float, seed: int
    ) -> dict[str, float]:
        """One closed-loop run by wrk. The result as LUA's done() prints it, times in milliseconds."""
        script = self._script(workload, keys=keys, value=value, seed=seed)
        command = [
            "wrk",
            f"-t{THREADS}",
            f"-c{in_flight}",
            f"-d{max(1, round(seconds))}s",
            "-s",
            str(script),
            self.leader,
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
        line = next(line for line in output.splitlines() if line.startswith("RESULT "))
        result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
        return result

    def _script(self, workload: str, *, keys: int, value: bytes, seed: int) -> Path:
        names = self._folder / "keys.b64"
        names.write_text("".join(_b64(key_of(number)) + "\n" for number in range(keys)))
        path, body = "/v3/kv/put", '{"key": "%s", "value": "@VALUE@"}'
        if workload == "get":
            path, body = "/v3/kv/range", '{"key": "%s"}'
        text = LUA.replace("@BODY@", body).replace("@PATH@", path).replace("@KEYS@", str(names))
        script = self._folder / f"{workload}.lua"
        script.write_text(text.replace("@VALUE@", _b64(value)).replace("@SEED@", str(seed)))
        return script


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to the gateway."""
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
