"""Whether a function is even or odd, by its operations."""

from typing import Any, NamedTuple

import numpy as np

from ..._trace.flatten import Environment, Flat, aval

_ODD = frozenset(
    "sin tan asin atan sinh asinh atanh tanh erf erf_inv sign cbrt".split()
)
_EVEN = frozenset("cos cosh abs".split())
_KEPT = frozenset("neg convert_element_type copy broadcast_in_dim squeeze".split())
_SUMS = frozenset("add add_any sub".split())


class _Value(NamedTuple):
    """Parity of a number in the function, and which constant it is, if any."""

    parity: int | None
    constant: float | None = None


def parity(flat: Flat) -> int | None:
    """1 of an even scalar function, -1 of an odd one, 0 of zero; `None` if unknown."""
    consts = tuple(map(_value, flat.consts))
    environment = Environment(Flat(flat.jaxpr, consts), [_Value(-1)])
    for eqn in flat.jaxpr.eqns:
        values = [_value(v) for v in environment.read(eqn.invars)]
        found = _Value(_equation(eqn, values))
        environment.write(eqn.outvars, [found] * len(eqn.outvars))
    (out,) = environment.read(flat.jaxpr.outvars)
    return _value(out).parity


def _value(value: Any) -> _Value:
    if isinstance(value, _Value):
        return value
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "biuf":
        return _Value(None)
    return _Value(int(array != 0), float(array))


def _equation(eqn: Any, values: list[_Value]) -> int | None:
    name, parities = eqn.primitive.name, [v.parity for v in values]
    if name == "convert_element_type" and aval(eqn.outvars[0]).dtype.kind not in "fV":
        return parities[0] if parities[0] == 1 else None  # cut to whole numbers
    if name == "clamp":
        low, x, high = values
        if low.constant is None or low.constant != -(high.constant or 0.0):
            return None
        return x.parity
    if None in parities:
        return None
    if name in _KEPT or name in _ODD:
        return parities[0]
    if name == "square" or name in _EVEN:
        return 1
    if name == "integer_pow":
        return parities[0] if eqn.params["y"] % 2 else 1
    if name in _SUMS:
        return _alike(parities)
    if name in ("mul", "div"):
        return 0 if parities[0] == 0 else parities[0] * (parities[1] or 1)  # type: ignore[operator]
    if name == "select_n":
        return _alike(parities[1:]) if parities[0] in (0, 1) else None
    return 1 if all(p in (0, 1) for p in parities) else None  # of even functions


def _alike(parities: list[int | None]) -> int | None:
    kinds = set(parities) - {0}
    return 0 if not kinds else kinds.pop() if len(kinds) == 1 else None
