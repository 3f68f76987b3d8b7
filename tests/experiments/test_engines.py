"""Engines of a sweep, with runs that sleep in place of JAX, and once with real ones."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache

import pytest

from experiments.reading import load_runs

from .commands import ROOT, SMALL
from .test_crash_drill import Drill

PROCESSES = ("hydra/launcher=processes", "hydra.launcher.n_jobs=2")


def wait_for(study, words):
    until = time.monotonic() + 120
    while words not in study.said.read_text():
        assert time.monotonic() < until, study.said.read_text()
        time.sleep(0.02)


def test_a_process_that_is_killed_takes_no_other_job_with_it(tmp_path):
    study = Drill(tmp_path, widths=(8, 16), seeds=1, seconds=1.5)
    sweep = study.start(*PROCESSES)
    wait_for(study, "computing")
    (victim, *_) = study.owners()
    os.kill(victim, signal.SIGKILL)
    assert sweep.wait() == 1
    said = study.said.read_text()
    assert re.search("The process of .* was killed by SIGKILL, as happens when", said)
    assert "1 of 2 runs finished." in said
    assert re.search(r"^  width=\d+ seed 0 +killed: ", said, re.MULTILINE)
    assert len(load_runs(study.study)[0]) == 1
    # and the next call computes what is missing, and only that
    n_computed = said.count("computing")
    assert study.start(*PROCESSES).wait() == 0
    assert study.said.read_text().count("computing") == n_computed + 1


@pytest.mark.slow
def test_a_killed_worker_of_joblib_ends_the_sweep_and_the_next_call_goes_on(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    engine = ("hydra/launcher=loky", "hydra.launcher.n_jobs=2")
    study = Drill(tmp_path, widths=(8, 16, 32, 64), seeds=1, seconds=1.5)
    sweep = study.start(*engine)
    wait_for(study, "computing")
    os.kill(study.owners()[0], signal.SIGKILL)
    assert sweep.wait() == 1
    n_kept = len(list(study.study.glob("r*")))
    assert n_kept < 4
    assert study.start(*engine).wait() == 0
    assert f"4 jobs, 4 runs, {n_kept} finished before" in study.said.read_text()
    assert len(load_runs(study.study)[0]) == 4
    assert os.listdir(study.study / "_running") == []


@pytest.mark.parametrize(
    "engine",
    [(), pytest.param(("hydra/launcher=processes", "hydra.launcher.n_jobs=1"),
                      marks=pytest.mark.slow)],
    ids=["plain", "processes"],
)  # fmt: skip
def test_a_sweep_that_is_interrupted_goes_on_where_it_was(tmp_path, engine):
    calm = tmp_path / "calm.txt"
    # The second run lasts until it is interrupted, however busy the machine is.
    is_calm = f"__import__('os').path.exists({str(calm)!r})"
    seconds = f"0.1 if width == 8 or {is_calm} else 60"
    study = Drill(tmp_path, widths=(8, 16), seeds=1, seconds=seconds)
    sweep = study.start(*engine)
    wait_for(study, "[1 of 2")
    wait_for_two(study)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    assert sweep.wait() == 130
    assert "Stopped. What was finished is kept" in study.said.read_text()
    assert os.listdir(study.study / "_running") == []
    assert len(list(study.study.glob("r*"))) == 1
    calm.touch()
    assert study.start().wait() == 0
    assert len(list(study.study.glob("r*"))) == 2


def wait_for_two(study):
    while study.said.read_text().count("computing") < 2:
        time.sleep(0.02)


# Large enough for sums that threads divide among them.
SWEEP = (*SMALL, "width=64,96", "n_train=24", "n_test=16", "steps=32", "seeds=2")


def swept(output, engine, n_cores=None):
    """The curves of a sweep by an engine, and how many cores each of its runs had."""
    keep = None
    if n_cores is not None:
        mine = sorted(os.sched_getaffinity(0))[:n_cores]
        keep = lambda: os.sched_setaffinity(0, mine)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "-m", f"hydra/launcher={engine}",
         f"output_dir={output}", *SWEEP],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=keep,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(p.read_text()) for p in output.glob("*/r*/provenance.json")]
    assert {record["engine"] for record in records} == {engine}
    (found,) = {record["cores"] for record in records}
    return load_runs(output)[1], found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The curves of the plain engine on so many cores, or on all."""

    @cache
    def curves(n_cores):
        output = tmp_path_factory.mktemp("plain")
        return swept(output, "basic", n_cores)[0]

    return curves


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine, module",
    [("processes", "hydra"), ("loky", "hydra_plugins.hydra_joblib_launcher"),
     ("slurm_rehearsal", "hydra_plugins.hydra_submitit_launcher"),
     ("ray_local", "hydra_plugins.hydra_ray_launcher")],
)  # fmt: skip
def test_every_engine_computes_the_same_tables(tmp_path, plain, engine, module):
    pytest.importorskip(module)
    after, n_cores = swept(tmp_path, engine)
    before = plain(None)
    assert before.drop(columns="value").equals(after.drop(columns="value"))
    assert after["value"].to_numpy() == pytest.approx(
        before["value"].to_numpy(), rel=1e-6
    )
    # with as many threads, to the last bit
    assert after.equals(plain(n_cores))


@pytest.mark.slow
def test_a_task_that_is_queued_again_goes_on_where_it_was(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    study = Drill(tmp_path, widths=(8,), seeds=3, seconds=3.0)
    sweep = study.start("hydra/launcher=slurm_rehearsal")
    until = time.monotonic() + 120
    while not list(study.study.glob("r*")) or not study.owners():
        assert time.monotonic() < until, study.said.read_text()
        time.sleep(0.05)
    (task,) = study.owners()
    os.kill(task, signal.SIGUSR2)  # what a queue sends before it takes the node away
    assert sweep.wait() == 0, study.said.read_text()
    logs = study.study.glob("_sweeps/*/.submitit/*/*.out")
    said = "".join(path.read_text() for path in logs)
    assert "3 of 3" in said
    assert said.count("computing") == 4  # the second run began twice
    assert len(list(study.study.glob("r*"))) == 3
    assert os.listdir(study.study / "_running") == []
