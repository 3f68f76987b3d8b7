"""A model read once, for all kernels of one kind: its features, and the programs.

What is read depends on shapes, dtypes and everything else in a model that is no array,
and never on an array's entries, so it is kept for the next call (`_cache`).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import eval_jaxpr
from jaxtyping import Array, PyTree

from .. import _cache, _inputs
from .._checks import is_traced
from .._compiled import jit
from .._parameters import (
    called,
    common_dtype,
    partition,
    real_outputs,
    refuse_other_outputs,
    wide_dtype,
)
from .._programs import Programs, Whole
from .._trace.flatten import Flat, aval, flatten, most_bytes
from .._types import Axes, Examples, Model, Text, Trainable
from .backward import cotangents_of, one_output
from .contraction import array_bytes, contracted, multiplied, n_parts, pair_bytes
from .features import Features, features_of_outputs, read_features
from .in_pieces import Pieces, pieces_of
from .in_turns import Turns, turns_of
from .modes import Mode, modes_of
from .structure import structure_of


class Member(NamedTuple):
    """A member of the family of kernels.

    Attributes:
        name: for progress.
        average: the output axes averaged over; `None` for all.
        diagonal: the output axes of which the diagonal is kept; `None` for the others.
        by_leaf: whether each parameter leaf has a kernel of its own.
        of_outputs: whether the features are the outputs and not their gradients.
    """

    name: str
    average: Axes
    diagonal: Axes
    by_leaf: bool = False
    of_outputs: bool = False


class Reading(NamedTuple):
    """A model as a kernel needs it, but for its arrays.

    Attributes:
        order: the places of its arrays among its leaves: the parameters, and then all
            others.
        n_params: how many parameters there are.
        params: the structure of the parameters, a PyTree with `None` for all else.
        outputs: the structure of its output.
        programs: of the arrays in that order, and examples. Kernels are, for each
            parameter or for all together, a list of one array for each of the output's.
        of_each: the kernel of each example of a block with itself, of the same.
        example_bytes: of the features of one example.
        making_bytes: of all that is held at once to make them.
        pair_bytes: of the temporaries and the result for one pair of examples.
        n_parts: of `n` examples with themselves, into how many tiles a side to cut.
        held_bytes: of the arrays that the model's functions close over; `None` if some
            of them are being traced.
    """

    order: tuple[int, ...]
    n_params: int
    params: Any
    outputs: Any
    programs: Programs
    of_each: Any
    example_bytes: int
    making_bytes: int
    pair_bytes: int
    n_parts: Callable[[int], int]
    held_bytes: int | None


def read(
    member: Member,
    model: Model,
    x: Examples,
    trainable: Trainable,
    precision: Text,
    pairs: float,
) -> tuple[Reading, list[Any]]:
    """A model, read now or before, and its arrays in the order of the reading.

    Args:
        member: which kernel.
        model: the model.
        x: the examples; of each, only shapes and dtypes are read.
        trainable: which leaves are parameters.
        precision: of the contractions.
        pairs: how many pairs an example is in, or so.

    Raises:
        ValueError: for a model without parameters or one that couples examples, and for
            outputs that are no floating-point arrays.
    """
    # The number of pairs decides between two exact ways; its order of magnitude will
    # do, and lets one compiled function serve many sizes.
    n_pairs = 4 ** round(math.log(max(pairs, 1), 4))
    of_model = _cache.signature(model)
    example = jtu.tree_map(_one, x)
    mask = None
    if trainable is not None:
        mask = _mask(of_model, model, trainable)
    key = (
        ("kernel", *_hashable(member)),
        of_model.key,
        _cache.signature(example).key,
        mask,
        str(precision),
        n_pairs,
        # JAX does not trace anew for another kind of random keys, of which a model may
        # make some.
        str(jax.config.jax_default_prng_impl),  # pyright: ignore
    )
    reading = _cache.remembered(
        key,
        lambda: _read(member, model, of_model, example, mask, precision, n_pairs),
        lambda reading: reading.held_bytes,
    )
    return reading, [of_model.leaves[i] for i in reading.order]


def _hashable(member: Member) -> tuple[Any, ...]:
    return tuple(tuple(a) if isinstance(a, list) else a for a in member)


def _one(array: Any) -> Any:
    """Shape and dtype of one example's array."""
    weak = getattr(array, "weak_type", False)  # random keys have none
    return jax.ShapeDtypeStruct(array.shape[1:], array.dtype, weak_type=weak)


def _mask(of_model: _cache.Signature, model: Model, trainable: Trainable) -> Any:
    """For each leaf of a model, whether it is a parameter."""
    params, _ = partition(model, trainable)
    return tuple(p is not None for p in of_model.treedef.flatten_up_to(params))


