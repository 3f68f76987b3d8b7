r"""Expected products of exponentials, waves and error functions of two Gaussians.

$E[f(u) g(v)]$ for sums of terms $z^m e^{-a z^2 + b z}$, times $\cos$, $\sin$ or alone,
and $z^m \mathrm{erf}(s z)$. A Gaussian factor gives other variances (it is a density),
powers go by parts (Stein's lemma), and what is left is known. Derivatives are rules:
each is such an expectation again, of derivatives of the functions, and nothing is
singular at correlation one.

Source: Williams, NIPS 1996, for the error function; Price's theorem for derivatives.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .arccos import root
from .forms import Form, Wave, slopes


def is_known(one: Form, two: Form) -> bool:
    """Whether all products of their terms have an expectation here."""
    return not (_unknown(one, two) or _unknown(two, one))


def _unknown(one: Form, two: Form) -> bool:
    """Whether an error function meets an exponential or a wave."""
    return any(wave.steepness for wave, _ in one.terms) and any(
        wave.growth or wave.frequency for wave, _ in two.terms
    )


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def expectation(one: Form, two: Form, q1: Any, q2: Any, k: Any) -> Any:
    """`E[f(u) g(v)]` for variances and covariance that broadcast."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, (q1, q2, k)))
    total = jnp.zeros(shape, k.dtype)
    pair = _Pair(q1, q2, k)
    for a, c in one.terms:
        for b, d in two.terms:
            part = pair.expected(a, b)
            if part is not None:
                total = total + c * d * part
    return total


def _expectation_jvp(one: Form, two: Form, primals: Any, tangents: Any) -> Any:
    # The derivative by the parameters' covariance leaves variances as they are.
    d1, d2, dk = (not isinstance(d, SymbolicZero) for d in tangents)
    value = expectation(one, two, *primals)
    slope1, slope2 = one.derivative(), two.derivative()
    total = jnp.zeros_like(value)
    if dk:
        total = total + expectation(slope1, slope2, *primals) * tangents[2]
    if d1:
        by_q = expectation(slope1.derivative(), two, *primals)
        total = total + by_q * tangents[0] / 2
    if d2:
        by_q = expectation(one, slope2.derivative(), *primals)
        total = total + by_q * tangents[1] / 2
    return value, total


expectation.defjvp(_expectation_jvp, symbolic_zeros=True)


class _Pair:
    """Two Gaussians, and expectations that are known of them."""

    def __init__(self, q1: Any, q2: Any, k: Any):
        self.q1, self.q2, self.k = q1, q2, k
        self._known: dict[tuple[Wave, Wave], Any] = {}
        self._weighted: dict[tuple[float, float], tuple[Any, _Pair]] = {}
        self._turned: _Pair | None = None

    def expected(self, one: Wave, two: Wave) -> Any:
        """`E[f(u) g(v)]` of terms, or `None` for zero."""
        key = (one, two)
        if key not in self._known:
            self._known[key] = self._expected(one, two)
        return self._known[key]

    def _expected(self, one: Wave, two: Wave) -> Any:
        if one.decay or two.decay:
            factor, pair = self._with_weight(one.decay, two.decay)
            part = pair.expected(one._replace(decay=0.0), two._replace(decay=0.0))
            return None if part is None else factor * part
        if one.power:
            return self._by_parts(one, two)
        if two.power:
            if self._turned is None:
                self._turned = _Pair(self.q2, self.q1, self.k)
            return self._turned._by_parts(two, one)
        if one.steepness or two.steepness:
            return self._arcsine(one.steepness, two.steepness)
        return self._wave(one, two)

    def _by_parts(self, one: Wave, two: Wave) -> Any:
        """`E[u f(u) g(v)] = q E[f'(u) g(v)] + k E[f(u) g'(v)]`."""
        one = one._replace(power=one.power - 1)
        parts = [(c * self.q1, wave, two) for c, wave in _derivative(one)]
        parts += [(c * self.k, one, wave) for c, wave in _derivative(two)]
        total = None
        for factor, a, b in parts:
            part = self.expected(a, b)
            if part is not None:
                total = factor * part if total is None else total + factor * part
        return total

    def _with_weight(self, a: float, b: float) -> Any:
        """The mean of `exp(-a u^2 - b v^2)`, and the Gaussians of that density."""
        if (a, b) not in self._weighted:
            left = self._determinant()
            whole = 1 + 2 * a * self.q1 + 2 * b * self.q2 + 4 * a * b * left
            pair = _Pair(
                (self.q1 + 2 * b * left) / whole,
                (self.q2 + 2 * a * left) / whole,
                self.k / whole,
            )
            self._weighted[a, b] = 1 / jnp.sqrt(whole), pair
        return self._weighted[a, b]

    def _determinant(self) -> Any:
        size = root(self.q1) * root(self.q2)
        exact = jnp.where(self.q1 == self.q2, self.q1, size)
        return jnp.maximum(exact - self.k, 0) * jnp.maximum(exact + self.k, 0)

    def _arcsine(self, s: float, t: float) -> Any:
        """`E[erf(s u) erf(t v)]`."""
        if not (s and t):
            return None
        a, b = 2 * s**2, 2 * t**2
        left = 1 + a * self.q1 + b * self.q2 + a * b * self._determinant()
        return 2 / math.pi * jnp.arctan2(2 * s * t * self.k, jnp.sqrt(left))

    def _wave(self, one: Wave, two: Wave) -> Any:
        """Of exponentials times waves, no powers."""
        b, d = one.growth, two.growth
        if not (b or d):
            return self._waves(one, two)
        # The exponentials move the means.
        exponent = (b * b * self.q1 + 2 * b * d * self.k + d * d * self.q2) / 2
        means = b * self.q1 + d * self.k, b * self.k + d * self.q2
        total = None
        for c1, turned1 in _moved(one, means[0]):
            for c2, turned2 in _moved(two, means[1]):
                part = self._waves(turned1, turned2)
                if part is not None:
                    part = c1 * c2 * part
                    total = part if total is None else total + part
        return None if total is None else jnp.exp(exponent) * total

    def _waves(self, one: Wave, two: Wave) -> Any:
        """Of waves alone."""
        if one.odd != two.odd:
            return None
        w, v = one.frequency, two.frequency
        size = -(w * w * self.q1 + v * v * self.q2) / 2
        if not (w and v):
            return jnp.exp(size + 0 * self.k)
        # cosh and sinh that do not overflow, and are exact near zero
        cross = w * v * self.k
        fall = jnp.exp(size + jnp.abs(cross)) / 2
        less = jnp.exp(-2 * jnp.abs(cross))
        if not one.odd:
            return fall * (1 + less)
        return -jnp.sign(cross) * fall * jnp.expm1(-2 * jnp.abs(cross))


def _derivative(wave: Wave) -> list[tuple[float, Wave]]:
    found = slopes(wave)
    if wave.power:
        found.append((float(wave.power), wave._replace(power=wave.power - 1)))
    return found


def _moved(wave: Wave, mean: Any) -> list[tuple[Any, Wave]]:
    """A wave of the number plus a mean, as factors and waves; no exponential."""
    plain = Wave(frequency=wave.frequency)
    if not wave.frequency:
        return [(1.0, plain)]
    s, c = jnp.sin(wave.frequency * mean), jnp.cos(wave.frequency * mean)
    sine = plain._replace(odd=True)
    return [(s, plain), (c, sine)] if wave.odd else [(c, plain), (-s, sine)]
