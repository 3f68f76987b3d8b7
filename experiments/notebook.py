"""Runs from a notebook: the overrides of a command in, a table out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import job, store
from experiments.schema import Config

if TYPE_CHECKING:
    import pandas as pd


class RunFailed(RuntimeError):
    """A run that was asked for has no results; the text says where its traceback is."""


def run(
    overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = ()
) -> "pd.DataFrame":
    """Compute runs in this process, unless they are finished; read them back.

    Args:
        overrides: as on the command line, `["kernel=mc", "proj_dim=100,1000"]`. Commas
            sweep, without `-m`; `experiment=...` sweeps what it declares.
        config_dirs: directories of configs of your own, as `--config-dir`.

    Returns:
        one row per run: its config values, and the metrics of its last step.

    Raises:
        ConfigError: if a value is out of range, before anything is computed.
        RunFailed: if a run failed, after all have been tried.
    """
    from experiments.reading import load_runs

    places = {}
    for asked, one in _runs(overrides, [Path(path) for path in config_dirs]):
        place = store.directory(one)
        if place not in places:
            places[place] = job.run_once(one, asked)
    failed = [place for place in places if store.status(place) != "DONE"]
    if failed:
        error = failed[0] / "error.txt"
        see = error if error.exists() else failed[0]
        raise RunFailed(f"{len(failed)} of {len(places)} runs are not there, see {see}")
    return load_runs(*places)[0]


def _runs(
    overrides: Sequence[str], config_dirs: Sequence[Path]
) -> list[tuple[job.Asked, Config]]:
    """Every run that is asked for, all of them checked."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict, read_write

    from experiments import schema, tree, validation
    from experiments.sweep import job_overrides

    schema.register()
    tree.register()
    added = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    search = [f"hydra.searchpath=[{added}]"] if added else []
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(
        version_base="1.3", config_dir=str(tree.CONF.resolve())
    ):

        def compose(words: Sequence[str]) -> Any:
            words = [*words, *search]
            return hydra.compose("config", words, return_hydra_config=True)

        chosen = [word for word in overrides if word.startswith("experiment=")]
        runs = []
        for words in job_overrides(overrides, compose(chosen).hydra.sweeper.params):
            composed = compose(words)
            asked = job.Asked(
                tuple(words), job.choices(composed.hydra), "notebook",
                config_dirs=tuple(str(path.resolve()) for path in config_dirs),
            )  # fmt: skip
            with read_write(composed), open_dict(composed):
                del composed["hydra"]
            typed = validation.typed(composed)
            runs += [(asked, run) for run in job.split_seeds(typed)]
        return runs
