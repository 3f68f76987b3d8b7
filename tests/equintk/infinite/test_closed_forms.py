"""Functions with closed forms: what is recognised, what is not, and the integrals."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.special import erf

import equintk as nt
from equintk._infinite.arrays.drawer import Drawer
from equintk._infinite.functions import waves
from equintk._infinite.functions.arccos import rectified
from equintk._infinite.functions.function import Function, multiple
from equintk._infinite.functions.spelling import is_odd, recognised, smooth, two_sided
from equintk._infinite.nodes import Atoms
from equintk._infinite.reader import DUALS, Reader

OPTIONS: dict[str, Any] = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}
EXACT: dict[str, Any] = OPTIONS | {"tolerance": 1e-300}  # a series of any length raises

SMOOTH = {
    "erf": lambda z: 1.5 * erf(0.8 * z) - 0.2,
    "erfc": lambda z: jax.lax.erfc(-z / 2) / 2,
    "gelu": lambda z: 0.5 * z * (1 + erf(z / jnp.sqrt(2.0))),
    "gelu by erfc": lambda z: z * jax.lax.erfc(-z * 0.5**0.5) / 2,
    "sin": lambda z: 2 * jnp.sin(1 - 1.3 * z) + 0.5,
    "cos": lambda z: jnp.cos(z / 2 + 0.3),
    "snake": lambda z: z + jnp.sin(2 * z) ** 2 / 2,
    "exp": lambda z: jnp.exp(0.4 * z - 0.1) + 1,
    "exp of base two": lambda z: jnp.exp2(z / 3),
    "gaussian": lambda z: jnp.exp(-jnp.square(z) / 2),
    "shifted gaussian": lambda z: jnp.exp(-((z - 1) ** 2) / 3),
    "gabor": lambda z: jnp.exp(-0.5 * z**2) * jnp.sin(2 * z),
    "morlet": lambda z: z**2 * jnp.cos(2 * z) * jnp.exp(z - z**2),
    "polynomial": lambda z: z**5 / 9 - (z - 1) * (z + 2),
}
TWO_SIDED = {  # of 1, z, z^2 and z^3 where z is positive, and where it is negative
    "relu": (lambda z: jnp.maximum(z, 0.0), [0, 1, 0, 0], [0, 0, 0, 0]),
    "relu by abs": (lambda z: (z + jnp.abs(z)) / 2, [0, 1, 0, 0], [0, 0, 0, 0]),
    "abs by root": (lambda z: jnp.sqrt(z**2), [0, 1, 0, 0], [0, -1, 0, 0]),
    "cube of abs": (lambda z: (z * z) ** 1.5, [0, 0, 0, 1], [0, 0, 0, -1]),
    "sign": (lambda z: z / jnp.abs(z), [1, 0, 0, 0], [-1, 0, 0, 0]),
    "step": (lambda z: (z >= 0).astype(z.dtype), [1, 0, 0, 0], [0, 0, 0, 0]),
    "leaky": (lambda z: jnp.maximum(z, 0.1 * z), [0, 1, 0, 0], [0, 0.1, 0, 0]),
    "clipped": (lambda z: jnp.clip(z, 0.0, None) ** 2, [0, 0, 1, 0], [0, 0, 0, 0]),
    "chosen": (lambda z: jnp.where(z < 0, 2 * z, z * z), [0, 0, 1, 0], [0, 2, 0, 0]),
}
BUMPS = {
    "hat": lambda z: jnp.maximum(0.0, 1 - jnp.abs(z)),
    "bell": lambda z: jnp.exp(-jnp.sqrt(1 + z**4)),
    "cut": lambda z: jnp.where(jnp.abs(z) < 1, 1.0, 0.0),
}


def named(function):
    """A function with a key that no other has."""
    return Function(object(), function)


def form(function):
    found = smooth(recognised(named(function)))
    assert found is not None
    return found


def slope(function):
    return lambda z: jax.jvp(function, (z,), (jnp.ones_like(z),))[1]


def integral(f, g, q1, q2, k):
    """`E[f(u) g(v)]` by Gauss and Hermite's rule in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / np.sqrt(2 * np.pi)
    a = np.sqrt(q1)
    u = jnp.asarray(np.repeat(a * nodes[:, None], nodes.size, 1))
    rest = np.sqrt(max(q2 - (k / a) ** 2, 0.0))
    v = jnp.asarray(k / a * nodes[:, None] + rest * nodes[None])
    return weights @ (np.asarray(f(u)) * np.asarray(g(v))) @ weights


