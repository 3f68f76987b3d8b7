import numpy as np
import pytest

from experiments.intervals import difference_interval, mean_interval, ratio_interval


def share_held(n_repeats, draw, truth, interval):
    rng = np.random.default_rng(0)
    found = (interval(*draw(rng)) for _ in range(n_repeats))
    return sum(one.low <= truth <= one.high for one in found) / n_repeats


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize(
    ("interval", "truth"),
    [(mean_interval, 2.0), (difference_interval, 1.0), (ratio_interval, 2.0)],
)
def test_intervals_hold_the_truth_in_95_percent_of_samples(n, interval, truth):
    def draw(rng):
        samples = rng.normal(2, 0.4, n), rng.normal(1, 0.2, n)
        return samples[:1] if interval is mean_interval else samples

    # standard error 0.7 %; resampling a dozen values loses a per cent, and Welch's
    # few degrees of freedom are on the safe side
    assert 0.925 < share_held(1000, draw, truth, interval) < 0.99


def test_few_runs_have_students_interval_and_many_are_resampled():
    few, many = np.array([1.0, 2.0, 4.0]), np.arange(1.0, 11)
    half = 4.302652729911275 * few.std(ddof=1) / np.sqrt(3)
    found = mean_interval(few)
    assert found.method == "t" and found.estimate == few.mean()
    assert (found.low, found.high) == pytest.approx(
        (few.mean() - half, few.mean() + half)
    )
    assert mean_interval(many).method == "bootstrap"
    assert mean_interval(many) == mean_interval(many)


def test_resampling_follows_the_skew_of_the_sample():
    skewed = np.exp(np.random.default_rng(3).normal(0, 1, 40))
    found = mean_interval(skewed)
    assert found.high - found.estimate > 1.2 * (found.estimate - found.low)


@pytest.mark.parametrize("sample", [[1.0], [1.0, np.inf], []])
def test_where_there_is_no_spread_to_see_there_is_no_interval(sample):
    found = mean_interval(np.array(sample))
    assert found.method == "none" and np.isnan(found.low) and np.isnan(found.high)


def test_a_ratio_to_nothing_has_no_interval():
    found = ratio_interval(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    assert np.isinf(found.estimate) and found.method == "none"
    assert ratio_interval(np.array([1.0]), np.array([2.0])).estimate == 0.5


def test_equal_values_have_an_interval_of_no_length():
    ones = np.ones(3)
    assert difference_interval(ones, ones)[:3] == (0, 0, 0)
    assert ratio_interval(ones, ones)[:3] == (1, 1, 1)
