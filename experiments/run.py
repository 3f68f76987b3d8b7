"""The command: `python -m experiments.run`, one run or a sweep of them.

    python -m experiments.run                                  one run on real data
    python -m experiments.run kernel=mc proj_dim=100,1000 -m   a sweep
    python -m experiments.run experiment=width_scaling         a question

Imports no jax before a run starts, so that `--help` and a refused value answer at once.
"""

import dataclasses
import sys
import time
import traceback
from typing import NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments import schema, store
from experiments.schema import Config, ConfigError


class Outcome(NamedTuple):
    """How one run ended, in words for a person."""

    ok: bool
    text: str


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _job(config: DictConfig) -> None:
    """One job: `seeds` runs. In a sweep it never raises, so that the others go on."""
    try:
        job = schema.typed(config)
    except ConfigError as error:
        sys.exit(f"{error}\nNothing was computed.")
    outcomes = [run_once(one_seed) for one_seed in split_seeds(job)]
    alone = HydraConfig.get().mode == RunMode.RUN
    if alone and not all(outcome.ok for outcome in outcomes):
        sys.exit(1)


def split_seeds(job: Config) -> list[Config]:
    """The runs of a job: they differ in their seed alone."""
    return [
        dataclasses.replace(job, seed=job.seed + i, seeds=1) for i in range(job.seeds)
    ]


def run_once(config: Config) -> Outcome:
    """Compute and write one run, unless it is finished already; says what happened."""
    place = store.directory(config)
    label = f"seed {config.seed}"
    if store.status(place) == "DONE" and not config.force:
        again = "force=true repeats it"
        return _say(True, f"{label}: finished before, see {place} ({again})")
    # After the answer to what needs no computing: jax takes two seconds to import.
    from experiments import pipeline
    from experiments.tables import CURVE_COLUMNS

    began = time.monotonic()
    try:
        results = pipeline.run(config, store.run_id(config))
    except Exception as error:
        seconds = time.monotonic() - began
        place = store.write_failed(config, traceback.format_exc(), seconds)
        return _say(False, f"{label}: FAILED, see {place / 'error.txt'}\n  {error}")
    seconds = time.monotonic() - began
    found = results.summary
    store.write_done(config, results.curves, list(CURVE_COLUMNS), found, seconds)
    numbers = [
        f"{name} {found[column]:.3g}"
        for name, column in (
            ("relative test divergence", "relative_divergence_test"),
            ("kernel drift", "kernel_drift"),
            ("test accuracy", "accuracy_network_test"),
        )
        if column in found
    ]
    return _say(True, f"{label}: {', '.join(numbers)}; {seconds:.1f} s, {place}")


def _say(ok: bool, text: str) -> Outcome:
    print(text, flush=True)
    return Outcome(ok, text)


def main() -> None:
    """Run the command; a mistyped key is answered with the nearest valid one."""
    schema.register()
    try:
        _job()
    except SystemExit as stop:
        if stop.code not in (0, None):
            for argument in sys.argv[1:]:
                key, equals, _ = argument.partition("=")
                nearest = schema.nearest_key(key) if equals else None
                if nearest:
                    hint = f"`{key}` is no key: did you mean `{nearest}`?"
                    print(hint, file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
