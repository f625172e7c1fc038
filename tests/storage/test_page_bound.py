"""The page bound against its own extremes; against LMDB it is tested in test_lmdb_engine.py."""

from hypothesis import given
from hypothesis import strategies as st

from nokv.storage.page_bound import PageBound, TreeShape

shapes = st.builds(TreeShape, st.integers(0, 6), st.integers(0, 1000), st.integers(0, 100_000))
changes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20_000)), max_size=200)


@given(st.tuples(shapes, shapes), changes)
def test_the_estimate_never_exceeds_the_limit(trees: tuple[TreeShape, TreeShape], noted: list[tuple[int, int]]) -> None:
    bound = PageBound(trees, page_bytes=4096, file_pages=10)
    last = 0
    for tree, size in noted:
        bound.note(tree, size)
        assert bound.estimate() <= bound.limit()
        assert bound.limit() >= last
        last = bound.limit()
    assert bound.limit() * 4096 >= sum(size for _, size in noted)


def test_no_change_costs_only_slack() -> None:
    bound = PageBound([TreeShape(3, 10, 1000)], page_bytes=4096, file_pages=2560)
    assert bound.estimate() == 0
    assert bound.limit() == 10 + 32


def test_a_tree_is_copied_at_most_once() -> None:
    bound = PageBound([TreeShape(3, 10, 1000)], page_bytes=4096, file_pages=0)
    for _ in range(100_000):
        bound.note(0, 0)
    assert bound.estimate() <= 1010 + 100_000 * 16 * 3 // 2 // 4096 + 1
