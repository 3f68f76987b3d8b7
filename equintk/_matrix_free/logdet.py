r"""The log-determinant of an operator, by stochastic Lanczos quadrature.

$\log\det A = n\, E[u^T \log(A)\, u]$ over random signs $u / \sqrt n$, and each term is
an integral over the spectrum, which the Lanczos recurrence gives a Gauss rule for. The
rule's value is above the integral, and that of the Gauss-Radau rule with a node below
the spectrum is below it, because of the signs of the logarithm's derivatives.

Source: Golub and Meurant, "Matrices, Moments and Quadrature", 2010, section 6; Ubaru,
Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 2017.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._linalg import NOISE
from .._types import Integer, Key, Number
from .estimate import Estimate
from .flat import Flat, Operator, check, flat, outside


def stochastic_logdet(
    operator: Operator,
    key: Key,
    n_samples: Integer = 16,
    n_steps: Integer = 30,
    *,
    smallest: Number | None = None,
) -> Estimate:
    """Estimate the log-determinant of a symmetric, positive definite operator.

    Args:
        operator: any such lineax operator, such as `NTKOperator(model, x) + ridge *
            lineax.IdentityLinearOperator(...)`.
        key: draws the random signs.
        n_samples: how many vectors, 2 or more: the standard error falls as its root.
        n_steps: products for each. The bias falls geometrically with them, at a rate
            that slows with the root of the condition number.
        smallest: a positive number not above the smallest eigenvalue, such as the
            ridge. With it `bias` is a bound; without, it is only the change over the
            last third of the steps.

    Returns:
        `.value`, with `.standard_error` for the samples and `.bias` for the steps.

    Raises:
        ValueError: for an operator that is not symmetric, real and square, for
            `n_samples < 2` or `n_steps < 3`, and for an operator that is not positive
            definite beyond rounding.
    """
    check(operator, symmetric=True)
    for name, number, least in (
        ("n_samples", n_samples, 2),
        ("n_steps", n_steps, 3),
    ):
        if _checks.positive_integer(name, number) < least:
            raise ValueError(f"`{name}` must be at least {least}, but it is {number}.")
    if smallest is not None:
        _checks.positive("smallest", smallest)
    _inputs.random_key(key)
    result, lowest, largest = _logdet(operator, key, n_samples, n_steps, smallest)
    eps = float(jnp.finfo(largest.dtype).eps)
    text = (
        "The operator must be positive definite, but in the directions drawn it has an "
        "eigenvalue that is negative or 0 to rounding, so its log-determinant is "
        "-infinity or undefined. Add a ridge: `operator + ridge * "
        "lineax.IdentityLinearOperator(operator.in_structure())`."
    )
    bad = ~(lowest > NOISE * eps * largest)
    if not _checks.is_traced(bad):
        if bad:
            raise ValueError(text)
        return result
    return eqx.tree_at(lambda r: r.value, result, eqx.error_if(result.value, bad, text))


@filter_jit
def _logdet(
    operator: Operator,
    key: Key,
    n_samples: int,
    n_steps: int,
    smallest: Any,
) -> tuple[Estimate, Array, Array]:
    problem = flat(operator)
    n, dtype = problem.size, problem.dtype
    n_steps = min(n_steps, n)
    signs = jr.rademacher(key, (n_samples, n), dtype)
    diagonal, beside = jax.lax.map(
        lambda u: _lanczos(problem, u / n**0.5, n_steps), signs
    )
    gauss, nodes = jax.vmap(_quadrature)(diagonal, beside[:, :-1])
    if smallest is None:
        fewer = max(1, 2 * n_steps // 3)
        before, _ = jax.vmap(_quadrature)(diagonal[:, :fewer], beside[:, : fewer - 1])
        samples, bias = n * gauss, n * jnp.abs(jnp.mean(gauss - before))
    else:
        node = jnp.asarray(smallest, dtype)
        radau, _ = jax.vmap(lambda a, b: _quadrature(*_radau(a, b, node)))(
            diagonal, beside
        )
        samples, bias = (
            n * (gauss + radau) / 2,
            n * jnp.mean(jnp.abs(gauss - radau)) / 2,
        )
    error = jnp.std(samples, ddof=1) / n_samples**0.5
    estimate = Estimate(jnp.mean(samples), error, bias)
    return estimate, jnp.min(nodes), jnp.max(jnp.abs(nodes))


def _lanczos(
    problem: Flat, start: Float[Array, " n"], n_steps: int
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """The diagonal of the tridiagonal matrix, and what is beside it and below.

    Where the vectors span all that the start reaches, the matrix falls into two blocks:
    the second, of which the start sees nothing, holds copies of the first entry.
    """
    eps = float(jnp.finfo(problem.dtype).eps)

    def step(i: Any, state: Any) -> Any:
        basis, diagonal, beside, vector, scale, alive = state
        basis = basis.at[:, i].set(vector)
        image = problem.product(vector)
        entry = jnp.vdot(vector, image)
        entry = jnp.where(alive, entry, diagonal[0])
        for _ in range(2):  # once leaves errors of the size of what is removed
            image = outside(basis, image)
        below = jnp.linalg.norm(image)
        scale = jnp.maximum(scale, jnp.abs(entry) + below)
        alive = alive & (below > 100 * eps * scale)
        below = jnp.where(alive, below, 0)
        vector = jnp.where(alive, image / jnp.where(alive, below, 1), 0)
        diagonal, beside = diagonal.at[i].set(entry), beside.at[i].set(below)
        return basis, diagonal, beside, vector, scale, alive

    zeros = jnp.zeros(n_steps, problem.dtype)
    basis = jnp.zeros((problem.size, n_steps), problem.dtype)
    zero = jnp.zeros((), jnp.int32)
    state = basis, zeros, zeros, start, jnp.zeros((), problem.dtype), jnp.asarray(True)
    _, diagonal, beside, *_ = jax.lax.fori_loop(zero, zero + n_steps, step, state)
    return diagonal, beside


def _quadrature(diagonal: Array, beside: Array) -> tuple[Array, Array]:
    """The rule's value for the logarithm, and its nodes."""
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    tiny = float(jnp.finfo(nodes.dtype).tiny)
    return jnp.sum(vectors[0] ** 2 * jnp.log(jnp.maximum(nodes, tiny))), nodes


def _radau(diagonal: Array, beside: Array, node: Array) -> tuple[Array, Array]:
    """The tridiagonal matrix with one more row, which makes `node` an eigenvalue."""
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    shifted = matrix - node * jnp.eye(len(diagonal), dtype=diagonal.dtype)
    last = jnp.zeros_like(diagonal).at[-1].set(beside[-1] ** 2)
    entry = node + jnp.linalg.solve(shifted, last)[-1]
    return jnp.concatenate([diagonal, entry[None]]), beside
