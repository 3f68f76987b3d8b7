"""A sweep as a whole: every job checked before the first starts, a table at the end.

A Hydra callback. The truth is on disk, so it does not matter which launcher ran the
jobs, nor in which process.
"""

import itertools
import sys
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments import schema, store
from experiments.question import AnalysisConfig
from experiments.run import split_seeds
from experiments.schema import Config, ConfigError


class Sweep(Callback):
    """What is done before the first job of a sweep, before each, and after the last."""

    def __init__(self) -> None:
        self._n_jobs = 0
        self._runs: list[Config] = []
        self._done_before = 0
        self._forced = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check all jobs; a value out of range ends the sweep here."""
        jobs = job_overrides(config)
        problems = []
        for overrides in jobs:
            try:
                job = schema.typed(
                    hydra.compose(config.hydra.job.config_name, list(overrides))
                )
            except ConfigError as error:
                problems.append(f"{' '.join(overrides)}:\n  {error}")
            except (HydraException, OmegaConfBaseException):
                return  # Hydra composes the jobs next, and says what is wrong
            else:
                self._runs += split_seeds(job)
        if problems:
            sys.exit("\n".join([*problems, "Nothing was computed."]))
        self._n_jobs = len(jobs)
        distinct = {store.directory(run): run for run in self._runs}
        done = [place for place in distinct if store.status(place) == "DONE"]
        self._forced = any(run.force for run in self._runs)
        self._done_before = 0 if self._forced else len(done)
        print(
            f"{_count(jobs, 'job')}, {_count(distinct, 'run')}, "
            f"{self._done_before} finished before"
        )
        if len(distinct) < len(self._runs):
            print(
                f"{len(self._runs) - len(distinct)} of the runs asked for are the same "
                "as others: a value that is swept is not used by what was chosen, such "
                "as proj_dim by kernel=exact."
            )
        sys.stdout.flush()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say which job starts."""
        if self._n_jobs:
            words = " ".join(config.hydra.overrides.task)
            number = config.hydra.job.num + 1
            print(f"\nJob {number} of {self._n_jobs}: {words}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Count what is on disk, analyse if the study says so, set the exit code."""
        if not self._runs:
            return
        places = list(dict.fromkeys(store.directory(run) for run in self._runs))
        states = {place: store.status(place) for place in places}
        errors = {place: place / "error.txt" for place in places}
        done = [
            place
            for place, state in states.items()
            # a repetition that failed leaves the finished run where it was
            if state == "DONE" and not (self._forced and errors[place].exists())
        ]
        print(
            f"\n{len(done)} of {_count(places, 'run')} finished, "
            f"{self._done_before} of them before this sweep."
        )
        for place in places:
            if place not in done:
                see = errors[place] if errors[place].exists() else place
                what = {"DONE": "FAILED, its earlier results stay", None: "never ended"}
                print(f"  {what.get(states[place], states[place])}: {see}")
        sys.stdout.flush()
        analyzed = True
        if done and self._runs[0].analysis.after_sweep:
            declared = self._runs[0].analysis
            analyzed = _analyze({place.parent for place in places}, declared)
        if len(done) < len(places) or not analyzed:
            sys.exit(1)


def job_overrides(config: DictConfig) -> list[Sequence[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper expands them."""
    presets = config.hydra.sweeper.params or {}
    given = [f"{key}={value}" for key, value in presets.items()]
    parsed = OverridesParser.create().parse_overrides(
        given + list(config.hydra.overrides.task)
    )
    choices: dict[str, list[str]] = {}  # a later value of a key replaces an earlier one
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override():
            choices[key] = [
                f"{key}={value}" for value in override.sweep_string_iterator()
            ]
        else:
            choices[key] = [override.input_line or ""]
    return list(itertools.product(*choices.values()))


def _analyze(studies: set[Path], declared: AnalysisConfig) -> bool:
    """Print the tables of each study; whether that worked."""
    from experiments.analyze import analyze

    worked = True
    for study in sorted(studies):
        try:
            print(analyze(study, declared=declared).text, flush=True)
        except Exception as error:  # Hydra would turn it into a warning
            print(
                f"The runs are on disk, but their analysis failed: {error}\nTry again: "
                f"python -m experiments.analyze {study}",
                file=sys.stderr,
            )
            worked = False
    return worked


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
