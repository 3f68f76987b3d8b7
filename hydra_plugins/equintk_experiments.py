"""What Hydra finds here by itself: the sweeper and the engine of the experiments.

Imports nothing of them before they are used, since every Hydra application on the same
machine finds this file too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class RunsConfig:
    """What a study sweeps by itself."""

    _target_: str = "hydra_plugins.equintk_experiments.Runs"
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="runs", node=RunsConfig, provider="equintk"
)


class Runs(Sweeper):
    """Skips what is finished and shares the rest with other sweeps."""

    def __init__(self, params: dict[str, str] | None = None):
        self._params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction,
        config: DictConfig,
    ) -> None:  # fmt: skip
        """Keep what a sweep needs; the engine is made only if there is work for it."""
        self._loader, self._config = hydra_context.config_loader, config
        self._given: dict[str, Any] = {
            "hydra_context": hydra_context,
            "task_function": task_function,
            "config": config,
        }

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep."""
        from experiments import sweep

        sweep.run(self._config, arguments, self._params, self._loader, self._launch)

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        from hydra.core.plugins import Plugins

        engine = Plugins.instance().instantiate_launcher(**self._given)
        engine.launch(jobs, initial_job_idx=first)


class Processes(Launcher):
    """One process for each job; one that dies takes nothing else with it."""

    def __init__(self, n_jobs: int):
        if not isinstance(n_jobs, int) or n_jobs < 1:
            raise ValueError(
                f"hydra.launcher.n_jobs={n_jobs} is out of range: it must be a whole "
                "number, at least 1."
            )
        self._n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction,
        config: DictConfig,
    ) -> None:  # fmt: skip
        """Keep what every job needs."""
        self._given = (hydra_context, task_function, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs."""
        from experiments import supervisor

        return supervisor.launch(
            *self._given, job_overrides, initial_job_idx, self._n_jobs
        )
