"""The one way from a model and inputs to any kernel of the family."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .. import _checks, _inputs
from .._batch import Blocks, pairwise
from .._checkpoint import Checkpoint
from .._progress import reporter
from .._types import (
    Directory,
    Examples,
    Integer,
    Model,
    Progress,
    Text,
    Trainable,
)
from .reading import Member, Reading, read

# Features of one call on a processor, and all that it holds to make them. Larger ones
# make its buffers so large that the system's allocator gives their memory back after
# each call, and the next has it zeroed page by page, which takes longer than to fill
# it.
_BLOCK_BYTES = 24 * 2**20
_MAKING_BYTES = 2**25


class Settings(NamedTuple):
    """What is the same for all members; see `ntk`."""

    trainable: Trainable
    precision: Text
    progress: Progress
    out: Text = "device"
    mesh: Any = None
    checkpoint: Directory = None


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
    batch_size = _checks.positive_integer("batch_size", batch_size)
    _checks.precision(settings.precision)
    x1, x2 = _inputs.pair(x1, x2)
    n1, n2 = _inputs.count(x1), _inputs.count(x1 if x2 is None else x2)
    n_pairs = n1 / 2 if x2 is None else n1 * n2 / (n1 + n2)
    reading, arrays = read(
        member, model, x1, settings.trainable, settings.precision, n_pairs
    )
    block = min(batch_size, max(n1, n2))
    in_tiles = settings.mesh is not None or settings.checkpoint is not None
    if in_tiles or not _is_one_program(reading, block, n1, n2):
        is_traced = _checks.is_traced(arrays, x1, x2)
        block = _block(reading, block, n1 if x2 is None else 0, is_traced)
    parts = pairwise(
        reading.programs, arrays, x1, x2, block,
        reporter(settings.progress, member.name),
        pair_bytes=reading.pair_bytes, out=settings.out, mesh=settings.mesh,
        checkpoint=_checkpoint(member, reading, arrays, settings),
    )  # fmt: skip
    parts = _checks.finite_result("A kernel", parts)
    return _finished(parts, reading, member.by_leaf)


def kernel_of_each(
    member: Member, model: Model, x: Examples, batch_size: Integer, settings: Settings
) -> Any:
    """The kernel of each example with itself, `(n, ...)`."""
    batch_size = _checks.positive_integer("batch_size", batch_size)
    _checks.precision(settings.precision)
    x = _inputs.examples("x", x)
    reading, arrays = read(
        member, model, x, settings.trainable, settings.precision, 1.0
    )
    is_traced = _checks.is_traced(arrays, x)
    blocks = Blocks(x, _block(reading, batch_size, 0, is_traced))
    report = reporter(settings.progress, member.name)
    parts = []
    for i in range(len(blocks)):
        part = reading.of_each(arrays, blocks[i])
        parts.append(part)
        report(i + 1, len(blocks))
    joined = jtu.tree_map(lambda *ks: _together(ks, blocks), *parts)
    return _finished(_checks.finite_result("A kernel", joined), reading, member.by_leaf)


def _together(parts: tuple[Any, ...], blocks: Blocks) -> Any:
    """The diagonals of all blocks, without what belongs to copies of examples."""
    if len(parts) == 1:
        return parts[0]
    # On the host, where joining them needs no program that has to be compiled.
    traced = _checks.is_traced(parts)
    real = [
        (part if traced else np.asarray(part))[: blocks.n_real(i)]
        for i, part in enumerate(parts)
    ]
    return jnp.concatenate(real) if traced else jnp.asarray(np.concatenate(real))


def _checkpoint(
    member: Member, reading: Reading, arrays: list[Any], settings: Settings
) -> Checkpoint | None:
    if settings.checkpoint is None:
        return None
    facts = {
        "the kernel": member.name,
        "the parameters": arrays[: reading.n_params],
        "the other arrays of the model": arrays[reading.n_params :],
        "`precision`": str(settings.precision),
    }
    return Checkpoint(settings.checkpoint, facts)


def _is_one_program(reading: Reading, batch_size: int, n1: int, n2: int) -> bool:
    """Whether a program of its own does all, without features."""
    is_one = max(n1, n2) <= batch_size
    return is_one and reading.programs.without_features(n1, n2) is not None


def _block(reading: Reading, batch_size: int, n_same: int, is_traced: bool) -> int:
    """Examples per call of the features.

    Args:
        reading: of the model.
        batch_size: the most.
        n_same: of how many examples the upper triangle is computed; 0 for all pairs.
        is_traced: whether all calls are part of one program of the caller's.
    """
    if jax.default_backend() != "cpu":
        return batch_size
    most = _BLOCK_BYTES // max(reading.example_bytes, 1)
    if not is_traced:
        most = min(most, _MAKING_BYTES // max(reading.making_bytes, 1))
    most = max(1, most)
    # A power of two: tiles are made of whole blocks.
    block = batch_size if batch_size <= most else 2 ** int(math.log2(most))
    if 0 < n_same <= batch_size:
        block = min(block, -(-n_same // reading.n_parts(n_same)))
    return block


def _finished(parts: list[list[Any]], reading: Reading, by_leaf: bool) -> Any:
    groups = [reading.outputs.unflatten(group) for group in parts]
    return reading.params.unflatten(groups) if by_leaf else groups[0]