@pytest.mark.parametrize("name", SMOOTH)
def test_expectations_and_their_derivatives_are_the_integrals(name):
    f, known = SMOOTH[name], form(SMOOTH[name])
    # Beside itself, and beside one of another kind.
    for other, points in (
        (name, ((1.0, 1.0, 1.0), (0.7, 1.2, 0.6), (1.0, 1.0, -1.0))),
        ("gaussian", ((0.8, 0.8, 0.7),)),
    ):
        g = SMOOTH[other]
        assert waves.is_known(known, form(g))
        for q1, q2, c in points:
            k = c * np.sqrt(q1 * q2)
            at = tuple(map(jnp.asarray, (q1, q2, k)))
            value, slopes = jax.value_and_grad(
                lambda *at, g=g: waves.expectation(known, form(g), *at), (0, 1, 2)
            )(*at)
            df, dg = slope(f), slope(g)
            expected = [
                ((f, g), value, 1.0),
                ((slope(df), g), slopes[0], 0.5),
                ((f, slope(dg)), slopes[1], 0.5),
                ((df, dg), slopes[2], 1.0),
            ]
            for (a, b), got, factor in expected:
                size = np.sqrt(integral(a, a, q1, q1, q1) * integral(b, b, q2, q2, q2))
                error = abs(got - factor * integral(a, b, q1, q2, k))
                assert error < 1e-12 * size, (other, c, factor)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_derivatives_are_finite_at_equal_opposite_and_zero_inputs(dtype):
    q = jnp.asarray([2.0, 2.0, 0.0, 1e-9], dtype)
    k = jnp.asarray([2.0, -2.0, 0.0, 1e-9], dtype)
    for name in ("erf", "gelu", "sin", "exp", "gaussian", "morlet"):
        known = form(SMOOTH[name])

        def total(*at, known=known):
            return jnp.sum(waves.expectation(known, known, *at))

        def by_k(*at, total=total):
            return jnp.sum(jax.grad(total, 2)(*at))

        first = jax.grad(total, (0, 1, 2))(q, q, k)
        second = jax.grad(by_k, (0, 1, 2))(q, q, k)
        for found in (*first, *second):
            assert found.dtype == dtype
            assert np.isfinite(found).all()


def test_small_and_large_variances_lose_no_digits():
    # E[sin u sin v] is exp(-q) sinh(k), and E[erf u erf v] an arc sine.
    for q in (1e-12, 1e-4, 50.0):
        at = tuple(map(jnp.asarray, (q, q, 0.5 * q)))
        got = waves.expectation(form(jnp.sin), form(jnp.sin), *at)
        np.testing.assert_allclose(got, np.exp(-q) * np.sinh(0.5 * q), rtol=1e-13)
        got = waves.expectation(form(erf), form(erf), *at)
        expected = 2 / np.pi * np.arcsin(q / (1 + 2 * q))
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    at = (jnp.asarray(1e6),) * 3
    got = waves.expectation(form(jnp.sin), form(jnp.sin), *at)
    np.testing.assert_allclose(got, 0.5, rtol=1e-9)  # where sinh(k) overflows


