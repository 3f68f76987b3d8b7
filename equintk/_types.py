"""Names for the arguments that many functions share.

At run time they admit anything: what an argument must be is checked by `_checks` and
`_inputs`, whose errors say what to type and must come before a type checker's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

AnyArray: TypeAlias = Array | np.ndarray
"""What a kernel is: on a device, or with `out="host"` in the host's memory."""

if TYPE_CHECKING:
    Model: TypeAlias = Callable[..., Any]
    """An `equinox.Module` with parameters: `model(x)` maps one example to one array."""

    ModelFn: TypeAlias = Callable[[Any], Model]
    """Builds a model from a JAX random key."""

    Examples: TypeAlias = PyTree
    """An array, or a PyTree of arrays, whose first axis counts examples."""

    Targets: TypeAlias = ArrayLike
    """`(n, *out)`: one array of the shape of an output for each example."""

    Trainable: TypeAlias = PyTree | Callable[[Any], bool] | None
    """As in `equinox.partition`; `None` is every inexact array outside its state."""

    Key: TypeAlias = Any
    """A JAX random key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""

    Times: TypeAlias = ArrayLike | Sequence[float]
    """A number, or several, which give the result a time axis in front."""

    Progress: TypeAlias = bool | Callable[[int, int], object]
    """`True`: lines on stderr; a callable is given what is done and what there is."""

    Transform: TypeAlias = Callable[[Any], PyTree]
    """Any function of a model."""

    Directory: TypeAlias = str | Path | None
    """Where finished parts of a computation are kept; `None` for nowhere."""

    Axes: TypeAlias = int | Sequence[int] | None
    """Axes of an output, for one example; negative ones count from the last."""

    Integer: TypeAlias = int
    Integers: TypeAlias = int | Sequence[int]
    Number: TypeAlias = float
    Text: TypeAlias = str
else:
    Model = ModelFn = Examples = Targets = Trainable = Key = Times = Progress = Any
    Transform = Axes = Directory = Integer = Integers = Number = Text = Any
