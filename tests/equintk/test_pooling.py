"""Pooling as it is computed for kernels: XLA's own numbers and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import equintk as nt
from equintk._empirical import pooling
from tests.helpers import assert_close, brute_force_full, numpy_rng, relative_error

pytestmark = pytest.mark.conformance

# Window, strides, padding of an image (7, 8); None where XLA's own way is kept.
POOLS = {
    "apart": ((2, 2), (2, 2), "VALID"),
    "apart, the image's end is left out": ((3, 5), (3, 5), "VALID"),
    "apart, beside the image": ((2, 3), (2, 3), ((1, 0), (0, 2))),
    "along one axis": ((1, 3), (1, 3), "SAME"),
    "overlapping": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "every pixel": ((2, 3), (1, 1), "SAME"),
    "with gaps": ((1, 2), (2, 3), "VALID"),
}


def _both(pool, op, start):
    """XLA's pooling of a batch of images, and ours."""

    def theirs(x):
        window, strides, padding = pool
        if not isinstance(padding, str):
            padding = ((0, 0), *padding)
        return lax.reduce_window(x, start, op, (1, *window), (1, *strides), padding)

    def ours(x):
        (eqn,) = jax.make_jaxpr(theirs)(x).jaxpr.eqns
        found = pooling.pooled(eqn, [x])
        assert found is not None
        return found[0]

    return theirs, ours


def _with_derivative(function):
    def both(x, cotangent):
        value, vjp = jax.vjp(function, x)
        return value, vjp(cotangent)[0]

    return jax.jit(both)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_maxima_and_their_derivatives_are_those_of_xla_among_equals_too(name, dtype):
    theirs, ours = _both(POOLS[name], lax.max, -jnp.inf)
    rng = numpy_rng(jr.key(0))
    x = jnp.asarray(rng.integers(-1, 2, (3, 7, 8)), dtype)  # in most windows some equal
    x = x.at[1, 3, 3].set(-jnp.inf).at[2, 2, 4].set(jnp.inf)
    shape = jax.eval_shape(theirs, x).shape
    cotangent = jnp.asarray(rng.integers(-4, 5, shape), dtype)
    expected, got = (_with_derivative(f)(x, cotangent) for f in (theirs, ours))
    for one, two in zip(expected, got, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", [n for n in POOLS if n.startswith(("apart", "along"))])
def test_sums_and_their_derivatives_are_those_of_xla(name):
    theirs, ours = _both(POOLS[name], lax.add, 0.0)
    x = jr.normal(jr.key(0), (3, 7, 8))
    cotangent = jr.normal(jr.key(1), jax.eval_shape(theirs, x).shape)
    expected, got = (_with_derivative(f)(x, cotangent) for f in (theirs, ours))
    for one, two in zip(expected, got, strict=True):
        assert_close(two, one)


@pytest.mark.parametrize("name", ["apart", "overlapping"])
@pytest.mark.parametrize("place", [(0, 2, 2), (0, 3, 3)])
def test_what_is_not_a_number_is_not_passed_over(name, place):
    theirs, ours = _both(POOLS[name], lax.max, -jnp.inf)
    x = jr.normal(jr.key(0), (1, 7, 8)).at[place].set(jnp.nan)
    np.testing.assert_array_equal(jax.jit(ours)(x), theirs(x))
    assert jnp.any(jnp.isnan(ours(x)))


class Pooled(eqx.Module):
    """Both poolings between convolutions, and a readout of several outputs."""

    convolutions: list[eqx.nn.Conv2d]
    pools: list[eqx.nn.Pool]
    readout: eqx.nn.Linear

    def __init__(self, pools, size, *, key):
        keys = jr.split(key, 3)
        channels = [(1, 3), (3, 4)]
        self.convolutions = [
            eqx.nn.Conv2d(n_in, n_out, 3, padding=1, key=k)
            for (n_in, n_out), k in zip(channels, keys, strict=False)
        ]
        self.pools = pools
        self.readout = eqx.nn.Linear(4 * size, 2, key=keys[-1])

    def __call__(self, x):
        for convolution, pool in zip(self.convolutions, self.pools, strict=True):
            x = pool(jax.nn.relu(convolution(x)))
        return self.readout(x.reshape(-1))


NETWORKS = {
    "maxima and means apart": ([eqx.nn.MaxPool2d(2, 2), eqx.nn.AvgPool2d(2, 2)], 4),
    "overlapping maxima": ([eqx.nn.MaxPool2d(3, 2, 1), eqx.nn.MaxPool2d(2, 1)], 9),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_pooled_networks_equal_float64_jacobians(name):
    model = Pooled(*NETWORKS[name], key=jr.key(0))
    x = jr.normal(jr.key(1), (3, 1, 8, 8))
    assert relative_error(nt.ntk_full(model, x), brute_force_full(model, x)) < 1e-12


def test_an_output_has_no_array_of_the_places_of_maxima():
    # Which were six for each output in XLA, as large as the image.
    model = Pooled(*NETWORKS["maxima and means apart"], key=jr.key(0))
    x = jr.normal(jr.key(1), (2, 1, 8, 8))
    jaxpr = str(jax.make_jaxpr(lambda x: nt.ntk(model, x))(x))
    assert "argmax" in jaxpr
    assert "select_and_scatter" not in jaxpr
