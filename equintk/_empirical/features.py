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
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Var
from jaxtyping import Array

from .._parameters import common_dtype
from .._trace.flatten import Flat, aval, flatten, struct_of
from .modes import Mode
from .plan import is_gram
from .structure import Structure, Tapped, scan_lengths, structure_of
from .tapped import Activations, Taps, run, zero_taps

# Axes: n examples; b, s, i, o as in `sites.py`; e, f, t entries of an output along its
# diagonal, coupled and averaged axes.


@functools.partial(
    jtu.register_dataclass,
    data_fields=["activations", "derivatives"],
    meta_fields=["leaves"],
)
@dataclasses.dataclass(frozen=True)
class Gram:
    """Activations and output derivatives of a weight, or of several side by side.

    Weights that see the same activations have one Gram matrix of these, and a bias is a
    weight that sees a one.

    Attributes:
        activations: `(n, b, s, i)`, or the numbers of rows looked up, `(n, b, s)`.
        derivatives: for each output array `(n, b, e, f, s, t * o)`, without `n` where
            they are the same for all examples.
        leaves: the numbers of the parameters.
    """

    activations: Any  # arrays, or whatever a tree map puts in their places
    derivatives: Any
    leaves: tuple[int, ...]


@functools.partial(
    jtu.register_dataclass, data_fields=["gradients"], meta_fields=["leaves"]
)
@dataclasses.dataclass(frozen=True)
class Dense:
    """Gradients.

    Attributes:
        gradients: for each output array `(n, e, f, t * p)`.
        leaves: the numbers of the parameters.
    """

    gradients: Any
    leaves: tuple[int, ...]


Features = list[Gram | Dense]


class FeatureProgram(NamedTuple):
    """How the features of one example are computed, read once for a model.

    Attributes:
        flat: a jaxpr of the model's arrays and one example.
        n_fixed: how many of its inputs are arrays of the model.
        kind: the structure of the features.
        alike: for each of their arrays, whether it is the same for all examples.
    """

    flat: Flat
    n_fixed: int
    kind: Any
    alike: tuple[bool, ...]

    def __call__(
        self, arrays: Sequence[Array], x: Sequence[Array]
    ) -> tuple[Features, Features]:
        """The features of a block of examples: what all have alike, and what varies.

        Two halves of one PyTree, with `None` where the other half has an array.

        Args:
            arrays: of the model.
            x: the arrays of the examples, whose first axis counts them.
        """
        found = jax.vmap(
            lambda *xs: eval_jaxpr(self.flat.jaxpr, self.flat.consts, *arrays, *xs),
            out_axes=[None if a else 0 for a in self.alike],
        )(*x)
        return eqx.partition(self.kind.unflatten(found), self._is_alike)

    def of_one(self) -> tuple[Features, Features]:
        """The shapes and dtypes of what it gives for a block of one example."""
        structs = [
            jax.ShapeDtypeStruct(
                struct.shape if a else (1, *struct.shape), struct.dtype
            )
            for a, struct in zip(
                self.alike, map(aval, self.flat.jaxpr.outvars), strict=True
            )
        ]
        return eqx.partition(self.kind.unflatten(structs), self._is_alike)

    @property
    def _is_alike(self) -> Any:
        return self.kind.unflatten(self.alike)


def read_features(
    flat: Flat,
    n_leaves: int,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
) -> FeatureProgram:
    """How the features of one example of a model are computed.

    Args:
        flat: the model's jaxpr: of its parameters, its other arrays and the arrays of
            one example. Its results are the output's arrays, all real.
        n_leaves: how many parameters there are.
        n_fixed: how many arrays the model has, parameters included.
        modes: what becomes of each output array's axes.
        n_pairs: the number of pairs that one example is in.
        by_leaf: whether the kernel of each leaf is wanted, and not their sum alone.
    """
    structure = structure_of(flat, n_leaves, fuse=not by_leaf)
    kinds = []

    def one(*given: Array) -> list[Array]:
        leaves, rest = list(given[:n_leaves]), given[n_leaves:]
        features = _features(structure, leaves, rest, modes, n_pairs, by_leaf)
        arrays, kind = jtu.tree_flatten_with_path(features)
        kinds.append((kind, [str(path[-2:-1]) for path, _ in arrays]))
        return [array for _, array in arrays]

    program = flatten(one, *map(struct_of, flat.jaxpr.invars))
    ((kind, names),) = kinds
    # Derivatives by the last layer's result are often the same for all examples.
    alike = tuple(
        not varies and ".derivatives" in name
        for varies, name in zip(
            _depends_on_inputs(program, n_fixed), names, strict=True
        )
    )
    return FeatureProgram(program, n_fixed, kind, alike)


def features_of_outputs(
    outputs: Sequence[Array], modes: Sequence[Mode]
) -> tuple[Features, Features]:
    """The same, such that the kernel is the product of the outputs `(n, *out)`."""
    parts = [
        f.reshape(f.shape[0], -1)[:, mode.order].reshape(f.shape[0], *mode.sizes)
        for f, mode in zip(outputs, modes, strict=True)
    ]
    features: Features = [Dense(parts, ())]
    return jtu.tree_map(lambda _: None, features), features


