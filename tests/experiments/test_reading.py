# pandas' own annotations leave open what a column is:
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import json

import numpy as np
import pandas as pd
import pytest

from experiments import tables
from experiments.reading import InputError, load_runs, read_runs
from tests.experiments.fake_runs import write_csv, write_failed, write_study


def test_a_run_comes_back_with_the_types_declared(tmp_path):
    write_study(tmp_path, [32, 64], seeds=2)
    summaries, curves = load_runs(tmp_path)
    for name, column in tables.CURVE_COLUMNS.items():
        assert curves[name].dtype == column.dtype
    assert summaries["model.width"].dtype == "int64"
    assert summaries["ridge"].dtype == "float64"
    assert summaries["loss"].dtype == "str"
    assert summaries["kernel_drift"].dtype == "float64"
    assert len(summaries) == 4 and set(summaries["run"]) == set(curves["run"])


def test_text_that_looks_like_a_number_or_a_gap_stays_text(tmp_path):
    (directory,) = write_study(tmp_path, [32], seeds=1, config={"kernel.name": "NA"})
    for name in ("summary.csv", "curves.csv"):
        text = (directory / name).read_text()
        (directory / name).write_text(text.replace(directory.name, "1234e5"))
    summaries, curves = load_runs(tmp_path)
    assert summaries["run"][0] == "1234e5" and set(curves["run"]) == {"1234e5"}
    assert summaries["kernel.name"][0] == "NA" and set(curves["kernel"]) == {"NA"}


def test_an_integer_that_some_runs_lack_stays_an_integer(tmp_path):
    write_study(tmp_path, [32], config={"kernel.coupled": True})
    write_study(tmp_path, [32], config={"kernel.name": "mc", "kernel.proj_dim": 100})
    summaries, _ = load_runs(tmp_path)
    assert summaries["kernel.proj_dim"].dtype == "Int64"
    assert summaries["kernel.coupled"].dtype == "boolean"
    assert summaries["kernel.proj_dim"].isna().sum() == 3


def test_values_that_are_not_finite_come_back_as_they_are(tmp_path):
    (directory,) = write_study(tmp_path, [32], seeds=1)
    row = pd.read_csv(directory / "summary.csv").iloc[0].to_dict()
    row |= {"kernel_drift": "nan", "rmse_test": "inf"}
    write_csv(directory / "summary.csv", [row])
    summaries, _ = load_runs(tmp_path)
    assert np.isnan(summaries["kernel_drift"][0])
    assert np.isinf(summaries["rmse_test"][0])


def test_runs_are_found_at_any_depth_but_not_under_hidden_names(tmp_path):
    write_study(tmp_path / "a", [32], seeds=1)
    write_study(tmp_path / "b", [64], seeds=1)
    write_study(tmp_path / "a" / "_tables", [128], seeds=1)
    write_study(tmp_path / "a" / ".part", [256], seeds=1)
    assert set(load_runs(tmp_path)[0]["model.width"]) == {32, 64}
    both = load_runs(tmp_path / "b", tmp_path / "a")[0]
    assert list(both["model.width"]) == [64, 32]
    alone = next((tmp_path / "a").glob("r*"))
    assert list(load_runs(alone)[0]["model.width"]) == [32]


def test_a_run_of_two_studies_is_counted_once_and_said_to_be(tmp_path, capsys):
    write_study(tmp_path / "a", [32], seeds=1)
    write_study(tmp_path / "b", [32], seeds=1)
    assert len(load_runs(tmp_path)[0]) == 1
    assert "Skipped 1 repeated run" in capsys.readouterr().err


def test_failed_and_half_written_runs_are_listed_with_the_reason(tmp_path, capsys):
    runs = write_study(tmp_path, [32, 64, 128, 256, 512], seeds=1)
    write_failed(tmp_path)
    (runs[0] / "curves.csv").unlink()
    summary = (runs[1] / "summary.csv").read_text()
    (runs[1] / "summary.csv").write_text(summary[:-40])
    (runs[2] / "status.json").write_text('{"stat')
    curves = (runs[3] / "curves.csv").read_text()
    (runs[3] / "curves.csv").write_text(curves.replace("train", "train,1"))

    read = read_runs(tmp_path)
    reasons = {skipped.directory: skipped.reason for skipped in read.skipped}
    assert list(read.summaries["model.width"]) == [512]
    assert reasons[runs[0]] == "curves.csv is missing"
    assert "summary.csv is cut short" in reasons[runs[1]]
    assert "status.json cannot be read" in reasons[runs[2]]
    assert "curves.csv cannot be read" in reasons[runs[3]]
    failed = next(skipped for skipped in read.skipped if skipped.state == "failed")
    assert failed.reason == "failed, see error.txt: MemoryError: 9 GB"
    load_runs(tmp_path)
    said = capsys.readouterr().err
    assert "4 incomplete runs" in said and "1 failed run" in said


def test_a_directory_that_is_not_there_is_refused_with_an_example(tmp_path):
    with pytest.raises(InputError, match="does not exist.*outputs/default"):
        load_runs(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        load_runs(tmp_path / "file")


def test_a_directory_without_finished_runs_says_what_it_holds(tmp_path):
    with pytest.raises(
        InputError, match="There are no runs.*python -m experiments.run"
    ):
        load_runs(tmp_path)
    for digit in "123":
        write_failed(tmp_path, "r" + 12 * digit)
    with pytest.raises(InputError, match="3 failed runs.*r1+/error.txt.*MemoryError"):
        load_runs(tmp_path)


def test_a_status_without_a_known_word_counts_as_incomplete(tmp_path):
    first, _ = write_study(tmp_path, [32, 64], seeds=1)
    (first / "status.json").write_text(json.dumps({"status": "RUNNING"}))
    (skipped,) = read_runs(tmp_path).skipped
    assert skipped.state == "incomplete" and "RUNNING" in skipped.reason
