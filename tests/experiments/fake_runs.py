"""Run directories as `experiments.run` leaves them, with laws known by construction."""

import csv
import hashlib
import json
import math
import random
from pathlib import Path

import yaml

# metric at the last step: (value at width 1, slope)
LAWS = {
    "relative_divergence_test": (4.0, -0.9),
    "relative_divergence_train": (3.0, -0.9),
    "rmse_test": (5.0, -0.9),
    "kernel_drift": (6.0, -0.85),
    "movement_relative/input": (0.5, -0.5),
    "movement_relative/hidden[0]": (2.5, -1.0),
    "movement_relative/readout": (2.0, -0.5),
    "movement_relative/all": (0.8, -0.6),
    "movement_absolute/all": (5.0, 0.0),
}
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def write_study(
    study: Path,
    widths,
    seeds=3,
    *,
    noise=0.2,
    analysis=None,
    network="all",
    config=None,
) -> list[Path]:
    """One run per width and seed; `config` holds dotted keys of the summary."""
    return [
        write_run(study, width, seed, noise, analysis or {}, network, config or {})
        for width in widths
        for seed in range(seeds)
    ]


def write_run(study, width, seed, noise, analysis, network, config) -> Path:
    values = {"model.name": "mlp", "model.width": width, "dataset.name": "digits"}
    values |= {"kernel.name": "exact", "loss": "sum", "ridge": 0.0} | config
    identity = json.dumps([values, seed])
    run = "r" + hashlib.sha256(identity.encode()).hexdigest()[:12]
    draw = random.Random(identity)
    last = {
        name: scale * width**slope * math.exp(draw.gauss(0, noise))
        for name, (scale, slope) in LAWS.items()
    }
    fixed = {"n_params": width**2, "learning_rate": 0.1, "largest_eigenvalue": 10.0}
    fixed |= {"stability_bound": 0.2, "seconds": 1.5}
    ids = {"run": run, "seed": seed}
    directory = study / run
    write_csv(directory / "summary.csv", [ids | values | fixed | last])
    write_csv(
        directory / "curves.csv",
        [
            ids
            | {"kernel": values["kernel.name"], "network": network, "step": step}
            | {"time": 0.1 * step, "split": split, "metric": "relative_divergence"}
            | {"value": last[f"relative_divergence_{split}"] * (step / 256) ** 0.4}
            for split in ("train", "test")
            for step in STEPS
        ],
    )
    config_yaml = yaml.safe_dump({"ridge": 0.0, "analysis": analysis})
    (directory / "config.yaml").write_text(config_yaml)
    (directory / "status.json").write_text('{"status": "DONE"}')
    return directory


def write_failed(study: Path, name="rffffffffffff", error="MemoryError: 9 GB") -> Path:
    directory = study / name
    directory.mkdir(parents=True)
    (directory / "status.json").write_text('{"status": "FAILED"}')
    (directory / "error.txt").write_text(f"Traceback:\n  File ...\n{error}\n")
    return directory


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
