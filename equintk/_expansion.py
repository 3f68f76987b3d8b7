"""A model expanded around its own parameters: linear, or a polynomial in them.

The expansion point must not be taken for parameters: not by an optimizer, nor by
`eqx.is_inexact_array`, nor by a kernel. But it must go wherever the model goes: through
`jit`, `vmap` over an ensemble, casts, files. So it stays in the PyTree as arrays of
unsigned integers that hold the bits of the numbers.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from . import _checks
from ._derivatives import directional
from ._parameters import is_state, partition
from ._taylor.reading import taylor_coefficients
from ._types import Integer, Model, Trainable


def linearize(model: Model, trainable: Trainable = None) -> "TaylorExpansion":
    r"""The model to first order in its parameters, around their present values.

    $$f^{lin}(p, x) = f(p_0, x) + \partial_p f(p_0, x)\, (p - p_0)$$

    Its tangent kernel is the model's, whatever `p` is. Trained by gradient descent on a
    squared loss it follows `nt.predict.GradientDescent` exactly.

    Args:
        model: an `equinox.Module`, called as `model(x, ...)`.
        trainable: which leaves are parameters: a filter function or a PyTree of bools
            as in `equinox.partition`. By default every inexact array outside
            `equinox.nn.State`; everything else is constant.

    Returns:
        A module of the same signature. Its parameters `p` are the leaves of `.params`,
        and they are its only inexact arrays: what `equinox.filter_grad` and optax with
        `equinox.is_inexact_array` move. The expansion point is frozen, and no
        derivative by it is taken.

    Raises:
        ValueError: as `ntk`, for a model without parameters.

    One call costs about two of the model's. Holds the parameters twice.
    """
    return _expansion(model, 1, trainable)


def taylor_expand(
    model: Model, degree: Integer, trainable: Trainable = None
) -> "TaylorExpansion":
    r"""The model's Taylor polynomial in its parameters, around their present values.

    $$f^{(k)}(p, x) = \sum_{j \le k} \frac{1}{j!}
    \partial_t^j f(p_0 + t (p - p_0), x) \big|_{t=0}$$

    Piecewise functions have the derivatives that JAX gives them: those of the piece.

    Args:
        model: as in `linearize`.
        degree: of the polynomial, 1 or more.
        trainable: as in `linearize`.

    Returns:
        A module of the same signature, as in `linearize`.

    Raises:
        ValueError: as `linearize`, and for `degree < 1`.

    One call costs about `2 * degree + 1` of the model's for dense and convolutional
    networks, and its program grows as degree², degree³ at worst; not as 2^degree.
    """
    return _expansion(model, _checks.positive_integer("degree", degree), trainable)


class TaylorExpansion(eqx.Module):
    """A model's Taylor polynomial in its parameters.

    Attributes:
        params: the parameters by their paths below the model, such as
            `".layers[0].weight"`. At first they are the expansion point.
        expansion_point: the model with unsigned integers for its inexact arrays.
        dtypes: for each leaf of it the dtype whose bits it holds, or `None`.
        degree: of the polynomial.
    """

    params: dict[str, Any]
    expansion_point: PyTree
    dtypes: tuple[str | None, ...] = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the polynomial; arguments and result are the model's."""
        point, trained, treedef = self._point()
        start = [point[i] for i in trained.values()]
        direction = [self.params[path] - point[i] for path, i in trained.items()]
        rest: Any = None
        arrays_of: Any = None

        def outputs(*leaves: Any) -> list[Any]:
            nonlocal rest, arrays_of
            merged = list(point)
            for i, leaf in zip(trained.values(), leaves, strict=True):
                merged[i] = leaf
            out = treedef.unflatten(merged)(*args, **kwargs)
            arrays, rest = eqx.partition(out, eqx.is_array)
            values, arrays_of = jtu.tree_flatten(arrays)
            return values

        if self.degree == 1:
            series = list(zip(*directional(outputs, start, direction), strict=True))
        else:
            series = taylor_coefficients(outputs, start, direction, self.degree)
        sums = [
            sum((c for c in coefficients if c is not None), start=value)
            for value, *coefficients in series
        ]
        return eqx.combine(arrays_of.unflatten(sums), rest)

    def _point(self) -> tuple[list[Any], dict[str, int], Any]:
        """Leaves of the expansion point, which of them are trained, and its structure.

        In the precision of the parameters: a cast of the module reaches them alone,
        and means the constants of the same dtype as well.
        """
        flat, treedef = jtu.tree_flatten_with_path(self.expansion_point)
        paths = [jtu.keystr(path) for path, _ in flat]
        leaves = [
            leaf if dtype is None else _from_bits(leaf, jnp.dtype(dtype))
            for (_, leaf), dtype in zip(flat, self.dtypes, strict=True)
        ]
        trained = {
            path: i for i, path in enumerate(paths) if self.params.get(path) is not None
        }
        casts: dict[Any, Any] = {}
        for path, i in trained.items():
            p, p0 = self.params[path], leaves[i]
            if p.shape != p0.shape:
                raise ValueError(
                    f"The parameter {path!r} has shape {p.shape}, but its expansion "
                    f"point has {p0.shape}. An ensemble must be split by "
                    "`equinox.is_array`, or mapped by `equinox.filter_vmap`: the "
                    "expansion point, which `equinox.is_inexact_array` does not "
                    "select, has the axis of the ensemble as well."
                )
            casts[p0.dtype] = p.dtype
        # A leaf's own dtype, since parameters of one dtype may have been cast to two.
        for i, dtype in enumerate(self.dtypes):
            if dtype is not None:
                own = self.params.get(paths[i])
                to = casts.get(leaves[i].dtype) if own is None else own.dtype
                leaves[i] = leaves[i].astype(to or leaves[i].dtype)
        return leaves, trained, treedef


def _expansion(model: Model, degree: Integer, trainable: Trainable) -> TaylorExpansion:
    params, _ = partition(model, trainable)
    frozen = jtu.tree_map(
        lambda node: _bits(node) if eqx.is_inexact_array(node) else node,
        model,
        is_leaf=is_state,
    )
    dtypes = tuple(
        None if bits is leaf else str(jnp.asarray(leaf).dtype)
        for leaf, bits in zip(*map(jtu.tree_leaves, (model, frozen)), strict=True)
    )
    by_path = {
        jtu.keystr(path): jnp.asarray(leaf)
        for path, leaf in jtu.tree_leaves_with_path(params)
    }
    return TaylorExpansion(by_path, frozen, dtypes, degree)


def _bits(array: Any) -> Array:
    """An inexact array as unsigned integers; a complex one has an axis of two more."""
    array = jnp.asarray(array)
    if jnp.iscomplexobj(array):
        array = jnp.stack([array.real, array.imag], axis=-1)
    return jax.lax.bitcast_convert_type(array, _unsigned(array.dtype))


def _from_bits(bits: Any, dtype: Any) -> Array:
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    real = jnp.finfo(dtype).dtype
    if bits.dtype != _unsigned(real):
        raise ValueError(
            f"The expansion point holds the bits of {dtype} in integers of dtype "
            f"{_unsigned(real)}, but it has been cast to {bits.dtype}. Cast only the "
            "leaves that `equinox.is_inexact_array` selects."
        )
    array = jax.lax.bitcast_convert_type(bits, real)
    return jax.lax.complex(array[..., 0], array[..., 1]) if is_complex else array


def _unsigned(dtype: Any) -> Any:
    return jnp.dtype(f"uint{8 * jnp.dtype(dtype).itemsize}")
