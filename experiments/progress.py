"""Where a sweep stands: what it planned, from its record, against what is on disk.

    <study>/_sweeps/<time>/sweep.json    its runs, written before the first starts
    <study>/_sweeps/<time>/ended.json    how it ended; missing while it goes on

So any process can tell, on any machine that sees the disk.
"""  # noqa: D208

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments import claims, files, store

STATES = ("done", "failed", "running", "interrupted", "waiting")


@dataclass(frozen=True)
class Planned:
    """A run of a sweep: where it belongs, and what tells it from the others."""

    place: Path
    label: str


@dataclass(frozen=True)
class Record:
    """A sweep, as written down before its first run.

    Attributes:
        directory: where the record is.
        began: by the clock of the disk.
        force: whether what ended before the sweep is computed again.
        retry: whether what failed before is.
        stale: seconds of silence after which a run counts as interrupted.
        owner: the process of the sweep.
    """

    directory: Path
    began: float
    command: Sequence[str]
    engine: str
    swept: Sequence[str]
    force: bool
    retry: bool
    stale: float
    owner: Mapping[str, Any]
    runs: Sequence[Planned]

    @property
    def ended(self) -> str | None:
        """How the sweep ended, in words; `None` if it goes on, or was killed."""
        try:
            return json.loads((self.directory / "ended.json").read_text())["how"]
        except (OSError, ValueError, KeyError):
            return None

    @property
    def goes_on(self) -> bool:
        """Whether its process may still be there; on other machines nobody knows."""
        return self.ended is None and not claims.is_dead(self.owner)


def write(directory: Path, content: dict[str, Any]) -> Record:
    """Write a sweep's record, which is when it begins."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {**content, "owner": claims.myself()}
    files.replace(directory / "sweep.json", json.dumps(content, indent=1))
    return read(directory)


def end(record: Record, how: str) -> None:
    """Write down that a sweep is over."""
    files.replace(record.directory / "ended.json", json.dumps({"how": how}))


def read(directory: Path) -> Record:
    """The record of a sweep.

    Raises:
        OSError, ValueError: if there is none, or none that can be read.
    """
    path = directory / "sweep.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        runs = [
            Planned(Path(os.path.normpath(directory / run["place"])), run["label"])
            for run in content.pop("runs")
        ]
        return Record(directory, path.stat().st_mtime, runs=runs, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a sweep: {error}") from error


def records(study: Path) -> list[Record]:
    """The sweeps of a study, the latest last."""
    found = []
    for path in sorted((study / "_sweeps").glob("*/sweep.json")):
        try:
            found.append(read(path.parent))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: record.began)


class Survey:
    """How the runs of a sweep stand at this moment.

    Attributes:
        states: one of `STATES` for each run, in the order of the record.
        now: the moment, by the clock of the disk.
    """

    def __init__(self, record: Record):
        self.record = record
        studies = {run.place.parent for run in record.runs}
        self._owners = {
            study: claims.owners(study, record.stale) for study in sorted(studies)
        }
        self._ended_here = 0
        self.states = [self._state(run.place) for run in record.runs]
        self.now = files.clock(record.directory)

    def _state(self, place: Path) -> str:
        owner = self._owners[place.parent].get(place.name)
        if owner is not None and owner.alive:
            return "running"
        record = self.record
        found = store.ended(
            place, force=record.force, retry=record.retry, since=record.began
        )
        if found is not None:
            self._ended_here += store.ended_at(place) >= record.began
            return "done" if found == "DONE" else "failed"
        return "interrupted" if owner is not None else "waiting"

    @cached_property
    def counts(self) -> Counter[str]:
        """How many runs are in each state."""
        return Counter(self.states)

    @property
    def seconds_left(self) -> float | None:
        """If the rest takes as long as what ended since the sweep began."""
        rest = sum(self.counts[s] for s in ("running", "interrupted", "waiting"))
        if rest == 0:
            return 0.0
        if not self._ended_here:
            return None
        return (self.now - self.record.began) / self._ended_here * rest

    @property
    def line(self) -> str:
        """One line for a person."""
        total = len(self.states)
        parts = [f"{self.counts['done']} of {total} done"]
        parts += [
            f"{self.counts[state]} {state}"
            for state in STATES[1:]
            if self.counts[state]
        ]
        left = self.seconds_left
        if left and self.record.goes_on:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time span in the two largest units that it fills."""
    whole = max(0, round(seconds))
    for size, unit, part, name in ((3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def planned(directory: Path, runs: Iterable[tuple[Path, str]]) -> list[dict[str, str]]:
    """Runs as a record holds them: beside it, wherever the disk is mounted."""
    return [
        {"place": os.path.relpath(place, directory), "label": label}
        for place, label in runs
    ]


def since(record: Record) -> str:
    """When a sweep began, for a person."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.began))
