# pandas' own annotations leave open what a column is:
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# pyright: reportMissingImports=false

import struct

import pandas as pd
import pytest

from experiments.export import FORMATS, export, main
from experiments.exports import latex
from experiments.exports.missing import MissingExtraError, need
from experiments.screen import Table
from experiments.study import read_study
from tests.experiments.fake_runs import STEPS, write_study


@pytest.fixture
def path(tmp_path):
    write_study(tmp_path / "study", [32, 64, 128], seeds=1)
    return tmp_path / "study"


def test_a_missing_package_is_answered_with_the_line_to_type():
    with pytest.raises(MissingExtraError, match=r"needs nowhere.*\.\[parquet\]"):
        need("nowhere", "parquet")


def test_the_command_answers_a_missing_package_and_missing_runs(
    path, capsys, monkeypatch
):
    monkeypatch.setattr("experiments.exports.missing.find_spec", lambda name: None)
    for form in ("parquet", "tensorboard", "mlflow"):
        assert main([form, str(path)]) == 2
        assert f'-e ".[{form}]"' in capsys.readouterr().err
    assert main(["latex", str(path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_latex_tables_hold_the_numbers_with_their_intervals(path, capsys):
    assert main(["latex", str(path)]) == 0
    out = path / "_export" / "latex"
    assert sorted(file.name for file in out.iterdir()) == ["means.tex", "slopes.tex"]
    slopes = (out / "slopes.tex").read_text()
    assert r"\begin{tabular}{lrr}" in slopes and r"kernel\_drift & $-" in slopes
    assert f"Wrote {out / 'slopes.tex'}" in capsys.readouterr().out
    assert main(["latex", str(path)]) == 0  # what was exported is no run


def test_what_latex_would_take_for_its_own_is_escaped():
    table = Table("t", ["a_b", "%"], [["x & y", "1.5 [-2e-05, 3]"]], frozenset({0}))
    assert latex.tabular(table).splitlines()[3:6] == [
        r"a\_b & \% \\",
        r"\midrule",
        r"x \& y & $1.5$ {[}$-2 \cdot 10^{-5}$, $3${]} \\",
    ]


def test_parquet_keeps_types(path):
    pytest.importorskip("pyarrow")
    study = read_study(path)
    paths = export(study, "parquet")
    assert {file.stem for file in paths} == set(study.tables)
    for file in paths:
        pd.testing.assert_frame_equal(pd.read_parquet(file), study.tables[file.stem])


def test_tensorboard_holds_every_point_of_every_curve_once(path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    study = read_study(path)
    export(study, "tensorboard")
    (out,) = export(study, "tensorboard")
    run = study.runs.summaries["run"][0]
    (file,) = (out / run).iterdir()
    values = {}
    for record in records(file.read_bytes()):
        event = Event.FromString(record)
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                assert (value.tag, event.step) not in values
                values[value.tag, event.step] = value.simple_value
    curves = study.runs.curves.query("run == @run")
    assert len(values) == len(curves) == 2 * len(STEPS)
    for row in curves.itertuples():
        got = values[f"{row.metric}/{row.split}", row.step]
        assert got == pytest.approx(row.value, rel=1e-6)


def records(data):
    """The records of an event file: length, its checksum, data, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of many packages
def test_mlflow_holds_every_run_once(path, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    study = read_study(path)
    export(study, "mlflow", tmp_path / "runs.db")
    (out,) = export(study, "mlflow", tmp_path / "runs.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{out}")
    experiment = client.get_experiment_by_name("study").experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 3
    widths = {run.data.params["model.width"] for run in runs}
    assert widths == {"32", "64", "128"}
    history = client.get_metric_history(
        runs[0].info.run_id, "relative_divergence/test/all"
    )
    assert [point.step for point in history] == list(STEPS)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_every_format_says_where_it_writes():
    assert set(FORMATS) == {"parquet", "latex", "tensorboard", "mlflow"}
    assert all(form.place.startswith("_export/") for form in FORMATS.values())
