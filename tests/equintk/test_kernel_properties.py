"""Kernels of random small architectures against float64 Jacobians.

An architecture is a list of layers between arrays of channels and positions. A weight
is new, or one of the right size that an earlier layer had, whatever that did with it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import equintk as nt
from tests.helpers import average_of, brute_force_full, diagonal_of, relative_error

pytestmark = pytest.mark.conformance

CHANNELS, POSITIONS = 3, 4
KERNELS = {
    nt.ntk: average_of,
    nt.ntk_full: lambda full: full,
    nt.ntk_per_output: diagonal_of,
}


class Architecture(eqx.Module):
    """Layers named by strings, each with the numbers of its parameters."""

    parameters: list[jax.Array]
    layers: tuple[tuple[str, str, tuple[int, ...]], ...] = eqx.field(static=True)
    readout: str = eqx.field(static=True)

    def __call__(self, x):
        for layer, activation, numbers in self.layers:
            arrays = [self.parameters[i] for i in numbers]
            x = ACTIVATIONS[activation](LAYERS[layer][0](x, *arrays))
        return READOUTS[self.readout](x)


def _view(w):
    """A square matrix seen from behind, scaled, with its rows turned around."""
    return (0.5 * w.T)[::-1].reshape(CHANNELS, CHANNELS)


def _convolution(x, w):
    return jax.lax.conv_general_dilated(x[None], w, (1,), "SAME")[0]


def _recurrence(x, w, u, b):
    step = lambda h, t: ((h := jnp.tanh(w @ t + u @ h + b)), h)
    return jax.lax.scan(step, jnp.zeros(CHANNELS, x.dtype), x.T)[1].T


def _stacked(x, w):
    return jax.lax.scan(lambda h, layer: (jnp.tanh(layer @ h) + h, None), x, w)[0]


def _normed(x, gain, bias):
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    scale = jnp.sqrt(jnp.mean(centred**2, axis=0, keepdims=True) + 0.1)
    return gain[:, None] * centred / scale + bias[:, None]


def _branch(x, w, v):
    return jax.lax.cond(jnp.sum(x) > 0, lambda x: w @ x, lambda x: v.T @ x, x)


def _rows(x, w):
    return w[:, jnp.argmax(x, axis=0)] * x


SQUARE, VECTOR = (CHANNELS, CHANNELS), (CHANNELS,)
# What a layer does, and the shapes of its parameters.
LAYERS = {
    "dense": (lambda x, w, b: w @ x + b[:, None], (SQUARE, VECTOR)),
    "dense without bias": (lambda x, w: w @ x, (SQUARE,)),
    "token by token": (lambda x, w: jax.vmap(lambda t: w @ t, 1, 1)(x), (SQUARE,)),
    "from the right": (lambda x, w: (x.T @ w).T, (SQUARE,)),
    "view": (lambda x, w: _view(w) @ x, (SQUARE,)),
    "residual": (lambda x, w, b: x + jnp.tanh(w @ x + b[:, None]), (SQUARE, VECTOR)),
    "tied": (lambda x, w: w.T @ jnp.tanh(w @ x), (SQUARE,)),
    "product": (lambda x, w, v: (w @ v) @ x, (SQUARE, SQUARE)),
    "positions": (lambda x, m: x @ m, ((POSITIONS, POSITIONS),)),
    "convolution": (_convolution, ((CHANNELS, CHANNELS, 3),)),
    "recurrence": (_recurrence, (SQUARE, SQUARE, VECTOR)),
    "stacked": (_stacked, ((2, CHANNELS, CHANNELS),)),
    "norm": (_normed, (VECTOR, VECTOR)),
    "branch": (_branch, (SQUARE, SQUARE)),
    "columns": (_rows, (SQUARE,)),
    "heads": (
        lambda x, w: jnp.einsum("hoc,cs->os", jnp.tanh(w), x),
        ((2, CHANNELS, CHANNELS),),
    ),
    "checkpoint": (
        lambda x, w: jax.checkpoint(lambda w, x: jnp.sin(w @ x))(w, x),
        (SQUARE,),
    ),
    "bias": (lambda x, b: x + b[:, None], (VECTOR,)),
    "scale": (lambda x, s: s * x, ((),)),
}
ACTIVATIONS = {
    "none": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "sine": jnp.sin,
}
READOUTS = {
    "all": lambda x: x,
    "mean over positions": lambda x: jnp.mean(x, axis=1),
    "first": lambda x: x[0, 0],
    "norm": lambda x: jnp.sum(x**2),
}


@st.composite
def architectures(draw):
    """Layers, the shapes of all parameters, and which of these are trained."""
    shapes, layers = [], []
    for _ in range(draw(st.integers(2, 5))):
        name = draw(st.sampled_from(sorted(LAYERS)))
        numbers = []
        for shape in LAYERS[name][1]:
            earlier = [i for i, other in enumerate(shapes) if other == shape]
            number = draw(st.sampled_from([len(shapes), *earlier]))
            if number == len(shapes):
                shapes.append(shape)
            numbers.append(number)
        layers.append((name, draw(st.sampled_from(sorted(ACTIVATIONS))), (*numbers,)))
    trained = draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
    if not any(trained):
        trained = [True] * len(shapes)
    readout = draw(st.sampled_from(sorted(READOUTS)))
    return tuple(layers), shapes, trained, readout


# The examples are the same in every run: a test that fails, fails again.
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    architectures(),
    st.sampled_from(sorted(KERNELS, key=lambda kernel: kernel.__name__)),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_kernels_of_random_architectures_equal_the_plain_jacobian(
    architecture, kernel, batch_size, symmetric, seed
):
    layers, shapes, trained, readout = architecture
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(0.7 * rng.standard_normal(shape))
    model = Architecture([draw(shape) for shape in shapes], layers, readout)
    mask = eqx.tree_at(lambda m: m.parameters, model, trained)
    x1 = rng.standard_normal((4, CHANNELS, POSITIONS))
    x2 = None if symmetric else rng.standard_normal((3, CHANNELS, POSITIONS))
    got = kernel(model, x1, x2, batch_size=batch_size, trainable=mask)
    expected = KERNELS[kernel](brute_force_full(model, x1, x2, mask))
    assert relative_error(got, expected) < 1e-12
