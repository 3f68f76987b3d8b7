r"""Features of examples whose products are the tangent kernel.

With $J_{kp}$ the derivative of output $k$ by parameter $p$, the kernel is $J J'^\top$.
For a weight seen at sites, $J_{k,io} = \sum_s a_{si} \delta_{kso}$, so that

$$(J J'^\top)_{kk'} = \sum_{ss'} (a a'^\top)_{ss'} (\delta_k \delta_{k'}'^\top)_{ss'}$$

needs activations $a$ and output derivatives $\delta$ only, which one backward pass per
output gives for all weights at once.

Source: Novak, Sohl-Dickstein and Schoenholz, arXiv:2206.08720 (structured
derivatives); the product of Gram matrices is in Goodfellow, arXiv:1510.01799.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Var
from jaxtyping import Array

from .._parameters import common_dtype, wide_dtype
from .._trace.flatten import Flat, aval, depending, flatten, most_bytes, struct_of
from .backward import AtSites, OneOutput, backward, split, with_offsets
from .modes import Mode
from .plan import in_pieces, is_gram
from .structure import Tapped

# Axes: n examples; b, s, i, o as in `sites.py`; e, f, t entries of an output along its
# diagonal, coupled and averaged axes.


@functools.partial(
    jtu.register_dataclass,
    data_fields=["activations", "offsets", "derivatives", "weights"],
    meta_fields=["positions", "rows", "leaves"],
)
@dataclasses.dataclass(frozen=True)
class Gram:
    """Activations and output derivatives of a weight, or of several side by side.

    Weights that see the same activations have one Gram matrix of these, and a bias is a
    weight that sees a one. The arrays have the shapes that products in the model take:
    a program on a processor would write others beside them, and compute twice what
    makes them.

    Attributes:
        activations: `(n, b * s * i)`, or the numbers of rows looked up, `(n, b * s)`.
        offsets: what a bias sees, `(n, b * s)`; `None` without one. Without `n` where
            it is the same for all examples.
        derivatives: for each output array `(n * rows, -1)`, what of one example is
            `(b, e, f, s, t * o)`; `(-1,)` where they are the same for all examples,
            whose products `contraction.multiplied` puts in their places.
        weights: of the entries in the kernel where derivatives are those of one output
            for all, `(b * o,)`, the same for all examples; else `None`.
        positions: the sizes of `b` and `s`.
        rows: for each output array the sizes of `e` and `f`.
        leaves: the numbers of the parameters.
    """

    activations: Any  # arrays, or whatever a tree map puts in their places
    offsets: Any
    derivatives: Any
    weights: Any
    positions: tuple[int, int]
    rows: tuple[tuple[int, int], ...]
    leaves: tuple[int, ...]


@functools.partial(
    jtu.register_dataclass,
    data_fields=["gradients", "weights"],
    meta_fields=["rows", "leaves"],
)
@dataclasses.dataclass(frozen=True)
class Dense:
    """Gradients.

    Attributes:
        gradients: for each output array `(n, e * f * t * p)`.
        weights: of the entries in the kernel where gradients are those of one output
            for all, `(b * o,)`, the same for all examples; else `None`. Each is of as
            many entries that follow each other.
        rows: for each output array the sizes of `e` and `f`.
        leaves: the numbers of the parameters.
    """

    gradients: Any
    weights: Any
    rows: tuple[tuple[int, int], ...]
    leaves: tuple[int, ...]


@functools.partial(
    jtu.register_dataclass,
    data_fields=["activations", "columns", "weights"],
    meta_fields=["positions", "outputs", "leaves"],
)
@dataclasses.dataclass(frozen=True)
class Factored:
    """The factors of gradients of an output that is averaged over.

    Attributes:
        activations: `(n, s * i)`, of what the bias sees too.
        columns: derivatives `(n, t * s * o)`, of each example where they are alike too.
        weights: `None`, as of others where all are one.
        positions: the size of `s`.
        outputs: the size of `t`.
        leaves: the numbers of the parameters.
    """

    activations: Any
    columns: Any
    weights: None
    positions: int
    outputs: int
    leaves: tuple[int, ...]


Features = list[Gram | Dense | Factored]


class FeatureProgram(NamedTuple):
    """How the features of one example are computed, read once for a model.

    Attributes:
        flat: a jaxpr of the model's arrays, cotangents of its outputs, one example.
        n_fixed: how many of its inputs are arrays of the model.
        n_outputs: how many are cotangents.
        kind: the structure of the features.
        alike: for each of their arrays, whether it is the same for all examples.
    """

    flat: Flat
    n_fixed: int
    n_outputs: int
    kind: Any
    alike: tuple[bool, ...]

    def __call__(
        self, arrays: Sequence[Array], cotangents: Sequence[Any], x: Sequence[Array]
    ) -> tuple[Features, Features]:
        """The features of a block of examples: what all have alike, and what varies.

        Two halves of one PyTree, with `None` where the other half has an array. The
        first axis of what varies counts examples, or rows of which each has as many.

        Args:
            arrays: of the model.
            cotangents: of each output array, raveled, for each output.
            x: the arrays of the examples, whose first axis counts them.
        """
        fixed = [*arrays, *cotangents]
        found = jax.vmap(
            lambda *xs: eval_jaxpr(self.flat.jaxpr, self.flat.consts, *fixed, *xs),
            out_axes=[None if a else 0 for a in self.alike],
        )(*x)
        return eqx.partition(self.features(found), self._is_alike)

    def features(self, found: Sequence[Array]) -> Features:
        """Its results for several examples, the first axis of those that vary."""
        arrays = [
            _rows_of_all(a, by_example=not alike)
            for a, alike in zip(found, self.alike, strict=True)
        ]
        return self.kind.unflatten(arrays)

    def of_one(self) -> tuple[Features, Features]:
        """The shapes and dtypes of what it gives for a block of one example."""
        structs = []
        for alike, result in zip(self.alike, self.flat.jaxpr.outvars, strict=True):
            a = aval(result)
            shape = (a.size,) if alike else (math.prod(a.shape[:-1]), a.shape[-1])
            structs.append(jax.ShapeDtypeStruct(shape, a.dtype))
        return eqx.partition(self.kind.unflatten(structs), self._is_alike)

    @property
    def held_bytes(self) -> int:
        """Of all that is held at once of one example while its features are made."""
        return most_bytes(self.flat, self.flat.jaxpr.invars[self._n_given :])

    @property
    def leaves(self) -> list[tuple[int, ...]]:
        """The numbers of the parameters of each of its features."""
        return [feature.leaves for feature in self._is_alike]

    @property
    def _n_given(self) -> int:
        return self.n_fixed + self.n_outputs

    @property
    def _is_alike(self) -> Any:
        return self.kind.unflatten(self.alike)


def read_features(
    one_output: OneOutput,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
    cotangents: Sequence[Any],
    factored: bool = False,
) -> FeatureProgram:
    """How the features of one example of a model are computed.

    Args:
        one_output: the backward pass of the model's jaxpr: of its parameters, its other
            arrays and the arrays of one example. Its results are the output's arrays,
            all real.
        n_fixed: how many arrays the model has, parameters included.
        modes: what becomes of each output array's axes.
        n_pairs: the number of pairs that one example is in.
        by_leaf: whether the kernel of each leaf is wanted, and not their sum alone.
        cotangents: of each output array, raveled, for each output of which there are
            features at a time; their shapes will do.
        factored: whether gradients of an averaged output are left as their factors
            where `plan.in_pieces` says so.
    """
    structure = one_output.structure
    kinds = []
    n_leaves, n_outputs = structure.n_leaves, len(cotangents)

    def one(*given: Array) -> list[Array]:
        leaves, constants = list(given[:n_leaves]), given[n_leaves:n_fixed]
        cotangents, xs = (
            given[n_fixed : n_fixed + n_outputs],
            given[n_fixed + n_outputs :],
        )
        features = _features(
            one_output, leaves, constants, xs, modes, cotangents, n_pairs, by_leaf,
            factored,
        )  # fmt: skip
        arrays, kind = jtu.tree_flatten_with_path(features)
        names = [path[1].name for path, _ in arrays]
        kinds.append((kind, names))
        return [array for _, array in arrays]

    inputs = [struct_of(var) for var in structure.flat.jaxpr.invars]
    program = flatten(one, *inputs[:n_fixed], *cotangents, *inputs[n_fixed:])
    ((kind, names),) = kinds
    # Derivatives by the last layer's result are often the same for all examples.
    of_example = depending(program, program.jaxpr.invars[n_fixed + n_outputs :])
    alike = tuple(
        name in ("offsets", "derivatives", "weights")
        and not (isinstance(result, Var) and result in of_example)
        for result, name in zip(program.jaxpr.outvars, names, strict=True)
    )
    return FeatureProgram(program, n_fixed, n_outputs, kind, alike)


def features_of_outputs(
    outputs: Sequence[Array], modes: Sequence[Mode]
) -> tuple[Features, Features]:
    """The same, such that the kernel is the product of the outputs `(n, *out)`."""
    parts = [
        f.reshape(f.shape[0], -1)[:, mode.order]
        for f, mode in zip(outputs, modes, strict=True)
    ]
    features: Features = [Dense(parts, None, _rows(modes), ())]
    return jtu.tree_map(lambda _: None, features), features


def _features(
    one_output: OneOutput,
    leaves: list[Array],
    constants: Sequence[Array],
    xs: Sequence[Array],
    modes: Sequence[Mode],
    cotangents: Sequence[Array],
    n_pairs: int,
    by_leaf: bool,
    factored: bool,
) -> Features:
    """The features of one example."""
    structure = one_output.structure
    at_sites, rows = backward(one_output, leaves, constants, xs, modes, cotangents)
    features: Features = []
    grams: dict[Any, list[tuple[Tapped, AtSites]]] = {}
    for tapped, found in zip(structure.tapped, at_sites, strict=True):
        is_plain = len(modes) == 1 and found.weights is None
        if factored and is_plain and in_pieces(tapped, modes[0], 2 * n_pairs):
            features.append(_factors(tapped, found))
        elif is_gram(tapped, modes, n_pairs, found.weights is not None):
            source = tapped.leaf if by_leaf else tapped.source
            group = grams.setdefault((source, found.weights is None), [])
            group.append((tapped, found))
        else:
            features.append(_dense(tapped, found, modes))
    features += [_gram(group, modes) for group in grams.values()]
    return features + _ordinary(structure.ordinary, rows, modes, by_leaf)


def _dense(tapped: Tapped, found: AtSites, modes: Sequence[Mode]) -> Dense:
    activations = with_offsets(found.activations, found.offsets)
    derivatives = found.derivatives
    if tapped.sites[0].looks_up:
        activations = jax.nn.one_hot(
            activations, tapped.sizes[2], dtype=derivatives.dtype
        )
    dtype = common_dtype([derivatives, activations])
    gradient = _contracted(derivatives.astype(dtype), activations.astype(dtype))
    if found.weights is None:
        return Dense(_gradients(gradient, modes), None, _rows(modes), tapped.leaves)
    weights = [w.reshape(-1) for w in found.weights]
    gradients = [gradient.reshape(-1) for _ in modes]
    return Dense(gradients, weights, _rows(modes), tapped.leaves)


def _factors(tapped: Tapped, found: AtSites) -> Factored:
    activations = with_offsets(found.activations, found.offsets)
    dtype = common_dtype([found.derivatives, activations])
    derivatives = found.derivatives.astype(dtype)
    return Factored(
        activations.astype(dtype).reshape(-1),
        derivatives.reshape(-1),
        None,
        tapped.sizes[1],
        derivatives.shape[0],
        tapped.leaves,
    )


def _contracted(derivatives: Array, activations: Array) -> Array:
    """`(k, b, s, o)` with `(b, s, i)` to `(k, b, o, i)`."""
    k, b, n_positions, o = derivatives.shape
    # Positions first: to bring them last would be a copy number by number.
    rows = derivatives.transpose(1, 2, 0, 3).reshape(b, n_positions, k * o)
    if b == 1:  # an axis of one entry, moved, would be a copy of the gradient on CPU
        product = lax.dot_general(
            rows[0], activations[0], (((0,), (0,)), ((), ())), precision="highest"
        )
        return product.reshape(k, 1, o, -1)
    product = lax.dot_general(
        rows, activations, (((1,), (1,)), ((0,), (0,))), precision="highest"
    )
    return product.reshape(b, k, o, -1).swapaxes(0, 1)


def _gram(group: Sequence[tuple[Tapped, AtSites]], modes: Sequence[Mode]) -> Gram:
    derivatives: list[Array] = []
    weights: list[Array] = []
    separable = group[0][1].weights is not None
    for o in range(len(modes)):
        parts = []
        for _, found in group:
            d = found.derivatives
            if separable:
                d = d.transpose(1, 0, 2, 3)[:, None]
            else:
                d = split(d, modes)[o].transpose(3, 0, 1, 4, 2, 5)
                d = d.reshape(*d.shape[:4], -1)
            parts.append(d)
        together = jnp.concatenate(parts, axis=-1)
        b, _, _, s, _ = together.shape
        # As rows of one output each, where they lie like that.
        by_output = len(group) == b == s == 1 and not separable
        n_rows = math.prod(modes[o].present) if by_output else 1
        derivatives.append(together.reshape(n_rows, -1))
        factors = [found.weights[o] for _, found in group if found.weights is not None]
        if factors:
            wide = wide_dtype(factors)
            side_by_side = [f.astype(wide) for f in factors]
            weights.append(jnp.concatenate(side_by_side, axis=-1).reshape(-1))
    numbers = tuple(leaf for tapped, _ in group for leaf in tapped.leaves)
    tapped, found = group[0]
    return Gram(
        found.activations.reshape(-1),
        None if found.offsets is None else found.offsets.reshape(-1),
        derivatives,
        weights if separable else None,
        tapped.sizes[:2],
        _rows(modes),
        numbers,
    )


def _ordinary(
    numbers: Sequence[int], rows: Sequence[Array], modes: Sequence[Mode], by_leaf: bool
) -> Features:
    """Gradients as they are; small ones side by side, for one product of many."""
    if by_leaf:
        pairs = zip(numbers, rows, strict=True)
        return [
            Dense(_gradients(row, modes), None, _rows(modes), (i,)) for i, row in pairs
        ]
    groups: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        n_params = row[0].size
        alone = place if n_params > _LARGEST_TOGETHER else -1
        groups.setdefault((row.dtype, alone), []).append(place)
    features: Features = []
    for places in groups.values():
        gradient = jnp.concatenate(
            [rows[p].reshape(rows[p].shape[0], -1) for p in places], axis=1
        )
        leaves = tuple(numbers[p] for p in places)
        features.append(Dense(_gradients(gradient, modes), None, _rows(modes), leaves))
    return features


def _rows_of_all(array: Array, by_example: bool) -> Array:
    """From arrays `(n, -1)` or `(n, rows, -1)` of the examples to one of all rows."""
    if by_example:
        return array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array
    return array if array.ndim == 1 else array.reshape(-1)


def _gradients(rows: Array, modes: Sequence[Mode]) -> list[Array]:
    """For each output array `(e * f * t * p,)`."""
    return [part.reshape(-1) for part in split(rows, modes)]


def _rows(modes: Sequence[Mode]) -> tuple[tuple[int, int], ...]:
    return tuple(mode.sizes[:2] for mode in modes)


# Gradients of up to this many parameters are put side by side.
_LARGEST_TOGETHER = 2**12