@pytest.mark.parametrize("name", TWO_SIDED)
def test_polynomials_on_either_side_of_zero_are_recognised_in_any_spelling(name):
    f, plus, minus = TWO_SIDED[name]
    found = two_sided(recognised(named(f)))
    assert found is not None
    kink = np.resize([*found.kink, *[0.0] * 4], 4)
    np.testing.assert_allclose(found.smooth[:4], minus, atol=0)
    np.testing.assert_allclose(np.add(found.smooth[:4], kink), plus, rtol=1e-15)
    assert not any(found.smooth[4:]) and not any(found.kink[4:])


@pytest.mark.parametrize("bump", BUMPS)
def test_a_function_that_differs_on_a_small_interval_is_not_recognised(bump):
    # So narrow that no values tell them apart, near and beyond the usual range.
    random = np.random.default_rng(0)
    likes = [f for f, *_ in TWO_SIDED.values()] + list(SMOOTH.values())
    for f in likes:
        place, size = random.uniform(-20, 20), 10 ** random.uniform(-12, 0)
        width = 10 ** random.uniform(-9, -3)
        added = lambda z, f=f, p=place, s=size, w=width: (
            f(z) + s * BUMPS[bump]((z - p) / w)
        )
        assert recognised(named(added)) is None


def test_no_function_is_odd_that_differs_on_a_small_interval():
    known = [jnp.tanh, jnp.sin, jnp.arctan, lambda z: z / (1 + jnp.abs(z))]
    known += [lambda z: jax.lax.clamp(-1.0, z, 1.0), lambda z: z**3 * jnp.cosh(z)]
    for f in known:
        assert is_odd(named(f))
        bump = lambda z, f=f: f(z) + BUMPS["hat"]((z - 3.00012) * 1e5)
        assert not is_odd(named(bump))
    assert not is_odd(named(lambda z: jax.lax.clamp(-1.0, z, 2.0)))
    assert not is_odd(named(jnp.cos))
    assert not is_odd(named(lambda z: jnp.where(z > 0, jnp.tanh(z), z)))


def test_a_deep_network_of_a_closed_form_needs_no_series():
    f = SMOOTH["snake"]
    model = eqx.nn.MLP(5, 3, 8, 2, activation=f, key=jr.key(0))
    x = np.asarray(jr.normal(jr.key(1), (2, 5)))
    kernels = nt.infinite_kernels(model, jnp.asarray(x), **EXACT)
    k = 1.3**2 * x @ x.T / 5 + 0.04
    tangent = k
    for _ in range(2):
        at = [[(k[i, i], k[j, j], k[i, j]) for j in (0, 1)] for i in (0, 1)]
        mean, slopes = (
            np.array([[integral(g, g, *a) for a in row] for row in at])
            for g in (f, slope(f))
        )
        k = 1.3**2 * mean + 0.04
        tangent = k + 1.3**2 * tangent * slopes
    np.testing.assert_allclose(kernels.nngp, k, rtol=1e-12)
    np.testing.assert_allclose(kernels.ntk, tangent, rtol=1e-12)
    assert kernels.error == 0


def test_what_is_not_recognised_goes_through_a_series_or_raises():
    model = lambda f: eqx.nn.MLP(5, 3, 8, 1, activation=f, key=jr.key(0))
    x = jr.normal(jr.key(1), (2, 5))
    with pytest.raises(ValueError, match="no closed form"):
        nt.infinite_nngp(model(jnp.tanh), x, **EXACT)
    kernels = nt.infinite_kernels(model(jnp.tanh), x, **OPTIONS)
    # The bound that is returned is what raises above any smaller tolerance.
    assert 0 < kernels.error < 1e-8
    with pytest.raises(ValueError, match=f"is {float(kernels.error):.1e}, above"):
        nt.infinite_nngp(model(jnp.tanh), x, **OPTIONS, tolerance=kernels.error / 2)
    traced = jax.jit(lambda x: nt.infinite_kernels(model(jnp.tanh), x, **OPTIONS))(x)
    np.testing.assert_allclose(traced.error, kernels.error, rtol=1e-3)
    bumped = lambda z: jnp.sin(z) + BUMPS["hat"]((z - 1) / 0.1)
    with pytest.raises(ValueError, match="no closed form"):
        nt.infinite_nngp(model(bumped), x, **OPTIONS)