def _read(
    member: Member,
    model: Model,
    of_model: _cache.Signature,
    example: Any,
    mask: Any,
    precision: Text,
    n_pairs: int,
) -> Reading:
    leaves, treedef = of_model.leaves, of_model.treedef
    is_array = tuple(map(eqx.is_array, leaves))
    if member.of_outputs:
        mask = is_array
    elif mask is None:
        mask = _mask(of_model, model, None)
    params = [i for i, is_param in enumerate(mask) if is_param]
    others = [i for i, yes in enumerate(is_array) if yes and not mask[i]]
    order = (*params, *others)
    # Only their shapes: what is read must not keep a model's arrays alive.
    arrays = jax.eval_shape(lambda a: a, [leaves[i] for i in order])
    rest = [None if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
    examples, example_def = jtu.tree_flatten(example)
    outs = []

    def outputs(*given: Array) -> list[Array]:
        filled = list(rest)
        for i, array in zip(order, given, strict=False):
            filled[i] = array
        x = example_def.unflatten(given[len(order) :])
        out = refuse_other_outputs(called(treedef.unflatten(filled), x))
        outs.append(jtu.tree_structure(out))
        return real_outputs(out)

    flat = flatten(outputs, *arrays, *examples)
    results = [aval(var) for var in flat.jaxpr.outvars]
    modes = modes_of([a.shape for a in results], member.average, member.diagonal)
    dtype = common_dtype(results if member.of_outputs else arrays[: len(params)])
    how = _Contraction(modes, precision, str(jnp.finfo(dtype).dtype), member.by_leaf)
    if member.of_outputs:
        features = lambda arrays, x: _output_features(flat, modes, arrays, x)
        one = [_one_of(s) for s in examples]
        shared, each = jax.eval_shape(features, arrays, one)
        consts, way = flat.consts, lambda n1, n2: None
        making_bytes = most_bytes(flat, flat.jaxpr.invars[len(order) :])
    else:
        cotangents = cotangents_of(results, modes)
        structure = structure_of(flat, len(params), fuse=not member.by_leaf)
        how_read = (one_output(structure), len(order), modes, n_pairs, member.by_leaf)
        program = read_features(*how_read, cotangents.structs)

        def features(arrays: PyTree, x: Examples) -> tuple[Features, Features]:
            shared, each = program(arrays, cotangents(), jtu.tree_leaves(x))
            return multiplied(shared, str(precision)), each

        shared, each = program.of_one()
        consts, making_bytes = program.flat.consts, program.held_bytes
        turns = turns_of(*how_read, program)
        pieces = pieces_of(*how_read, program, cotangents)
        way = lambda n1, n2: turns(n1, n2) or pieces(n1, n2)
    return Reading(
        order,
        len(params),
        jtu.tree_structure(
            treedef.unflatten([0 if is_param else None for is_param in mask])
        ),
        outs[0],
        Programs(
            features,
            how.of_pair,
            lambda tile: _flipped(tile, modes),
            lambda n1, n2: how.directly(way(n1, n2)),
        ),
        jit(lambda arrays, x: how.of_each(*features(arrays, x), _inputs.count(x))),
        array_bytes(each),
        making_bytes,
        pair_bytes(eqx.combine(each, shared)),
        functools.partial(n_parts, eqx.combine(each, shared)),
        None if is_traced(consts) else sum(np.asarray(c).nbytes for c in consts),
    )


def _one_of(struct: Any) -> Any:
    """A block of one example."""
    return jax.ShapeDtypeStruct(
        (1, *struct.shape), struct.dtype, weak_type=struct.weak_type
    )


def _output_features(
    flat: Flat, modes: tuple[Mode, ...], arrays: Sequence[Array], x: Examples
) -> tuple[Features, Features]:
    evaluate = lambda *xs: eval_jaxpr(flat.jaxpr, flat.consts, *arrays, *xs)
    return features_of_outputs(jax.vmap(evaluate)(*jtu.tree_leaves(x)), modes)


class _Contraction(NamedTuple):
    """Features of two blocks to their kernel: for each output, and each leaf or all."""

    modes: tuple[Mode, ...]
    precision: str
    dtype: str
    by_leaf: bool

    def of_pair(self, shared: PyTree, one: PyTree, two: PyTree) -> list[list[Array]]:
        """Of the features that are alike, and of those of two blocks."""
        return self(eqx.combine(one, shared), eqx.combine(two, shared))

    def of_each(self, shared: PyTree, each: PyTree, n: int) -> list[list[Array]]:
        """Of each of `n` examples with itself."""

        def of_one(one: PyTree) -> list[list[Array]]:
            kernel = self.of_pair(shared, one, one)
            return jtu.tree_map(lambda k: k[0, 0], kernel)

        # The rows of each example apart.
        return jax.vmap(of_one)(
            jtu.tree_map(lambda a: a.reshape(n, -1, *a.shape[1:]), each)
        )

    def directly(self, way: Turns | Pieces | None) -> Whole | None:
        """Of the model's arrays and two blocks, the second `None` for the same."""
        if way is None:
            return None

        def kernel(arrays: PyTree, x1: PyTree, x2: PyTree | None) -> list[list[Array]]:
            two = None if x2 is None else jtu.tree_leaves(x2)
            parts = way.contracted(arrays, jtu.tree_leaves(x1), two, self.precision)
            return self._finished(parts, way.program.leaves)

        return kernel

    def __call__(self, one: Features, two: Features) -> list[list[Array]]:
        parts = contracted(one, two, self.precision)
        return self._finished(parts, [feature.leaves for feature in one])

    def _finished(
        self, parts: list[list[Array]], leaves: list[tuple[int, ...]]
    ) -> list[list[Array]]:
        if self.by_leaf:
            order = sorted(range(len(parts)), key=lambda i: leaves[i])
            groups = [[parts[i]] for i in order]
        else:
            groups = [parts]
        return [
            [
                self._output(mode, [part[o] for part in group])
                for o, mode in enumerate(self.modes)
            ]
            for group in groups
        ]

    def _output(self, mode: Mode, parts: list[Array]) -> Array:
        # Parameters of two dtypes are added in the wider one.
        wide = wide_dtype(parts)
        total = sum(part.astype(wide) for part in parts)
        return mode.unravel(jnp.asarray(total / mode.sizes[2], self.dtype))


def _flipped(tile: list[list[Any]], modes: tuple[Mode, ...]) -> list[list[Any]]:
    return [
        [mode.flip(k) for mode, k in zip(modes, group, strict=True)] for group in tile
    ]
