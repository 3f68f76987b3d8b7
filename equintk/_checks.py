"""Bad input: what was got, what is needed, what to type."""

import inspect
import math
import numbers
import operator
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer

# Entries looked at together: an array of truth values as large as a kernel is too much.
_AT_ONCE = 2**24


def is_traced(*trees: Any) -> bool:
    """Whether any value is known only when a transformed function runs."""
    return any(isinstance(leaf, Tracer) for leaf in jtu.tree_leaves(trees))


def warn(text: str) -> None:
    """Warn of the user's own line, however many frames of ours lie in between."""
    ours = {"equintk", "equinox", "jaxtyping", "beartype"}
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def finite(name: str, tree: Any) -> Any:
    """The arrays themselves.

    Raises:
        ValueError: if one of them holds NaN or infinity. Under a transformation the
            check is part of the computation (`equinox.error_if`) and its result must
            be used.
    """

    def check(leaf: Any) -> Any:
        if not (eqx.is_inexact_array(leaf) or isinstance(leaf, float | complex)):
            return leaf
        if is_traced(leaf):
            text = f"`{name}` holds NaN or infinity."
            return eqx.error_if(leaf, ~jnp.all(jnp.isfinite(leaf)), text)
        array = np.asarray(leaf)
        if _all_finite(array):
            return leaf
        bad = ~np.isfinite(array)
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f", the first at {first}" if first else ""
        raise ValueError(
            f"`{name}` must be finite, but {int(bad.sum())} of its {bad.size} entries "
            f"are non-finite (NaN or infinity){where}. Remove or replace them."
        )

    return jtu.tree_map(check, tree)


def finite_result(what: str, arrays: Any) -> Any:
    """The arrays themselves; `what` is said of them where they are refused.

    Raises:
        ValueError: if a model made NaN or infinity of finite inputs. Under a
            transformation the check is part of the computation.
    """
    cause = (
        "the model or its derivative by a parameter is not finite at one of these "
        "examples. Look for a division by zero, `sqrt` or `norm` at zero, or an "
        "overflow; to see where, type `jax.config.update('jax_debug_nans', True)`."
    )

    def check(array: Any) -> Any:
        if is_traced(array):
            text = f"{what} with entries that are NaN or infinite: {cause}"
            return eqx.error_if(array, _residue(array) != 0, text)
        if _all_finite(array):
            return array
        bad = ~np.isfinite(np.asarray(array))
        where = tuple(int(i) for i in np.argwhere(bad)[0][:2])
        raise ValueError(
            f"{what} with {int(bad.sum())} entries that are NaN or infinite, the first "
            f"at {where}: {cause}"
        )

    return jtu.tree_map(check, arrays)


def _all_finite(array: Any) -> bool:
    """Without an array of truth values as large as a large kernel."""
    if not (isinstance(array, np.ndarray) or lies_on_host(array)):
        return bool(_compiled_residue(array) == 0)
    array = np.asarray(array)
    if array.size <= _AT_ONCE:
        return bool(np.isfinite(array).all())
    rows = max(1, _AT_ONCE // array[0].size)
    parts = (array[i : i + rows] for i in range(0, len(array), rows))
    return all(np.isfinite(part).all() for part in parts)


def lies_on_host(array: Any) -> bool:
    """Whether NumPy sees an array of JAX where it is, without a copy."""
    return all(device.platform == "cpu" for device in array.devices())


def _residue(array: Any) -> Any:
    """A zero if all entries are finite, else NaN.

    For compiled functions: to add up takes XLA a fraction of the time to compile that a
    conjunction takes.
    """
    return jnp.sum(array * 0)  # nothing times zero is zero, but for what is not finite


_compiled_residue = jax.jit(_residue)


def precision(value: Any) -> Any:
    """The value itself.

    Raises:
        ValueError: for a string that is neither a `jax.lax.Precision` nor the name of
            a `jax.lax.DotAlgorithmPreset`.
    """
    if not isinstance(value, str) or value in jax.lax.DotAlgorithmPreset.__members__:
        return value
    try:
        jax.lax.Precision(value)
    except ValueError:
        raise ValueError(
            f'`precision` must be "highest", "high" or "default", but it is {value!r}.'
        ) from None
    return value


def positive_integer(name: str, value: Any) -> int:
    """The value as an `int`.

    Raises:
        ValueError: if it is no integer of at least 1.
    """
    try:
        integer = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        integer = -1
    if integer < 1:
        raise ValueError(f"`{name}` must be a positive integer, but it is {value!r}.")
    return integer


def non_negative(name: str, value: Any) -> Any:
    """The number itself; under a transformation the check is part of the computation.

    Raises:
        ValueError: if it is negative, NaN or infinite, or no single number.
    """
    return _number(name, value, "at least 0", lambda x: x >= 0)


def positive(name: str, value: Any) -> Any:
    """The number itself; under a transformation the check is part of the computation.

    Raises:
        ValueError: if it is zero, negative, NaN or infinite, or no single number.
    """
    return _number(name, value, "above 0", lambda x: x > 0)


def fraction(name: str, value: Any) -> Any:
    """The number itself; under a transformation the check is part of the computation.

    Raises:
        ValueError: if it is negative, 1 or more, NaN, or no single number.
    """
    needed = "of at least 0 and below 1"
    return _number(name, value, needed, lambda x: (x >= 0) & (x < 1))


def _number(name: str, value: Any, needed: str, holds: Callable[[Any], Any]) -> Any:
    text = f"`{name}` must be a finite number {needed}"
    if is_traced(value) and jnp.ndim(value) == 0:
        return eqx.error_if(value, ~(jnp.isfinite(value) & holds(value)), text + ".")
    single = isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()
    if not (single and math.isfinite(value) and holds(value)):
        raise ValueError(f"{text}, but it is {value!r}.")
    return value
