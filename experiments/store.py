"""A run's identity and its directory, which is there whole or not at all.

A run is written under a temporary name beside its place and renamed into it, so that
nobody ever reads half a run and a kill at any moment loses nothing that was finished.
"""

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from experiments.schema import Config, identity, plain

# Raised whenever the meaning of a config value or a result changes, so that old runs
# are not taken for new ones.
RESULTS_FORMAT = 1

_PACKAGES = ("equintk", "jax", "jaxlib", "equinox", "optax", "numpy", "pandas")


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


def status(where: Path) -> str | None:
    """`DONE` or `FAILED`; `None` where no run has ended, or none that can be read."""
    try:
        return json.loads((where / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_done(
    config: Config,
    curves: Iterable[Sequence[Any]],
    columns: Sequence[str],
    summary: Mapping[str, Any],
    seconds: float,
) -> Path:
    """Write a finished run, in place of whatever run of this config was there."""
    flat = {
        "run": run_id(config),
        "seed": config.seed,
        **_flat(identity(config)),
        **summary,
    }
    files = {
        "curves.csv": _csv(columns, curves),
        "summary.csv": _csv(flat, [list(flat.values())]),
    }
    return _write(config, "DONE", seconds, files)


def write_failed(config: Config, error: str, seconds: float) -> Path:
    """Write why a run failed; one that was finished before keeps its tables."""
    place = directory(config)
    if status(place) == "DONE":
        (place / "error.txt").write_text(error, encoding="utf-8")
        return place
    return _write(config, "FAILED", seconds, {"error.txt": error})


def _write(
    config: Config, status: str, seconds: float, files: Mapping[str, str]
) -> Path:
    place = directory(config)
    place.parent.mkdir(parents=True, exist_ok=True)
    files = {
        **files,
        "config.yaml": yaml.safe_dump({**plain(config), "seeds": 1}, sort_keys=False),
        "provenance.json": json.dumps(_provenance(seconds), indent=1),
        "status.json": json.dumps({"status": status}),
    }
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for name, text in files.items():
            with open(temporary / name, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        _rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def _rename(temporary: Path, place: Path) -> None:
    """Put a directory in its place; what was there is moved aside, then removed."""
    old = temporary.with_name(temporary.name + ".old")
    try:
        os.rename(place, old)
    except FileNotFoundError:
        pass
    try:
        os.rename(temporary, place)
    except OSError:
        # Another process finished the same run in between: its results are the same.
        if status(place) is None:
            if old.exists():
                os.rename(old, place)
            raise
    shutil.rmtree(old, ignore_errors=True)


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


def _provenance(seconds: float) -> dict[str, Any]:
    """What the run was computed with."""
    import jax

    commit = _git("rev-parse", "HEAD")
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 3),
        "command": sys.argv,
        "git_commit": commit,
        "git_changes": None if commit is None else bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "devices": [str(device) for device in jax.devices()],
        "cores": _cores(),
        "x64": jax.config.jax_enable_x64,  # type: ignore
    }


def _cores() -> int | None:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout this file is in; `None` outside one."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True,
            text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
