import json
import os
import time

import pytest

from experiments import claims, files, progress, status, store
from experiments.progress import Survey

from .test_store import at, claimed, write, write_failed


def begin(tmp_path, runs, **more):
    directory = tmp_path / "mine" / "_sweeps" / "now"
    planned = [(store.directory(run), f"seed {run.seed}") for run in runs]
    return progress.write(
        directory,
        {
            "command": ["equintk run"], "engine": "basic", "swept": [], "force": False,
            "retry": True, "stale": 120.0,
            "runs": progress.planned(directory, planned), **more,
        },
    )  # fmt: skip


def seeds(tmp_path, n):
    return [at(tmp_path, f"seed={seed}") for seed in range(n)]


def before(path, seconds=60.0):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_survey_tells_each_state_of_a_run_apart(tmp_path):
    runs = seeds(tmp_path, 6)
    before(write(runs[0]) / "status.json", 120)
    record = begin(tmp_path, runs)
    before(record.directory / "sweep.json")
    record = progress.read(record.directory)
    write(runs[1])
    write_failed(runs[2], "OSError: no luck")
    claimed(runs[3])
    dead = claimed(runs[4])
    about = claims.read(dead.work) | {"process": "ended"}
    files.replace(dead.work / "status.json", json.dumps(about))
    survey = Survey(record)
    assert survey.states == [
        "done", "done", "failed", "running", "interrupted", "waiting",
    ]  # fmt: skip
    # two ended in the minute since the sweep began, three are left
    assert survey.seconds_left == pytest.approx(90, abs=15)
    assert survey.line.startswith(
        "2 of 6 done, 1 failed, 1 running, 1 interrupted, 1 waiting, about 1 min"
    )


def test_a_run_that_is_to_be_repeated_is_not_done_until_it_is(tmp_path):
    runs = seeds(tmp_path, 2)
    for run in runs:
        before(write(run) / "status.json")
    record = begin(tmp_path, runs, force=True)
    assert Survey(record).states == ["waiting", "waiting"]
    write(runs[0])
    write_failed(runs[1], "OSError: no luck")
    assert Survey(record).states == ["done", "failed"]


def test_status_shows_the_last_sweep_and_where_to_look(tmp_path, capsys):
    runs = seeds(tmp_path, 3)
    record = begin(tmp_path, runs)
    write(runs[0])
    place = write_failed(runs[1], "OSError: no luck")
    claimed(runs[2])
    assert status.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'mine'}: 1 done, 1 failed\n")
    assert "basic, going on: 1 of 3 done, 1 failed, 1 running" in said
    assert f"failed       seed 1  {place / 'error.txt'}\n" in said
    assert f"running      seed 2  {os.uname().nodename}, process {os.getpid()}" in said
    progress.end(record, "with gaps")
    assert status.main([str(tmp_path / "mine")]) == 0
    assert "with gaps: 1 of 3 done" in capsys.readouterr().out


@pytest.mark.parametrize("where, text", [("", "There are no runs"), ("x", "no direct")])
def test_status_says_what_to_type_where_there_is_nothing(tmp_path, capsys, where, text):
    assert status.main([str(tmp_path / where)]) == 1
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7200, "2 h"), (3700, "1 h 1 min")],
)
def test_a_duration_is_told_in_two_units(seconds, text):
    assert progress.duration(seconds) == text


def test_folders_above_may_have_any_name(tmp_path, capsys):
    root = tmp_path / "_mine" / ".hidden"
    (run,) = seeds(root, 1)
    write(run)
    assert status.main([str(root)]) == 0
    assert f"{store.directory(run).parent}: 1 done" in capsys.readouterr().out


def test_without_a_path_it_tells_of_the_outputs_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status.main([]) == 1
    assert "`outputs` is no directory" in capsys.readouterr().err
    (run,) = seeds(tmp_path / "outputs", 1)
    write(run)
    for arguments in ([], ["--watch"]):
        assert status.main(arguments) == 0
        assert "1 done" in capsys.readouterr().out
