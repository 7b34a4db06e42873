"""Who follows whom where calls are timed in turns."""

from collections import Counter
from itertools import pairwise

import pytest

from convext.measuring.sampling import turns


@pytest.mark.parametrize("count", range(1, 8))
def test_each_follows_each_other_one_as_often(count: int) -> None:
    names = "abcdefg"[:count]
    rounds = [turns(names, i) for i in range(2 * count)]
    assert all(sorted(order) == sorted(names) for order in rounds)
    followed = Counter(pair for order in rounds for pair in pairwise(order))
    assert followed == {(a, b): 2 for a in names for b in names if a != b}
    assert Counter(order[0] for order in rounds) == dict.fromkeys(names, 2)
