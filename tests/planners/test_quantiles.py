"""Medians and percentiles agree with numpy to the last bit, or plans would differ from the reference's in their last digit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planners.quantiles import axis_medians, axis_percentiles, median, percentile

numbers = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40)


@given(numbers)
def test_the_median_is_that_of_numpy(values: list[float]) -> None:
    assert median(values) == np.median(values)


@given(numbers, st.sampled_from((10, 50, 0.5, 99.5, 0, 100)))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == np.percentile(values, percent)


def test_axes_are_taken_one_by_one() -> None:
    rows = [(1.0, 10.0, 5.0), (3.0, 20.0, 5.0)]
    assert axis_medians(rows) == (2.0, 15.0, 5.0)
    assert axis_percentiles(rows, 10) == pytest.approx((1.2, 11.0, 5.0))
