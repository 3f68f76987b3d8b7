# pandas' own annotations leave open what a column is:
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import numpy as np
import pandas as pd
import pytest

from experiments.question import AnalysisConfig, ExpectationConfig
from experiments.verdicts import overall, verdict_table

WIDTHS = (32, 64, 128, 256)


@pytest.fixture
def runs():
    """Two schemes at four widths, two seeds: ntk falls as 1/width, mup stays at 1."""
    rows = [
        {
            "run": f"r{scheme}{width}{seed}",
            "seed": seed,
            "parameterization.scheme": scheme,
            "model.width": width,
            "kernel_drift": (1.0 if scheme == "mup" else 8.0 / width)
            * (1 + 0.1 * seed),
            "law": 1.05 if scheme == "mup" else 8.4 / width,
        }
        for scheme in ("mup", "ntk")
        for width in WIDTHS
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def judged(runs, x="model.width", x_from=None, **expectation):
    one = ExpectationConfig("kernel_drift", **expectation)
    return verdict_table(runs, AnalysisConfig(x=x, x_from=x_from, expect={"it": one}))


def test_a_slope_is_judged_for_each_combination_of_what_else_varies(runs):
    table = judged(runs, slope=[-1.2, -0.8])
    assert list(table["where"]) == [
        "parameterization.scheme=mup", "parameterization.scheme=ntk"
    ]  # fmt: skip
    assert list(table["verdict"]) == ["not met", "met"]
    assert table["measured"].to_numpy() == pytest.approx([0, -1])
    assert (table["n_runs"] == 8).all() and (table["low"] < table["measured"]).all()


def test_a_slope_of_chosen_runs_in_a_range_is_one_verdict(runs):
    where = {"parameterization.scheme": "ntk"}
    (row,) = judged(runs, slope=[-1.2, -0.8], where=where, x_from=64).to_dict("records")
    assert row["verdict"] == "met" and row["n_runs"] == 6
    table = judged(runs, slope=[-1.2, -0.8], where=where, x_to=64)
    assert list(table["n_runs"]) == [4]


def test_a_value_is_the_mean_over_seeds_at_each_x_with_its_interval(runs):
    where = {"parameterization.scheme": "ntk"}
    table = judged(runs, value=[None, 0.1], where=where)
    assert list(table["verdict"]) == ["not met", "not met", "met", "met"]
    assert table["measured"].to_numpy() == pytest.approx(1.05 * 8 / np.array(WIDTHS))
    assert table["where"][0] == "parameterization.scheme=ntk, model.width=32"
    assert ((table["low"] < table["measured"]) & (table["interval"] == "t")).all()


def test_values_can_be_pooled(runs):
    where = {"parameterization.scheme": "mup"}
    (row,) = judged(runs, value=[1.0, 1.1], where=where, by=[]).to_dict("records")
    assert row["n_runs"] == 8 and row["measured"] == pytest.approx(1.05)
    assert row["interval"] == "bootstrap" and row["low"] < 1.05 < row["high"]


def test_a_ratio_compares_runs_that_agree_in_all_else(runs):
    versus = {"parameterization.scheme": "ntk"}
    table = judged(runs, ratio=[10, None], versus=versus)
    assert table["measured"].to_numpy() == pytest.approx(np.array(WIDTHS) / 8)
    assert list(table["verdict"]) == ["not met", "not met", "met", "met"]
    assert table["where"][3] == "model.width=256"
    assert table["versus"][3] == "parameterization.scheme=ntk"


def test_a_difference_is_of_means(runs):
    where, versus = ({"parameterization.scheme": name} for name in ("mup", "ntk"))
    where["model.width"] = 32
    table = judged(runs, difference=[0, 1], where=where, versus=versus)
    assert table["measured"].to_numpy() == pytest.approx([0.75 * 1.05])


def test_what_the_runs_compared_with_do_not_have_is_pooled(runs):
    runs["kernel.depth"] = 1.0
    runs.loc[runs["model.width"] > 64, "kernel.depth"] = 2.0
    runs.loc[runs["parameterization.scheme"] == "ntk", "kernel.depth"] = np.nan
    where, versus = ({"parameterization.scheme": name} for name in ("mup", "ntk"))
    table = judged(runs, ratio=[0, None], where=where, versus=versus)
    assert list(table["n_runs"]) == [2, 2, 2, 2]


def test_a_law_divides_run_by_run(runs):
    table = judged(runs, value=[0.9, 1.1], relative_to="law", by=[])
    assert table["measured"].to_numpy() == pytest.approx([1.0])
    assert table["metric"][0] == "kernel_drift / law"


@pytest.mark.parametrize(
    ("expectation", "text"),
    [
        ({"where": {"model.widht": 3}}, "did you mean model.width"),
        ({"where": {"model.width": 3}}, "no run has model.width=3; there are 128, 256"),
        ({"relative_to": "parameterization.scheme"}, "scheme is no number"),
        ({"by": ["model.depth"]}, "no column model.depth"),
        ({"x_from": 1000.0}, "no run has model.width between 1000 and inf"),
    ],
)  # fmt: skip
def test_what_the_runs_do_not_say_is_no_answer_and_says_why(runs, expectation, text):
    (row,) = judged(runs, value=[0, 1], **expectation).to_dict("records")
    assert row["verdict"] == "no answer" and text in row["note"]


def test_too_few_points_for_a_slope_are_no_answer(runs):
    where = {"model.width": 32, "parameterization.scheme": "mup"}
    (row,) = judged(runs, slope=[-1, 0], where=where).to_dict("records")
    assert row["verdict"] == "no answer" and "3 points or more" in row["note"]


def test_runs_without_a_value_are_left_out_and_counted(runs):
    runs.loc[0, "kernel_drift"] = np.nan
    (row,) = judged(runs, value=[0, 2], by=[]).to_dict("records")
    assert row["note"] == "1 run without a value" and row["verdict"] == "met"
    runs["kernel_drift"] = np.nan
    (row,) = judged(runs, value=[0, 2]).to_dict("records")
    assert row["note"] == "no run has a value of kernel_drift"


def test_a_diverged_run_is_in_no_band(runs):
    runs.loc[0, "kernel_drift"] = np.inf
    table = judged(runs, value=[0, 2])
    assert table["verdict"][0] == "not met" and np.isnan(table["low"][0])


def test_the_overall_verdict_counts(runs):
    table = judged(runs, slope=[-1.2, -0.8])
    assert overall(table) == "of 2 expectations 1 met, 1 not met"
    assert overall(table[1:]) == "met"
    assert overall(table[:0]) == ""