def _features(
    structure: Structure,
    leaves: list[Array],
    xs: Sequence[Array],
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
) -> Features:
    """The features of one example."""
    ordinary = [leaves[i] for i in structure.ordinary]

    def outputs(ordinary: list[Array], taps: Any) -> Any:
        given = list(leaves)
        for i, leaf in zip(structure.ordinary, ordinary, strict=True):
            given[i] = leaf
        results, seen = run(structure, [*given, *xs], taps)
        return [jnp.ravel(result) for result in results], seen

    results, vjp, seen = jax.vjp(outputs, ordinary, zero_taps(structure), has_aux=True)
    rows, taps = jax.vmap(vjp)(_cotangents(results, modes))
    features: Features = []
    grams: dict[Any, list[tuple[Tapped, Array, Array]]] = {}
    for tapped in structure.tapped:
        activations, derivatives = at_all_sites(tapped, seen, taps)
        if is_gram(tapped, modes, n_pairs):
            source = tapped.leaf if by_leaf else tapped.source
            grams.setdefault(source, []).append((tapped, activations, derivatives))
        else:
            if tapped.sites[0].looks_up:
                n_rows = tapped.sizes[2]
                activations = jax.nn.one_hot(
                    activations, n_rows, dtype=derivatives.dtype
                )
            # (b, k, o, i): as the product gives it, and as a convolution has (k, o, s).
            dtype = common_dtype([derivatives, activations])
            gradient = lax.dot_general(
                derivatives.astype(dtype), activations.astype(dtype),
                (((2,), (1,)), ((1,), (0,))),
                precision="highest",
            ).swapaxes(0, 1)  # fmt: skip
            features.append(Dense(_gradients(gradient, modes), tapped.leaves))
    for group in grams.values():
        derivatives = jnp.concatenate([d for _, _, d in group], axis=3)
        by_output = [
            d.transpose(3, 0, 1, 4, 2, 5).reshape(*_of(d, 3, 0, 1, 4), -1)
            for d in _split(derivatives, modes)
        ]
        numbers = tuple(leaf for tapped, _, _ in group for leaf in tapped.leaves)
        features.append(Gram(group[0][1], by_output, numbers))
    return features + _ordinary(structure.ordinary, rows, modes, by_leaf)


def at_all_sites(tapped: Tapped, seen: Activations, taps: Taps) -> tuple[Array, Array]:
    """Activations `(b, s, i)`, or rows `(b, s)`, and derivatives `(k, b, s, o)`."""
    activations, derivatives = [], []
    for site in tapped.sites:
        _, sliced = scan_lengths(site.use.view)
        found, scale = seen[site.use.path]
        tap = taps[site.use.path]
        n_lead = 1 + len(sliced)
        fold = site.fold
        for _ in range(n_lead):
            fold = jax.vmap(fold)
        derivative = _merged(fold(tap), sliced, 1)
        if scale is not None:
            derivative = derivative * _merged(scale, sliced, 0)[None, :, :, None]
        derivatives.append(derivative)
        activations.append(_merged(found, sliced, 0))
    return jnp.concatenate(activations, axis=1), jnp.concatenate(derivatives, axis=2)


def _merged(array: Array, sliced: Sequence[bool], n_lead: int) -> Array:
    """From `(*lead, *scans, b, s, ...)`: scans over slices into b, others into s."""
    cut = [n_lead + j for j, is_cut in enumerate(sliced) if is_cut]
    whole = [n_lead + j for j, is_cut in enumerate(sliced) if not is_cut]
    b = n_lead + len(sliced)
    rest = tuple(range(b + 2, array.ndim))
    array = array.transpose(*range(n_lead), *cut, b, *whole, b + 1, *rest)
    lead, tail = array.shape[:n_lead], array.shape[b + 2 :]
    n_batch = math.prod(array.shape[n_lead : n_lead + len(cut) + 1])
    n_shared = math.prod(array.shape[n_lead + len(cut) + 1 : b + 2])
    return array.reshape(*lead, n_batch, n_shared, *tail)


def _ordinary(
    numbers: Sequence[int], rows: Sequence[Array], modes: Sequence[Mode], by_leaf: bool
) -> Features:
    """Gradients as they are; small ones side by side, for one product of many."""
    if by_leaf:
        pairs = zip(numbers, rows, strict=True)
        return [Dense(_gradients(row, modes), (i,)) for i, row in pairs]
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
        features.append(Dense(_gradients(gradient, modes), leaves))
    return features


def _gradients(rows: Array, modes: Sequence[Mode]) -> list[Array]:
    """For each output array `(e, f, t * p)`."""
    return [part.reshape(*part.shape[:2], -1) for part in _split(rows, modes)]


def _split(rows: Array, modes: Sequence[Mode]) -> list[Array]:
    """Rows of all outputs `(k, ...)` to `(e, f, t, ...)` for each output array."""
    parts, start = [], 0
    for mode in modes:
        n = math.prod(mode.sizes)
        parts.append(rows[start : start + n].reshape(*mode.sizes, *rows.shape[1:]))
        start += n
    return parts


def _of(array: Array, *axes: int) -> tuple[int, ...]:
    return tuple(array.shape[axis] for axis in axes)


def _cotangents(results: Sequence[Array], modes: Sequence[Mode]) -> list[Array]:
    """For each entry of each output, in the order of its mode, a one among zeros."""
    total = sum(result.size for result in results)
    cotangents, start = [], 0
    for result, mode in zip(results, modes, strict=True):
        rows = np.zeros((total, result.size), result.dtype)
        rows[start + np.arange(result.size), mode.order] = 1
        cotangents.append(jnp.asarray(rows))
        start += result.size
    return cotangents


def _depends_on_inputs(flat: Flat, n_fixed: int) -> list[bool]:
    """For each result, whether it depends on any input but the first ones."""
    varying = set(flat.jaxpr.invars[n_fixed:])
    for eqn in flat.jaxpr.eqns:
        if any(isinstance(v, Var) and v in varying for v in eqn.invars):
            varying.update(eqn.outvars)
    return [isinstance(v, Var) and v in varying for v in flat.jaxpr.outvars]


# Gradients of up to this many parameters are put side by side.
_LARGEST_TOGETHER = 2**12
