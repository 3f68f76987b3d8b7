"""A model is read once for all calls of its structure, and again where it differs."""

import functools
import gc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import equintk as nt
from equintk._infinite.functions import function as functions


class Counted(eqx.Module):
    """A layer of which each entry of the input has a weight that is no parameter."""

    weight: jax.Array
    scales: jax.Array
    seen: Callable = eqx.field(static=True)

    def __call__(self, x):
        self.seen()
        return self.weight @ (self.scales.astype(x.dtype) * x)


def kernel(scales, seen, W_std=1.0):
    model = Counted(jr.normal(jr.key(0), (3, 4)), jnp.asarray(scales), seen)
    x = jnp.arange(8.0).reshape(2, 4)
    got = nt.infinite_ntk(model, x, parameterization="ntk", W_std=W_std)
    scaled = np.asarray(x) * np.asarray(scales)
    np.testing.assert_allclose(got, W_std**2 * scaled @ scaled.T / 4, rtol=1e-12)


def test_a_second_call_reads_nothing_and_other_constants_are_not_mistaken():
    calls = []
    seen = lambda: calls.append(1)
    kernel([1, 2, 3, 4], seen)
    first = len(calls)
    assert first > 0
    kernel([1, 2, 3, 4], seen)
    kernel([1, 2, 3, 4], seen, W_std=1.7)
    assert len(calls) == first
    kernel([4, 3, 2, 1], seen)  # same shapes, other values
    assert len(calls) > first


def test_functions_that_nothing_uses_are_forgotten():
    before = set(functions._spellings)
    made = [functions.linear(1.5 + i) for i in range(100)]
    whole = functools.reduce(functions.product, made)
    assert functions.linear(1.5).key is made[0].key
    assert len(functions._spellings) > len(before) + 100
    del made, whole
    gc.collect()
    assert set(functions._spellings) <= before


def test_the_precision_that_the_caller_set_holds_inside():
    with jax.enable_x64(False):
        x = jnp.ones((2, 3))
        model = eqx.nn.MLP(3, 1, 8, 1, key=jr.key(0))
        got = nt.infinite_nngp(model, x, parameterization="ntk")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.full((2, 2), 0.5), rtol=1e-6)
