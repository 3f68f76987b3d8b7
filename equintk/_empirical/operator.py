"""The tangent kernel as a linear operator: products with it, and never its entries."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._derivatives import directional
from .._linalg import flatten_kernel
from .._parameters import output_struct, partition, wide_dtype
from .._types import Examples, Integer, Model, Text, Trainable
from .ntk import ntk_diag_full, ntk_full


class NTKOperator(lx.AbstractLinearOperator):
    r"""Products with `ntk_full(model, x1, x2)`, which is never formed.

    $$K v = J_1 (J_2^T v)$$

    One vector-Jacobian product of `x2` and one Jacobian-vector product of `x1`, block
    by block. A `lineax` operator from arrays `(n2, *out)` to `(n1, *out)`: it can be
    added to others (`K + ridge * lineax.IdentityLinearOperator(K.in_structure())`),
    solved with (`lineax.linear_solve` and `lineax.CG`), jitted, mapped and
    differentiated. Under `jit` lineax cannot see that a ridge is positive: say so by
    `lineax.TaggedLinearOperator(sum, lineax.positive_semidefinite_tag)`.

    Attributes:
        params: the parameters, `None` for everything else in the model.
        static: everything else, `None` for the parameters.
        x1: the examples that index the rows.
        x2: the examples that index the columns; `None` means `x1` again, and then the
            operator is symmetric and positive semi-definite.
        batch_size: the largest number of examples differentiated at once.
        precision: of the products, as in `jax.default_matmul_precision`.
    """

    params: PyTree
    static: PyTree
    x1: PyTree
    x2: PyTree
    batch_size: int = eqx.field(static=True)
    precision: str = eqx.field(static=True)
    _out: Any = eqx.field(static=True)

    def __init__(
        self,
        model: Model,
        x1: Examples,
        x2: Examples | None = None,
        batch_size: Integer = 32,
        *,
        trainable: Trainable = None,
        precision: Text = "highest",
    ):
        """Check the arguments, which are those of `ntk`; nothing is computed.

        Raises:
            ValueError: as `ntk`, for outputs that are not one real array, and for
                complex parameters.
        """
        self.batch_size = _checks.positive_integer("batch_size", batch_size)
        self.precision = _checks.precision(precision)
        self.x1, self.x2 = _inputs.pair(x1, x2)
        self.params, self.static = partition(model, trainable)
        if any(map(jnp.iscomplexobj, jtu.tree_leaves(self.params))):
            raise ValueError(
                "`NTKOperator` needs real parameters, but some are complex. Hold their "
                "real and imaginary parts as two arrays, or use `ntk_full`."
            )
        out = output_struct(model, _inputs.one_example(self.x1))
        self._out = jax.ShapeDtypeStruct(out.shape, out.dtype)

    def mv(self, vector: Any) -> Array:
        """The product, of shape `(n1, *out)`, with a vector of shape `(n2, *out)`.

        Holds one more copy of the parameters, and what one block of examples needs.
        """
        needed = self.in_structure()
        vector = jnp.asarray(vector)
        if (vector.shape, vector.dtype) != (needed.shape, needed.dtype):
            text = (
                f"`vector` must have shape (n2, *out) = {needed.shape} and dtype "
                f"{needed.dtype}, but it has {vector.shape} and {vector.dtype}."
            )
            if vector.dtype != needed.dtype:
                text += f" Type `vector.astype({str(needed.dtype)!r})`."
            if vector.ndim == 1 and vector.size == math.prod(needed.shape):
                # Of another array the axes may be in another order.
                text += f" Type `vector.reshape({needed.shape})`."
            raise ValueError(text)
        return _product(self, vector)

    def as_matrix(self) -> Array:
        """`ntk_full` as a matrix `(n1 * out, n2 * out)`, sample-major."""
        return flatten_kernel(self._full(), len(self._out.shape))

    def transpose(self) -> "NTKOperator":
        """The operator of the two sides in the other order."""
        if self.x2 is None:
            return self
        return eqx.tree_at(lambda k: (k.x1, k.x2), self, (self.x2, self.x1))

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what it is multiplied with: `(n2, *out)`."""
        return self._structure(self._x2)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the product: `(n1, *out)`."""
        return self._structure(self.x1)

    @property
    def model(self) -> Model:
        """The model, put together again."""
        return eqx.combine(self.params, self.static)

    @property
    def _x2(self) -> Examples:
        return self.x1 if self.x2 is None else self.x2

    @property
    def _trainable(self) -> PyTree:
        is_none = lambda leaf: leaf is None
        return jtu.tree_map(lambda p: p is not None, self.params, is_leaf=is_none)

    def _structure(self, x: Examples) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (_inputs.count(x), *self._out.shape), self._out.dtype
        )

    def _full(self) -> Array:
        return ntk_full(
            self.model, self.x1, self.x2, self.batch_size,
            trainable=self._trainable, precision=self.precision,
        )  # fmt: skip


@filter_jit
def _product(operator: NTKOperator, vector: Array) -> Array:
    # A scan over blocks, also outside of a caller's loop: a program with every block
    # in it would take minutes to compile, and each block's reuses nothing of another's.
    leaves, treedef = jtu.tree_flatten(operator.params)

    def outputs_of(x: Examples) -> Callable[..., list[Array]]:
        def outputs(*leaves: Array) -> list[Array]:
            model = eqx.combine(treedef.unflatten(leaves), operator.static)
            return [jax.vmap(model)(x)]

        return outputs

    def pull_back(total: list[Array], block: Any) -> tuple[list[Array], None]:
        x, v = block
        _, pullback = jax.vjp(outputs_of(x), *leaves)
        terms = pullback([v])
        return [s + t.astype(s.dtype) for s, t in zip(total, terms, strict=True)], None

    def push_forward(_: None, x: Examples) -> tuple[None, Array]:
        return None, directional(outputs_of(x), leaves, gradient)[1][0]

    with jax.default_matmul_precision(operator.precision):
        wide = wide_dtype(leaves)  # sums over blocks, in float32 at least
        zeros = [jnp.zeros(p.shape, jnp.promote_types(p.dtype, wide)) for p in leaves]
        columns, real = _blocks(operator._x2, operator.batch_size)
        vector = jnp.where(
            real.reshape(real.shape + (1,) * (vector.ndim - 1)),
            _rows(vector, real.shape),
            jnp.zeros((), vector.dtype),
        )
        total, _ = jax.lax.scan(pull_back, zeros, (columns, vector))
        gradient = [g.astype(p.dtype) for g, p in zip(total, leaves, strict=True)]
        rows, _ = _blocks(operator.x1, operator.batch_size)
        _, blocks = jax.lax.scan(push_forward, None, rows)
    n1 = _inputs.count(operator.x1)
    return blocks.reshape(-1, *blocks.shape[2:])[:n1]


def _blocks(x: Examples, batch_size: int) -> tuple[Examples, np.ndarray]:
    """Blocks of one size on a new first axis, and which of their examples are real.

    The last is filled up with copies of the last example.
    """
    n = _inputs.count(x)
    n_blocks = -(-n // batch_size)
    shape = n_blocks, -(-n // n_blocks)
    real = np.arange(shape[0] * shape[1]).reshape(shape) < n
    return jtu.tree_map(lambda a: _rows(a, shape), x), real


def _rows(array: Array, shape: tuple[int, ...]) -> Array:
    index = np.minimum(np.arange(shape[0] * shape[1]), array.shape[0] - 1)
    return array[index.reshape(shape)]


def _is_gram(operator: NTKOperator) -> bool:
    return operator.x2 is None


def _is_number(operator: NTKOperator) -> bool:
    return operator.in_size() == 1 and operator.out_size() == 1


for _property in (lx.is_symmetric, lx.is_positive_semidefinite):
    _property.register(NTKOperator, _is_gram)
for _property in (
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
):
    _property.register(NTKOperator, _is_number)
for _property in (lx.has_unit_diagonal, lx.is_negative_semidefinite):
    _property.register(NTKOperator, lambda operator: False)


@lx.linearise.register(NTKOperator)
@lx.conj.register(NTKOperator)
def _(operator: NTKOperator) -> NTKOperator:
    return operator


@lx.materialise.register(NTKOperator)
def _(operator: NTKOperator) -> lx.PyTreeLinearOperator:
    out, columns = operator.out_structure(), operator.in_structure()
    matrix = operator.as_matrix().reshape(out.shape + columns.shape)
    tags = (lx.positive_semidefinite_tag,) if operator.x2 is None else ()
    return lx.PyTreeLinearOperator(matrix, out, tags)


@lx.diagonal.register(NTKOperator)
def _(operator: NTKOperator) -> Array:
    if operator.x2 is not None:
        return jnp.diag(operator.as_matrix())
    kernel = ntk_diag_full(
        operator.model, operator.x1, operator.batch_size,
        trainable=operator._trainable, precision=operator.precision,
    )  # fmt: skip
    size = operator._out.size
    return jnp.ravel(jnp.diagonal(kernel.reshape(-1, size, size), axis1=1, axis2=2))


@lx.tridiagonal.register(NTKOperator)
def _(operator: NTKOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    return jnp.diag(matrix), jnp.diag(matrix, -1), jnp.diag(matrix, 1)
