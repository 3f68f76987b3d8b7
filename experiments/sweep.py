"""A sweep as a whole: checked before it starts, shared with others, summed up.

The truth is on disk, so it does not matter which engine runs the jobs, nor in which
process, nor whether another sweep computes the same runs at the same time.
"""

import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict, read_write

from experiments import claims, progress, store, validation
from experiments.job import split_seeds
from experiments.progress import Record, Survey
from experiments.question import AnalysisConfig
from experiments.schema import Config, ConfigError

# A job is given to the engine once more if its runs were left by another sweep.
_MOST_LAUNCHES = 2

# Takes the overrides of jobs and the number of the first; returns when they have ended.
Launch = Callable[[Sequence[Sequence[str]], int], Any]


class Job(NamedTuple):
    """What one job of a sweep was asked, and the runs it consists of."""

    overrides: list[str]
    runs: list[Config]


def run(
    config: DictConfig,
    arguments: Sequence[str],
    presets: dict[str, str],
    loader: ConfigLoader,
    launch: Launch,
) -> None:
    """Run a sweep: everything that is not finished, and a table of how it went.

    Args:
        config: of the sweep, as Hydra composed it.
        arguments: the overrides typed.
        presets: what the config itself sweeps.
        loader: composes the config of each job.
        launch: runs jobs.

    Raises:
        SystemExit: with what is wrong, if a job cannot run, before any has; with 1 at
            the end if a run is not finished.
    """
    jobs = compose(config, job_overrides(arguments, presets, loader), loader)
    first = jobs[0].runs[0]
    if first.dry_run:
        print(preview(jobs, None))
        return
    try:
        store.make_room(first)
    except ConfigError as error:
        sys.exit(f"{error}\nNothing was computed.")
    record = _begin(config, jobs)
    _announce(jobs, record)
    try:
        _launch_all(jobs, record, launch)
    except KeyboardInterrupt:
        progress.end(record, "stopped")
        raise
    survey = Survey(record)
    _close(survey)
    complete = survey.counts["done"] == len(record.runs)
    if survey.counts["done"] and first.analysis.after_sweep:
        studies = {planned.place.parent for planned in record.runs}
        complete &= _analyze(studies, first.analysis)
    progress.end(record, "complete" if complete else "with gaps")
    if not complete:
        sys.exit(1)


