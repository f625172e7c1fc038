"""Which worker runs on which CPU.

Why: a worker is one busy thread; kept on one core it keeps its caches, and two workers never share a core while
another idles. On a machine with fewer cores than workers pinning only hurts, so it is then off.
Rule: CPUs are dealt one for each physical core first, hyper-threads of used cores after that, in number order.
Invariants: a plan names only usable CPUs (affinity mask), and says in one line what was decided and why.
Not here: applying a plan to a process (nokv.node.children).
"""

import os
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Final

from msgspec import Struct

from nokv.config import ConfigError
from nokv.config_rules import parse_cpu_list

_SYSFS: Final = Path("/sys/devices/system/cpu")
_CGROUP_V2: Final = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1: Final = Path("/sys/fs/cgroup/cpu")


class Cpus(Struct, frozen=True):
    """What this process may use: CPU numbers, the core of each, and how many CPUs' worth of time its cgroup grants."""

    numbers: tuple[int, ...]
    core_of: dict[int, int]
    quota: float | None = None

    @property
    def usable(self) -> int:
        """CPUs that can really be busy at once, at least 1."""
        count = len(self.numbers)
        return max(1, count if self.quota is None else min(count, ceil(self.quota)))


class PinPlan(Struct, frozen=True):
    """`cpu_of[i]` is worker i's CPU, None = not pinned. `warning`: the wish could not be met as written."""

    cpu_of: tuple[int | None, ...]
    note: str
    warning: bool = False


def plan(pin: str, workers: int, cpus: Cpus) -> PinPlan:
    """Decide for `workers` workers. `pin` as node.pin: auto, none or a list.

    Raises:
        ConfigError: the list names a CPU this process may not use.
    """
    assert workers > 0
    unpinned: tuple[int | None, ...] = (None,) * workers
    seen = f"{cpus.usable} usable, {workers} worker{'s' if workers > 1 else ''}"
    if pin == "none":
        return PinPlan(unpinned, f"{seen}: pinning off")
    if pin == "auto":
        if workers > cpus.usable:
            return PinPlan(unpinned, f"{seen}: pinning off (oversubscribed; a --pin list forces it)", warning=True)
        chosen = by_core(cpus.numbers, cpus.core_of)[:workers]
        return PinPlan(tuple(chosen), f"{seen}: pinned to {_spell(chosen)}")
    listed = parse_cpu_list("node.pin", pin)
    foreign = [cpu for cpu in listed if cpu not in cpus.numbers]
    if foreign:
        raise ConfigError("node.pin", f"CPU {_spell(foreign)} may not be used here, only {_spell(cpus.numbers)}")
    dealt = tuple(listed[worker % len(listed)] for worker in range(workers))
    shared = workers > len(listed)
    note = f"{seen}: pinned to {_spell(listed)}{', several on one CPU' if shared else ''}"
    return PinPlan(dealt, note, warning=shared)


def by_core(numbers: Sequence[int], core_of: Mapping[int, int]) -> list[int]:
    """CPUs ordered so that each core gives one before any gives its second."""
    rank: dict[int, int] = {}
    taken: dict[int, int] = {}
    for cpu in sorted(numbers):
        core = core_of.get(cpu, cpu)
        rank[cpu] = taken.get(core, 0)
        taken[core] = rank[cpu] + 1
    return sorted(numbers, key=lambda cpu: (rank[cpu], cpu))


def read_cpus() -> Cpus:
    """What this process may use, from its affinity mask, sysfs and its cgroup."""
    numbers = tuple(sorted(os.sched_getaffinity(0)))
    core_of = {cpu: _first_sibling(cpu) for cpu in numbers}
    return Cpus(numbers, core_of, _quota())


def parse_quota(text: str) -> float | None:
    """CPUs' worth of time in a cgroup v2 cpu.max ("200000 100000"); None = no limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _first_sibling(cpu: int) -> int:
    """The lowest CPU number on the same core: its name for our purpose."""
    try:
        text = (_SYSFS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        return min(parse_cpu_list("sysfs", text.strip()))
    except (OSError, ConfigError):
        return cpu


def _quota() -> float | None:
    try:
        return parse_quota(_CGROUP_V2.read_text())
    except OSError:
        pass
    try:
        quota = (_CGROUP_V1 / "cpu.cfs_quota_us").read_text().strip()
        return parse_quota(f"{quota} {(_CGROUP_V1 / 'cpu.cfs_period_us').read_text().strip()}")
    except OSError:
        return None


def _spell(cpus: Sequence[int]) -> str:
    """Ranges for people: 0-3,6."""
    parts: list[str] = []
    ordered = sorted(set(cpus))
    at = 0
    while at < len(ordered):
        last = at
        while last + 1 < len(ordered) and ordered[last + 1] == ordered[last] + 1:
            last += 1
        parts.append(str(ordered[at]) if last == at else f"{ordered[at]}-{ordered[last]}")
        at = last + 1
    return ",".join(parts)
