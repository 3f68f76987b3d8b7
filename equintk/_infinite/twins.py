"""Two parts of a program that take the same inputs, computed as one.

Where both ask for the same of them, it is computed once. Equations are equal by what
they do, down to the jaxprs that they call.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal


def together(one: Jaxpr, two: Jaxpr) -> tuple[list[JaxprEqn], list[Any]]:
    """The equations of both, each once, and the results of both in terms of them.

    Args:
        one: a jaxpr whose inputs are those of the other, in the same order.
        two: the other.
    """
    known = dict(zip(two.invars, one.invars, strict=True))
    seen: dict[Hashable, list[Any]] = {}
    eqns: list[JaxprEqn] = []
    done: set[int] = set()
    for eqn in [*one.eqns, *two.eqns]:
        if id(eqn) in done:  # what depends on no example is in both
            continue
        done.add(id(eqn))
        operands = [_renamed(v, known) for v in eqn.invars]
        key = None if eqn.effects else _key(eqn, [_operand(v) for v in operands])
        if key is not None and key in seen:
            for var, same in zip(eqn.outvars, seen[key], strict=True):
                known[var] = same
            continue
        eqns.append(eqn.replace(invars=operands))
        if key is not None and not any(isinstance(v, DropVar) for v in eqn.outvars):
            seen[key] = list(eqn.outvars)
        known |= {v: v for v in eqn.outvars if not isinstance(v, DropVar)}
    return eqns, [_renamed(v, known) for v in [*one.outvars, *two.outvars]]


def _renamed(v: Any, known: dict[Any, Any]) -> Any:
    return v if isinstance(v, Literal) else known.get(v, v)


def _operand(v: Any) -> Hashable:
    return _literal(v) if isinstance(v, Literal) else v


def _literal(v: Literal) -> Hashable:
    value = np.asarray(v.val)
    return str(v.aval), str(value.dtype), value.shape, value.tobytes()


def _key(eqn: JaxprEqn, operands: list[Hashable]) -> Hashable:
    """Equal for equations that do the same."""
    settings = []
    for name, value in sorted(eqn.params.items()):
        # A derivative that a function brings is that of the function.
        if eqn.primitive.name == "custom_jvp_call" and name == "jvp_jaxpr_fun":
            continue
        settings.append((name, _setting(value)))
    types = tuple(str(v.aval) for v in eqn.outvars)
    return eqn.primitive.name, types, tuple(operands), tuple(settings)


def _setting(value: Any) -> Hashable:
    if isinstance(value, ClosedJaxpr):
        return _jaxpr(value.jaxpr), tuple(id(c) for c in value.consts)
    if isinstance(value, Jaxpr):
        return _jaxpr(value)
    if isinstance(value, tuple | list):
        return type(value), tuple(_setting(v) for v in value)
    try:
        hash(value)
    except TypeError:
        return "one of its kind", id(value)
    return type(value), value


def _jaxpr(jaxpr: Jaxpr) -> Hashable:
    """Equal for jaxprs that differ in the names of their variables only."""
    numbers: dict[Any, int] = {}

    def named(v: Any) -> Hashable:
        if isinstance(v, Literal):
            return _literal(v)
        return numbers.setdefault(v, len(numbers)), str(v.aval)

    inputs = tuple(named(v) for v in [*jaxpr.constvars, *jaxpr.invars])
    body = []
    for eqn in jaxpr.eqns:
        key = _key(eqn, [named(v) for v in eqn.invars])
        body.append((key, bool(eqn.effects), tuple(named(v) for v in eqn.outvars)))
    return inputs, tuple(body), tuple(named(v) for v in jaxpr.outvars)
