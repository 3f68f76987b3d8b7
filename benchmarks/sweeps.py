"""What the experiments cost beyond computing: skipping, writing, compiling.

    python -m benchmarks.sweeps          CPU-seconds, and wall time beside them

Asked: skipping takes under 1 s for 100 runs beyond Hydra's own composing, a run under
0.3 s beyond its computing.
"""  # noqa: D208

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

N_RUNS = 100

# A run that a persistent cache of compiled programs can help.
RUN = (
    "dataset=digits_3v8", "width=64", "steps=64", "n_train=32", "n_test=32",
    "time_grid.n_times=4",
)  # fmt: skip


class Spent:
    """CPU-seconds and seconds of wall time."""

    cpu = wall = 0.0


def main() -> None:
    """Print each measurement beside what was asked."""
    with tempfile.TemporaryDirectory() as output:
        composing, writing, skipping = _runs(Path(output))
    print(f"composing {N_RUNS} configs, Hydra alone:  {_both(composing)}")
    print(f"skipping {N_RUNS} runs beyond that:       {_both(skipping)}  (asked: 1 s)")
    writing.cpu, writing.wall = writing.cpu / N_RUNS, writing.wall / N_RUNS
    print(f"a run beyond its computing:            {_both(writing)}  (asked: 0.3 s)")
    _compilation()


def _runs(output: Path) -> tuple[Spent, Spent, Spent]:
    """Compose, write and skip the same runs."""
    import hydra
    import jax

    from experiments import job, pipeline, progress, schema, store, tree, validation
    from experiments.progress import Survey

    jax.devices()  # starting JAX is no overhead of a run
    found = SimpleNamespace(
        curves=[("r", 0, "exact", "all", i, 0.1, "test", "rmse", 0.5)
                for i in range(300)],
        summary={"n_params": 7, "rmse_test": 0.5},
    )  # fmt: skip
    setattr(pipeline, "run", lambda config, run_id: found)  # noqa: B010
    schema.register()
    tree.register()
    with hydra.initialize_config_dir(
        version_base="1.3", config_dir=str(tree.CONF.resolve())
    ):
        given = [f"output_dir={output}", "compilation_cache=false"]
        with _spent() as composing:
            composed = [
                hydra.compose("config", [*given, f"seed={seed}"])
                for seed in range(N_RUNS)
            ]
    runs = [job.split_seeds(validation.typed(config))[0] for config in composed]
    with _spent() as writing, contextlib.redirect_stdout(io.StringIO()):
        for run in runs:
            job.run_once(run)
    with _spent() as skipping:
        again = [job.split_seeds(validation.typed(config))[0] for config in composed]
        places = {store.directory(run): f"seed {run.seed}" for run in again}
        directory = output / "default" / "_sweeps" / "now"
        record = progress.write(
            directory,
            {
                "command": [], "engine": "basic", "swept": [], "force": False,
                "retry": True, "stale": 120.0,
                "runs": progress.planned(directory, places.items()),
            },
        )  # fmt: skip
        for run in again:
            assert store.ended_as(run, record.began) == "DONE"
        assert Survey(record).counts["done"] == N_RUNS  # at the start and at the end
        assert Survey(record).counts["done"] == N_RUNS
    return composing, writing, skipping


def _compilation() -> None:
    """The same run in fresh processes, without and with compiled programs on disk."""
    with tempfile.TemporaryDirectory() as place:
        _process(place, "fill", cached=True)
        for repeat in range(2):  # alternating, as the machine may change its speed
            for cached in (False, True):
                spent = _process(place, f"{cached}{repeat}", cached)
                name = "compiled programs on disk" if cached else "compiling anew"
                print(f"one run in a fresh process, {name + ':':<26} {_both(spent)}")


def _process(place: str, study: str, cached: bool) -> Spent:
    command = [
        sys.executable, "-m", "experiments.run", f"output_dir={place}",
        f"study={study}", f"compilation_cache={str(cached).lower()}", *RUN,
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": place, "JAX_PLATFORMS": "cpu"}
    with _spent(resource.RUSAGE_CHILDREN) as spent:
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return spent


@contextlib.contextmanager
def _spent(whose: int = resource.RUSAGE_SELF) -> Iterator[Spent]:
    def cpu(usage: Any) -> float:
        return usage.ru_utime + usage.ru_stime

    spent = Spent()
    before, began = cpu(resource.getrusage(whose)), time.monotonic()
    yield spent
    spent.cpu = cpu(resource.getrusage(whose)) - before
    spent.wall = time.monotonic() - began


def _both(spent: Spent) -> str:
    return f"{spent.cpu:6.3f} CPU-s {spent.wall:7.3f} s"


if __name__ == "__main__":
    main()
