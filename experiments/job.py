"""One job of a sweep: its runs, each claimed, computed and written."""

import csv
import dataclasses
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import claims, progress, store
from experiments.progress import Survey
from experiments.schema import Config, ConfigError


@dataclass(frozen=True)
class Asked:
    """How a job was asked for, which goes into the record of its runs.

    Attributes:
        overrides: what was typed, or swept.
        choices: the option chosen in each group.
        engine: what runs the jobs of the sweep; `alone` outside one.
        sweep: the directory of the sweep's record.
        since: when the sweep began, by the clock of the disk.
        swept: the keys in which its jobs differ.
        command: what was typed.
        config_dirs: directories of configs of the user's own.
        n_jobs: processes among which this machine's cores are divided.
    """

    overrides: Sequence[str] = ()
    choices: dict[str, str] = field(default_factory=dict)
    engine: str = "alone"
    sweep: Path | None = None
    since: float | None = None
    swept: Sequence[str] = ()
    command: Sequence[str] = tuple(sys.argv)
    config_dirs: Sequence[str] = ()
    n_jobs: int = 1

    @classmethod
    def by_hydra(cls, hydra: Any) -> "Asked":
        """As Hydra tells it to the process of a job."""
        asked = cls(
            tuple(hydra.overrides.task),
            choices(hydra),
            config_dirs=tuple(
                source.path
                for source in hydra.runtime.config_sources
                if source.provider == "command-line"
            ),
        )
        if hydra.mode.name == "RUN":
            return asked
        asked = dataclasses.replace(
            asked,
            engine=asked.choices["hydra/launcher"],
            n_jobs=max(1, int(hydra.launcher.get("n_jobs") or 1)),
        )
        try:
            record = progress.read(Path(hydra.runtime.cwd) / hydra.sweep.dir)
        except (OSError, ValueError):  # another sweeper keeps no record
            return asked
        return dataclasses.replace(
            asked, sweep=record.directory, since=record.began, swept=record.swept,
            command=record.command,
        )  # fmt: skip


def choices(hydra: Any) -> dict[str, str]:
    """The option chosen in each group, of Hydra's own config."""
    return {
        str(group): str(name)
        for group, name in hydra.runtime.choices.items()
        if name is not None
    }


def split_seeds(job: Config) -> list[Config]:
    """The runs of a job: they differ in their seed alone."""
    return [
        dataclasses.replace(job, seed=job.seed + i, seeds=1) for i in range(job.seeds)
    ]


def run_job(job: Config, asked: Asked) -> bool:
    """All runs of a job; whether each is finished, or computed by another process."""
    store.make_room(job)
    return all([run_once(one_seed, asked) for one_seed in split_seeds(job)])


def run_once(config: Config, asked: Asked | None = None) -> bool:
    """Compute and write one run, unless that is done or being done; says what happened.

    Returns:
        whether all is well, as far as this process can tell.
    """
    asked = asked or Asked()
    place = store.directory(config)
    say = _Teller(config, asked)
    ended = store.ended_as(config, asked.since)
    if ended == "DONE":
        say(f"finished before, see {place} (force=true repeats it)")
        return True
    if ended == "FAILED":
        say(f"FAILED before, see {place / 'error.txt'} (retry=true repeats it)")
        return False
    about = {"seed": config.seed, "overrides": list(asked.overrides)}
    if asked.sweep is not None:
        about["sweep"] = str(asked.sweep)
    claim = store.claim(config, about)
    if claim is None:
        say("another process computes it")
        return True
    try:
        with claim.alive(config.claims.heartbeat):
            # It may have ended between the first look and the claim.
            if store.ended_as(config, asked.since):
                return run_once(config, asked)
            return _compute(config, asked, claim, say)
    except claims.Lost:
        say(
            "this process was silent for too long, and another took the run over: "
            "its own results are discarded"
        )
        return True
    finally:
        claim.release()


def objective(job: Config) -> float | None:
    """The mean of `objective` over the runs of a job, for a search; `inf` if none."""
    if job.objective is None:
        return None
    found = []
    for run in split_seeds(job):
        try:
            with open(store.directory(run) / "summary.csv", newline="") as file:
                (row,) = csv.DictReader(file)
        except (OSError, ValueError):  # failed, or computed elsewhere
            return float("inf")
        if job.objective not in row:
            raise ConfigError(
                f"objective={job.objective} is no column of summary.csv. Type one of "
                f"{', '.join(row)}."
            )
        found.append(float(row[job.objective] or "inf"))
    return sum(found) / len(found)


def _compute(config: Config, asked: Asked, claim: claims.Claim, say: "_Teller") -> bool:
    # After the answer to what needs no computing: jax takes two seconds to import.
    from experiments import cores, provenance

    cores.take_share(asked.n_jobs)

    from experiments import compilation, pipeline
    from experiments.tables import CURVE_COLUMNS

    compilation.use_cache(config)
    began = time.time()
    how = {
        "command": list(asked.command),
        "overrides": list(asked.overrides),
        "choices": asked.choices,
        "config_dirs": list(asked.config_dirs),
        "engine": asked.engine,
        "sweep": asked.sweep and str(asked.sweep),
        "seed": config.seed,
    }
    commit = provenance.checkout()
    try:
        results = pipeline.run(config, store.run_id(config))
    except Exception as error:
        record = provenance.describe(began, how)
        trace = traceback.format_exc()
        place = store.write_failed(config, claim, trace, record, commit.patch)
        say(f"FAILED, see {place / 'error.txt'}\n  {error}")
        return False
    record = provenance.describe(began, how)
    place = store.write_done(
        config, claim, results.curves, list(CURVE_COLUMNS), results.summary, record,
        commit.patch,
    )  # fmt: skip
    numbers = [
        f"{name} {results.summary[column]:.3g}"
        for name, column in (
            ("relative test divergence", "relative_divergence_test"),
            ("kernel drift", "kernel_drift"),
            ("test accuracy", "accuracy_network_test"),
            ("accuracy", "accuracy_folds"),
        )
        if column in results.summary
    ]
    say(f"{', '.join(numbers)}; {time.time() - began:.1f} s, {place}")
    return True


class _Teller:
    """Prints one line about a run; in a sweep with where the sweep is."""

    def __init__(self, config: Config, asked: Asked):
        self._sweep = asked.sweep
        self._words = [
            word for word in asked.overrides if word.split("=")[0] in asked.swept
        ]
        self._words.append(f"seed {config.seed}")

    def __call__(self, text: str) -> None:
        where = ""
        if self._sweep is not None:
            survey = Survey(progress.read(self._sweep))
            ended = survey.counts["done"] + survey.counts["failed"]
            left = survey.seconds_left
            until = f", {progress.duration(left)} left" if left else ""
            where = f"[{ended} of {len(survey.states)}{until}] "
        print(f"{where}{' '.join(self._words)}: {text}", flush=True)
