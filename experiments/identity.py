"""What decides a run's results: which config values, and the user's own files.

Imports no jax.
"""

import contextlib
import dataclasses
import enum
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.schema import Config

# What decides a run's results: the groups hold whatever short names they use.
IDENTITY = (
    "task", "model", "dataset", "kernel", "parameterization", "time_grid", "optimizer",
    "precision", "loss", "dynamics", "ridge", "seed",
)  # fmt: skip

# What a task does without makes no other run of it.
_USED = {
    "training": IDENTITY,
    "classification": ("task", "dataset", "seed"),
}


def identity(config: Config) -> dict[str, Any]:
    """What decides a run's results, as plain values."""
    found = {key: _plain(getattr(config, key)) for key in _USED[config.task.name]}
    for key in found:
        node = getattr(config, key)
        for f in dataclasses.fields(node) if dataclasses.is_dataclass(node) else ():
            if "own" in f.metadata:
                digest = _digest(getattr(node, f.name), f.metadata["own"])
                found[key][f"{f.name}_digest"] = digest
    return found


def plain(config: Config) -> dict[str, Any]:
    """The whole config as plain values."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _digest(name: str, kind: str) -> str:
    """Of a user's file: when it changes, so do the results."""
    try:
        if kind == "code":
            # As `python -m` does, but also from a console script.
            with _importable_from_here():
                spec = importlib.util.find_spec(name.partition(":")[0])
            path = Path(spec.origin) if spec and spec.origin else None
        else:
            path = Path(name)
        content = path.read_bytes() if path else b""
    except (OSError, ImportError, ValueError):
        return "missing"  # which the run will say
    return "d" + hashlib.sha256(content).hexdigest()[:12]


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
