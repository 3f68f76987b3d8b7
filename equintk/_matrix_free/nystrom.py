r"""Features of few numbers whose products are nearly the kernel.

$K \approx K \Omega\, (\Omega^T K \Omega)^{-1}\, \Omega^T K = Z Z^T$ with random
orthonormal $\Omega$; the difference is positive semi-definite.

Source: Tropp, Yurtsever, Udell and Cevher, arXiv:1706.05736, algorithm 3 (its shift is
what keeps the Cholesky factor finite).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._linalg import NOISE
from .._types import Integer, Key
from .flat import Operator, check, flat, times


class NystromFeatures(eqx.Module):
    """Features of the examples of an operator.

    Attributes:
        value: of the operator's structure with a last axis `rank`; their contraction
            over that axis is the approximate kernel, never above the kernel itself.
        eigenvalues: of the approximate kernel, the largest first; 0 where it has a
            smaller rank.
    """

    value: Any
    eigenvalues: Float[Array, " rank"]

    def at(self, operator: Operator) -> Any:
        """Features of other examples, `(n1, *out, rank)`.

        Args:
            operator: the kernel between the others and the examples of these features,
                such as `NTKOperator(model, x_other, x)`. Costs `rank` products.
        """
        safe = jnp.where(self.eigenvalues > 0, self.eigenvalues, 1)
        weights = jnp.where(self.eigenvalues > 0, 1 / safe, 0)
        columns = jax.tree.map(
            lambda z: jax.vmap(jnp.multiply, (-1, 0))(z, weights), self.value
        )
        rows = jax.lax.map(operator.mv, columns, batch_size=8)
        return jax.tree.map(lambda z: jnp.moveaxis(z, 0, -1), rows)


def nystrom_features(operator: Operator, key: Key, rank: Integer) -> NystromFeatures:
    """Features of a positive semi-definite operator by the Nystrom method.

    Args:
        operator: any such lineax operator, such as `NTKOperator(model, x)`.
        key: draws the random vectors.
        rank: how many features: products with the operator, and at most its size.

    Raises:
        ValueError: for an operator that is not real, square and known to be positive
            semi-definite, and for a rank below 1 or above its size.

    The trace of the kernel less the sum of the squares of the features is the nuclear
    norm of the error.
    """
    check(operator, symmetric=True)
    rank = _checks.positive_integer("rank", rank)
    _inputs.random_key(key)
    if not lx.is_positive_semidefinite(operator):
        raise ValueError(
            "`operator` must be known to be positive semi-definite. An `NTKOperator` "
            "without `x2` is; of any other say so by `lineax.TaggedLinearOperator("
            "operator, lineax.positive_semidefinite_tag)`."
        )
    if rank > operator.in_size():
        raise ValueError(
            f"`rank` must be at most the size of the operator, {operator.in_size()}, "
            f"but it is {rank}."
        )
    result = _nystrom_features(operator, key, rank)
    values = _checks.finite_result("Features", result.eigenvalues)
    return eqx.tree_at(lambda r: r.eigenvalues, result, values)


@filter_jit
def _nystrom_features(operator: Operator, key: Key, rank: int) -> NystromFeatures:
    problem = flat(operator)
    eps = float(jnp.finfo(problem.dtype).eps)
    test, _ = jnp.linalg.qr(jr.normal(key, (problem.size, rank), problem.dtype))
    images = problem.products(test)
    tiny = float(jnp.finfo(problem.dtype).tiny)
    shift = jnp.maximum(NOISE * eps * jnp.linalg.norm(images), tiny)
    images = images + shift * test
    core = times(test.T, images)
    factor = jnp.linalg.cholesky((core + core.T) / 2)
    rows = jax.scipy.linalg.solve_triangular(factor, images.T, lower=True)
    vectors, singular, _ = jnp.linalg.svd(rows.T, full_matrices=False)
    # Below the shift an eigenvalue is rounding, and would be divided by in `at`.
    eigenvalues = singular**2 - shift
    eigenvalues = jnp.where(eigenvalues > shift, eigenvalues, 0)
    features = vectors * jnp.sqrt(eigenvalues)[None]
    return NystromFeatures(
        jax.vmap(problem.unravel, in_axes=-1, out_axes=-1)(features), eigenvalues
    )
