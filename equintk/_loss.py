"""The squared loss `L = (c/2) * sum (f - y)^2`, and the names of its constant `c`."""

import math
from typing import Any

import numpy as np

SCALES = {
    "sum": lambda n_train, out_size: 1.0,
    "mean_over_examples": lambda n_train, out_size: 1 / n_train,
    "mean": lambda n_train, out_size: 1 / (n_train * out_size),
}


def loss_scale(name: Any, y_train: Any) -> float:
    """The constant `c` of the loss `L = (c/2) * sum (f - y)^2`, by the loss's name.

    Args:
        name: what is done with ½(f - y)² over examples and outputs. `"sum"`: c = 1.
            `"mean_over_examples"`, a sum over the outputs: c = 1/n_train. `"mean"`
            over examples and outputs: c = 1/(n_train * out_size).
        y_train: the targets, `(n_train, *out)`; only their shape is read.

    Returns:
        The `c` of `nt.predict.GradientFlow` and its like. The mean squared error
        without the half, `jnp.mean((f - y)**2)`, has twice the `c` of `"mean"`.

    Raises:
        ValueError: for an unknown name, or targets without examples or outputs.
    """
    if not isinstance(name, str) or name not in SCALES:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, SCALES))}, but it is "
            f"{name!r}. The mean squared error without the half is "
            "`2 * loss_scale('mean', y_train)`."
        )
    shape = tuple(y_train.shape) if hasattr(y_train, "shape") else np.shape(y_train)
    if not shape or math.prod(shape) == 0:
        raise ValueError(
            "`y_train` must hold at least one target, with a first axis that counts "
            f"examples, but it has shape {shape}. For a single example pass "
            "`y_train[None]`."
        )
    return SCALES[name](shape[0], math.prod(shape[1:]))
