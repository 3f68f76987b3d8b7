"""Outputs through training time: of a trained network, or of a kernel's prediction."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """Outputs on both splits after some numbers of training steps.

    Attributes:
        steps: strictly increasing integers, `(n_times,)`.
        train: outputs, `(n_times, n_train, *out)`.
        test: outputs, `(n_times, n_test, *out)`.

    Raises:
        ValueError: if they do not fit together.
    """

    steps: np.ndarray
    train: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        steps = self.steps
        if (
            steps.ndim != 1
            or steps.dtype.kind not in "iu"
            or np.any(np.diff(steps) <= 0)
        ):
            raise ValueError(
                "`steps` must be strictly increasing integers, but they are "
                f"{steps.tolist()}; `experiments.times.build` gives such."
            )
        for name, outputs in (("train", self.train), ("test", self.test)):
            if outputs.ndim < 2 or len(outputs) != len(steps):
                raise ValueError(
                    f"`{name}` must have shape ({len(steps)}, n_{name}, *out), one "
                    f"entry for each of the {len(steps)} steps, but its shape is "
                    f"{outputs.shape}."
                )
        if self.train.shape[2:] != self.test.shape[2:]:
            raise ValueError(
                "`train` and `test` must hold outputs of one shape, but one output has "
                f"shape {self.train.shape[2:]} in `train` and "
                f"{self.test.shape[2:]} in `test`."
            )
