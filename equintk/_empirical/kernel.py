"""The one way from a model and inputs to any kernel of the family.

Compiles two functions, features of a block and the kernel of a pair of blocks, and
hands them to `_batch.pairwise`. The members of the family differ in their features (of
the tangent kernel, or of the outputs themselves) and in what they do with the outputs'
axes.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _checks, _inputs
from .._batch import Blocks, pairwise
from .._checkpoint import Checkpoint
from .._parameters import (
    common_dtype,
    output_structs,
    partition,
    real_outputs,
    wide_dtype,
)
from .._progress import reporter
from .._types import (
    Axes,
    Directory,
    Examples,
    Integer,
    Model,
    Progress,
    Text,
    Trainable,
)
from .contraction import contracted, pair_bytes
from .features import Features, features_of_block, features_of_outputs
from .modes import Mode, modes_of

# Features of one call on a processor. Larger ones make its buffers so large that the
# system's allocator gives their memory back after each call, and the next has it zeroed
# page by page, which takes longer than to fill it.
_BLOCK_BYTES = 24 * 2**20


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


class Settings(NamedTuple):
    """What is the same for all members; see `ntk`."""

    trainable: Trainable
    precision: Text
    progress: Progress
    out: Text = "device"
    mesh: Any = None
    checkpoint: Directory = None


class Reading(NamedTuple):
    """A model as a kernel needs it.

    Attributes:
        params: its parameters.
        static: the rest of it.
        outputs: the structure of its output.
        modes: what becomes of the axes of each array of its output.
        dtype: of the kernel.
    """

    params: PyTree
    static: PyTree
    outputs: Any
    modes: tuple[Mode, ...]
    dtype: str


def kernel(
    member: Member,
    model: Model,
    x1: Examples,
    x2: Examples | None,
    batch_size: Integer,
    settings: Settings,
) -> Any:
    """The kernel, one array for each array of the output, `(n1, n2, ...)`.

    With `by_leaf` a PyTree like the parameters, of such kernels.
    """
    _checks.positive_integer("batch_size", batch_size)
    x1, x2 = _inputs.pair(x1, x2)
    reading = _read(member, model, x1, settings)
    n1, n2 = _inputs.count(x1), _inputs.count(x1 if x2 is None else x2)
    n_pairs = n1 / 2 if x2 is None else n1 * n2 / (n1 + n2)
    how = _contraction(member, reading, settings)
    features = _features(member, reading, n_pairs)
    of_pair = lambda shared, one, two: _of_pair(shared, one, two, how)

    def on(device: Any) -> Any:
        params, static = (
            jtu.tree_map(
                lambda a: jax.device_put(a, device) if eqx.is_array(a) else a, part
            )
            for part in (reading.params, reading.static)
        )
        there = reading._replace(params=params, static=static)
        return _features(member, there, n_pairs), of_pair

    block, bytes_of_pair = _sizes(features, x1, batch_size)
    parts = pairwise(
        features,
        of_pair,
        lambda tile: _flipped(tile, reading.modes),
        x1, x2, block, reporter(settings.progress, member.name),
        pair_bytes=bytes_of_pair, out=settings.out,
        mesh=settings.mesh, place=None if settings.mesh is None else on,
        checkpoint=_checkpoint(member, reading, settings),
    )  # fmt: skip
    return _finished(parts, reading, member.by_leaf)


def kernel_of_each(
    member: Member, model: Model, x: Examples, batch_size: Integer, settings: Settings
) -> Any:
    """The kernel of each example with itself, `(n, ...)`."""
    _checks.positive_integer("batch_size", batch_size)
    x = _inputs.examples("x", x)
    reading = _read(member, model, x, settings)
    features = _features(member, reading, 1.0)
    how = _contraction(member, reading, settings)
    blocks = Blocks(x, batch_size)
    report = reporter(settings.progress, member.name)
    parts = []
    for i in range(len(blocks)):
        shared, each = features(blocks[i])
        part = _of_each(shared, each, how)
        n_real = blocks.n_real(i)
        parts.append([[k[:n_real] for k in group] for group in part])
        report(i + 1, len(blocks))
    joined = jtu.tree_map(lambda *ks: jnp.concatenate(ks), *parts)
    return _finished(joined, reading, member.by_leaf)


def _read(member: Member, model: Model, x: Examples, settings: Settings) -> Reading:
    if member.of_outputs:
        params, static = eqx.partition(model, eqx.is_array)
    else:
        params, static = partition(model, settings.trainable)
    structs = output_structs(model, _inputs.one_example(x))
    shapes = [
        struct.shape + (2,) * jnp.issubdtype(struct.dtype, jnp.complexfloating)
        for struct in jtu.tree_leaves(structs)
    ]
    dtype = common_dtype(jtu.tree_leaves(structs if member.of_outputs else params))
    return Reading(
        params,
        static,
        jtu.tree_structure(structs),
        modes_of(shapes, member.average, member.diagonal),
        str(jnp.finfo(dtype).dtype),
    )


def _contraction(
    member: Member, reading: Reading, settings: Settings
) -> "_Contraction":
    return _Contraction(
        reading.modes, settings.precision, reading.dtype, member.by_leaf
    )


def _checkpoint(
    member: Member, reading: Reading, settings: Settings
) -> Checkpoint | None:
    if settings.checkpoint is None:
        return None
    facts = {
        "the kernel": member.name,
        "the parameters": reading.params,
        "`precision`": str(settings.precision),
    }
    return Checkpoint(settings.checkpoint, facts)


def _sizes(features: Any, x: Examples, batch_size: int) -> tuple[int, int]:
    """Examples per call of `features`; bytes of a pair of examples in a contraction."""
    size = min(batch_size, _inputs.count(x))
    block = jtu.tree_map(
        lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), x
    )
    shared, each = eqx.filter_eval_shape(features, block)
    if jax.default_backend() == "cpu":
        held = sum(a.size * a.dtype.itemsize for a in jtu.tree_leaves(each))
        most = max(1, size * _BLOCK_BYTES // max(held, 1))
        # A power of two: tiles are made of whole blocks.
        size = size if size <= most else 2 ** int(math.log2(most))
    return size, pair_bytes(eqx.combine(each, shared))


def _features(member: Member, reading: Reading, pairs: float) -> Any:
    # The number of pairs decides between two exact ways; its order of magnitude will
    # do, and lets one compiled function serve many sizes.
    n_pairs = 4 ** round(math.log(max(pairs, 1), 4))

    def features(x: Examples) -> Any:
        if member.of_outputs:
            return _output_features(reading.params, reading.static, x, reading.modes)
        return _tangent_features(
            reading.params, reading.static, x, reading.modes, n_pairs, member.by_leaf
        )

    return features


@eqx.filter_jit
def _tangent_features(
    params: PyTree,
    static: PyTree,
    x: Examples,
    modes: tuple[Mode, ...],
    n_pairs: int,
    by_leaf: bool,
) -> Any:
    leaves, treedef = jtu.tree_flatten(params)

    def output(leaves: Any, example: Any) -> list[Array]:
        return real_outputs(eqx.combine(treedef.unflatten(leaves), static)(example))

    return features_of_block(output, leaves, x, modes, n_pairs, by_leaf)


@eqx.filter_jit
def _output_features(
    params: PyTree, static: PyTree, x: Examples, modes: tuple[Mode, ...]
) -> Any:
    model = eqx.combine(params, static)
    return features_of_outputs(jax.vmap(lambda e: real_outputs(model(e)))(x), modes)


@eqx.filter_jit
def _of_pair(
    shared: PyTree, one: PyTree, two: PyTree, how: "_Contraction"
) -> list[list[Array]]:
    return how(eqx.combine(one, shared), eqx.combine(two, shared))


@eqx.filter_jit
def _of_each(shared: PyTree, each: PyTree, how: "_Contraction") -> list[list[Array]]:
    def of_one(one: PyTree) -> list[list[Array]]:
        alone = jtu.tree_map(lambda a: a[None], one)
        features = eqx.combine(alone, shared)
        return jtu.tree_map(lambda k: k[0, 0], how(features, features))

    return jax.vmap(of_one)(each)


class _Contraction(NamedTuple):
    """Features of two blocks to their kernel: for each output, and each leaf or all."""

    modes: tuple[Mode, ...]
    precision: str
    dtype: str
    by_leaf: bool

    def __call__(self, one: Features, two: Features) -> list[list[Array]]:
        parts = contracted(one, two, self.precision)
        if self.by_leaf:
            order = sorted(range(len(one)), key=lambda i: one[i].leaves)
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


def _flipped(tile: list[list[Array]], modes: tuple[Mode, ...]) -> list[list[Array]]:
    return [
        [mode.flip(k) for mode, k in zip(modes, group, strict=True)] for group in tile
    ]


def _finished(parts: list[list[Any]], reading: Reading, by_leaf: bool) -> Any:
    parts = _checks.finite_result("A kernel", parts)
    groups = [reading.outputs.unflatten(group) for group in parts]
    if by_leaf:
        return jtu.tree_structure(reading.params).unflatten(groups)
    return groups[0]
