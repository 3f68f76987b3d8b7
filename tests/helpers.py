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
import pytest
from jax.flatten_util import ravel_pytree


def one_in(every, values):
    """Parameters of a test, of which but one in so many are slow.

    Tuples are the values of several arguments.
    """

    def parameter(i, value):
        values = value if isinstance(value, tuple) else (value,)
        return pytest.param(*values, marks=pytest.mark.slow if i % every else ())

    return [parameter(i, value) for i, value in enumerate(values)]


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
        return jax.jacrev(lambda p: eqx.combine(p, static)(x))(params)

    def wide(a):
        a = np.asarray(a)
        return a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a

    example = jtu.tree_map(lambda a: wide(a)[0], x1)
    out = jax.eval_shape(lambda x: eqx.combine(params, static)(x), example).shape
    size = int(np.prod(out, dtype=int))

    def jacobian(x):
        return np.concatenate(
            [np.reshape(leaf, (size, -1)) for leaf in jtu.tree_leaves(rows(x))], axis=1
        )

    def jacobians(x):
        x = jtu.tree_map(wide, x)
        each = [jtu.tree_map(lambda a, i=i: a[i], x) for i in range(count(x))]
        return np.stack([jacobian(example) for example in each])

    j1 = jacobians(x1)
    j2 = j1 if x2 is None else jacobians(x2)
    kernel = np.einsum("iap,jbp->ijab", j1, j2)
    return kernel.reshape(kernel.shape[:2] + out + out)


def count(x):
    """The number of examples in a batch, which may be a PyTree."""
    return jtu.tree_leaves(x)[0].shape[0]


def plain_kernel(model, x1, x2=None):
    """The averaged kernel as differentiable code without any structure."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(params)

    def rows(x):
        output = lambda p: jnp.ravel(eqx.combine(unravel(p), static)(x))
        return jax.jacrev(output)(flat)

    j1 = jax.vmap(rows)(x1)
    j2 = j1 if x2 is None else jax.vmap(rows)(x2)
    return jnp.einsum("iap,jap->ij", j1, j2) / j1.shape[1]


def average_of(full):
    """The averaged kernel that a full one contains."""
    diagonal = diagonal_of(full)
    return diagonal.reshape(*full.shape[:2], -1).mean(axis=2)


def diagonal_of(full):
    """The kernel of each output with itself that a full one contains."""
    n1, n2, *outs = full.shape
    out = tuple(outs[: len(outs) // 2])
    size = int(np.prod(out, dtype=int))
    diagonal = np.einsum("ijaa->ija", np.reshape(full, (n1, n2, size, size)))
    return diagonal.reshape(n1, n2, *out)


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


def numpy_rng(key):
    """A NumPy generator: its draws need no compilation, those of JAX one per shape."""
    return np.random.default_rng(np.asarray(jr.key_data(key)))


@dataclass(frozen=True)
class Case:
    """A model, how its inputs are drawn, and which of its leaves are parameters.

    Inputs are normal of shape `shape`, or integers below `tokens`, or, where `draw` is
    given, what it makes of a NumPy generator and the number of examples.
    """

    build: Callable
    shape: tuple[int, ...] = ()
    tokens: int = 0
    trainable: Callable | None = None
    draw: Callable | None = None

    def inputs(self, key, n, dtype=jnp.float64):
        rng = numpy_rng(key)
        if self.draw is not None:
            drawn = self.draw(rng, n)
        elif self.tokens:
            drawn = rng.integers(0, self.tokens, (n, *self.shape))
        else:
            drawn = rng.standard_normal((n, *self.shape))
        cast = lambda a: jnp.asarray(a, dtype if a.dtype == np.float64 else a.dtype)
        return jtu.tree_map(cast, drawn)

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
    return reference_of(ZOO[name], name)


def reference_of(case, name):
    """As `reference`, of any case; its name is the seed."""
    k1, k2, k3 = jr.split(jr.key(zlib.crc32(name.encode())), 3)
    model, x1, x2 = case.model(k1), case.inputs(k2, 5), case.inputs(k3, 3)
    mask = case.mask(model)
    joined = jtu.tree_map(lambda *a: np.concatenate(a), x1, x2)
    both = brute_force_full(model, x1, joined, mask)
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