def job_overrides(
    arguments: Sequence[str],
    presets: dict[str, str] | None = None,
    loader: ConfigLoader | None = None,
) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper expands them."""
    given = [f"{key}={value}" for key, value in (presets or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    choices: dict[str, list[str]] = {}  # a later value of a key replaces an earlier one
    for override in parser.parse_overrides([*given, *arguments]):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [override.input_line or ""]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={v}" for v in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line} is a range to search in, which a plain sweep "
                "cannot. Type hydra/sweeper=search, or single values."
            )
    return [list(job) for job in itertools.product(*choices.values())]


def compose(
    config: DictConfig, overrides: Iterable[Sequence[str]], loader: ConfigLoader
) -> list[Job]:
    """The jobs of a sweep, every value checked.

    Raises:
        SystemExit: naming all jobs that cannot run, and why.
    """
    jobs, problems = [], []
    for words in overrides:
        composed = loader.load_sweep_config(config, list(words))
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        try:
            jobs.append(Job(list(words), split_seeds(validation.typed(composed))))
        except ConfigError as error:
            problems.append(f"{' '.join(words)}:\n  {error}")
    if problems:
        sys.exit("\n".join([*problems, "Nothing was computed."]))
    return jobs


def preview(jobs: Sequence[Job], since: float | None) -> str:
    """What would run and what is done, for `dry_run=true`."""
    lines, counts = [], Counter()
    for place, (label, run) in _labelled(jobs).items():
        ended = store.ended_as(run, since)
        owner = claims.owner(place, run.claims.stale)
        if ended is not None:
            state = {"DONE": "done", "FAILED": "failed before"}[ended]
        elif owner is not None and owner.alive:
            state = "running"
        else:
            again = store.status(place)
            state = "would run" + (f" again, was {again}" if again else "")
        counts[state] += 1
        lines.append(f"  {state:<12}  {place}  {label}")
    total = ", ".join(f"{n} {state}" for state, n in counts.items())
    return "\n".join([*lines, f"{total}. Nothing was computed (dry_run=true)."])


def _begin(config: DictConfig, jobs: Sequence[Job]) -> Record:
    """Write down what the sweep consists of."""
    directory = Path(config.hydra.sweep.dir)
    labels = [(place, label) for place, (label, _) in _labelled(jobs).items()]
    first = jobs[0].runs[0]
    return progress.write(
        directory,
        {
            "command": sys.argv,
            "engine": config.hydra.runtime.choices["hydra/launcher"],
            "swept": _swept(jobs),
            "force": first.force,
            "retry": first.retry,
            "stale": first.claims.stale,
            "runs": progress.planned(directory, labels),
        },
    )


def _labelled(jobs: Sequence[Job]) -> dict[Path, tuple[str, Config]]:
    """Each run once, by its place, with what tells it from the others."""
    swept = _swept(jobs)
    runs: dict[Path, tuple[str, Config]] = {}
    for job in jobs:
        words = [word for word in job.overrides if word.split("=")[0] in swept]
        for run in job.runs:
            label = " ".join([*words, f"seed {run.seed}"])
            runs.setdefault(store.directory(run), (label, run))
    return runs


def _swept(jobs: Sequence[Job]) -> list[str]:
    """The keys in which jobs differ."""
    columns = zip(*(job.overrides for job in jobs), strict=True)
    return [column[0].split("=")[0] for column in columns if len(set(column)) > 1]


def _announce(jobs: Sequence[Job], record: Record) -> None:
    n_asked = sum(len(job.runs) for job in jobs)
    survey = Survey(record)
    done = survey.counts["done"]
    print(
        f"{_count(jobs, 'job')}, {_count(record.runs, 'run')}, {done} finished before"
        + (f", {n} running elsewhere" if (n := survey.counts["running"]) else "")
    )
    if len(record.runs) < n_asked:
        print(
            f"{n_asked - len(record.runs)} of the runs asked for are the same "
            "as others: a value that is swept is not used by what was chosen, such "
            "as proj_dim by kernel=exact."
        )
    sys.stdout.flush()


def _launch_all(jobs: Sequence[Job], record: Record, launch: Launch) -> None:
    """Give jobs to the engine until nothing is left that this sweep can do.

    Runs that another sweep computes are waited for, and taken over if it dies.
    """
    launches: Counter[int] = Counter()
    waiting = broken = False
    while True:
        ready, elsewhere = [], 0
        for number, job in enumerate(jobs):
            states = [_state(run, record) for run in job.runs]
            elsewhere += states.count("elsewhere")
            if "free" in states and launches[number] < _MOST_LAUNCHES and not broken:
                ready.append(number)
        if ready:
            launches.update(ready)
            waiting = False
            try:
                launch([jobs[number].overrides for number in ready], ready[0])
            except Exception as error:  # such as a killed worker; the rest is on disk
                name = type(error).__name__
                print(f"\nThe engine broke off: {name}: {error}", file=sys.stderr)
                broken = True
        elif elsewhere:
            if not waiting:
                words = f"{elsewhere} run{'s' if elsewhere > 1 else ''}"
                print(f"Waiting for {words} that another sweep computes.", flush=True)
            waiting = True
            time.sleep(1.0)
        else:
            return


def _state(run: Config, record: Record) -> str:
    """`ended`, `elsewhere`, `lost` (the process that computed it here died), `free`."""
    if store.ended_as(run, record.began):
        return "ended"
    owner = claims.owner(store.directory(run), run.claims.stale)
    if owner is None:
        return "free"
    if owner.alive:
        return "elsewhere"
    # What killed one process of this sweep would kill the next.
    mine = owner.about.get("sweep") == os.path.abspath(record.directory)
    return "lost" if mine else "free"


def _close(survey: Survey) -> None:
    """The table at the end: what is finished, and where to look for what is not."""
    total = len(survey.states)
    print(f"\n{survey.counts['done']} of {_count(survey.states, 'run')} finished.")
    wide = max((len(run.label) for run in survey.record.runs), default=0)
    for run, state in zip(survey.record.runs, survey.states, strict=True):
        if state != "done":
            error = run.place / "error.txt"
            see = error if error.exists() else run.place
            if state == "failed" and store.status(run.place) == "DONE":
                state = "FAILED, its earlier results stay"
            what = {
                "failed": "FAILED",
                "interrupted": "killed",
                "waiting": "not run",
            }.get(state, state)
            print(f"  {run.label:<{wide}}  {what}: {_short(see)}")
    if survey.counts["done"] < total:
        print("The same command runs these again, and nothing else.")
    studies = dict.fromkeys(run.place.parent for run in survey.record.runs)
    print(f"Results: {', '.join(str(_short(study)) for study in studies)}", flush=True)


def _short(path: Path) -> Path:
    """A path from the working directory, where it lies below it."""
    path = Path(os.path.abspath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _analyze(studies: set[Path], declared: AnalysisConfig) -> bool:
    """Print the tables of each study; whether that worked."""
    from experiments.analyze import analyze

    worked = True
    for study in sorted(map(_short, studies)):
        try:
            print(analyze(study, declared=declared).text, flush=True)
        except Exception as error:  # the runs are there, whatever this is
            print(
                f"The runs are on disk, but their analysis failed: {error}\nTry again: "
                f"python -m experiments.analyze {study}",
                file=sys.stderr,
            )
            worked = False
    return worked


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
