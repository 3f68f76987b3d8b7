"""Averaged kernels from features of a few outputs at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from equintk._empirical import in_turns
from equintk._empirical.reading import Member, read
from tests.helpers import plain_kernel, reference_of, relative_error
from tests.zoo.member import member

pytestmark = pytest.mark.conformance

MODELS = {}


@member(MODELS, u=(6, 3), c=(6,), g=(6, 6), v=(6, 6), w=(11, 6))
def a_bias_a_gate_and_a_skip(x, u, c, g, v, w):
    h = jnp.tanh(u @ x + c)
    return w @ (jax.nn.sigmoid(g @ h) * jnp.tanh(v @ h) + h)


@member(MODELS, x=(3, 3), u=(4, 3), v=(4, 4), w=(11, 4))
def steps_that_share_a_weight(x, u, v, w):
    step = lambda h, one: (jnp.tanh(u @ one + v @ h), None)
    return w @ jax.lax.scan(step, jnp.zeros(4, x.dtype), x)[0]


@member(MODELS, tokens=4, u=(4, 5), s=(5,), w=(11, 5))
def rows_and_a_leaf_that_is_no_weight(x, u, s, w):
    return w @ jnp.mean(jnp.tanh(u[x] * jnp.sin(s)[None]), axis=0)


@member(MODELS, u=(6, 3), v=(22, 6))
def outputs_of_two_axes(x, u, v):
    return jnp.sin(v @ jnp.tanh(u @ x)).reshape(2, 11)


@pytest.fixture(autouse=True)
def any_kernel_is_large_enough(monkeypatch):
    monkeypatch.setattr(in_turns, "_CACHED", 0)
    monkeypatch.setattr(in_turns, "_FEW", 0)
    monkeypatch.setattr(in_turns, "summands_bytes", lambda features: 0)
    monkeypatch.setattr(in_turns, "_written", lambda features: (0, 1))


def _reading(model, x, average=None, diagonal=None):
    return read(Member("ntk", average, diagonal), model, x, None, "highest", 2.5)[0]


def _take(together, reading, n, monkeypatch):
    """Let this many outputs share a turn."""
    size = -(-together * n * reading.example_bytes // 11)
    monkeypatch.setattr(in_turns, "_ONE_TURN", size)
    assert reading.programs.without_features(n, n) is not None


def _averaged(full):
    """Over the output's last axis, of which the others have their diagonal."""
    n1, n2, *shape = full.shape
    shape = shape[: len(shape) // 2]
    full = full.reshape(
        n1, n2, -1, shape[-1], np.prod(shape[:-1], dtype=int), shape[-1]
    )
    return np.einsum("nmakak->nma", full).reshape(n1, n2, *shape[:-1]) / shape[-1]


def _ways():
    """Every model with both numbers of outputs in a turn; usually with one of them."""
    for i, name in enumerate(MODELS):
        for j, together in enumerate((1, 4)):
            usually = () if i % 2 == j else pytest.mark.slow
            yield pytest.param(name, together, marks=usually, id=f"{together}: {name}")


@pytest.mark.parametrize(("name", "together"), list(_ways()))
def test_averages_over_outputs_equal_float64_jacobians(name, together, monkeypatch):
    # Eleven outputs: three turns of four, of which the last has one too few.
    model, _, x1, x2, k11, k12 = reference_of(MODELS[name], name)
    n = 5 if together == 1 else 4  # what is compiled for a number of examples is kept
    x1, k11, k12 = x1[:n], k11[:n, :n], k12[:n]
    _take(together, _reading(model, x1, -1), n, monkeypatch)
    kernel = functools.partial(nt.ntk_per_output, average=-1)
    got = kernel(model, x1)
    assert relative_error(got, _averaged(k11)) < 1e-12
    np.testing.assert_array_equal(got, got.swapaxes(0, 1))
    assert relative_error(kernel(model, x1, x2), _averaged(k12)) < 1e-12


def test_under_transformations_and_by_parameter_the_numbers_are_the_same(monkeypatch):
    name = "a bias a gate and a skip"
    model, _, x, _, k11, _ = reference_of(MODELS[name], name)
    expected = _averaged(k11)

    def total(kernel, x):
        return jnp.sum(kernel(model, x) ** 2)

    _take(4, _reading(model, x), 5, monkeypatch)
    assert relative_error(jax.jit(nt.ntk)(model, x), expected) < 1e-12
    slope, plain = (
        jax.jit(jax.grad(functools.partial(total, kernel)))(x)
        for kernel in (nt.ntk, plain_kernel)
    )
    assert relative_error(slope, plain) < 1e-12
    parts = nt.ntk_by_parameter(model, x).parameters
    assert set(parts) == set(model.parameters)
    assert relative_error(sum(parts.values()), expected) < 1e-12
