"""The trace of an operator: exact on the directions it stretches most, sampled beyond.

The samples are independent given those directions, so their spread is an error bar that
holds; the leave-one-out spread of XTrace is not one, and its samples are not.

Source: Meyer, Musco, Musco and Woodruff, "Hutch++", arXiv:2010.09649, algorithm 1.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._types import Integer, Key
from .estimate import Estimate
from .flat import Operator, check, flat, outside


def stochastic_trace(operator: Operator, key: Key, n_samples: Integer = 30) -> Estimate:
    """Unbiased estimate of the trace of a square operator.

    Args:
        operator: any real, square lineax operator.
        key: draws the random signs.
        n_samples: how many products, 6 or more. With as many as the operator has rows
            the trace is exact and the standard error 0.

    Raises:
        ValueError: for an operator that is not real and square, or `n_samples < 6`.

    The error falls as `1 / n_samples` for positive semi-definite operators.
    """
    check(operator, symmetric=False)
    n_samples = _checks.positive_integer("n_samples", n_samples)
    if n_samples < 6:
        raise ValueError(
            f"`n_samples` must be at least 6, but it is {n_samples}: a third of the "
            "products are samples, whose spread is the error bar."
        )
    _inputs.random_key(key)
    result = _stochastic_trace(operator, key, n_samples)
    value = _checks.finite_result("A trace", result.value)
    return eqx.tree_at(lambda r: r.value, result, value)


@filter_jit
def _stochastic_trace(operator: Operator, key: Key, n_samples: int) -> Estimate:
    problem = flat(operator)
    n, dtype = problem.size, problem.dtype
    zero = jnp.zeros((), dtype)
    if n_samples >= n:
        matrix = problem.products(jnp.eye(n, dtype=dtype))
        return Estimate(jnp.trace(matrix), zero, zero)
    key1, key2 = jr.split(key)
    rank = n_samples // 3
    n_probes = n_samples - 2 * rank
    sketch = problem.products(jr.rademacher(key1, (n, rank), dtype))
    basis, _ = jnp.linalg.qr(sketch)
    found = jnp.sum(basis * problem.products(basis))
    probes = jr.rademacher(key2, (n, n_probes), dtype)
    probes = outside(basis, probes)
    samples = jnp.sum(probes * problem.products(probes), axis=0)
    error = jnp.std(samples, ddof=1) / n_probes**0.5
    return Estimate(found + jnp.mean(samples), error, zero)
