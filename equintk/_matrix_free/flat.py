"""Any lineax operator as a function of vectors, and bases of vectors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

if TYPE_CHECKING:
    Operator: TypeAlias = lx.AbstractLinearOperator
    """Any lineax operator; see `_types` for why anything passes at run time."""
else:
    Operator = Any

# Products at once: each holds what one product holds, but they share a forward pass.
_AT_ONCE = 8


class Flat(NamedTuple):
    """An operator on vectors.

    Attributes:
        size: the length of a vector.
        dtype: of a vector.
        product: with one vector.
        unravel: from a vector to what the operator itself takes.
    """

    size: int
    dtype: Any
    product: Callable[[Array], Array]
    unravel: Callable[[Array], Any]

    def products(self, columns: Float[Array, "n m"]) -> Float[Array, "rows m"]:
        """With each column of a matrix."""
        return jax.lax.map(self.product, columns.T, batch_size=_AT_ONCE).T


def flat(operator: Operator) -> Flat:
    """The operator on vectors, once `check` has accepted it."""
    zeros = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    vector, unravel = ravel_pytree(zeros)
    product = lambda v: ravel_pytree(operator.mv(unravel(v)))[0]
    return Flat(vector.size, vector.dtype, product, unravel)


def check(operator: Any, *, symmetric: bool) -> None:
    """Accept square operators on real arrays of one dtype.

    Raises:
        ValueError: for anything else, or if it is not known to be symmetric.
    """
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise ValueError(
            "`operator` must be a lineax operator, but it is "
            f"{type(operator).__name__}. Type `nt.NTKOperator(model, x)`, or "
            "`lineax.MatrixLinearOperator(kernel)` for a matrix."
        )
    columns, rows = operator.in_structure(), operator.out_structure()
    dtypes = {leaf.dtype for leaf in jtu.tree_leaves((columns, rows))}
    if eqx.tree_equal(columns, rows) is not True or len(dtypes) != 1:
        raise ValueError(
            "`operator` must be square, on arrays of one dtype, but it maps "
            f"{columns} to {rows}. An `NTKOperator` of one batch, without `x2`, is."
        )
    if not jnp.issubdtype(dtypes.pop(), jnp.floating):
        raise ValueError(f"`operator` must be real, but it maps {columns}.")
    if symmetric and not lx.is_symmetric(operator):
        raise ValueError(
            "`operator` must be known to be symmetric. An `NTKOperator` without `x2` "
            "is; of any other say so by `lineax.TaggedLinearOperator(operator, "
            "lineax.symmetric_tag)`."
        )


def times(a: Array, b: Array) -> Array:
    """Matrix product at full precision, which accelerators do not take by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def outside(basis: Float[Array, "n k"], vectors: Array) -> Array:
    """What of the vectors is orthogonal to the columns of a basis."""
    return vectors - times(basis, times(basis.T, vectors))


def extended(basis: Float[Array, "n k"], block: Float[Array, "n b"]) -> Array:
    """Orthonormal columns that are orthogonal to the basis and hold the block.

    Where the block has nothing outside of the basis its rounding errors, normalised,
    are the new directions: that is a restart, which finds repeated eigenvalues. The
    third pass is theirs.
    """
    for _ in range(3):
        block, _ = jnp.linalg.qr(outside(basis, block))
    return block
