"""The largest eigenvalues of a symmetric operator, by block Lanczos.

A block of random vectors instead of one, since one cannot see that an eigenvalue is
repeated, as those of kernels with coupled outputs are; each new block is orthogonal to
all before it to rounding.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._types import Integer, Key
from .flat import Operator, check, extended, flat, times

# Columns beyond those asked for: eigenvalues near the last one then converge as well.
_MORE = 8


class Eigenvalues(eqx.Module):
    """The largest eigenvalues of an operator.

    Attributes:
        value: the eigenvalues, the largest first.
        residual: for each an error bar, `|A v - value v|` for a unit vector `v`: some
            eigenvalue is no further away. Where the next one is at a distance `gap`,
            the error is at most `residual² / gap`.
        vectors: unit eigenvectors of the operator's structure, on a new first axis.
    """

    value: Float[Array, " k"]
    residual: Float[Array, " k"]
    vectors: Any


def top_eigenvalues(
    operator: Operator, k: Integer, key: Key, n_steps: Integer = 10
) -> Eigenvalues:
    """The `k` largest eigenvalues of a symmetric operator, repeated ones included.

    Args:
        operator: any symmetric lineax operator, such as `NTKOperator(model, x)`.
        k: how many.
        key: draws the first block of vectors.
        n_steps: how many blocks of `k + 8` products. Where these are as many as the
            operator has rows, all eigenvalues are computed and right to rounding.

    Raises:
        ValueError: for an operator that is not symmetric, real and square, for `k` or
            `n_steps` below 1, or for more eigenvalues than there are.

    Holds `2 * (k + 8) * n_steps` vectors.

    Source: Golub and Underwood, "The block Lanczos method for computing eigenvalues",
    1977; the residual bound is that of Parlett, "The Symmetric Eigenvalue Problem",
    section 4.5.
    """
    check(operator, symmetric=True)
    k = _checks.positive_integer("k", k)
    n_steps = _checks.positive_integer("n_steps", n_steps)
    _inputs.random_key(key)
    if k > operator.in_size():
        raise ValueError(
            f"`k` must be at most the size of the operator, {operator.in_size()}, but "
            f"it is {k}."
        )
    result = _top_eigenvalues(operator, k, key, n_steps)
    values = _checks.finite_result("Eigenvalues", result.value)
    return eqx.tree_at(lambda r: r.value, result, values)


@filter_jit
def _top_eigenvalues(operator: Operator, k: int, key: Key, n_steps: int) -> Eigenvalues:
    problem = flat(operator)
    n, width = problem.size, k + _MORE
    if width * n_steps >= n:
        basis = jnp.eye(n, dtype=problem.dtype)
        images = problem.products(basis)
    else:

        def step(i: Any, state: Any) -> Any:
            basis, images, block = state
            image = problem.products(block)
            basis = jax.lax.dynamic_update_slice(basis, block, (zero, i * width))
            images = jax.lax.dynamic_update_slice(images, image, (zero, i * width))
            return basis, images, extended(basis, image)

        zero = jnp.zeros((), jnp.int32)
        empty = jnp.zeros((n, width * n_steps), problem.dtype)
        start, _ = jnp.linalg.qr(jr.normal(key, (n, width), problem.dtype))
        basis, images, _ = jax.lax.fori_loop(
            zero, zero + n_steps, step, (empty, empty, start)
        )
    projected = times(basis.T, images)
    values, rotation = jnp.linalg.eigh((projected + projected.T) / 2)
    values, rotation = values[::-1][:k], rotation[:, ::-1][:, :k]
    vectors = times(basis, rotation)
    residual = jnp.linalg.norm(times(images, rotation) - vectors * values[None], axis=0)
    return Eigenvalues(values, residual, jax.vmap(problem.unravel)(vectors.T))
