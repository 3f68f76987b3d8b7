"""Which examples are equal, so that their correlation is exactly one."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._checks import is_traced
from .._inputs import count
from .._types import Examples


def identities(x1: Examples, x2: Examples | None) -> tuple[Any, Any]:
    """A number per example of each side, equal for equal examples."""
    x1, x2 = (jtu.tree_map(_plain, x) for x in (x1, x2))
    both = x1
    if x2 is not None:
        both = jtu.tree_map(lambda a, b: jnp.concatenate([a, b]), x1, x2)
    rows = _compared(both) if is_traced(both) else _looked_up(both)
    n = count(x1)
    return rows[:n], None if x2 is None else rows[n:]


def _plain(leaf: Any) -> Any:
    """Random keys as numbers."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _looked_up(x: Examples) -> Any:
    rows = [np.asarray(a) for a in jtu.tree_leaves(x)]
    # 0.0 equals -0.0
    rows = [a + 0 if a.dtype.kind == "f" else a for a in rows]
    seen: dict[Any, int] = {}
    found = [
        seen.setdefault(tuple(a[i].tobytes() for a in rows), len(seen))
        for i in range(count(x))
    ]
    return jnp.asarray(np.asarray(found, np.int32))


def _compared(x: Examples) -> Any:
    """The number of the first example that each equals; NaN equals itself alone."""
    leaves = jtu.tree_leaves(x)

    def first(one: Any) -> Any:
        i, mine = one
        equal = jnp.ones(count(x), bool)
        for a, b in zip(leaves, mine, strict=True):
            equal &= jnp.all((a == b[None]).reshape(a.shape[0], -1), axis=1)
        return jnp.argmax(equal.at[i].set(True)).astype(jnp.int32)

    return jax.lax.map(first, (jnp.arange(count(x)), leaves))
