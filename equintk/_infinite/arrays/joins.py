"""Random arrays side by side."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..averages import merged
from ..errors import NoLimitError
from ..layout import Factor
from ..nodes import Atoms, Data, Field, Term
from . import algebra, data as deterministic, fields


def concatenate(atoms: Atoms, parts: Sequence[Field], axis: int) -> Field:
    """`concatenate` along an axis of places."""
    parts = [fields.plain(atoms, part, axis) for part in parts]
    if any(part.axes[axis][0].kind == "wide" for part in parts):
        raise NoLimitError(
            "arrays are concatenated along an axis that goes to infinity"
        )
    together = _one_function(atoms, parts, axis)
    if together is not None:
        return together
    sizes = [part.shape[axis] for part in parts]
    total: Field | None = None
    for i, part in enumerate(parts):
        config = [(0, 0, 0)] * len(part.axes)
        config[axis] = (sum(sizes[:i]), sum(sizes[i + 1 :]), 0)
        shape = [*part.shape[:axis], sum(sizes), *part.shape[axis + 1 :]]
        padded = fields.along_places(
            atoms, part, ("pad", tuple(config)),
            lambda a, m, side, config=config: lax.pad(
                a, jnp.zeros((), a.dtype), config
            ),
            shape, [axis], True, True,
        )  # fmt: skip
        if total is None:
            total = padded
        else:
            one, two = algebra.conformed(atoms, [total, padded])
            total = algebra.add(atoms, one, two)
    assert total is not None
    return total


def _one_function(atoms: Atoms, parts: Sequence[Field], axis: int) -> Field | None:
    """The same function of Gaussians that are side by side, where it is the same."""
    if any(len(p.terms) != 1 or len(p.terms[0].factors) != 1 for p in parts):
        return None
    others = {(*p.axes[:axis], *p.axes[axis + 1 :]) for p in parts}
    factors = [p.terms[0].factors[0] for p in parts]
    alike = {(f, atom.gaussian, atom.tangent) for f, _, atom in factors}
    if len(others) > 1 or len(alike) > 1 or any(params for _, params, _ in factors):
        return None
    if not factors[0][2].gaussian:
        return None
    sizes = tuple(p.shape[axis] for p in parts)
    _, dimension = fields.position(parts[0], axis, 0)
    atom = atoms.joined(dimension, tuple(a for *_, a in factors), sizes)
    coefs = [p.terms[0].coef for p in parts]
    coef = None
    if any(c is not None for c in coefs):
        coef = _joined_coefs(coefs, dimension, sizes, parts[0])
    axes = fields.replaced(parts[0].axes, axis, (Factor("place", sum(sizes)),))
    return Field(axes, (Term(coef, ((factors[0][0], (), atom),)),), parts[0].dtype)


def _joined_coefs(
    coefs: Sequence[Data | None], dimension: int, sizes: Sequence[int], like: Field
) -> Data:
    rank = len(like.sizes)
    known = [fields.ones(rank) if c is None else c for c in coefs]
    shape = [max(c.shape[d] for c in known) for d in range(rank)]
    shape[dimension] = sum(sizes)

    def compute(m: Any, side: int) -> Any:
        values = [m.value(c, side) for c in known]
        whole = []
        for value, size in zip(values, sizes, strict=True):
            target = [*shape[:dimension], size, *shape[dimension + 1 :]]
            whole.append(jnp.broadcast_to(value.astype(values[-1].dtype), target))
        return jnp.concatenate(whole, dimension)

    average = merged([c.average for c in known])
    return deterministic.made(
        shape, (False,) * rank, known[-1].dtype, compute, known, average
    )
