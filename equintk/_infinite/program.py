"""A model read for its limit: the outputs as fields, and the kernel of one pair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._parameters import wide_dtype
from .._trace.flatten import flatten
from . import rules as rules
from .arguments import Uses
from .arrays import data as deterministic, fields, parameters
from .arrays.drawer import Drawer
from .errors import NoLimitError, located
from .functions.duals import Duals
from .layout import Root
from .nodes import Atoms, Field
from .numbers.moments import Moments
from .reader import DUALS, Reader

Priors = Callable[[int], tuple[Any, Any]]
"""Of a parameter by its number: variance, and rate of the tangent kernel."""


@dataclass(frozen=True, eq=False)
class Program:
    """What a model does at infinite width.

    Attributes:
        outputs: the arrays that the model returns.
        treedef: of the model's output.
        dtype: of kernels.
        duals: functions of which users gave the expectations, and these.
    """

    outputs: tuple[Field, ...]
    treedef: Any
    dtype: Any
    duals: Duals = ()

    def pair(
        self,
        priors: Priors,
        inputs: tuple[list[Any], list[Any]],
        same: Any,
        order: int,
        tangent: bool,
        points: Any = None,
        vanishing: frozenset[int] = frozenset(),
    ) -> tuple[Any, Any, Any]:
        """NNGP and tangent kernel of two examples; bounds of the error by order.

        Args:
            priors: of parameters.
            inputs: the arrays of each example.
            same: whether the examples are equal.
            order: at which series end.
            tangent: whether the tangent kernel is wanted, which is `None` else.
            points: the points of sampled expectations, if there are any.
            vanishing: parameters that have no variance in the NNGP, of which the
                tangent kernel is none the less that of their variance.

        Returns:
            A PyTree like the model's output each, of arrays `(*space, *space)`, and
            one bound for each of `ORDERS` up to `order`, or `None` without series.
        """

        def kernels(
            t: Any, vanishing: frozenset[int] = frozenset()
        ) -> tuple[list[Any], Any]:
            def variance(source: Any) -> tuple[Any, Any]:
                found, rate = priors(source.leaf)
                return (0 * found if source.leaf in vanishing else found), rate

            m = Moments(
                inputs, variance, t, same, order, self.dtype, points, self.duals
            )
            try:
                found = [
                    m.at_any_depth(lambda field=field: _kernel(m, field))
                    for field in self.outputs
                ]
            except NoLimitError as error:
                raise located(error, "for what the model returns") from None
            worst = None
            for error in m.errors:
                worst = error if worst is None else jnp.maximum(worst, error)
            return found, worst

        zero = jnp.zeros((), self.dtype)
        if not tangent:
            nngp, error = kernels(zero, vanishing)
            return self.treedef.unflatten(nngp), None, error
        nngp, ntk, error = jax.jvp(
            kernels, (zero,), (jnp.ones_like(zero),), has_aux=True
        )
        if vanishing:
            nngp, _ = kernels(zero, vanishing)
        return self.treedef.unflatten(nngp), self.treedef.unflatten(ntk), error


def read(
    params: Any,
    static: Any,
    example: Any,
    starts: Mapping[int, Any],
    uses: Uses,
    sampled: bool = False,
) -> Program:
    """Read a model, given as parameters and the rest, for examples of this shape.

    Args:
        params: the parameters, or their shapes and dtypes, with `None` elsewhere.
        static: the rest.
        example: shape and dtype of each array of one example.
        starts: where the parameters that keep their start do so, by number.
        uses: what parameters are.
        sampled: whether expectations without a closed form are to be sampled.

    Raises:
        NoLimitError: if there is anything in it that is not understood.
    """
    with_paths, treedef = jtu.tree_flatten_with_path(params)
    names = [jtu.keystr(path) for path, _ in with_paths]
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for _, a in with_paths]
    shapes: list[Any] = []

    def outputs(leaves: list[Any], x: Any) -> list[Any]:
        out = eqx.combine(treedef.unflatten(leaves), static)(x)
        found, tree = jtu.tree_flatten(out)
        shapes.append(tree)
        return [jnp.asarray(a) for a in found]

    flat = flatten(outputs, structs, example)
    atoms = Atoms(sampled, uses.grows)
    values = [starts.get(i, struct) for i, struct in enumerate(structs)]
    drawer = Drawer(
        atoms, names, values, uses.kept, uses.still, uses.frozen, uses.finite
    )
    reader = Reader(atoms, drawer)
    args = [
        *(parameters.whole(i, s.shape, s.dtype) for i, s in enumerate(structs)),
        *(deterministic.given(i, s) for i, s in enumerate(jtu.tree_leaves(example))),
    ]
    found = reader.read(flat, args)
    fields_out = [_output(atoms, value) for value in found]
    dtype = wide_dtype(structs)
    duals = [(reader.function(f, dtype), dual) for f, dual in DUALS.items()]
    return Program(tuple(fields_out), shapes[0], dtype, tuple(duals))


def _output(atoms: Atoms, value: Any) -> Field:
    if not isinstance(value, Field):
        raise NoLimitError(
            "an output of the model is deterministic at infinite width, or is a "
            "parameter itself: there is no kernel. (A finite axis that a parameter "
            "produced, over which the model sums or averages, is named in `finite`.)"
        )
    wide = [factor.size for factor in value.factors if factor.kind == "wide"]
    several = [column for column, size in enumerate(wide) if size > 1]
    for term in value.terms:
        for root in term.roots:
            if not all(root.varies_along([c]) for c in several):
                raise NoLimitError(
                    "the entries of an output share something random, so that the "
                    "kernel of a network stays random at infinite width"
                )
    _check_own(atoms, value, several)
    for axis in range(len(value.axes)):
        for part in reversed(range(len(value.axes[axis]))):
            factor = value.axes[axis][part]
            if factor.size == 1 and factor.kind != "wide":
                value = fields.drop(atoms, value, axis, part)
    return value


def _check_own(atoms: Atoms, output: Field, several: list[int]) -> None:
    """Check that no mean was taken over the axes of the output itself.

    Those stay as they are while the others grow, unless the output is what layers
    read too, as that of a block with a residual connection.
    """
    last = {
        root
        for term in output.terms
        for root in term.roots
        if root.origin not in atoms.contracted
    }
    own = {(root.origin, i) for root in last for i in _rows_along(root, several)}
    taken = {(r.origin, i) for r, c in atoms.averaged for i in _rows_along(r, [c])}
    if own & taken:
        raise NoLimitError(
            "a mean over the entries of the output itself, which do not go to "
            "infinity: name the parameter that makes them in `finite`, or return what "
            "the mean is taken of"
        )


def _rows_along(root: Root, columns: list[int]) -> list[int]:
    """The axes of what was drawn that some wide factors run along."""
    return [i for i, row in enumerate(root.strides) if any(row[c] for c in columns)]


def _kernel(m: Moments, field: Field) -> Any:
    rank = len(field.sizes)
    k = m.second(field.terms, field.terms, rank, (0, 1), False, False)
    k = jnp.broadcast_to(k, field.sizes * 2)
    space = [
        n
        for axis in field.axes
        if any(f.kind != "wide" for f in axis)
        for n in [_size(axis)]
    ]
    return k.reshape(space * 2)


def _size(axis: Any) -> int:
    size = 1
    for factor in axis:
        size *= 1 if factor.kind == "wide" else factor.size
    return size
