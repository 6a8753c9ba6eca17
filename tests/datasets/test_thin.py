"""Images are left out evenly, the same ones each time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from graftwork.datasets._thin import KEPT_OF_EACH, thin


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(1, 500))
def test_every_class_keeps_its_share_or_twenty(sizes: list[int], most: int) -> None:
    groups = [(label, "train") for label, size in enumerate(sizes) for _ in range(size)]
    rows = thin(groups, most)
    assert rows == sorted(set(rows)) == thin(groups, most)
    found = Counter(groups[row][0] for row in rows)
    for label, size in enumerate(sizes):
        share = round(size * min(1.0, most / len(groups)))
        assert found[label] == min(size, max(share, KEPT_OF_EACH if most < len(groups) else size))


def test_all_are_kept_where_nobody_says_how_many() -> None:
    assert thin(["a", "b", "a"], None) == thin(["a", "b", "a"], 3) == [0, 1, 2]
