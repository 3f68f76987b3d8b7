"""Batches of examples: what the user passes as `x1`, `x2`, `x_train`, `x_test`."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from ._checks import finite, is_traced
from ._types import Examples, Key


def examples(name: str, x: Any) -> Examples:
    """The batch as JAX arrays.

    Raises:
        ValueError: if a leaf is no array, counts other examples than its neighbours,
            is empty, or holds NaN or infinity.
    """
    leaves = jtu.tree_leaves(x)
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise ValueError(
            f"`{name}` must be an array or a PyTree of arrays whose first axis counts "
            f"examples, but it is {type(x).__name__}. Type `jnp.asarray({name})`."
        )
    shapes = [leaf.shape for leaf in leaves]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"The first axis of every array in `{name}` must count the same examples, "
            f"but the shapes are {shapes}. For a single example pass `x[None]`."
        )
    if shapes[0][0] == 0:
        raise ValueError(f"`{name}` is empty: it has shape {shapes[0]}.")
    # in the precision that is computed with, which may hold less than the user's
    with np.errstate(over="ignore"):
        x = jtu.tree_map(jnp.asarray, x)
    return finite(name, x)


def real(name: str, value: Any) -> Any:
    """Numbers as a floating-point array of NumPy or JAX, whichever they come in.

    Raises:
        ValueError: if they are complex, or no numbers.
    """
    if not hasattr(value, "dtype"):
        value = (jnp if is_traced(value) else np).asarray(value)
        # Python numbers have no precision of their own: they take JAX's default.
        if value.dtype == np.float64:
            value = value.astype(jnp.result_type(float))
    kind = value.dtype
    if jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.bool_):
        return value.astype(jnp.result_type(float))
    if not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(
            f"`{name}` must hold real numbers, but its dtype is {kind}. Of complex "
            "outputs pass real and imaginary parts as two outputs."
        )
    return value


def pair(x1: Any, x2: Any, names: tuple[str, str] = ("x1", "x2")) -> tuple[Any, Any]:
    """Both sides of a kernel; `x2` stays `None` where it means `x1` again.

    Raises:
        ValueError: as `examples`, or if the two hold examples of different shapes.
    """
    x1 = examples(names[0], x1)
    if x2 is None:
        return x1, None
    x2 = examples(names[1], x2)
    one, two = (jtu.tree_map(lambda a: a.shape[1:], x) for x in (x1, x2))
    if one != two:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must hold examples of one shape, but one "
            f"example of `{names[0]}` has shape {one} and one of `{names[1]}` has "
            f"{two}. The first axis counts examples: for a single example pass "
            "`x[None]`."
        )
    return x1, x2


def count(x: Examples) -> int:
    """The number of examples in a batch."""
    return jtu.tree_leaves(x)[0].shape[0]


def one_example(x: Examples) -> Any:
    """Shape and dtype of each array of one example."""
    return jtu.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)


def random_key(key: Any) -> Key:
    """The key itself.

    Raises:
        ValueError: if it is not one JAX random key, typed or raw.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == jnp.uint32 and jnp.shape(key) in ((2,), (4,))
    if not (raw or typed and jnp.ndim(key) == 0):
        raise ValueError(
            "`key` must be one JAX random key such as `jax.random.key(0)`, but it is "
            f"{type(key).__name__}"
            + (f" of shape {jnp.shape(key)}." if dtype is not None else ".")
        )
    return key