def opaque_abs(z):
    return jnp.exp(jnp.log(z**2) / 2)


def opaque_abs_dual(q1, q2, k):
    return 2 * (rectified(1, 1, q1, q2, k) + rectified(1, 1, q1, q2, -k))


@pytest.fixture
def duals():
    yield DUALS
    DUALS.clear()


def test_expectations_of_the_users_own_are_used(duals):
    def model(f):
        activation = lambda z: -2 * f(0.7 * z)
        return eqx.nn.MLP(5, 3, 8, 2, activation=activation, key=jr.key(0))

    x = jr.normal(jr.key(1), (3, 5)).at[2].set(0.0)
    written = nt.parameterize(model(opaque_abs), x[0], jr.key(2), "ntk", 1.3, 0.2)
    expected = nt.infinite_kernels(model(jnp.abs), x, **OPTIONS)
    with pytest.raises(ValueError, match="no closed form"):
        nt.infinite_kernels(written, x)
    nt.dual_function(opaque_abs)(opaque_abs_dual)
    for got in (
        nt.infinite_kernels(written, x, tolerance=1e-9),
        nt.infinite_kernels(model(opaque_abs), x, **OPTIONS),
    ):
        np.testing.assert_allclose(got.nngp, expected.nngp, rtol=1e-12)
        np.testing.assert_allclose(got.ntk, expected.ntk, rtol=1e-12)
    duals.clear()
    with pytest.raises(ValueError, match="no closed form"):
        nt.infinite_kernels(written, x)


def test_expectations_that_are_not_the_functions_are_refused(duals):
    half = lambda q1, q2, k: opaque_abs_dual(q1, q2, k) / 2
    flat = lambda q1, q2, k: jax.lax.stop_gradient(opaque_abs_dual(q1, q2, k))

    def clipped(q1, q2, k):  # as if to keep an arc cosine from its ends
        size = 0.999999 * jnp.sqrt(q1 * q2)
        return opaque_abs_dual(q1, q2, jnp.clip(k, -size, size))

    slope = "derivative by `k`"
    for wrong, what in ((half, "expectation given"), (flat, slope), (clipped, slope)):
        with pytest.raises(ValueError, match=what):
            nt.dual_function(opaque_abs)(wrong)
    with pytest.raises(ValueError, match="is linear"):
        nt.dual_function(lambda z: 2 * z)
    with pytest.raises(nt.NoLimitError, match="sort"):
        nt.dual_function(lambda z: jax.lax.sort(z[None])[0])
    assert not duals


@pytest.mark.parametrize(
    "f",
    [
        jnp.tanh,
        lambda z: z * jax.nn.sigmoid(2 * z),
        lambda z: jnp.where(z > 0, z, jnp.sinh(z)),
    ],
)
def test_a_function_and_its_multiples_are_spelt_alike_and_no_others(f):
    nobody = frozenset()
    read = Reader(Atoms(), Drawer(Atoms(), [], [], nobody, nobody, nobody, nobody))
    spelt = lambda g: read.function(g, jnp.float64)
    found = multiple(spelt(lambda z: -3 * f(0.1 * z)), spelt(lambda z: f(z) / 2))
    assert found is not None
    np.testing.assert_allclose(found, (-6, 0.1), rtol=1e-12)
    for other in (
        lambda z: f(z + 1),
        lambda z: f(z) + z,
        lambda z: f(z) * jnp.tanh(z),
        lambda z: f(f(z)),
        lambda z: z * jax.nn.sigmoid(3 * z),
    ):
        assert multiple(spelt(other), spelt(f)) is None
