# scipy's and pandas' own annotations leave open what a column or a fit is:
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import numpy as np
import pandas as pd
import pytest

from experiments.reading import InputError, load_runs
from experiments.slopes import fit_power_law, power_law, scaling_table
from experiments.tables import SLOPE_COLUMNS
from tests.experiments.fake_runs import LAWS, write_study

WIDTHS = (32, 64, 128, 256, 512)


def test_an_exact_power_law_is_recovered_exactly():
    x = np.array([1.0, 2.0, 8.0, 64.0])
    law = fit_power_law(x, 3 * x**-0.5)
    assert law.slope == pytest.approx(-0.5)
    assert law.low == pytest.approx(-0.5) and law.high == pytest.approx(-0.5)
    np.testing.assert_allclose(law(x), 3 * x**-0.5)
    assert (law.n_points, law.x_min, law.x_max, law.n_excluded) == (4, 1, 64, 0)
    assert str(law) == "-0.50 [-0.50, -0.50]"


def test_the_interval_holds_the_true_slope_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    x = np.repeat([32.0, 64.0, 128.0, 256.0], 3)
    held = 0
    for _ in range(1000):
        law = fit_power_law(x, x**-0.9 * np.exp(rng.normal(0, 0.3, x.shape)))
        held += law.low <= -0.9 <= law.high
    # standard error sqrt(1000 * 0.95 * 0.05) = 6.9
    assert abs(held - 950) < 28


def test_the_fit_is_that_of_scipy():
    from scipy import stats

    rng = np.random.default_rng(1)
    x = np.geomspace(1, 100, 9)
    y = x**0.3 * np.exp(rng.normal(0, 0.2, 9))
    law, twin = fit_power_law(x, y), stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, 7) * twin.stderr
    np.testing.assert_allclose(
        [law.slope, law.intercept, law.low, law.high],
        [twin.slope, twin.intercept, twin.slope - half, twin.slope + half],
    )


def test_points_without_a_logarithm_are_left_out_and_counted():
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    y = np.array([1.0, 2.0, 4.0, 0.0, np.nan, np.inf])
    law = fit_power_law(x, y)
    assert law.slope == pytest.approx(1.0)
    assert (law.n_points, law.n_excluded, law.x_max) == (3, 3, 4)


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        ([1, 2], [1, 2], "3 points or more, got 2.*more seeds"),
        ([1, 2, 3], [1, 2, -1], "got 2 after leaving out 1 whose y is not positive"),
        ([4, 4, 4], [1, 2, 3], "all 3 points have x = 4.*more values of x"),
        ([0, 1, 2, 3], [1, 1, 1, 1], r"x > 0, but x holds \[0.0\] \(1 of 4"),
        ([1, 2, 3], [1, 2], "one length, but have shapes"),
    ],
)
def test_what_no_slope_can_be_fitted_to_is_refused(x, y, text):
    with pytest.raises(ValueError, match=text):
        fit_power_law(x, y)


def test_a_turned_law_meets_the_old_one_at_the_centre():
    law = fit_power_law([1, 10, 100], [5, 4, 1])
    turned = law.turned(-1.0)
    assert turned.slope == -1 and turned(10.0) == pytest.approx(law(10.0))


def test_known_slopes_lie_within_the_intervals_of_a_study(tmp_path):
    write_study(tmp_path, WIDTHS, seeds=4, noise=0.1)
    summaries, _ = load_runs(tmp_path)
    table = scaling_table(summaries, "model.width", 64, LAWS).set_index("metric")
    for metric, (_, slope) in LAWS.items():
        row = table.loc[metric]
        slack = 0.03  # nine intervals of 95 % each
        assert row["low_all"] - slack <= slope <= row["high_all"] + slack
        assert row["n_points"] == 16 and row["n_points_all"] == 20
        assert row["x_min"] == 64 and row["x_max"] == 512


def test_a_law_is_fitted_from_x_from_up_and_over_all():
    x = np.repeat([1, 2, 4, 8, 16], 2)
    y = np.where(x < 4, 1.0, 4.0 / x)  # flat, then -1
    runs = pd.DataFrame({"model.width": x, "up": y, "down": y})
    table = scaling_table(runs, "model.width", 4, ["up", "down", "gone"])
    assert list(table.columns) == list(SLOPE_COLUMNS)
    assert list(table["metric"]) == ["up", "down", "gone"]
    assert table["slope"][0] == pytest.approx(-1) and table["slope_all"][0] > -0.9
    assert np.isnan(table["slope"][2])
    assert "no numeric column 'gone'" in table["note"][2]


def test_what_else_was_swept_is_fitted_apart():
    x = np.tile([1, 2, 4, 8], 2)
    names = ["a"] * 4 + ["b"] * 4
    y = np.where(np.array(names) == "a", 1 / x, x**2.0)
    runs = pd.DataFrame({"model.width": x, "model.name": names, "kernel_drift": y})
    table = scaling_table(runs, "model.width", 0, ["kernel_drift"])
    assert list(table["model.name"]) == ["a", "b"]
    assert list(table["slope"]) == pytest.approx([-1, 2])


def test_runs_left_out_of_a_fit_are_noted():
    x, y = [1, 2, 4, 8], [1, 2, 4, 0]
    runs = pd.DataFrame({"model.width": x, "kernel_drift": y})
    row = scaling_table(runs, "model.width", 0, ["kernel_drift"]).iloc[0]
    assert row["n_excluded"] == 1 and "1 run left out" in row["note"]
    assert power_law(row).n_excluded == 1


def test_an_unknown_x_is_refused_with_the_columns():
    runs = pd.DataFrame({"model.width": [1, 2, 3], "kernel_drift": [1, 2, 3]})
    with pytest.raises(InputError, match="no column 'depth'.*model.width"):
        scaling_table(runs, "depth")
