"""Averaged kernels whose gradients are made in pieces, and never held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from equintk._empirical import contraction, in_pieces, in_turns, plan
from equintk._empirical.reading import Member, read
from tests.helpers import average_of, plain_kernel, reference_of, relative_error
from tests.zoo.member import member

pytestmark = pytest.mark.conformance

MODELS = {}


@member(MODELS, x=(3, 20), u=(20, 20), c=(20,), v=(25, 20), w=(2, 25))
def tokens_that_share_weights(x, u, c, v, w):
    h = jnp.tanh(jax.vmap(lambda one: u @ one + c)(x))
    h = h + jnp.mean(h, axis=0)[None]
    return w @ jnp.mean(jnp.sin(h @ v.T) ** 2, axis=0)


@member(MODELS, x=(3, 20), u=(20, 20), w=(4, 20))
def a_readout_of_tokens_whose_derivatives_are_alike(x, u, w):
    return jnp.mean(jnp.tanh(x @ u.T) @ w.T, axis=0)


@member(MODELS, x=(3, 20), u=(20, 20), v=(20, 20), w=(3, 20))
def steps_that_share_weights(x, u, v, w):
    step = lambda h, one: (jnp.tanh(u @ one + v @ h), None)
    return w @ jax.lax.scan(step, jnp.zeros(20, x.dtype), x)[0]


@pytest.mark.parametrize(
    ("name", "columns"), [*((name, 7) for name in MODELS), (next(iter(MODELS)), 45)]
)
def test_averages_equal_float64_jacobians_and_are_the_same_compiled(
    name, columns, monkeypatch
):
    monkeypatch.setattr(in_pieces, "leaves_cache", lambda *_: True)
    monkeypatch.setattr(in_turns, "_CACHED", 2**60)
    monkeypatch.setattr(plan, "_THIN", 0)
    monkeypatch.setattr(plan, "_MADE", 0)
    # Columns of five examples: of 20 the last of 7 are fewer, and 45 are two outputs'.
    monkeypatch.setattr(contraction, "_PIECE_BYTES", columns * 5 * 21 * 8)
    model, _, x1, x2, k11, k12 = reference_of(MODELS[name], name)
    reading, _ = read(Member("ntk", None, None), model, x1, None, "highest", 2.5)
    assert reading.programs.without_features(5, 5) is not None
    got = nt.ntk(model, x1)
    assert relative_error(got, average_of(k11)) < 1e-12
    np.testing.assert_array_equal(got, got.T)
    assert relative_error(nt.ntk(model, x1, x2), average_of(k12)) < 1e-12
    if name != "tokens that share weights" or columns > 7:
        return
    slope, plain = (
        jax.jit(jax.grad(lambda x, of=kernel: jnp.sum(of(model, x) ** 2)))(x1)
        for kernel in (nt.ntk, plain_kernel)
    )
    assert relative_error(slope, plain) < 1e-12
