"""How far two trajectories are apart, and how far a network moved: rows of a table."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiments.datasets import Dataset
from experiments.losses import Objective
from experiments.tables import ALL_LAYERS, PARAMETERS, TEST, TRAIN
from experiments.trajectory import Trajectory


class Measurement(NamedTuple):
    """One value: which metric, on what, after how many steps."""

    metric: str
    split: str
    step: int
    value: float


def trajectories(
    network: Trajectory,
    prediction: Trajectory,
    dataset: Dataset,
    objective: Objective,
) -> Iterator[Measurement]:
    """Network against prediction at every step, on both splits.

    Args:
        network: outputs of the trained network.
        prediction: outputs that the kernel predicts, at the same steps.
        dataset: the targets of both splits, in the same order.
        objective: the loss.
    """
    for split in (TRAIN, TEST):
        f, p = getattr(network, split), getattr(prediction, split)
        y = objective.y_train if split == TRAIN else objective.y_test
        losses = [objective.over_time(outputs, y) for outputs in (f, p)]
        # in float64: float32 cannot square a difference near its rounding
        f, p = f.astype(np.float64), p.astype(np.float64)
        targets = dataset.y_train if split == TRAIN else dataset.y_test
        apart = _norms(f - p)
        values = {
            "rmse": _rms(f - p),
            "relative_divergence": apart / _moved(f),
            "loss_network": losses[0],
            "loss_prediction": losses[1],
            "error_network": _rms(f - targets) if objective.is_squared else None,
            "error_prediction": _rms(p - targets) if objective.is_squared else None,
            "accuracy_network": dataset.accuracy(f, split),
            "accuracy_prediction": dataset.accuracy(p, split),
        }
        for metric, over_time in values.items():
            if over_time is not None:
                for step, value in zip(network.steps, over_time, strict=True):
                    yield Measurement(metric, split, int(step), float(value))


def movement(
    step: int,
    start: Mapping[str, list[np.ndarray]],
    now: Mapping[str, list[np.ndarray]],
) -> Iterator[Measurement]:
    """How far each layer has moved, absolutely and relative to its initial norm."""
    squares = {
        layer: (
            _square(a - b for a, b in zip(now[layer], start[layer], strict=True)),
            _square(start[layer]),
        )
        for layer in start
    }
    moved, initial = (sum(pair[i] for pair in squares.values()) for i in (0, 1))
    for layer, (change, norm) in {**squares, ALL_LAYERS: (moved, initial)}.items():
        yield Measurement(f"movement_absolute/{layer}", PARAMETERS, step, change**0.5)
        yield Measurement(
            f"movement_relative/{layer}", PARAMETERS, step, (change / norm) ** 0.5
        )


def _square(arrays: Iterable[np.ndarray]) -> float:
    return sum(float(np.sum(a.astype(np.float64) ** 2)) for a in arrays)


def _norms(outputs: np.ndarray) -> np.ndarray:
    """Norm over examples and outputs, at each time."""
    return np.sqrt(np.sum(outputs.reshape(len(outputs), -1) ** 2, axis=1))


def _rms(outputs: np.ndarray) -> np.ndarray:
    """Root mean square over examples and outputs, at each time."""
    return _norms(outputs) / np.sqrt(outputs[0].size)


def _moved(f: np.ndarray) -> float:
    """How far the outputs went from start to end.

    Raises:
        ValueError: if they did not move, so that no divergence is relative to it.
    """
    moved = float(_norms(f[-1:] - f[:1])[0])
    if moved == 0:
        raise ValueError(
            "The network's outputs did not move in training, so no divergence is "
            "relative to their movement. Raise optimizer.learning_rate or steps."
        )
    return moved
