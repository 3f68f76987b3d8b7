"""Configs and curves of a study in an SQLite file for MLflow.

Finished runs only, by one process: MLflow's file has one writer and is no place for
runs that are being computed.
"""

import math
from pathlib import Path
from typing import Any

from experiments.exports.missing import need
from experiments.exports.points import points
from experiments.study import Study
from experiments.tables import is_config_column

_AT_ONCE = 1000  # metrics that MLflow takes in one call
_ID = "equintk.run"


def write(study: Study, out: Path) -> list[Path]:
    """Add the runs that the file `out` does not have yet.

    The experiment has the study's name; `mlflow ui --backend-store-uri sqlite:///OUT`
    shows it.
    """
    need("mlflow", "mlflow")
    from mlflow.entities import Metric, Param, RunTag  # type: ignore
    from mlflow.tracking import MlflowClient  # type: ignore

    out.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{out.resolve()}")
    name = study.path.resolve().name
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    known = _known(client, experiment)
    curves = points(study)
    for row in study.runs.summaries.to_dict("records"):
        if row["run"] in known:
            continue
        run = client.create_run(experiment, run_name=str(row["run"])).info.run_id
        params = [
            Param(key, str(value))
            for key, value in row.items()
            if (is_config_column(key) or key == "seed") and value == value
        ]
        client.log_batch(run, params=params)
        metrics = [
            Metric(_name(f"{at.metric}/{at.split}/{at.network}"), at.value, 0, at.step)
            for at in curves[str(row["run"])]
            if math.isfinite(at.value)
        ]
        for start in range(0, len(metrics), _AT_ONCE):
            client.log_batch(run, metrics=metrics[start : start + _AT_ONCE])
        # last: a run without this tag was cut short, and is written again
        client.log_batch(run, tags=[RunTag(_ID, str(row["run"]))])
        client.set_terminated(run)
    return [out]


def _known(client: Any, experiment: str) -> set[str]:
    """The ids of the runs that are there; what was cut short is deleted."""
    known: set[str] = set()
    token = None
    while True:
        found = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in found:
            if _ID in run.data.tags:
                known.add(run.data.tags[_ID])
            else:
                client.delete_run(run.info.run_id)
        token = found.token
        if not token:
            return known


def _name(metric: str) -> str:
    """MLflow allows no brackets."""
    return metric.replace("[", "").replace("]", "")
