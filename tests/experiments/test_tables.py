import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import tables

README = Path(__file__).parents[2] / "outputs" / "README.md"


def test_importing_the_column_names_does_not_import_pandas():
    code = "import sys, experiments.tables; print({'pandas', 'jax'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_declared_column_and_metric_is_described_in_the_readme():
    declared = [*tables.CURVE_COLUMNS, *tables.SUMMARY_COLUMNS, *tables.METRICS]
    declared += [*tables.AGGREGATE_COLUMNS, *tables.SLOPE_COLUMNS]
    words = set(re.findall(r"`([\w@]+)(?:/<layer>)?`", README.read_text()))
    assert set(declared) <= words


def test_units_in_the_readme_are_those_declared():
    rows = [line.split(" | ") for line in README.read_text().splitlines()]
    units = {row[0].strip("| `"): row[-1].strip("| ") for row in rows if len(row) > 2}
    for name, column in {**tables.CURVE_COLUMNS, **tables.SUMMARY_COLUMNS}.items():
        if column.unit:
            assert units[name] == column.unit


@pytest.mark.parametrize(
    ("metric", "split", "network", "column"),
    [
        ("rmse", "test", None, "rmse_test"),
        ("rmse", "train", "all", "rmse_train@all"),
        ("kernel_drift", "train", None, "kernel_drift"),
        ("movement_relative/hidden[0]", "parameters", None,
         "movement_relative/hidden[0]"),
    ],
)  # fmt: skip
def test_a_summary_column_is_named_after_metric_split_and_network(
    metric, split, network, column
):
    assert tables.summary_column(metric, split, network) == column
    assert tables.describe(column).dtype == "float64"


def test_an_undeclared_metric_is_refused_with_the_place_to_declare_it():
    with pytest.raises(ValueError, match="'rmse' is not declared.*'parameters'.*METR"):
        tables.summary_column("rmse", "parameters")
    with pytest.raises(ValueError, match="'speed'.*not declared.*SUMMARY_COLUMNS"):
        tables.describe("speed")
