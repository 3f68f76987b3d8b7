"""Sweeps whose processes are killed and paused until all runs are there, exactly once.

In all drills but one the runs are real in all but their computing, which sleeps in
place of JAX, so that a drill costs what starting its processes costs.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from .commands import ROOT, SMALL

# Found by Python as it starts, in every process of a drill.
SITE = """
import sys, time, types

def run(config, run_id):
    from experiments.tables import CURVE_COLUMNS
    width, seed = config.model.width, config.seed
    print(f"computing {{run_id}}", flush=True)
    time.sleep({seconds})
    step = ["run", "seed", "kernel", "network", "step", "time", "split", "metric"]
    assert list(CURVE_COLUMNS) == [*step, "value"]
    curves = [
        (run_id, seed, "exact", "all", i, i / 7, "test", "rmse", 1 / (seed + width + i))
        for i in range(200)
    ]
    summary = dict(n_params=width, rmse_test=(seed + 1) / width, seconds=0.0)
    return types.SimpleNamespace(curves=curves, summary=summary)

def fake(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)

config = types.SimpleNamespace(jax_enable_x64=0, jax_default_matmul_precision=0)
fake("jax", config=config, devices=list)
fake("equintk", __version__="drill")
fake("experiments.pipeline", run=run)
"""

STALE = 2.0  # seconds
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


class Drill:
    """Commands of one study, in processes that can be killed.

    Its runs sleep for so many seconds; where none are given, they are computed.
    """

    def __init__(self, tmp_path, widths, seeds, seconds, stale=STALE):
        self.output = tmp_path / "disturbed"
        self.study = self.output / "drill"
        self.calm = tmp_path / "calm"
        self.said = tmp_path / "said.txt"
        self.n_runs = len(widths) * seeds
        self.arguments = [
            "-m", "study=drill", f"width={','.join(map(str, widths))}",
            f"seeds={seeds}", "compilation_cache=false",
            "claims.heartbeat=0.2", f"claims.stale={stale}",
        ]  # fmt: skip
        self.stale = stale
        site = tmp_path / "site"
        site.mkdir()
        self._environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
        if seconds is None:
            self.arguments += [o for o in SMALL if not o.startswith("width")]
            # as many threads in each process, so that numbers are equal to the last bit
            self._environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_THREAD}
            return
        pretended = SITE.format(seconds=seconds)
        (site / "sitecustomize.py").write_text(pretended)

    def start(self, *more, output=None):
        """The sweep, in a process group of its own."""
        with open(self.said, "a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.run", *self.arguments,
                 f"output_dir={output or self.output}", *more],
                cwd=ROOT, env=self._environment, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip

    def owners(self):
        """The processes that compute a run at this moment."""
        found = []
        for path in self.study.glob("_running/*/status.json"):
            try:
                found.append(json.loads(path.read_text())["pid"])
            except (OSError, ValueError, KeyError):
                continue
        return found


class Reader(threading.Thread):
    """Reads every run that can be seen, all the time; notes what is not whole."""

    def __init__(self, study: Path, n_rows: int):
        super().__init__(daemon=True)
        self._study = study
        self._n_rows = n_rows
        self._over = threading.Event()
        self.results: dict[str, set[tuple[int, int]]] = {}
        self.torn: list[str] = []

    def run(self):
        while not self._over.is_set():
            for place in self._study.glob("r*"):
                self._read(place)
            time.sleep(0.005)

    def _read(self, place):
        status = os.stat(place / "status.json")
        seen = self.results.setdefault(place.name, set())
        if (status.st_ino, status.st_mtime_ns) in seen:
            return
        seen.add((status.st_ino, status.st_mtime_ns))
        with open(place / "summary.csv", newline="") as file:
            n_summaries = len(list(csv.DictReader(file, strict=True)))
        with open(place / "curves.csv", newline="") as file:
            n_rows = len(list(csv.DictReader(file, strict=True)))
        found = (json.loads((place / "status.json").read_text())["status"],)
        if (*found, n_summaries, n_rows) != ("DONE", 1, self._n_rows):
            self.torn.append(place.name)

    def stop(self):
        self._over.set()
        self.join()


def tables(output):
    """The rows of every table, as text; not how long a run took."""
    found = {}
    for path in output.glob("drill/r*/*.csv"):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        found[path.relative_to(output).as_posix()] = [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in rows
        ]
    return found


def send(process, what):
    """Whether there was such a process to signal."""
    try:
        os.kill(process, what)
    except ProcessLookupError:
        return False
    return True


def disturb(study, draw, n_kills):
    """Two sweeps at once; their processes are killed, one is paused for a while."""
    engines = [[], ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]]
    sweeps = [study.start(*engine) for engine in engines]
    killed, paused, until = 0, None, time.monotonic() + 600
    try:
        while True:
            assert time.monotonic() < until, study.said.read_text()
            owners = study.owners()
            if paused is None and killed >= n_kills // 2:
                for owner in owners[:1]:
                    if send(owner, signal.SIGSTOP):
                        paused = (owner, time.monotonic())
            elif paused and time.monotonic() > paused[1] + 2 * study.stale:
                send(paused[0], signal.SIGCONT)
                paused = ()
            if killed < n_kills:
                time.sleep(draw.uniform(0.05, 0.8))
                victim = draw.choice([*owners, *(sweep.pid for sweep in sweeps)])
                if not paused or victim != paused[0]:
                    killed += send(victim, signal.SIGKILL)
            else:
                time.sleep(0.05)
            complete = len(list(study.study.glob("r*"))) == study.n_runs
            for i, sweep in enumerate(sweeps):
                if sweep.poll() not in (None, 0) and not complete:
                    sweeps[i] = study.start(*engines[i])
            if complete and not paused and all(s.poll() is not None for s in sweeps):
                return killed, paused is not None
    finally:
        for sweep in sweeps:
            if sweep.poll() is None:
                os.killpg(sweep.pid, signal.SIGKILL)
                sweep.wait()


def drill(tmp_path, widths, seeds, seconds, n_kills, seed, stale=STALE):
    study = Drill(tmp_path, widths, seeds, seconds, stale)
    assert study.start(output=study.calm).wait() == 0, study.said.read_text()
    calm = tables(study.calm)
    assert len(calm) == 2 * study.n_runs

    (n_rows,) = {len(rows) for name, rows in calm.items() if "curves" in name}
    reader = Reader(study.study, n_rows)
    reader.start()
    killed, was_paused = disturb(study, random.Random(seed), n_kills)
    reader.stop()
    # whoever was killed last is called once more: there is nothing left to compute
    assert study.start().wait() == 0
    said = study.said.read_text()
    assert was_paused
    assert not reader.torn
    assert all(len(results) == 1 for results in reader.results.values()), said
    assert len(reader.results) == study.n_runs
    assert tables(study.output) == calm
    assert os.listdir(study.study / "_running") == []
    return killed


def test_two_sweeps_of_which_processes_die_finish_every_run_once(tmp_path):
    drill(tmp_path, widths=(8, 16), seeds=2, seconds=0.3, n_kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_twelve_runs_survive_a_day_of_crashes(tmp_path, seed):
    assert drill(tmp_path, (8, 16, 32, 64), 3, seconds=1.0, n_kills=12, seed=seed) >= 8


@pytest.mark.slow
def test_twelve_runs_that_are_computed_survive_as_well(tmp_path):
    # A process takes seconds until it computes, so that not every kill meets a run.
    killed = drill(tmp_path, (4, 6, 8, 12), 3, None, n_kills=8, seed=0, stale=10.0)
    assert killed >= 8


@pytest.mark.slow  # the short drill pauses one as well
def test_an_owner_paused_past_its_stale_time_discards_what_it_has(tmp_path):
    study = Drill(tmp_path, widths=(8,), seeds=1, seconds=1.0)
    first = study.start()
    while "computing" not in study.said.read_text():
        time.sleep(0.02)
    (owner,) = study.owners()
    os.kill(owner, signal.SIGSTOP)
    second = study.start("hydra/launcher=processes")
    assert second.wait() == 0
    (place,) = study.study.glob("r*")
    before = os.stat(place / "status.json")
    os.kill(owner, signal.SIGCONT)
    assert first.wait() == 0
    assert "its own results are discarded" in study.said.read_text()
    after = os.stat(place / "status.json")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert os.listdir(study.study / "_running") == []
