"""`python -m tests.router.bench`: what the router costs, in the dispatcher alone and on real sockets.

The second part runs a router process, echo workers and one load process; on a machine with few cores they compete, so
look at the router's own CPU time, which is printed for its main thread and in all.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import zmq

from nokv.config import link_endpoint, to_json
from nokv.proto.frame import Kind, encode, split
from tests.router.rig import Socket, node_config
from tests.router.wire import dispatcher, get, peer_hello, raft, routing, routing_message

REGIONS, BODY, SECONDS = 64, b"x" * 150, 3.0


def best_us(work: Callable[[], object], repeat: int = 300) -> float:
    """The fastest of many runs, in microseconds: the others met somebody else's work."""
    best = float("inf")
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best * 1e6


def micro(workers: int = 4) -> None:
    d = dispatcher(routing({i + 1: i % workers for i in range(REGIONS)}))
    spread = b"".join(get(i, i % REGIONS + 1, BODY) for i in range(64))
    one_run = b"".join(get(i, workers * (i % 8) + 1, BODY) for i in range(64))
    peers = peer_hello() + b"".join(raft(i % REGIONS + 1, BODY) for i in range(64))
    ok = encode(Kind.OK, 1, 1, BODY)
    many = [b"w0", *(part for i in range(64) for part in (b"C" + bytes((i,)), ok))]

    def requests(message: bytes, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count):
                d.from_client(b"\0abcd", message)
            d.take_links()

        return work

    def from_peers() -> None:
        d.from_peer(peers)
        d.take_links()

    def replies() -> None:
        d.from_link(many)
        d.take_replies(0)

    cases: list[tuple[str, Callable[[], object], int]] = [
        ("one request a message", requests(get(1, 1, BODY), 64), 64),
        ("64 requests a message, one worker", requests(one_run, 1), 64),
        ("64 requests a message, four workers", requests(spread, 1), 64),
        ("64 Raft frames a message, four workers", from_peers, 64),
        ("replies to 64 clients", replies, 64),
    ]
    for name, work, frames in cases:
        print(f"dispatch  {name:42} {best_us(work) / frames:6.2f} us a frame")


def serve(link: str, index: int, stop: Event) -> None:
    """An echo worker; index -1 is the manifest, which pushes the routing."""
    context = zmq.Context[Socket]()
    socket = context.socket(zmq.DEALER)
    socket.identity = b"m" if index < 0 else b"w%d" % index
    socket.connect(link)
    workers = int(os.environ["BENCH_WORKERS"])
    push = routing_message(routing({i + 1: i % workers for i in range(REGIONS)}))[1:]
    while not stop.is_set():
        if index < 0:
            socket.send_multipart(push)
        out: list[bytes] = []
        while socket.poll(0 if out else 200):
            parts = socket.recv_multipart()
            for address, frames in zip(parts[::2], parts[1::2], strict=True):
                if address[:1] == b"C":
                    out += (address, frames.replace(b"NK\1" + bytes((Kind.KV_GET,)), b"NK\1" + bytes((Kind.OK,))))
            if len(out) >= 256:
                break
        if out:
            socket.send_multipart(out)
    context.destroy(linger=0)


def load(address: str, clients: int, batch: int, began: Event, results: "multiprocessing.Queue[float]") -> None:
    """Closed loop: each client has one message of `batch` requests under way."""
    context, poller = zmq.Context[Socket](), zmq.Poller()
    sockets = [context.socket(zmq.DEALER) for _ in range(clients)]
    for socket in sockets:
        socket.connect(f"tcp://{address}")
        poller.register(socket, zmq.POLLIN)
    messages = [b"".join(get(i, (i + k) % REGIONS + 1, BODY) for i in range(batch)) for k in range(REGIONS)]
    for at, socket in enumerate(sockets):
        socket.send(messages[at % REGIONS])
    waiting = dict.fromkeys(sockets, batch)
    began.set()
    done, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        for socket, _events in poller.poll(1000):
            answers = sum(1 for _ in split(socket.recv()))
            done += answers
            waiting[socket] -= answers
            if not waiting[socket]:
                waiting[socket] = batch
                socket.send(messages[done % REGIONS])
    results.put(done / SECONDS)
    context.destroy(linger=0)


def live(workers: int, clients: int, batch: int) -> None:
    os.environ["BENCH_WORKERS"] = str(workers)
    with tempfile.TemporaryDirectory(prefix="nokv-bench-", dir="/tmp") as run_dir:
        config = node_config(run_dir)
        path = Path(run_dir) / "effective.json"
        path.write_bytes(to_json(config))
        router = subprocess.Popen(
            [sys.executable, "-m", "nokv.router", "--config", str(path)], stderr=subprocess.DEVNULL
        )
        stop, began = multiprocessing.Event(), multiprocessing.Event()
        results: multiprocessing.Queue[float] = multiprocessing.Queue()
        link = link_endpoint(config)
        processes = [multiprocessing.Process(target=serve, args=(link, i, stop)) for i in range(-1, workers)]
        for process in processes:
            process.start()
        time.sleep(1)  # until all are connected and the routing is there
        loader = multiprocessing.Process(target=load, args=(config.listen.client, clients, batch, began, results))
        loader.start()
        began.wait()
        watched = psutil.Process(router.pid)
        before, main_before = cpu_s(watched)
        time.sleep(SECONDS - 0.5)
        after, main_after = cpu_s(watched)
        rate = results.get()
        served = rate * (SECONDS - 0.5) / 1e6
        shape = f"{workers} workers, {clients:3} clients x {batch:2} requests a message"
        main_us, all_us = (main_after - main_before) / served, (after - before) / served
        print(f"live      {shape}: {rate:8,.0f}/s, router {main_us:6.2f} us a request, {all_us:6.2f} with I/O")
        stop.set()
        router.terminate()
        for ending in (*processes, loader):
            ending.join()
        router.wait()


def cpu_s(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds of a process so far, and of its main thread."""
    times = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    return sum(times.values()), times[process.pid]


if __name__ == "__main__":
    micro()
    for shape in ((1, 1, 1), (2, 16, 1), (2, 64, 1), (2, 16, 8), (2, 4, 64)):
        live(*shape)
