"""The command: `python -m experiments.run`, one run or a sweep of them.

    python -m experiments.run                                  one run on real data
    python -m experiments.run kernel=mc proj_dim=100,1000 -m   a sweep
    python -m experiments.run experiment=width_scaling         a question

Imports no jax before a run starts, so that `--help` and a refused value answer at once.
"""

import difflib
import os
import signal
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments import schema, tree, validation
from experiments.job import Asked, objective, run_job, split_seeds
from experiments.notebook import run as run
from experiments.schema import ConfigError


def task(config: DictConfig) -> float | None:
    """One job: `seeds` runs. In a sweep it never raises, so that the others go on."""
    try:
        job = validation.typed(config)
    except ConfigError as error:
        sys.exit(f"{error}\nNothing was computed.")
    if HydraConfig.get().runtime.choices["hydra/sweeper"] == "search":
        _needs_objective(job)
    asked = Asked.by_hydra(HydraConfig.get())
    if job.dry_run:
        from experiments.sweep import Job, preview

        print(preview([Job([], split_seeds(job))], asked.since))
        return None
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        ok = run_job(job, asked)
    except ConfigError as error:  # there is no room for the results
        sys.exit(f"{error}\nNothing was computed.")
    except Exception:  # outside any run, such as a full disk
        if not alone:  # where Hydra would say so at the very end, or never
            traceback.print_exc()
        raise
    if alone and not ok:
        sys.exit(1)
    return objective(job)


def _needs_objective(job: schema.Config) -> None:
    if job.objective is None:
        sys.exit(
            "hydra/sweeper=search makes a column of summary.csv small, but none is "
            "named. Type objective=rmse_test, or another.\nNothing was computed."
        )


def main() -> None:
    """Run the command; a mistyped key is answered with the nearest valid one."""
    schema.register()
    tree.register()
    # Told to stop by `kill` or by a queue, it does what it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = hydra.main(
        version_base="1.3", config_path=str(tree.CONF), config_name="config"
    )
    try:
        command(task)()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "\nStopped. What was finished is kept; the same command goes on.",
            file=sys.stderr,
        )
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == 2:  # its options do not stand where Hydra looks for them
            print("Type options such as -m after all values.", file=sys.stderr)
        elif stop.code not in (0, None):
            for argument in sys.argv[1:]:
                hint = _hint(argument)
                if hint:
                    print(hint, file=sys.stderr)
        raise


def _hint(argument: str) -> str | None:
    """What was probably meant by an argument that Hydra refused."""
    key, equals, value = argument.partition("=")
    if not equals:
        return None
    offered = tree.options().get(key)
    if offered is None:
        if nearest := validation.nearest_key(key):
            return f"`{key}` is no key: did you mean `{nearest}`?"
        for name in value.split(","):
            if nearest := validation.nearest_name(key, name):
                return f"`{key}={name}` is no choice: did you mean `{key}={nearest}`?"
        return None
    for name in value.split(","):
        close = difflib.get_close_matches(name, offered, n=1)
        if name not in offered and close:
            return f"`{key}={name}` is no choice: did you mean `{key}={close[0]}`?"
        if name in offered and (missing := tree.missing_extra(name)):
            return missing
    return None


if __name__ == "__main__":
    # Under its own name, by which processes of a sweep find `task` again.
    from experiments.run import main as command

    command()
