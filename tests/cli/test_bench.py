"""The histogram against exact percentiles, and what a run's figures say about themselves."""

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nokv.cli.bench import BenchResult, render, summarise
from nokv.cli.bench_load import LoadResult, LoadSpec
from nokv.cli.histogram import VALUE_MAX, Histogram, bucket_of, upper_end
from nokv.testing.writers import key_of
from nokv.topology import presplit


@given(st.integers(0, VALUE_MAX))
def test_a_bucket_holds_its_values_with_a_small_error(value: int) -> None:
    bucket = bucket_of(value)
    assert value <= upper_end(bucket) <= value + max(0, value // 32)
    assert bucket_of(upper_end(bucket)) == bucket
    assert bucket == 0 or upper_end(bucket - 1) < value


def test_buckets_are_contiguous() -> None:
    ends = [upper_end(bucket) for bucket in range(bucket_of(VALUE_MAX) + 1)]
    assert ends == sorted(set(ends))
    assert all(bucket_of(end + 1) == bucket + 1 for bucket, end in enumerate(ends[:-1]))


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=300), st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_agree_with_sorting(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    ordered = sorted(values)
    rank = max(0, -(-int(percent * 10 * len(values)) // 1000) - 1)
    assert ordered[rank] <= histogram.percentile(percent) <= ordered[rank] + ordered[rank] // 32
    assert histogram.max_us == ordered[-1]
    assert histogram.percentile(100) == ordered[-1]


def test_histograms_add_and_travel() -> None:
    random = Random(1)
    one, two, whole = Histogram(), Histogram(), Histogram()
    for at in range(2000):
        value = random.randrange(1 << random.randrange(1, 30))
        (one if at % 3 else two).record(value)
        whole.record(value)
    merged = Histogram.unpack(one.pack())
    merged.add(Histogram.unpack(two.pack()))
    assert merged.pack() == whole.pack()
    assert merged.count == 2000
    assert Histogram.unpack(Histogram().pack()).percentile(99) == 0


SPEC = LoadSpec("nokv://x", "put", 100, 128, 64, 0.0, 0.0, 1.0, 2.0, 7)


def result(**changes: object) -> LoadResult:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.record(value * 10)
    base = LoadResult(histogram.pack(), histogram.pack(), cpu_share=0.5)
    return msgspec.structs.replace(base, **changes)


def test_processes_are_summed() -> None:
    summary = summarise(SPEC, [result(), result(errors=0)], 0.0)
    assert (summary.count, summary.ops_per_s, summary.procs) == (2000, 1000.0, 2)
    assert 5000 <= summary.latency.p50_us <= 5160
    assert summary.verdict == "ok"


def test_figures_that_must_not_be_used_say_so() -> None:
    def verdict(*results: LoadResult) -> str:
        return summarise(SPEC, list(results), 0.0).verdict

    assert verdict(result(), result(errors=2)) == "FAILED: 2 errors, 0 wrong answers"
    assert verdict(result(wrong=1)).startswith("FAILED")
    assert verdict(result(overloaded=3)).startswith("VOID: overloaded")
    assert verdict(result(), result(cpu_share=0.99)).startswith("VOID: a client process was busy 99%")


def test_loops_are_labelled_as_what_they_are() -> None:
    closed = render(summarise(SPEC, [result()], 0.0))
    assert "closed loop, 64 in flight" in closed
    assert "5.0" in closed
    spec = msgspec.structs.replace(SPEC, rate=500.0)
    opened = render(summarise(spec, [result(error_samples=["BusyError: full"], errors=1)], 4.0))
    assert "open loop 500/s   LATENCY FROM WHEN A REQUEST WAS DUE" in opened
    assert "filled in 4.0 s" in opened
    assert "error: BusyError: full" in opened


def test_results_survive_json() -> None:
    summary = summarise(SPEC, [result()], 1.0)
    assert msgspec.json.decode(msgspec.json.encode(summary), type=BenchResult) == summary


def test_keys_of_the_load_reach_every_first_region() -> None:
    from nokv.proto.control import StoreInfo
    from nokv.proto.ids import ClusterId, StoreId

    regions = presplit(ClusterId(1), (StoreInfo(StoreId(1), "h:1", "h:2"),), regions=16).regions
    counts = {region.id: sum(region.covers(key_of(number)) for number in range(4000)) for region in regions}
    assert sum(counts.values()) == 4000
    assert min(counts.values()) > 4000 / 16 / 4
    assert len({key_of(number) for number in range(4000)}) == 4000
