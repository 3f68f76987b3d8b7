"""A run's identity, its directory, and what is written into it.

A run is computed in a directory that `claims` gives to one process only, and renamed
into its place when it is whole. So nobody ever reads half a run, and a kill at any
moment loses nothing that was finished.
"""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments import claims, files
from experiments.claims import Claim
from experiments.identity import identity, plain
from experiments.schema import Config, ConfigError

# Raised whenever the meaning of a config value or a result changes, so that old runs
# are not taken for new ones.
RESULTS_FORMAT = 2


def run_id(config: Config) -> str:
    """`r` and twelve hexadecimal digits of everything that decides the results.

    The letter keeps `1234e5` from being read as a number.
    """
    content = {"format": RESULTS_FORMAT, **identity(config)}
    text = json.dumps(content, sort_keys=True)
    return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]


def directory(config: Config) -> Path:
    """Where the run of this config lives."""
    return Path(config.output_dir) / config.study / run_id(config)


def make_room(config: Config) -> None:
    """Make the directory of a study, before anything is computed for it.

    Raises:
        ConfigError: if results could not be written there.
    """
    study = directory(config).parent
    try:
        study.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=study, prefix="."):
            pass
    except OSError as error:
        raise ConfigError(
            f"output_dir={config.output_dir} cannot be written to: {error}. Type "
            "output_dir=DIRECTORY, one that you may write to."
        ) from error


def status(where: Path) -> str | None:
    """`DONE` or `FAILED`; `None` where no run has ended, or none that can be read."""
    return claims.read(where).get("status")


def ended(
    place: Path, *, force: bool, retry: bool, since: float | None = None
) -> str | None:
    """How a run ended, if there is nothing left to compute; `None` if there is.

    Args:
        place: where the run lives.
        force: whether it is to be computed again in any case.
        retry: whether it is to be computed again if it failed.
        since: when what asks for the run began, by the clock of the disk. What was
            computed after that is not repeated again.
    """
    found = status(place)
    if since is not None:
        # a repetition that failed leaves the tables of the run before
        if found == "DONE" and _when(place / "error.txt") >= since:
            return "FAILED"
        if _when(place / "status.json") >= since:
            return found
    return None if force or (found == "FAILED" and retry) else found


def ended_at(place: Path) -> float:
    """When a run ended, by the clock of the disk; minus infinity if it has not."""
    return max(_when(place / "status.json"), _when(place / "error.txt"))


def ended_as(config: Config, since: float | None = None) -> str | None:
    """As `ended`, of the run of this config."""
    place = directory(config)
    return ended(place, force=config.force, retry=config.retry, since=since)


def claim(config: Config, about: Mapping[str, Any]) -> Claim | None:
    """The right to compute a run; `None` if another process does."""
    return claims.take(directory(config), config.claims.stale, about)


def write_done(
    config: Config,
    claim: Claim,
    curves: Iterable[Sequence[Any]],
    columns: Sequence[str],
    summary: Mapping[str, Any],
    record: Mapping[str, Any],
    patch: str = "",
) -> Path:
    """Write a finished run, in place of whatever run of this config was there.

    Args:
        config: of one run.
        claim: what `claim` gave for it.
        curves: the rows of `curves.csv`.
        columns: their names.
        summary: what was measured, for `summary.csv`.
        record: what the run was computed with, see `provenance`.
        patch: what differs from the commit in `record`.

    Raises:
        claims.Lost: if another process took over; nothing is written.
    """
    texts = tables(config, curves, columns, summary)
    return _write(config, claim, "DONE", record, patch, texts)


def tables(
    config: Config,
    curves: Iterable[Sequence[Any]],
    columns: Sequence[str],
    summary: Mapping[str, Any],
) -> dict[str, str]:
    """The texts of `curves.csv` and `summary.csv`."""
    flat = {
        "run": run_id(config),
        "seed": config.seed,
        **_flat(identity(config)),
        **summary,
    }
    return {
        "curves.csv": _csv(columns, curves),
        "summary.csv": _csv(flat, [list(flat.values())]),
    }


def write_failed(
    config: Config,
    claim: Claim,
    error: str,
    record: Mapping[str, Any],
    patch: str = "",
) -> Path:
    """Write why a run failed; one that was finished before keeps its tables.

    Raises:
        claims.Lost: as `write_done`.
    """
    place = directory(config)
    if status(place) == "DONE":
        if claim.lost:
            raise claims.Lost(place.name)
        files.replace(place / "error.txt", error)
        claim.release()
        return place
    return _write(config, claim, "FAILED", record, patch, {"error.txt": error})


def _write(
    config: Config,
    claim: Claim,
    status: str,
    record: Mapping[str, Any],
    patch: str,
    texts: Mapping[str, str],
) -> Path:
    texts = {
        **texts,
        "config.yaml": yaml.safe_dump({**plain(config), "seeds": 1}, sort_keys=False),
        "provenance.json": json.dumps(record, indent=1, default=str),
    }
    if patch:
        texts["changes.patch"] = patch
    try:
        for name, text in texts.items():
            files.write(claim.work / name, text)
        claim.end(status)
    except FileNotFoundError as error:
        raise claims.Lost(claim.place.name) from error
    claim.commit()
    return claim.place


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("-inf")


def _csv(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config values under names joined by dots."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "seed" or prefix:
            flat[f"{prefix}{key}"] = value
    return flat
