"""Functions of one number that are sums of few kinds of terms, with their algebra."""

import math
from dataclasses import dataclass
from typing import NamedTuple

_ROUNDING = 2.0**-50  # of sums of coefficients, relative to what is added
_TERMS = 64


class Wave(NamedTuple):
    """`z^power exp(-decay z^2 + growth z)` times 1, a wave, or an error function.

    Attributes:
        power: of the number, negative only on the way to a function.
        decay: of a Gaussian.
        growth: of an exponential.
        frequency: of `cos(frequency z)`, where positive.
        odd: whether it is `sin(frequency z)` instead.
        steepness: of `erf(steepness z)`, where positive; then there is nothing else
            but the power.
    """

    power: int = 0
    decay: float = 0.0
    growth: float = 0.0
    frequency: float = 0.0
    odd: bool = False
    steepness: float = 0.0

    @property
    def is_power(self) -> bool:
        """Whether it is a power of the number."""
        return self == (self.power, 0.0, 0.0, 0.0, False, 0.0)


@dataclass(frozen=True)
class Form:
    """A sum of coefficients times terms, in one order."""

    terms: tuple[tuple[Wave, float], ...] = ()

    @property
    def degree(self) -> int | None:
        """Of a polynomial, -1 of zero; `None` of what is none."""
        if not all(wave.is_power and wave.power >= 0 for wave, _ in self.terms):
            return None
        return max((wave.power for wave, _ in self.terms), default=-1)

    @property
    def constant(self) -> float | None:
        """The number that it is, if it is one."""
        return self.coefs()[0] if self.degree in (-1, 0) else None

    def coefs(self, length: int = 1) -> tuple[float, ...]:
        """Of the powers, by rising degree."""
        found = dict(self.terms)
        return tuple(found.get(Wave(power), 0.0) for power in range(length))

    def sign(self, side: float) -> float | None:
        """Of its values where the number has this sign, if all have one."""
        signs = set()
        for wave, coef in self.terms:
            if wave.frequency:
                return None
            turns = wave.power + (wave.steepness > 0)
            signs.add(math.copysign(1.0, coef) * side**turns)
        return signs.pop() if len(signs) == 1 else None if signs else 0.0

    def parity(self) -> int | None:
        """1 of an even function, -1 of an odd one, 0 of zero."""
        if any(wave.growth for wave, _ in self.terms):
            return None
        turns = {
            (wave.power + wave.odd + (wave.steepness > 0)) % 2 for wave, _ in self.terms
        }
        return None if len(turns) > 1 else 1 - 2 * turns.pop() if turns else 0

    def plus(self, other: "Form", factor: float = 1.0) -> "Form":
        """The sum with a multiple of another."""
        found = dict(self.terms)
        for wave, coef in other.terms:
            old, new = found.get(wave, 0.0), factor * coef
            total = old + new
            small = abs(total) <= _ROUNDING * max(abs(old), abs(new))
            found[wave] = 0.0 if small else total
        return _form(found)

    def scaled(self, factor: float) -> "Form":
        """A multiple of it."""
        return _form({wave: factor * coef for wave, coef in self.terms})

    def times(self, other: "Form") -> "Form | None":
        """The product, if it is such a sum."""
        total = Form()
        if len(self.terms) * len(other.terms) > _TERMS:
            return None
        for one, a in self.terms:
            for two, b in other.terms:
                parts = _product(one, two)
                if parts is None:
                    return None
                total = total.plus(parts, a * b)
        return total

    def derivative(self) -> "Form":
        """By the number."""
        total = Form()
        for wave, coef in self.terms:
            if wave.power:
                lower = wave._replace(power=wave.power - 1)
                total = total.plus(_form({lower: coef * wave.power}))
            for factor, other in slopes(wave):
                total = total.plus(_form({other: coef * factor}))
        return total


def number(value: float) -> Form:
    """A number."""
    return _form({Wave(): value})


IDENTITY = Form(((Wave(1), 1.0),))


def exponential(exponent: Form) -> Form | None:
    """`exp` of a polynomial of second degree."""
    if exponent.degree not in (-1, 0, 1, 2):
        return None
    zeroth, first, second = exponent.coefs(3)
    return _form({Wave(0, -second, first): _exp(zeroth)})


def sine(argument: Form, turn: float = 0.0) -> Form | None:
    """`sin` of a polynomial of first degree, or `cos` for a turn of half of pi."""
    if argument.degree not in (-1, 0, 1):
        return None
    shift, slope = argument.coefs(2)
    s, c = math.sin(shift), math.cos(shift)
    if turn:
        s, c = c, -s
    if not slope:
        return number(s)
    wave = Wave(frequency=abs(slope))
    odd = wave._replace(odd=True)
    return _form({wave: s, odd: math.copysign(c, c * slope)})


def error_function(argument: Form) -> Form | None:
    """`erf` of a multiple of the number, or of a number."""
    if argument.constant is not None:
        return number(math.erf(argument.constant))
    shift, slope = argument.coefs(2)
    if argument.degree != 1 or shift:
        return None
    return _form({Wave(steepness=abs(slope)): math.copysign(1.0, slope)})


def slopes(wave: Wave) -> list[tuple[float, Wave]]:
    """The derivative of what stands beside the power, as coefficients and terms."""
    if wave.steepness:
        gaussian = Wave(wave.power, wave.steepness**2)
        return [(2 * wave.steepness / math.sqrt(math.pi), gaussian)]
    found = []
    if wave.decay:
        found.append((-2 * wave.decay, wave._replace(power=wave.power + 1)))
    if wave.growth:
        found.append((wave.growth, wave))
    if wave.frequency:
        factor = wave.frequency if wave.odd else -wave.frequency
        found.append((factor, wave._replace(odd=not wave.odd)))
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _form(coefs: dict[Wave, float]) -> Form:
    return Form(tuple(sorted((w, float(c)) for w, c in coefs.items() if c)))


def _product(one: Wave, two: Wave) -> Form | None:
    power = one.power + two.power
    if one.steepness or two.steepness:
        known = one.is_power or two.is_power
        return _form({_erf(power, one, two): 1.0}) if known else None
    base = Wave(power, one.decay + two.decay, one.growth + two.growth)
    if not (one.frequency and two.frequency):
        wave = one if one.frequency else two
        return _form({base._replace(frequency=wave.frequency, odd=wave.odd): 1.0})
    # Products of waves are half the sum of those of the difference and of the sum.
    odd, both = one.odd != two.odd, one.odd and two.odd
    apart = one.frequency - two.frequency
    sign = 1.0
    if odd:
        sign = math.copysign(1.0, apart) * (1.0 if one.odd else -1.0)
    wave = base._replace(frequency=one.frequency + two.frequency, odd=odd)
    found = _form({wave: -0.5 if both else 0.5})
    if not apart:
        return found if odd else found.plus(_form({base: 0.5}))
    wave = base._replace(frequency=abs(apart), odd=odd)
    return found.plus(_form({wave: 0.5 * sign}))


def _erf(power: int, one: Wave, two: Wave) -> Wave:
    return Wave(power, steepness=max(one.steepness, two.steepness))
