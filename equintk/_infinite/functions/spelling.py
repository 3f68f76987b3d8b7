"""What a function is, read from its own operations, whatever way it is written.

Each is followed on either side of zero, where comparisons and absolute values are
decided by signs. Values alone would not do: a function may differ where nobody looks.
They are compared as well, so that an operation understood wrongly is not believed.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._trace.flatten import Environment, Flat, aval, evaluate, flatten
from . import forms
from .forms import Form, Wave, number
from .function import Function
from .parity import parity

_DEGREE = 16
_DIGITS = 64.0  # multiples of rounding by which values may differ
_NEAR = 10.0  # where values must be finite


class Sides(NamedTuple):
    """A function where its argument is positive, and where it is negative."""

    plus: Form
    minus: Form


class TwoSided(NamedTuple):
    """The sum over `m` of `smooth[m] z^m + kink[m] max(z, 0)^m`."""

    smooth: tuple[float, ...]
    kink: tuple[float, ...]


@lru_cache(maxsize=4096)
def recognised(function: Function) -> Sides | None:
    """What the function is on either side of zero, if that is understood."""
    if function.slope is not None:
        line = forms.IDENTITY.scaled(function.slope)
        return Sides(line, line)
    if function.n_params:
        return None
    with jax.ensure_compile_time_eval():
        near, far = np.linspace(0, _NEAR, 503)[1:], np.geomspace(1e-3, 1e3, 97)
        z = np.concatenate([near, far])
        z = jnp.asarray(np.concatenate([-z, z]), jnp.result_type(float))
        values = np.asarray(function.call(z), np.float64)
    flat = _flat(function)
    plus, minus = (_read(flat, side) for side in (1.0, -1.0))
    if plus is None or minus is None:
        return None
    sides = Sides(plus, minus)
    eps = float(jnp.finfo(z.dtype).eps)
    is_like = _is_like(sides, np.asarray(z, np.float64), values, eps)
    return sides if is_like else None


def smooth(sides: Sides | None) -> Form | None:
    """The function, if it is the same on both sides."""
    return sides.plus if sides is not None and sides.plus == sides.minus else None


def two_sided(sides: Sides | None) -> TwoSided | None:
    """The function, if it is a polynomial on either side."""
    if sides is None or not all(_is_polynomial(form) for form in sides):
        return None
    plus, minus = (form.coefs(_DEGREE + 1) for form in sides)
    kink = tuple(p - m for p, m in zip(plus, minus, strict=True))
    return TwoSided(minus, kink if any(kink) else ())


@lru_cache(maxsize=4096)
def is_odd(function: Function) -> bool:
    """Whether `phi(-z) = -phi(z)`, by its operations."""
    if function.slope is not None:
        return True
    if function.n_params:
        return False
    known = smooth(recognised(function))
    if known is not None:
        return known.parity() in (-1, 0)
    return parity(_flat(function)) in (-1, 0)


def _flat(function: Function) -> Flat:
    struct = jax.ShapeDtypeStruct((), jnp.result_type(float))
    return flatten(function.call, struct)


def _is_polynomial(form: Form) -> bool:
    return form.degree is not None and form.degree <= _DEGREE


def _is_like(sides: Sides, z: Any, values: Any, eps: float) -> bool:
    """Whether the values are those of the forms, to rounding."""
    found, size = np.zeros_like(z), np.zeros_like(z)
    with np.errstate(over="ignore", invalid="ignore"):
        for side, form in zip((1.0, -1.0), sides, strict=True):
            here = np.sign(z) == side
            for wave, coef in form.terms:
                part = coef * _values(wave, z[here])
                exponent = wave.decay * z[here] ** 2 + abs(wave.growth * z[here])
                phase = np.abs(z[here]) * (wave.frequency + wave.steepness)
                found[here] += part
                size[here] += _bound(coef, wave, part, z[here]) * (1 + exponent + phase)
    finite = np.isfinite(values)
    if not np.all(finite[np.abs(z) <= _NEAR]) or not np.all(np.isfinite(found[finite])):
        return False
    count = 4 + max(len(form.terms) for form in sides)
    tiny = float(np.finfo(np.float32).tiny)
    off = np.abs(found[finite] - values[finite])
    return bool(np.all(off <= _DIGITS * count * eps * size[finite] + tiny))


def _bound(coef: float, wave: Wave, part: Any, z: Any) -> Any:
    """Of the size of a term near its zeros, too."""
    if not wave.frequency:
        return np.abs(part)
    return np.abs(coef * _values(wave._replace(frequency=0.0, odd=False), z))


def _values(wave: Wave, z: Any) -> Any:
    value = z**wave.power * np.exp(-wave.decay * z**2 + wave.growth * z)
    if wave.steepness:
        value = value * np.asarray([math.erf(wave.steepness * a) for a in z])
    if wave.frequency:
        value = value * (np.sin if wave.odd else np.cos)(wave.frequency * z)
    return value


def _read(flat: Flat, side: float) -> Form | None:
    """What a scalar function is where its argument has this sign."""
    consts = [_literal(c) for c in flat.consts]
    environment = Environment(Flat(flat.jaxpr, tuple(consts)), [forms.IDENTITY])
    for eqn in flat.jaxpr.eqns:
        values = [_literal(v) for v in environment.read(eqn.invars)]
        result = None
        if all(v is not None for v in values):
            result = _equation(eqn, values, side)
            if result is not None and not all(
                math.isfinite(c) for w, coef in result.terms for c in (coef, *w)
            ):
                result = None
        # What is not understood matters only where something follows from it.
        environment.write(eqn.outvars, [result] + [None] * (len(eqn.outvars) - 1))
    (out,) = (_literal(v) for v in environment.read(flat.jaxpr.outvars))
    if out is None or any(w.decay < 0 or w.power < 0 for w, _ in out.terms):
        return None
    return out


def _literal(value: Any) -> Form | None:
    if value is None or isinstance(value, Form):
        return value
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "biuf":
        return None
    return number(float(array))


def _equation(eqn: Any, values: list[Any], side: float) -> Form | None:
    name, out = eqn.primitive.name, aval(eqn.outvars[0])
    if name in ("copy", "broadcast_in_dim", "reshape", "squeeze"):
        return None if out.shape else values[0]
    if name == "convert_element_type" and jnp.issubdtype(out.dtype, jnp.floating):
        return values[0]
    if name == "select_n":
        which = values[0].constant
        return None if which is None else values[1 + int(which)]
    if name in _COMPARED:
        sign = values[0].plus(values[1], -1.0).sign(side)
        return None if sign is None else number(float(_COMPARED[name](sign)))
    if all(v.constant is not None for v in values):
        with jax.ensure_compile_time_eval():
            numbers = [
                jnp.asarray(value.constant, aval(v).dtype)
                for value, v in zip(values, eqn.invars, strict=True)
            ]
            return _literal(evaluate(eqn, numbers)[0])
    if name in ("integer_pow", "pow"):
        power = eqn.params["y"] if name == "integer_pow" else values[1].constant
        return None if power is None else _power(values[0], float(power), side)
    rule = _RULES.get(name)
    return None if rule is None else rule(side, *values)


def _power(base: Form, power: float, side: float) -> Form | None:
    """A whole power, or a root of a single term."""
    if power == int(power) and 0 <= power <= _DEGREE:
        result: Form | None = number(1.0)
        for _ in range(int(power)):
            result = None if result is None else result.times(base)
        return result
    if len(base.terms) != 1:
        return None
    ((wave, coef),) = base.terms
    new = wave.power * power
    if not wave._replace(decay=0.0, growth=0.0).is_power or new != int(new):
        return None
    raised = Wave(int(new), wave.decay * power, wave.growth * power)
    if power == int(power):
        return Form(((raised, coef ** int(power)),))
    if base.sign(side) != 1:
        return None
    # |c z^m|^p, of which |z| is z up to sign
    return Form(((raised, abs(coef) ** power * side ** int(new)),))


def _quotient(side: float, one: Form, two: Form) -> Form | None:
    if two.constant:
        return one.scaled(1 / two.constant)
    if len(two.terms) != 1:
        return None
    ((wave, coef),) = two.terms
    if not wave._replace(decay=0.0, growth=0.0).is_power:
        return None
    inverse = Wave(-wave.power, -wave.decay, -wave.growth)
    return one.times(Form(((inverse, 1 / coef),)))


def _absolute(side: float, one: Form) -> Form | None:
    sign = one.sign(side)
    return None if sign is None else one.scaled(sign)


def _larger(side: float, one: Form, two: Form, turn: float = 1.0) -> Form | None:
    sign = one.plus(two, -1.0).sign(side)
    return None if sign is None else one if sign * turn >= 0 else two


def _clamped(side: float, low: Form, one: Form, high: Form) -> Form | None:
    lifted = _larger(side, one, low)
    return None if lifted is None else _larger(side, lifted, high, -1.0)


def _sign(side: float, one: Form) -> Form | None:
    sign = one.sign(side)
    return None if sign is None else number(sign)


def _complement(side: float, one: Form) -> Form | None:
    known = forms.error_function(one)
    return None if known is None else number(1.0).plus(known, -1.0)


_COMPARED: dict[str, Callable[[float], bool]] = {
    "gt": lambda sign: sign > 0,
    "ge": lambda sign: sign >= 0,
    "lt": lambda sign: sign < 0,
    "le": lambda sign: sign <= 0,
    "eq": lambda sign: sign == 0,
    "ne": lambda sign: sign != 0,
}
_RULES: dict[str, Callable[..., Form | None]] = {
    "add": lambda side, one, two: one.plus(two),
    "add_any": lambda side, one, two: one.plus(two),
    "sub": lambda side, one, two: one.plus(two, -1.0),
    "mul": lambda side, one, two: one.times(two),
    "div": _quotient,
    "neg": lambda side, one: one.scaled(-1.0),
    "square": lambda side, one: one.times(one),
    "sqrt": lambda side, one: _power(one, 0.5, side),
    "rsqrt": lambda side, one: _power(one, -0.5, side),
    "abs": _absolute,
    "sign": _sign,
    "max": _larger,
    "min": lambda side, one, two: _larger(side, one, two, -1.0),
    "clamp": _clamped,
    "exp": lambda side, one: forms.exponential(one),
    "exp2": lambda side, one: forms.exponential(one.scaled(math.log(2.0))),
    "sin": lambda side, one: forms.sine(one),
    "cos": lambda side, one: forms.sine(one, math.pi / 2),
    "erf": lambda side, one: forms.error_function(one),
    "erfc": _complement,
}
