"""A traced function of two examples, cut into what needs one of them and what both.

What one example gives is computed once for each, not once for each pair, where a
compiler would fuse it into what is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import DebugInfo, DropVar, Jaxpr, JaxprEqn, Literal, Var

from .._trace.flatten import aval
from .twins import together

_SHARED, _ONE, _TWO, _BOTH = 0, 1, 2, 3  # bits: what a variable depends on


class Stage(NamedTuple):
    """A part of a program: a jaxpr, and the constants that are its first inputs."""

    jaxpr: Any
    consts: tuple[Any, ...]


class Stages(NamedTuple):
    """The parts of a function of shared numbers and of two examples.

    Attributes:
        shared: of the numbers, what depends on them alone.
        each: of the numbers and an example, what the function asks of it where it is
            the first, and then what it asks where it is the second.
        n_one: how many of the results of `each` are for the first.
        both: of the results, in this order, of `shared` and of `each` for the first and
            the second: the function's own.
        pair_bytes: the most that is alive at a time in `both`.
        example_bytes: the same of `each`.
    """

    shared: Stage
    each: Stage
    n_one: int
    both: Stage
    pair_bytes: int
    example_bytes: int


def stages(closed: Any, sizes: Sequence[int]) -> Stages:
    """Cut a closed jaxpr whose inputs are so many numbers and arrays of an example."""
    jaxpr, consts = closed.jaxpr, closed.consts
    numbers = jaxpr.invars[: sizes[0]]
    mine = jaxpr.invars[sizes[0] : sizes[0] + sizes[1]]
    its = jaxpr.invars[sizes[0] + sizes[1] :]
    needs: dict[Any, int] = dict.fromkeys([*jaxpr.constvars, *numbers], _SHARED)
    needs |= dict.fromkeys(mine, _ONE) | dict.fromkeys(its, _TWO)
    kinds = []
    for eqn in _alive(jaxpr):
        kind = _SHARED
        for v in _read(eqn):
            kind |= needs[v]
        needs |= dict.fromkeys(eqn.outvars, kind)
        kinds.append((kind, eqn))
    eqns = {k: [e for kind, e in kinds if kind == k] for k in range(4)}
    wanted = {v for eqn in eqns[_BOTH] for v in _read(eqn)}
    wanted |= {v for v in jaxpr.outvars if isinstance(v, Var)}
    found, handed = [], []
    for kind, args in ((_SHARED, []), (_ONE, mine), (_TWO, its)):
        # Few and cheap, what depends on the numbers alone is computed in each.
        own = eqns[kind] if kind == _SHARED else [*eqns[_SHARED], *eqns[kind]]
        results = [v for eqn in eqns[kind] for v in eqn.outvars] + [*args]
        if kind == _SHARED:
            results = [*jaxpr.constvars, *numbers, *results]
        out = list({v: None for v in results if v in wanted})
        found.append(_stage(jaxpr, consts, own, [*numbers, *args], out))
        handed += out
    both = Jaxpr(
        (),
        handed,
        jaxpr.outvars,
        eqns[_BOTH],
        jaxpr.effects,
        _names(handed, jaxpr.outvars),
    )
    shared, one, two = found
    each = _as_one(one, two)
    of_examples = _bytes(each.jaxpr, set(numbers))
    of_pairs = _bytes(both, set(handed))
    n_one = len(one.jaxpr.outvars)
    return Stages(shared, each, n_one, Stage(both, ()), of_pairs, of_examples)


def _as_one(one: Stage, two: Stage) -> Stage:
    """What two parts give of the same inputs, what is common computed once."""
    args = list(one.jaxpr.invars)
    eqns, out = together(one.jaxpr, two.jaxpr)
    names = _names(args, out)
    return Stage(Jaxpr((), args, out, eqns, one.jaxpr.effects, names), one.consts)


def _stage(
    jaxpr: Any, consts: Any, eqns: list[JaxprEqn], args: list[Any], out: list[Any]
) -> Stage:
    # Among the inputs, since versions of JAX differ in what constants a jaxpr may have.
    args = [*jaxpr.constvars, *args]
    made = Jaxpr((), args, out, eqns, jaxpr.effects, _names(args, out))
    return Stage(made, tuple(consts))


def _names(args: Sequence[Any], out: Sequence[Any]) -> DebugInfo:
    return DebugInfo("equintk", "stage", ("",) * len(args), ("",) * len(out))


def _alive(jaxpr: Any) -> list[JaxprEqn]:
    """The equations that the results depend on."""
    wanted = {v for v in jaxpr.outvars if isinstance(v, Var)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in wanted for v in eqn.outvars):
            wanted |= set(_read(eqn))
            kept.append(eqn)
    return kept[::-1]


def _read(eqn: JaxprEqn) -> list[Any]:
    return [v for v in eqn.invars if not isinstance(v, Literal)]


def _bytes(jaxpr: Any, given: set[Any]) -> int:
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in _read(eqn)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, Var)}
    alive: dict[Any, int] = {}
    most = 16
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.outvars:
            if not isinstance(v, DropVar) and v in last:
                alive[v] = aval(v).size * aval(v).dtype.itemsize
        most = max(most, sum(alive.values()))
        for v in _read(eqn):
            if last[v] == i and v not in given:
                alive.pop(v, None)
    return most
