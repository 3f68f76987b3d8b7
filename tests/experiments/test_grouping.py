# pandas' own annotations leave open what a column is:
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import numpy as np
import pandas as pd

from experiments import tables
from experiments.grouping import aggregate, key_columns
from experiments.reading import load_runs
from tests.experiments.fake_runs import write_csv, write_study


def test_means_are_over_seeds_alone_and_their_interval_is_students(tmp_path):
    write_study(tmp_path, [32, 64], seeds=5)
    write_study(
        tmp_path, [32], seeds=1, config={"kernel.name": "mc", "kernel.proj_dim": 9}
    )
    summaries, _ = load_runs(tmp_path)
    table = aggregate(summaries)
    keys = ["model.width", "kernel.name", "kernel.proj_dim"]
    assert list(table.columns) == [*keys, *tables.AGGREGATE_COLUMNS]
    assert not table.duplicated([*keys, "metric"]).any()
    assert set(table["n_seeds"]) == {5, 1}

    exact = table[(table["model.width"] == 64) & (table["metric"] == "rmse_test")]
    sample = summaries.loc[summaries["model.width"] == 64, "rmse_test"]
    half = 2.7764451 * sample.std() / np.sqrt(5)  # t of 4 degrees of freedom
    row = exact.iloc[0]
    got = row[["mean", "std", "low", "high"]].to_numpy(float)
    mean = sample.mean()
    np.testing.assert_allclose(got, [mean, sample.std(), mean - half, mean + half])

    assert row["interval"] == "t"

    single = table[table["kernel.proj_dim"] == 9]
    assert len(single) and single["std"].isna().all() and single["low"].isna().all()


def test_aggregate_has_no_row_for_what_a_kernel_does_not_measure(tmp_path):
    write_study(tmp_path, [32], seeds=2)
    (directory,) = write_study(tmp_path, [32], seeds=1, config={"kernel.name": "nngp"})
    row = pd.read_csv(directory / "summary.csv").iloc[0].to_dict()
    write_csv(directory / "summary.csv", [row | {"rmse_test@all": 0.5}])
    table = aggregate(load_runs(tmp_path)[0])
    assert list(table[table["metric"] == "rmse_test@all"]["kernel.name"]) == ["nngp"]


def test_keys_leave_out_what_another_key_already_tells_apart(tmp_path):
    write_study(tmp_path, [32, 64], seeds=1, config={"kernel.name": "exact"})
    write_study(
        tmp_path, [32, 64], 1, config={"kernel.name": "mc", "kernel.proj_dim": 9}
    )
    summaries, _ = load_runs(tmp_path)
    assert key_columns(summaries) == ["kernel.name", "model.width"]
    assert key_columns(summaries, ["model.width"])[0] == "model.width"
