"""The derivative of one equation, as a jaxpr, and whether it is the same everywhere."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import DebugInfo, Jaxpr, JaxprEqn, Literal

from .._derivatives import directional
from .._trace.flatten import Flat, evaluate, flatten


class Tangent(NamedTuple):
    """The derivative of an equation, as a jaxpr of its operands and their tangents.

    Attributes:
        flat: the jaxpr, without the equations that its results do not need.
        results: which of the equation's results have a derivative that is not zero.
        linear: whether the derivative does not depend on the operands that move.
    """

    flat: Flat
    results: tuple[int, ...]
    linear: bool


def tangent_of(eqn: JaxprEqn, active: tuple[int, ...]) -> Tangent:
    """The derivative of an equation by some of its operands."""
    structs = [_struct(atom) for atom in eqn.invars]
    inexact = [i for i, var in enumerate(eqn.outvars) if is_inexact(var)]

    def function(*args: Any) -> Any:
        values, tangents = list(args[: len(structs)]), args[len(structs) :]

        def results(*moving: Any) -> list[Any]:
            merged = list(values)
            for i, value in zip(active, moving, strict=True):
                merged[i] = value
            all_results = evaluate(eqn, merged)
            return [all_results[i] for i in inexact]

        return directional(results, [values[i] for i in active], tangents)[1]

    flat = flatten(function, *structs, *(structs[i] for i in active))
    moves = set(range(len(structs), len(structs) + len(active)))
    needs = _needs(flat)
    kept = [i for i, inputs in enumerate(needs) if inputs & moves]
    flat = _pruned(flat, kept)
    linear = not any(needs[i] & set(active) for i in kept)
    return Tangent(flat, tuple(inexact[i] for i in kept), linear)


def _needs(flat: Flat) -> list[frozenset[int]]:
    """For each result, the inputs on which it depends."""
    on: dict[Any, frozenset[int]] = {
        var: frozenset((i,)) for i, var in enumerate(flat.jaxpr.invars)
    }

    def read(atoms: Sequence[Any]) -> list[frozenset[int]]:
        return [
            frozenset() if isinstance(atom, Literal) else on.get(atom, frozenset())
            for atom in atoms
        ]

    for eqn in flat.jaxpr.eqns:
        inputs = frozenset[int]().union(*read(eqn.invars))
        on.update((var, inputs) for var in eqn.outvars)
    return read(flat.jaxpr.outvars)


def _pruned(flat: Flat, kept: Sequence[int]) -> Flat:
    """The jaxpr with some of its results, and only what these need."""
    outvars = [flat.jaxpr.outvars[i] for i in kept]
    needed = {atom for atom in outvars if not isinstance(atom, Literal)}
    eqns = []
    for eqn in reversed(flat.jaxpr.eqns):
        if needed & set(eqn.outvars):
            eqns.append(eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    names = ("",) * len(flat.jaxpr.invars), ("",) * len(kept)
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    jaxpr = Jaxpr(
        flat.jaxpr.constvars,
        flat.jaxpr.invars,
        outvars,
        eqns[::-1],
        effects,
        DebugInfo("equintk", "derivative", *names),
    )
    return Flat(jaxpr, flat.consts)


def identity_of(eqn: JaxprEqn) -> tuple[Any, ...]:
    """Equal for equations that do the same; effects are never the same."""
    if eqn.effects:
        return (object(),)
    try:
        params = tuple(sorted(eqn.params.items()))
        hash(params)
    except TypeError:  # unhashable, such as an array
        return (id(eqn),)
    return eqn.primitive, params


def signature(atom: Any) -> tuple[Any, ...]:
    """The type of an operand, and its value if it is written in the jaxpr."""
    value = np.asarray(atom.val).tobytes() if isinstance(atom, Literal) else None
    return str(atom.aval), value


def is_inexact(atom: Any) -> bool:
    """Whether an operand or result is of real or complex numbers."""
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def _struct(atom: Any) -> jax.ShapeDtypeStruct:
    aval: ShapedArray = atom.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
