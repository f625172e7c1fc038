"""Which worker gets which CPU (S6)."""

import os

import pytest

from nokv.config import ConfigError
from nokv.node.pinning import Cpus, by_core, parse_quota, plan, read_cpus

EIGHT = Cpus(tuple(range(8)), {cpu: cpu % 4 for cpu in range(8)})
"""Four cores with two threads each: 0 and 4 share a core, as Linux numbers them."""


def test_each_core_gives_one_cpu_before_any_gives_its_second() -> None:
    assert by_core(EIGHT.numbers, EIGHT.core_of) == [0, 1, 2, 3, 4, 5, 6, 7]
    paired = {cpu: cpu // 2 for cpu in range(8)}
    assert by_core(range(8), paired) == [0, 2, 4, 6, 1, 3, 5, 7]


def test_auto_pins_one_worker_to_a_core() -> None:
    made = plan("auto", 4, Cpus(tuple(range(8)), {cpu: cpu // 2 for cpu in range(8)}))
    assert made.cpu_of == (0, 2, 4, 6)
    assert not made.warning
    assert "pinned to 0,2,4,6" in made.note


def test_auto_does_not_pin_when_there_are_more_workers_than_cpus() -> None:
    made = plan("auto", 9, EIGHT)
    assert made.cpu_of == (None,) * 9
    assert made.warning
    assert "8 usable, 9 workers" in made.note


def test_a_cgroup_quota_counts_as_fewer_cpus() -> None:
    limited = Cpus(EIGHT.numbers, EIGHT.core_of, quota=1.5)
    assert limited.usable == 2
    assert plan("auto", 3, limited).warning
    assert not plan("auto", 2, limited).warning


def test_none_pins_nobody_without_a_warning() -> None:
    made = plan("none", 3, EIGHT)
    assert made.cpu_of == (None, None, None)
    assert not made.warning


def test_a_list_is_obeyed_in_its_order_and_shared_with_a_warning() -> None:
    assert plan("5,2-3", 3, EIGHT).cpu_of == (5, 2, 3)
    shared = plan("5,2", 3, EIGHT)
    assert shared.cpu_of == (5, 2, 5)
    assert shared.warning


def test_a_list_may_only_name_usable_cpus() -> None:
    with pytest.raises(ConfigError, match="CPU 8-9 may not be used here, only 0-7"):
        plan("0,8,9", 2, EIGHT)


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("150000 100000", 1.5), ("-1 100000", None), ("", None), ("1 0", None)],
)
def test_cgroup_quotas_are_read(text: str, quota: float | None) -> None:
    assert parse_quota(text) == quota


def test_this_machine_can_be_read() -> None:
    cpus = read_cpus()
    assert set(cpus.numbers) == os.sched_getaffinity(0)
    assert set(cpus.core_of) == set(cpus.numbers)
    assert 1 <= cpus.usable <= len(cpus.numbers)
