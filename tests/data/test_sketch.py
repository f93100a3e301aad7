import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from autounet.data.sketch import MOST_ATOMS, mixture, sketch


def reference(cases: list[NDArray[np.float32]]) -> dict[str, float]:
    """The reference's definition, drawn as it draws: the same number with replacement from every case."""
    count = 10**7 // len(cases)
    drawn = np.concatenate([np.random.RandomState(1234).choice(c.ravel(), count) for c in cases]).astype(np.float64)
    low, high = np.percentile(drawn, (0.5, 99.5))
    return {"mean": drawn.mean(), "median": float(np.median(drawn)), "std": drawn.std(), "low": low, "high": high}


def ours(cases: list[NDArray[np.float32]]) -> dict[str, float]:
    mixed = mixture([sketch(c) for c in cases])
    assert mixed is not None
    return {
        "mean": mixed.mean,
        "median": mixed.quantile(0.5),
        "std": mixed.std,
        "low": mixed.quantile(0.005),
        "high": mixed.quantile(0.995),
    }


def ct(seed: int, size: int) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(40 + seed, 20, size), rng.normal(-90, 30, size // 3), rng.normal(600, 200, size // 20)]).astype(
        np.int16
    )


def test_statistics_of_ct_equal_the_references_within_half_a_percent() -> None:
    cases = [ct(n, 3000 * (n + 1)) for n in range(8)]
    expected, found = reference(cases), ours(cases)
    for name in ("mean", "median", "std", "low", "high"):
        assert_allclose(found[name], expected[name], rtol=0.005, atol=0.5, err_msg=name)  # whole numbers: half of one


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_statistics_of_floats_equal_the_references_within_half_a_percent(scale: float) -> None:
    rng = np.random.default_rng(0)
    cases = [
        (rng.gamma(3, 100, size) * (scale if n % 4 == 0 else 1)).astype(np.float32)
        for n, size in enumerate([50_000, 90_000, 8000, 120_000])
    ]
    expected, found = reference(cases), ours(cases)
    for name in ("mean", "median", "std", "low", "high"):
        assert_allclose(found[name], expected[name], rtol=0.005, err_msg=name)


def test_a_small_case_weighs_as_much_as_a_large_one() -> None:
    mixed = mixture([sketch(np.zeros(10, np.float32)), sketch(np.full(100_000, 4, np.float32))])
    assert mixed is not None
    assert (mixed.mean, mixed.std, mixed.low, mixed.high) == (2.0, 2.0, 0.0, 4.0)


def test_few_values_are_kept_exactly() -> None:
    values = np.array([3, 1, 2, 2], np.int16)
    atoms, shares = sketch(values).points()
    assert atoms.tolist() == [1, 2, 3]
    assert shares.tolist() == [0.25, 0.5, 0.25]


def test_quantiles_of_many_floats_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 1_000_000).astype(np.float32)
    mixed = mixture([sketch(values)])
    assert mixed is not None
    assert len(sketch(values).points()[0]) == MOST_ATOMS
    for rank in (0.005, 0.05, 0.5, 0.9, 0.995):
        assert_allclose(mixed.quantile(rank), np.quantile(values, rank), rtol=0.005)
    assert mixed.high == values.max()


def test_moments_do_not_lose_small_spreads_on_large_offsets() -> None:
    values = (1e6 + np.random.default_rng(0).normal(0, 1, 500_000)).astype(np.float64)
    one = sketch(values)
    assert_allclose([one.mean, one.variance], [values.mean(), values.var()], rtol=1e-6)


def test_an_outlier_of_metal_moves_the_maximum_and_not_the_percentile() -> None:  # B092
    values = np.random.default_rng(0).normal(100, 10, 100_000).astype(np.float32)
    values[0] = 1e5
    mixed = mixture([sketch(values)])
    assert mixed is not None
    assert mixed.high == 1e5
    assert mixed.quantile(0.995) < 130


def test_histograms_count_every_value_once() -> None:
    mixed = mixture([sketch(np.arange(256, dtype=np.uint8).repeat(10))])
    assert mixed is not None
    assert mixed.histogram(0, 256, 4, 2560.0) == (640, 640, 640, 640)
    assert sum(mixed.histogram(10, 20, 5, 2560.0)) == 2560


def test_no_values_make_no_mixture() -> None:
    assert mixture([sketch(np.zeros(0, np.float32))]) is None
