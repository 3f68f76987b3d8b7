import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.analyze import analyze, main
from experiments.reading import InputError
from tests.experiments.fake_runs import write_failed, write_study

ROOT = Path(__file__).parents[2]
WIDTHS = (32, 64, 128, 256)
ANALYSIS = {
    "question": "Does it converge?",
    "x": "model.width",
    "x_from": 64.0,
    "expect": {
        "divergence": {"metric": "relative_divergence_test", "slope": [-1.2, -0.6]},
        "drift": {"metric": "kernel_drift", "slope": [0.1, 0.2]},
    },
}


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    # drawing is tested with the figures, and in the test that runs the command
    def save(self, file, **_):
        file.write(b"")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study"
    write_study(path, WIDTHS, noise=0.05, analysis=ANALYSIS)
    return path


def test_the_command_writes_its_files_and_reports_without_importing_jax(study):
    code = (
        "import sys; from experiments.analyze import main\n"
        "code = main(sys.argv[1:]); assert 'jax' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(study)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = {
        f"_tables/{name}.csv"
        for name in ("runs", "curves", "aggregate", "slopes", "verdicts")
    }
    files |= {"_figures/through_training.png", "_figures/along_width.png"}
    files |= {"report.html"}
    written = [path for path in study.glob("_*/*") if path.is_file()]
    written += study.glob("*.html")
    assert {str(path.relative_to(study)) for path in written} == files
    assert all(f"Wrote {path}" in done.stdout for path in written)
    assert "Does it converge?" in done.stdout
    assert re.search(r"^divergence .* -1.2 to -0.6 +met$", done.stdout, re.MULTILINE)
    assert re.search(r"^drift .* 0.1 to 0.2 +NOT met$", done.stdout, re.MULTILINE)
    assert "Verdict: of 2 expectations 1 met, 1 not met." in done.stdout


def test_help_and_a_missing_argument_answer_without_pandas():
    code = (
        "import sys; from experiments.analyze import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, {'pandas', 'jax'} & {*sys.modules})"
    )
    for arguments, exit_code in ((["--help"], 0), ([], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        assert done.stdout.endswith(f"{exit_code} set()\n"), done.stderr


def test_the_files_hold_the_tables_returned(study):
    analysis = analyze(study)
    runs = pd.read_csv(study / "_tables" / "runs.csv")
    assert list(runs["run"]) == list(analysis.study.runs.summaries["run"])
    slopes = pd.read_csv(study / "_tables" / "slopes.csv")
    assert list(slopes["slope"]) == list(analysis.study.slopes["slope"])
    assert len(pd.read_csv(study / "_tables" / "aggregate.csv")) == len(
        analysis.study.aggregate
    )


def test_analysing_again_gives_the_same_and_reads_no_table_as_a_run(study):
    assert analyze(study).text == analyze(study).text


def test_x_and_from_given_by_hand_come_before_those_of_the_configs(study):
    analysis = analyze(study, x="n_params", x_from=5000)
    asked = analysis.study.asked
    assert (asked.x, asked.x_from) == ("n_params", 5000)
    assert not len(analysis.study.verdicts)
    assert "No verdicts: the study declares its expectations along model." in (
        analysis.text
    )
    analysis = analyze(study, x_from=32)
    assert "expectations were declared for 64 up, not from 32 up" in analysis.text
    assert set(analysis.study.verdicts["n_runs"]) == {12}


def test_the_only_number_swept_is_x_when_no_config_says(tmp_path):
    write_study(tmp_path, WIDTHS, seeds=1)
    assert analyze(tmp_path).study.asked.x == "model.width"


def test_two_numbers_swept_and_no_x_named_is_said_to_give_no_slopes(tmp_path):
    for depth in (1, 2, 3):
        write_study(tmp_path, WIDTHS[:3], 1, config={"model.depth": depth})
    analysis = analyze(tmp_path)
    assert not len(analysis.study.slopes)
    assert "No slopes: name the x with --x, one of model.width, model." in analysis.text
    slopes = analyze(tmp_path, x="model.width").study.slopes
    assert set(slopes["model.depth"]) == {1, 2, 3}


def test_one_run_has_tables_and_curves_but_no_slopes(tmp_path):
    write_study(tmp_path, [32], seeds=1)
    analysis = analyze(tmp_path)
    assert [path.name for path in analysis.paths] == [
        "runs.csv", "curves.csv", "aggregate.csv", "slopes.csv", "verdicts.csv",
        "through_training.png", "report.html",
    ]  # fmt: skip
    assert "1 run;" in analysis.text and "±" not in analysis.text.split("\n", 1)[1]


def test_a_stale_figure_does_not_outlive_its_runs(study):
    analyze(study)
    runs = [path for path in sorted(study.glob("r*")) if path.is_dir()]
    for run in runs[1:]:
        shutil.rmtree(run)
    analysis = analyze(study)
    assert not (study / "_figures" / "along_width.png").exists()
    assert "No slopes: model.width does not vary" in analysis.text


def test_studies_that_ask_different_things_are_told_so(tmp_path):
    write_study(tmp_path / "a", [32, 64], analysis=ANALYSIS)
    write_study(tmp_path / "b", [128], analysis=ANALYSIS | {"x_from": 1.0})
    text = analyze(tmp_path).text
    assert "2 studies that ask different things" in text
    assert "give --x and --from" in text and "Verdict" not in text


def test_skipped_runs_are_named_in_the_report(study):
    write_failed(study)
    assert "Skipped 1 failed run:" in analyze(study).text


def test_bad_input_ends_with_code_2_and_what_to_type(study, tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([str(study), "--x", "width"]) == 2
    error = capsys.readouterr().err
    assert "--x width is no column" in error and "vary: model.width, n_para" in error
    assert main([str(study), "--x", "ridge"]) == 2
    assert "ridge is 0.0 in all of these runs" in capsys.readouterr().err
    assert not (study / "_tables").exists()
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "There are no runs" in capsys.readouterr().err


def test_an_x_that_is_text_is_refused_with_the_numbers_that_vary(tmp_path):
    for name in ("mlp", "cnn"):
        write_study(tmp_path, [32], 1, config={"model.name": name})
    with pytest.raises(InputError, match="model.name is no number.*no other number"):
        analyze(tmp_path, x="model.name")


def test_a_broken_write_leaves_the_old_table(study, monkeypatch):
    analyze(study)
    before = (study / "_tables" / "runs.csv").read_text()

    def fail(self, path, **_):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        analyze(study)
    assert (study / "_tables" / "runs.csv").read_text() == before
    assert not list((study / "_tables").glob(".*"))
