# pandas' own annotations leave open what a column is:
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.compare_runs import compare, main
from experiments.intervals import difference_interval
from experiments.reading import InputError, load_runs
from experiments.tables import COMPARISON_COLUMNS
from tests.experiments.fake_runs import write_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(tmp_path):
    write_study(tmp_path / "a", [32, 64], seeds=3)
    write_study(tmp_path / "b", [64, 128], seeds=3, config={"ridge": 0.5})
    return tmp_path / "a", tmp_path / "b"


def test_studies_are_compared_at_the_values_that_both_swept(two):
    found = compare(*two)
    assert found.config.to_numpy().tolist() == [
        ["model.width", "32, 64", "64, 128"], ["ridge", "0", "0.5"]
    ]  # fmt: skip
    assert list(found.metrics.columns) == ["model.width", *COMPARISON_COLUMNS]
    assert set(found.metrics["model.width"]) == {64} and found.alone == (1, 1)
    row = found.metrics.set_index("metric").loc["kernel_drift"]
    a, b = (load_runs(side)[0].query("`model.width` == 64") for side in two)
    expected = difference_interval(
        b["kernel_drift"].to_numpy(), a["kernel_drift"].to_numpy()
    )
    got = row[["difference", "low", "high"]].to_numpy(float)
    np.testing.assert_allclose(got, expected[:3])
    assert row["ratio"] == pytest.approx(row["second"] / row["first"])
    assert (row["n_first"], row["n_second"]) == (3, 3)


def test_two_runs_have_a_row_per_metric_and_no_interval(tmp_path):
    one, other = write_study(tmp_path, [32], seeds=2)
    found = compare(one, other)
    assert found.config.to_numpy().tolist() == [["seed", "0", "1"]]
    assert not found.metrics.duplicated("metric").any()
    assert found.metrics["low"].isna().all()
    assert "seconds" not in set(found.metrics["metric"])


def test_the_command_shows_both_differences_and_writes_a_table(two, tmp_path, capsys):
    out = tmp_path / "out" / "drift.csv"
    arguments = [*map(str, two), "--metric", "kernel_drift", "--csv", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Config values that differ" in said and "ridge        0" in said
    assert "1 combination of swept values only in A: left out." in said
    assert list(pd.read_csv(out)["metric"]) == ["kernel_drift"]


def test_what_cannot_be_compared_is_refused_with_what_there_is(two, tmp_path, capsys):
    for width, depth in ((32, 1), (64, 2)):
        write_study(tmp_path / "c", [width], 1, config={"model.depth": depth})
        write_study(tmp_path / "d", [width], 1, config={"model.depth": 3 - depth})
    with pytest.raises(InputError, match="No combination of model.width, model.depth"):
        compare(tmp_path / "c", tmp_path / "d")
    assert main([*map(str, two), "--metric", "drift"]) == 2
    error = capsys.readouterr().err
    assert "--metric drift is not measured" in error and "kernel_drift" in error


def test_help_answers_without_pandas_or_jax():
    code = (
        "import sys; from experiments.compare_runs import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(end.code, {'pandas', 'jax'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.endswith("0 set()\n"), done.stderr
