"""The zoo of models that every kernel must get right, and what it is compared with."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np


def tolerance(dtype, factor=1e4):
    """The relative tolerance of comparisons: a multiple of the dtype's rounding."""
    return factor * float(jnp.finfo(dtype).eps)


def relative_error(got, expected):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-300)


def assert_close(got, expected, rtol=None):
    rtol = tolerance(jnp.asarray(got).dtype) if rtol is None else rtol
    error = relative_error(got, expected)
    assert error <= rtol, f"relative error {error:.2e} > {rtol:.2e}"


def brute_force_full(model, x1, x2=None, trainable=eqx.is_inexact_array):
    """`(n1, n2, *out, *out)` from float64 Jacobians, one example at a time."""
    params, static = eqx.partition(model, trainable)
    params = jtu.tree_map(lambda p: jnp.asarray(p, jnp.float64), params)
    # Constants too: a constant in float32 would round what float64 should not.
    static = jtu.tree_map(
        lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, static
    )

    @jax.jit
    def rows(x):
        def output(p):
            return jnp.ravel(eqx.combine(p, static)(x))

        jacobian = jtu.tree_leaves(jax.jacrev(output)(params))
        return jnp.concatenate([j.reshape(j.shape[0], -1) for j in jacobian], axis=1)

    def wide(x):
        return (
            jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
        )

    j1 = np.stack([rows(wide(x)) for x in x1])
    j2 = j1 if x2 is None else np.stack([rows(wide(x)) for x in x2])
    out = jax.eval_shape(lambda x: eqx.combine(params, static)(x), wide(x1)[0]).shape
    kernel = np.einsum("iap,jbp->ijab", j1, j2)
    return kernel.reshape(kernel.shape[:2] + out + out)


def average_of(full):
    """The averaged kernel that a full one contains."""
    n1, n2 = full.shape[:2]
    size = int(np.sqrt(np.prod(full.shape[2:], dtype=int)))
    return np.einsum("ijaa->ij", np.reshape(full, (n1, n2, size, size))) / size


class ConvNet(eqx.Module):
    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    pool: eqx.nn.AvgPool2d
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(2, 4, 3, padding=1, key=k1)
        self.conv2 = eqx.nn.Conv2d(4, 4, 3, stride=2, key=k2)
        self.pool = eqx.nn.AvgPool2d(2)
        self.readout = eqx.nn.Linear(4, 3, key=k3)

    def __call__(self, x):
        h = self.conv2(jax.nn.relu(self.conv1(x)))
        return self.readout(jnp.ravel(self.pool(jnp.tanh(h))))


class ResidualMLP(eqx.Module):
    layers: list
    readout: eqx.nn.Linear
    activation: Callable
    n_calls: int
    unused: None = None

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        self.layers = [eqx.nn.Linear(3, 3, key=k1), eqx.nn.Linear(3, 3, key=k2)]
        self.readout = eqx.nn.Linear(3, 2, key=k3)
        self.activation = jax.nn.gelu
        self.n_calls = 2

    def __call__(self, x):
        for _ in range(self.n_calls):  # the same weights twice
            for layer in self.layers:
                x = x + self.activation(layer(x))
        return self.readout(x)


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.first = eqx.nn.Linear(3, 6, key=k1)
        self.norm = eqx.nn.LayerNorm(6)
        self.last = eqx.nn.Linear(6, 2, key=k2)

    def __call__(self, x):
        return self.last(jax.nn.silu(self.norm(self.first(x))))


class Attention(eqx.Module):
    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        self.embedding = eqx.nn.Embedding(7, 4, key=k1)
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=k2)
        self.readout = eqx.nn.Linear(4, 2, key=k3)

    def __call__(self, tokens):
        h = jax.vmap(self.embedding)(tokens)
        return self.readout(jnp.mean(h + self.attention(h, h, h), axis=0))


class Recurrent(eqx.Module):
    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.cell = eqx.nn.GRUCell(3, 4, key=k1)
        self.readout = eqx.nn.Linear(4, "scalar", key=k2)

    def __call__(self, xs):
        h, _ = jax.lax.scan(
            lambda h, x: (self.cell(x, h), None), jnp.zeros(4, xs.dtype), xs
        )
        return self.readout(h)


class MatrixOutput(eqx.Module):
    """An output of rank two, from a module of raw arrays and NumPy constants."""

    w: jax.Array
    scale: jax.Array
    table: Any

    def __init__(self, key):
        self.w = jr.normal(key, (3, 6))
        self.scale = jnp.asarray(0.7)
        self.table = jnp.arange(6)

    def __call__(self, x):
        return (jnp.sin(x @ self.w) * self.scale)[self.table].reshape(2, 3)


@dataclass(frozen=True)
class Case:
    """A model, how its inputs are drawn, and which of its leaves are parameters."""

    build: Callable
    shape: tuple[int, ...]
    tokens: int = 0
    trainable: Callable | None = None

    def inputs(self, key, n, dtype=jnp.float64):
        if self.tokens:
            return jr.randint(key, (n, *self.shape), 0, self.tokens)
        return jr.normal(key, (n, *self.shape), dtype)

    def model(self, key, dtype=jnp.float64):
        cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
        return jtu.tree_map(cast, self.build(key))

    def mask(self, model):
        return eqx.is_inexact_array if self.trainable is None else self.trainable(model)


def _all_but_the_first_layer(model):
    mask = jtu.tree_map(eqx.is_inexact_array, model)
    return eqx.tree_at(
        lambda m: (m.layers[0].weight, m.layers[0].bias), mask, (False, False)
    )


@functools.cache
def reference(name):
    """A case of the zoo with its brute-force kernels, computed once for all tests.

    Returns its model, mask, inputs of 5 and 3 examples, and the full kernels of the
    first with itself and with the second.
    """
    case = ZOO[name]
    k1, k2, k3 = jr.split(jr.key(zlib.crc32(name.encode())), 3)
    model, x1, x2 = case.model(k1), case.inputs(k2, 5), case.inputs(k3, 3)
    mask = case.mask(model)
    both = brute_force_full(model, x1, jnp.concatenate([x1, x2]), mask)
    return model, mask, x1, x2, both[:, :5], both[:, 5:]


ZOO = {
    "scalar output": Case(
        lambda key: eqx.nn.MLP(3, "scalar", 5, 1, activation=jnp.tanh, key=key), (3,)
    ),
    "mlp": Case(
        lambda key: eqx.nn.MLP(3, 3, 8, 2, activation=jax.scipy.special.erf, key=key),
        (3,),
    ),
    "cnn with pooling": Case(ConvNet, (2, 6, 6)),
    "residual mlp, shared weights": Case(ResidualMLP, (3,)),
    "layer norm": Case(Normed, (3,)),
    "attention over tokens": Case(Attention, (5,), tokens=7),
    "gru in a scan": Case(Recurrent, (4, 3)),
    "frozen layer": Case(
        lambda key: eqx.nn.MLP(3, 2, 6, 2, activation=jnp.sin, key=key),
        (3,),
        trainable=_all_but_the_first_layer,
    ),
    "sequential": Case(
        lambda key: eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, 5, key=key),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Linear(5, 2, use_bias=False, key=key),
            ]
        ),
        (3,),
    ),
    "matrix output, raw arrays": Case(MatrixOutput, (3,)),
}
