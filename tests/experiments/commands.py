"""Configs and commands as a user types them, in this process and in miniature."""

import re
import runpy
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import hydra
from omegaconf import DictConfig

from experiments import schema, tree, validation
from experiments.schema import Config

ROOT = Path(__file__).parents[2]
CONF = tree.CONF

# One shape for all, so that runs share their compilations.
SMALL = (
    "dataset=teacher", "precision=f64", "width=8", "depth=1", "n_train=6", "n_test=5",
    "steps=4", "time_grid.n_times=2", "n_samples=32", "proj_dim=20",
)  # fmt: skip


def compose(*overrides: str) -> DictConfig:
    """The config of these overrides, not yet checked."""
    return _compose(*overrides).copy()


@cache  # Hydra takes a tenth of a second
def _compose(*overrides: str) -> DictConfig:
    schema.register()
    tree.register()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("config", list(overrides))


def config(*overrides: str) -> Config:
    """The checked config of these overrides; Hydra composes choices of groups only."""
    choices = [
        override for override in overrides if override.split("=")[0] in options()
    ]
    composed = compose(*choices)
    composed.merge_with_dotlist([o for o in overrides if o not in choices])
    return validation.typed(composed)


def small(*overrides: str) -> Config:
    """A run of a fraction of a second."""
    return config(*SMALL, *overrides)


@cache
def options() -> dict[str, list[str]]:
    """The choices of each group of the experiments' own."""
    return {
        group: names
        for group, names in tree.options().items()
        if not group.startswith("hydra/")
    }


def imported_by(log: str) -> set[str]:
    """The packages that a process with `-X importtime` says it imported."""
    found = re.findall(r"^import time:.*\| +(\S+)$", log, re.MULTILINE)
    return {name.split(".")[0] for name in found}


def run_command(*arguments: str) -> int:
    """`python -m experiments.run` with these arguments; returns its exit code."""
    script = ROOT / "experiments" / "run.py"
    with mock.patch.object(sys, "argv", [str(script), *arguments]):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            if isinstance(stop.code, str):  # as the interpreter does
                print(stop.code, file=sys.stderr)
                return 1
            return stop.code or 0
    return 0
