import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

import experiments.analyze
from experiments import pipeline
from experiments.reading import load_runs
from experiments.sweep import job_overrides

from .commands import ROOT, SMALL, imported_by, run_command

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")


def sweep(tmp_path, *overrides):
    return run_command("-m", f"output_dir={tmp_path}", *SMALL, *overrides)


def jobs(task, presets=None):
    return [" ".join(job) for job in job_overrides(task, presets)]


@pytest.mark.parametrize(
    "task, expected",
    [
        ([], [""]),
        (["width=8"], ["width=8"]),
        (["width=8,16"], ["width=8", "width=16"]),
        (["a=1,2", "b=x,y"], ["a=1 b=x", "a=1 b=y", "a=2 b=x", "a=2 b=y"]),
        (["seed=range(0,3)"], ["seed=0", "seed=1", "seed=2"]),
        (
            ["kernel=mc,exact", "+x=[1,2]"],
            ["kernel=mc +x=[1,2]", "kernel=exact +x=[1,2]"],
        ),
        (["study='a,b'"], ["study='a,b'"]),
    ],
)
def test_jobs_are_all_combinations_of_what_is_swept(task, expected):
    assert jobs(task) == expected


def test_the_command_line_takes_the_place_of_what_an_experiment_sweeps():
    presets = {"width": "8,16", "seed": "0,1"}
    assert len(jobs([], presets)) == 4
    assert jobs(["width=64"], presets) == ["width=64 seed=0", "width=64 seed=1"]


