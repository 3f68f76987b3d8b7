"""The networks of tests/golden/neural_tangents_infinite.py, as one writes them here.

By name, in a file for each kind of example.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from equinox import nn

WIDTH = 8
erf = jax.scipy.special.erf


class Net(eqx.Module):
    """Layers, and a function of them and of an example."""

    layers: Any
    call: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.call(self.layers, x)


def keys(key=None):
    key = jr.key(0) if key is None else key
    i = 0
    while True:
        yield jr.fold_in(key, i)
        i += 1


def linear(key, n_in=WIDTH, n_out=WIDTH):
    return nn.Linear(n_in, n_out, key=key)


def net(call, *layers):
    def make(key=None):
        several = keys(key)
        return Net([layer(next(several)) for layer in layers], call)

    return make


def readout(n_in=WIDTH):
    return lambda key: linear(key, n_in, 3)


def plain_norm(shape, eps=1e-5):
    return lambda key: nn.LayerNorm(shape, eps, use_weight=False, use_bias=False)
