"""The backward pass of one example: a derivative at each site, for each output."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import DebugInfo, Jaxpr
from jaxtyping import Array

from .._parameters import wide_dtype
from .._trace.flatten import Flat, aval, flatten, struct_of
from .._trace.uses import Path
from .modes import Mode
from .separable import Backward, Separable
from .structure import Structure, Tapped, scan_lengths
from .tapped import Activations, Taps, run, zero_taps


class AtSites(NamedTuple):
    """What a weight's gradient is made of.

    Attributes:
        activations: `(b, s, i)`, or the numbers of rows looked up, `(b, s)`.
        offsets: what the bias sees, `(b, s)`; `None` without one.
        derivatives: of each output, `(k, b, s, o)`; where they are separable, what they
            have of the example, `(1, b, s, o)`.
        weights: where they are separable, for each output array the sum over outputs of
            the square of what they have of the output, `(b, o)`.
    """

    activations: Array
    offsets: Array | None
    derivatives: Array
    weights: list[Array] | None


class OneOutput(NamedTuple):
    """The backward pass of one example, traced once for all ways to a kernel.

    Attributes:
        structure: of the model's jaxpr.
        flat: of cotangents of the output's arrays, raveled, and of the jaxpr's inputs
            to the derivatives by ordinary leaves and at sites, and what is seen there.
        seen: the structure of the last.
    """

    structure: Structure
    flat: Flat
    seen: Any


def one_output(structure: Structure) -> OneOutput:
    """Trace the backward pass."""
    jaxpr, kinds = structure.flat.jaxpr, []
    cotangents = [
        jax.ShapeDtypeStruct((aval(var).size,), aval(var).dtype)
        for var in jaxpr.outvars
    ]
    inputs = [struct_of(var) for var in jaxpr.invars]

    def backwards(cotangents: Any, leaves: Any, given: Any) -> list[Array]:
        rows, taps, seen = _derivatives(structure, leaves, given, cotangents)
        arrays, kind = jtu.tree_flatten(seen)
        kinds.append(kind)
        return [*rows, *taps.values(), *arrays]

    n_leaves = structure.n_leaves
    flat = flatten(backwards, cotangents, inputs[:n_leaves], inputs[n_leaves:])
    return OneOutput(structure, flat, kinds[-1])


def backward(
    one: OneOutput,
    leaves: Sequence[Array],
    constants: Sequence[Array],
    xs: Sequence[Array],
    modes: Sequence[Mode],
    cotangents: Sequence[Any],
) -> tuple[list[AtSites], list[Array]]:
    """For each tapped weight what it sees, for each ordinary leaf its gradients.

    Gradients are `(k, *leaf)`, outputs in the order of their modes.

    Args:
        one: the pass for one output.
        leaves: the parameters.
        constants: what else is the same for all examples.
        xs: the example.
        modes: what becomes of each output array's axes.
        cotangents: of each output array, raveled, for each output.
    """
    structure, flat, kind = one
    n_ordinary, paths = len(structure.ordinary), list(structure.sites)
    rows = flat.jaxpr.outvars[:n_ordinary]
    taps = dict(zip(paths, flat.jaxpr.outvars[n_ordinary:], strict=False))
    seen = flat.jaxpr.outvars[n_ordinary + len(paths) :]
    found = _separable(structure, Backward(flat, len(cotangents), len(xs)), taps, modes)
    starts = [found[path].start if path in found else taps[path] for path in paths]
    others = [other for separable in found.values() for other in separable.others]

    # The derivatives for each output, and what all outputs have alike.
    by_output, once = [*rows, *starts], [*seen, *others]
    program = _with_results(flat.jaxpr, [*by_output, *once])
    arrays = jax.vmap(
        lambda *cs: eval_jaxpr(program, flat.consts, *cs, *leaves, *constants, *xs),
        out_axes=[0] * len(by_output) + [None] * len(once),
    )(*cotangents)
    values = iter(arrays)
    gradients = [next(values) for _ in rows]
    derivatives = {path: next(values) for path in paths}
    activations = kind.unflatten([next(values) for _ in seen])
    weights: dict[Path, list[Array]] = {}
    for path, separable in found.items():
        start, fold = derivatives[path], structure.sites[path].fold
        of_output = jax.vmap(lambda c, s=separable, f=fold: f(s.of_output(c)))(start)
        squares = jnp.square(of_output[:, :, 0].astype(wide_dtype([start])))
        weights[path] = [part.sum((0, 1, 2)) for part in split(squares, modes)]
        of_example = separable.of_example([next(values) for _ in separable.others])
        derivatives[path] = of_example[None]
    return [
        AtSites(
            *at_all_sites(tapped, activations, derivatives),
            weights.get(tapped.sites[0].use.path),
        )
        for tapped in structure.tapped
    ], gradients


def _derivatives(
    structure: Structure,
    leaves: Sequence[Array],
    given: Sequence[Array],
    cotangents: list[Array],
) -> tuple[list[Array], Taps, Activations]:
    """Derivatives by ordinary leaves and at sites, and the activations there."""

    def outputs(ordinary: list[Array], taps: Taps) -> Any:
        changed = list(leaves)
        for i, leaf in zip(structure.ordinary, ordinary, strict=True):
            changed[i] = leaf
        results, seen = run(structure, [*changed, *given], taps)
        return [jnp.ravel(result) for result in results], seen

    ordinary = [leaves[i] for i in structure.ordinary]
    _, vjp, seen = jax.vjp(outputs, ordinary, zero_taps(structure), has_aux=True)
    rows, taps = vjp(cotangents)
    return rows, {path: taps[path] for path in structure.sites}, seen


def _separable(
    structure: Structure,
    reading: Backward,
    taps: dict[Path, Any],
    modes: Sequence[Mode],
) -> dict[Path, Separable]:
    """The sites whose derivatives are separable, where that spares something."""
    sizes = [mode.sizes for mode in modes]
    if any(e * f > 1 for e, f, _ in sizes) or sum(t for *_, t in sizes) <= len(modes):
        return {}
    found = {}
    for tapped in structure.tapped:
        (site, *more) = tapped.sites
        path = site.use.path
        if more or site.looks_up or site.use.view.scans:
            continue
        separable = reading.separable(taps[path])
        if separable is None:
            continue
        labels = np.asarray(site.fold(separable.labels))
        # What is the same for all examples is kept once anyway; and products of the
        # ones that it would be here are miscompiled by XLA on a processor (jaxlib
        # 0.10 and 0.12: the memory as it was found, from 256 entries on).
        if separable.others and np.all(labels == labels[:, :1]):
            found[path] = separable
    return found


def _with_results(jaxpr: Jaxpr, results: list[Any]) -> Jaxpr:
    names = ("",) * len(jaxpr.invars), ("",) * len(results)
    debug_info = DebugInfo("equintk", "backward", *names)
    return Jaxpr(
        jaxpr.constvars, jaxpr.invars, results, jaxpr.eqns, jaxpr.effects, debug_info
    )


def at_all_sites(
    tapped: Tapped, seen: Activations, taps: Taps
) -> tuple[Array, Array | None, Array]:
    """What `AtSites` says: activations, offsets, and derivatives `(k, b, s, o)`."""
    activations, offsets, derivatives = [], [], []
    for site in tapped.sites:
        _, sliced = scan_lengths(site.use.view)
        found = seen[site.use.path]
        tap = taps[site.use.path]
        n_lead = 1 + len(sliced)
        fold = site.fold
        for _ in range(n_lead):
            fold = jax.vmap(fold)
        derivative = _merged(fold(tap), sliced, 1)
        if found.scale is not None:
            derivative = derivative * _merged(found.scale, sliced, 0)[None, :, :, None]
        derivatives.append(derivative)
        activations.append(_merged(found.activations, sliced, 0))
        if found.offsets is not None:
            offsets.append(_merged(found.offsets, sliced, 0))
    return (
        jnp.concatenate(activations, axis=1),
        jnp.concatenate(offsets, axis=1) if offsets else None,
        jnp.concatenate(derivatives, axis=2),
    )


def with_offsets(activations: Array, offsets: Array | None) -> Array:
    """What weights see and, in one more column, what the bias sees: `(b, s, i)`."""
    if offsets is None:
        return activations
    return jnp.concatenate([activations, offsets[..., None]], axis=-1)


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


def split(rows: Array, modes: Sequence[Mode]) -> list[Array]:
    """Rows of all outputs `(k, ...)` to `(e, f, t, ...)` for each output array."""
    parts, start = [], 0
    for mode in modes:
        n = math.prod(mode.present)
        parts.append(rows[start : start + n].reshape(*mode.present, *rows.shape[1:]))
        start += n
    return parts


class Cotangents(NamedTuple):
    """One output at a time: of all output arrays, raveled, a one among zeros.

    Attributes:
        numbers: for each array, of each output the entry of it that it is, in the order
            of the array's mode; -1 for those of other arrays.
        results: shapes and dtypes of the arrays.
    """

    numbers: tuple[np.ndarray, ...]
    results: tuple[Any, ...]

    @property
    def structs(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes `(outputs, size)` and dtypes of the rows for each array."""
        return [
            jax.ShapeDtypeStruct((len(numbers), result.size), result.dtype)
            for numbers, result in zip(self.numbers, self.results, strict=True)
        ]

    def __call__(self) -> list[Any]:
        """These rows, known to a compiler where they are few."""
        return [
            one_hot(
                numbers if len(numbers) * result.size <= _KNOWN
                # XLA would write the zeros down, and multiply them one by one.
                else lax.optimization_barrier(jnp.asarray(numbers)),
                result.size,
                result.dtype,
            )
            for numbers, result in zip(self.numbers, self.results, strict=True)
        ]  # fmt: skip


def cotangents_of(results: Sequence[Any], modes: Sequence[Mode]) -> Cotangents:
    """Those of each entry of each output array, in the order of its mode."""
    total = sum(result.size for result in results)
    found, start = [], 0
    for result, mode in zip(results, modes, strict=True):
        numbers = np.full(total, -1)
        numbers[start + np.arange(result.size)] = mode.order
        found.append(numbers)
        start += result.size
    return Cotangents(tuple(found), tuple(results))


def one_hot(numbers: Any, size: int, dtype: Any) -> Any:
    """For each number a row with a one in its place; zeros for -1.

    Of NumPy's numbers an array of NumPy.
    """
    return (numbers[:, None] == np.arange(size)[None]).astype(dtype)


# Entries of rows that are written into a program.
_KNOWN = 2**14