def test_a_sweep_runs_every_job_and_later_skips_what_is_finished(tmp_path, capsys):
    arguments = ("loss=sum,mean", "seeds=2")
    assert sweep(tmp_path, *arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 jobs, 4 runs, 0 finished before\n")
    assert re.search(
        r"^\[3 of 4, .+ left\] loss=mean seed 0: relative test", said, re.M
    )
    assert "\n4 of 4 runs finished.\n" in said
    summaries, _ = load_runs(tmp_path)
    found = zip(summaries["loss"], summaries["seed"], strict=True)
    assert sorted(found) == [("mean", 0), ("mean", 1), ("sum", 0), ("sum", 1)]

    assert sweep(tmp_path, *arguments, "seeds=3") == 0
    said = capsys.readouterr().out
    assert said.startswith("2 jobs, 6 runs, 4 finished before\n")
    assert said.count("relative test divergence") == 2
    assert len(load_runs(tmp_path)[0]) == 6

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.run", "-m",
         f"output_dir={tmp_path}", *SMALL, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("2 jobs, 4 runs, 4 finished before\n")
    assert "hydra" in (imported := imported_by(done.stderr))
    assert {"jax", "equintk"}.isdisjoint(imported)


def test_a_dry_run_lists_what_would_run_and_what_is_done(tmp_path, capsys, monkeypatch):
    assert sweep(tmp_path) == 0
    capsys.readouterr()
    (done,) = tmp_path.glob("default/r*")
    monkeypatch.setattr(pipeline, "run", None)
    assert run_command(f"output_dir={tmp_path}", *SMALL, "seeds=2", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        rf"  done +{done}  seed 0\n  would run .*/r\w{{12}}  seed 1\n1 done, .*\n", said
    )
    assert sweep(tmp_path, "loss=sum,mean", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert re.search(rf"^  done +{done}  loss=sum seed 0$", said, re.MULTILINE)
    assert re.search(r"^  would run .*/r\w{12}  loss=mean seed 0$", said, re.MULTILINE)
    assert said.endswith("1 done, 1 would run. Nothing was computed (dry_run=true).\n")
    assert list(tmp_path.glob("default/r*")) == [done]


@pytest.mark.slow
def test_a_search_leaves_a_run_for_each_trial_and_says_which_was_best(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    command = [
        sys.executable, "-m", "experiments.run", "-m", f"output_dir={tmp_path}", *SMALL,
        "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "ridge=interval(0.01,1)",
    ]  # fmt: skip
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    search = partial(
        subprocess.run, cwd=tmp_path, env=there, capture_output=True, text=True
    )
    aimless = search(command)
    assert aimless.returncode == 1
    assert "Type objective=rmse_test, or another.\nNothing was" in aimless.stderr
    done = search([*command, "objective=rmse_test"])
    assert done.returncode == 0, done.stderr
    found = load_runs(tmp_path)[0]
    assert len(set(found["ridge"])) == 3 and found["ridge"].between(0.01, 1).all()
    best = found.loc[found["rmse_test"].idxmin()]
    (answer,) = tmp_path.glob("default/_sweeps/*/optimization_results.yaml")
    result = yaml.safe_load(answer.read_text())
    assert result["best_value"] == pytest.approx(best["rmse_test"])
    assert result["best_params"]["ridge"] == pytest.approx(best["ridge"])


def test_a_value_out_of_range_ends_a_sweep_before_its_first_job(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(pipeline, "run", None)
    assert sweep(tmp_path, "kernel=mc", "proj_dim=100,-5") == 1
    captured = capsys.readouterr()
    assert re.search(
        r"(?m)^.*proj_dim=-5 kernel=mc:\n  proj_dim=-5 is out of range: it must be at "
        r"least 1\.\nNothing was computed\.",
        captured.err,
    )
    assert "proj_dim=100" not in captured.err
    assert captured.out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "overrides, text",
    [
        (
            "width=8,many",
            "Value 'many' of type 'str' could not be converted to Integer",
        ),
        ("widht=8,16", "`widht` is no key: did you mean `width`"),
    ],
)
def test_a_job_that_cannot_be_composed_ends_a_sweep_before_its_first_job(
    tmp_path, capsys, monkeypatch, overrides, text
):
    monkeypatch.setattr(pipeline, "run", None)
    assert sweep(tmp_path, overrides) == 1
    assert text in capsys.readouterr().err
    assert not list(tmp_path.glob("default/r*"))


def test_jobs_that_are_the_same_run_are_announced_and_computed_once(tmp_path, capsys):
    assert sweep(tmp_path, "proj_dim=5,7") == 0
    said = capsys.readouterr().out
    assert (
        "2 jobs, 1 run, 0 finished before\n1 of the runs asked for are the same" in said
    )
    assert said.count("relative test divergence") == 1


def test_a_job_that_fails_is_named_at_the_end_and_the_others_go_on(tmp_path, capsys):
    absolute = ("time_grid.n_times=1", "optimizer.learning_rate_unit=absolute")
    assert sweep(tmp_path, *absolute, "optimizer.learning_rate=1e100,1e-4") == 1
    said = capsys.readouterr().out
    assert "Training diverged: by step 4" in said
    assert "1 of 2 runs finished." in said
    (failed,) = re.findall(r"^  .*1e\+?100 seed 0 +FAILED: (.*)$", said, re.MULTILINE)
    assert "FloatingPointError: Training diverged" in Path(failed).read_text()
    assert load_runs(tmp_path)[0]["optimizer.learning_rate"].tolist() == [1e-4]


def test_a_forced_repetition_that_fails_is_named_and_loses_nothing(
    tmp_path, capsys, monkeypatch
):
    assert sweep(tmp_path) == 0
    before, _ = load_runs(tmp_path)

    def fail(*args):
        raise OSError("bad luck")

    monkeypatch.setattr(pipeline, "run", fail)
    assert sweep(tmp_path, "force=true") == 1
    said = capsys.readouterr().out
    assert "0 of 1 run finished" in said
    assert re.search("  FAILED, its earlier results stay: .*error.txt", said)
    after, _ = load_runs(tmp_path)
    assert after.equals(before)
    # without force there is nothing to do, and nothing to complain about
    assert sweep(tmp_path) == 0


def test_an_analysis_that_fails_says_how_to_repeat_it(tmp_path, capsys, monkeypatch):
    def fail(study, declared):
        raise OSError("No space left on device")

    monkeypatch.setattr(experiments.analyze, "analyze", fail)
    assert sweep(tmp_path, "analysis.after_sweep=true") == 1
    captured = capsys.readouterr()
    assert "1 of 1 run finished" in captured.out
    assert re.search(
        "analysis failed: No space left on device\n"
        "Try again: python -m experiments.analyze .*default",
        captured.err,
    )
