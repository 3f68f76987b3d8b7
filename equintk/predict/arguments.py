"""The arguments that all dynamics take, checked, and what they return."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .. import _checks, _inputs
from .state import State


def start(f0_train: Any, shape: tuple[int, ...]) -> State:
    """The state to start from; of outputs at initialisation, one at rest."""
    if not isinstance(f0_train, State):
        f0_train = outputs("f0_train", f0_train, shape)
        zeros = np.zeros(f0_train.shape, f0_train.dtype)
        return State(f0_train, zeros, zeros)
    fields = ("f_train", "coefficients", "velocity")
    return State(
        *(outputs(f"f0_train.{f}", getattr(f0_train, f), shape) for f in fields)
    )


def outputs(name: str, f0: Any, needed: tuple[int, ...]) -> Any:
    """Outputs of some examples.

    Raises:
        ValueError: if they are not of the shape that is needed.
    """
    f0 = array(name, f0)
    if f0.shape != needed:
        raise ValueError(
            f"`{name}` must hold the outputs at initialisation, of shape {needed}, "
            f"but it has shape {f0.shape}. For the mean over infinitely wide "
            f"networks, whose outputs start at zero, type `jnp.zeros({needed})`."
        )
    return f0


def test_kernel(k_test_train: Any, shape: tuple[int, ...], coupled: bool) -> Any:
    """The kernel between test inputs and training inputs with outputs of a shape.

    Raises:
        ValueError: if it is not of the same kind as the train-train kernel.
    """
    kernel = array("k_test_train", k_test_train)
    n, *out = shape
    rest = (n, *out, *out) if coupled else (n,)
    if kernel.ndim == 0 or kernel.shape[1:] != rest or kernel.size == 0:
        kind = "`ntk_full`" if coupled else "`ntk`, averaged over outputs"
        raise ValueError(
            f"`k_test_train` must be of the same kind as `k_train_train` ({kind}), "
            f"of shape (m, {', '.join(map(str, rest))}) for m test inputs, but it "
            f"has shape {kernel.shape}. Its rows are test inputs, its columns "
            "training inputs: `nt.ntk(model, x_test, x_train)`."
        )
    return kernel


def in_range(outputs: Any, dtype: Any) -> Any:
    """The outputs in the user's precision."""
    if _checks.is_traced(outputs):
        return jnp.asarray(outputs, dtype)
    with np.errstate(over="ignore"):
        outputs = np.asarray(outputs).astype(dtype)
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"A prediction leaves the range of {dtype}: the targets, the outputs at "
            "the start or the kernel are too large. Scale them, or pass float64 arrays "
            "under `jax.config.update('jax_enable_x64', True)`."
        )
    return jnp.asarray(outputs)


def array(name: str, value: Any) -> Any:
    """A finite floating-point array of NumPy or JAX.

    Raises:
        ValueError: if it is none.
    """
    return _checks.finite(name, _inputs.real(name, value))


def number(value: Any) -> Any:
    """A `float`, which never promotes an array, where the value is known."""
    return value if _checks.is_traced(value) else float(value)


def moments(name: str, value: Any, needed: str, holds: Callable[[Any], Any]) -> Any:
    """Times or steps: one number or a list of them, infinity allowed.

    Raises:
        ValueError: if there is none, or one of them is NaN or does not hold.
    """
    if hasattr(value, "dtype"):
        value = (
            value.astype(jnp.result_type(float)) if _checks.is_traced(value) else value
        )
    elif _checks.is_traced(value):
        value = jnp.asarray(value)
    concrete = not _checks.is_traced(value)
    if concrete:
        try:
            value = np.asarray(np.nan if value is None else value, np.float64)
        except (TypeError, ValueError) as error:
            text = f"`{name}` must be {needed}, or a list of such, but it is {value!r}."
            raise ValueError(text) from error
    if value.ndim > 1 or value.size == 0:
        raise ValueError(
            f"`{name}` must be {needed}, or a list of at least one, but it has shape "
            f"{value.shape}. Type `jnp.ravel({name})` if it is a grid."
        )
    right = (value >= 0) & holds(value)  # false for NaN
    if not concrete:
        return eqx.error_if(value, ~jnp.all(right), f"`{name}` must be {needed}.")
    if not right.all():
        raise ValueError(
            f"`{name}` must be {needed}, but it holds {value[~right].flat[0]:g}."
        )
    return value


def settled(outputs: Any) -> Any:
    """The outputs themselves.

    Raises:
        ValueError: if they are NaN or infinite, because training diverged.
    """
    text = (
        "Training diverged: outputs are NaN or infinite. Type a smaller "
        "`learning_rate`, or look whether `loss` is finite at all outputs."
    )
    if _checks.is_traced(outputs):
        return eqx.error_if(outputs, ~jnp.all(jnp.isfinite(outputs)), text)
    if not jnp.isfinite(outputs).all():
        raise ValueError(text)
    return outputs
