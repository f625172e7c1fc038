"""One client process of `nokv-node bench`: runs its share of the load and prints what it measured as JSON.

`python -m nokv.cli.bench_load SPEC`, SPEC being a LoadSpec as JSON. All processes of a run begin at one moment of the
machine's monotonic clock.

Why: a client that shares its process with another, or with the printing, measures itself.
Rules: closed loop: each of `clients` sends its next request when the last is answered, and the time is the service
time. Open loop: requests are due at fixed distances whatever happened to those before, and the time counts from when a
request was due, so a stall is paid by every request that it delayed.
Not here: making a report of it (bench.py).
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import uvloop
from msgspec import Struct

import nokv
from nokv.cli.histogram import Histogram
from nokv.testing.writers import key_of

SCAN_LIMIT = 100
LATE_TASKS_MAX = 20_000
"""Open loop: requests under way at once; beyond it the run counts as overloaded, and further ones are not sent."""
FILL_IN_FLIGHT = 128


class LoadSpec(Struct, frozen=True):
    """The share of one process. `rate` 0 = closed loop with `clients` in flight; else requests a second."""

    url: str
    workload: str
    keys: int
    value_bytes: int
    clients: int
    rate: float
    start_at_s: float
    warmup_s: float
    duration_s: float
    seed: int
    fill_from: int = 0
    fill_to: int = 0
    """Keys to write before the start, timed apart."""


class LoadResult(Struct):
    """What one process measured, warm-up excluded. `overloaded`: due requests that were not sent."""

    latency: list[list[int]]
    service: list[list[int]]
    errors: int = 0
    error_samples: list[str] = []
    wrong: int = 0
    overloaded: int = 0
    fill_s: float = 0.0
    cpu_share: float = 0.0
    late_start_s: float = 0.0


class Load:
    """The running load of one process."""

    def __init__(self, spec: LoadSpec, db: "nokv.AsyncClient") -> None:
        self._spec = spec
        self._db = db
        self._random = random.Random(spec.seed)
        self._value = bytes(self._random.randrange(256) for _ in range(spec.value_bytes))
        self._measure_from = spec.start_at_s + spec.warmup_s
        self._end = self._measure_from + spec.duration_s

        self._latency = Histogram()
        self._service = Histogram()
        self._errors = 0
        self._samples: list[str] = []
        self._wrong = 0
        self._overloaded = 0

    async def fill(self) -> float:
        """Write this process's share of the keys; seconds it took."""
        began = time.monotonic()
        numbers = iter(range(self._spec.fill_from, self._spec.fill_to))

        async def write() -> None:
            for number in numbers:
                await self._db.put(key_of(number), self._value)

        await asyncio.gather(*(write() for _ in range(FILL_IN_FLIGHT)))
        return time.monotonic() - began

    async def run(self, fill_s: float) -> LoadResult:
        """The load from start to end."""
        late_s = max(0.0, time.monotonic() - self._spec.start_at_s)
        await asyncio.sleep(max(0.0, self._spec.start_at_s - time.monotonic()))
        cpu_began, began = time.process_time(), time.monotonic()
        if self._spec.rate > 0:
            await self._open_loop()
        else:
            await asyncio.gather(*(self._closed_loop() for _ in range(self._spec.clients)))
        share = (time.process_time() - cpu_began) / (time.monotonic() - began)
        return LoadResult(
            self._latency.pack(),
            self._service.pack(),
            self._errors,
            self._samples,
            self._wrong,
            self._overloaded,
            fill_s,
            share,
            late_s,
        )

    async def _closed_loop(self) -> None:
        while (now := time.monotonic()) < self._end:
            await self._one(now)

    async def _open_loop(self) -> None:
        distance_s = 1 / self._spec.rate
        due = self._spec.start_at_s
        tasks: set[asyncio.Task[None]] = set()
        while due < self._end:
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
                continue
            if len(tasks) < LATE_TASKS_MAX:
                task = asyncio.create_task(self._one(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            elif due >= self._measure_from:
                self._overloaded += 1
            due += distance_s
        if tasks:
            await asyncio.gather(*tasks)

    async def _one(self, due: float) -> None:
        """One request, counted if it was due after the warm-up."""
        operation = self._operation()
        began = time.monotonic()
        try:
            right = await operation()
        except nokv.NokvError as error:
            if due >= self._measure_from:
                self._errors += 1
                if len(self._samples) < 3:
                    self._samples.append(f"{type(error).__name__}: {error}")
            return
        ended = time.monotonic()
        if due < self._measure_from:
            return
        self._latency.record(int((ended - due) * 1e6))
        self._service.record(int((ended - began) * 1e6))
        self._wrong += not right

    def _operation(self) -> Callable[[], Awaitable[bool]]:
        """The next request; its result says whether the answer was right."""
        key = key_of(self._random.randrange(self._spec.keys))
        workload = self._spec.workload
        if workload == "mixed":
            workload = "get" if self._random.random() < 0.5 else "put"
        if workload == "get":
            return lambda: self._get(key)
        if workload == "put":
            return lambda: self._put(key)
        assert workload == "scan"
        return lambda: self._scan(key)

    async def _get(self, key: bytes) -> bool:
        value = await self._db.get(key)
        return value is not None and len(value) == len(self._value)

    async def _put(self, key: bytes) -> bool:
        await self._db.put(key, self._value)
        return True

    async def _scan(self, start: bytes) -> bool:
        last = b""
        async for pair in self._db.scan(start, limit=SCAN_LIMIT):
            if pair.key <= last or len(pair.value) != len(self._value):
                return False
            last = pair.key
        return last >= start


async def main_async(spec: LoadSpec) -> LoadResult:
    """Fill, then run."""
    async with nokv.AsyncClient(spec.url, timeout=10.0, max_inflight=LATE_TASKS_MAX) as db:
        load = Load(spec, db)
        if spec.fill_to > spec.fill_from:
            fill_s = await load.fill()
            return LoadResult([[0, 0]], [[0, 0]], fill_s=fill_s)
        await db.get(key_of(0))  # connections and routes are there before the first measured request
        return await load.run(0.0)


def main() -> int:
    """Run the spec in the first argument."""
    spec = msgspec.json.decode(sys.argv[1], type=LoadSpec)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(main_async(spec))
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
