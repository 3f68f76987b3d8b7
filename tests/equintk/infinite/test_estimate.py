"""Sampled expectations, against closed forms of other spellings and wide networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from equinox import nn

import equintk as nt
from tests.equintk.infinite.adversaries import HID, IN, READ, net

OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}
KEY = jr.key(0)


def largest(p, x):
    return p[2](jnp.maximum(p[0](x), p[1](x)))


def largest_by_kinks(p, x):
    """The same, as a sum of functions of one Gaussian each."""
    one, two = p[0](x), p[1](x)
    return p[2]((one + two) / 2 + jnp.abs(one - two) / 2)


def recurrent(p, x):
    state = jnp.zeros(p[0].hidden_size, x.dtype)
    for row in x:
        state = p[0](row, state)
    return p[1](state)


def long_short_term(p, x):
    state = (jnp.zeros(p[0].hidden_size, x.dtype),) * 2
    for row in x:
        state = p[0](row, state)
    return p[1](state[0])


def attended(p, x):
    h = jax.vmap(p[0])(x)
    return p[2](jnp.mean(p[1](h, h, h), axis=0))


def pooled(p, x):
    h = nn.MaxPool1d(2, 2)(p[0](x.T))
    return p[2](jnp.mean(jax.nn.relu(p[1](h)), axis=1))


def residual(p, x):
    h = jax.nn.relu(p[0](x))
    return p[2](jnp.tanh(h + p[1](h)))


def conv(n_in):
    return lambda n, key: nn.Conv1d(n_in or n, n, 2, key=key)


OPEN = {
    "a nonlinearity after a sum": (net(residual, IN, HID, READ), (5,)),
    "GRU": (net(recurrent, lambda n, k: nn.GRUCell(5, n, key=k), READ), (2, 5)),
    "LSTM": (net(long_short_term, lambda n, k: nn.LSTMCell(5, n, key=k), READ), (2, 5)),
    "attention": (
        net(attended, IN, lambda n, k: nn.MultiheadAttention(n // 4, n, key=k), READ),
        (3, 5),
    ),
    "max pooling": (net(pooled, conv(5), conv(0), READ), (7, 5)),
}


def test_the_larger_of_two_gaussians_is_estimated_within_its_error():
    x = jr.normal(jr.key(1), (3, 5))
    exact = nt.infinite_kernels(
        net(largest_by_kinks, IN, IN, READ)(8, KEY), x, **OPTIONS
    )
    model = net(largest, IN, IN, READ)(8, KEY)
    with pytest.raises(nt.NoLimitError, match="several Gaussians at one entry"):
        nt.infinite_kernels(model, x, **OPTIONS)
    found = nt.estimate_infinite_kernels(model, KEY, x, n_points=256, **OPTIONS)
    for mean, error, expected in (
        (found.nngp, found.nngp_error, exact.nngp),
        (found.ntk, found.ntk_error, exact.ntk),
    ):
        assert np.all(np.abs(mean - expected) < 5 * error + 1e-12)
        assert np.all(error < 0.03 * np.max(np.abs(expected)))


def test_what_has_a_closed_form_keeps_it():
    x, model = jr.normal(jr.key(1), (3, 5)), eqx.nn.MLP(5, 2, 8, 1, key=KEY)
    found = nt.estimate_infinite_kernels(model, KEY, x, n_repeats=2, **OPTIONS)
    exact = nt.infinite_kernels(model, x, **OPTIONS)
    np.testing.assert_allclose(found.ntk, exact.ntk, rtol=1e-12)
    np.testing.assert_allclose(found.ntk_error, 0, atol=1e-12)


def test_derivatives_of_sampled_kernels_are_refused():
    model = net(largest, IN, IN, READ)(8, KEY)

    def total(x):
        found = nt.estimate_infinite_kernels(model, KEY, x, n_points=16, **OPTIONS)
        return jnp.sum(found.nngp)

    with pytest.raises((nt.NoLimitError, ValueError), match="no derivatives"):
        jax.grad(total)(jr.normal(jr.key(1), (2, 5)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_repeats": 1}, "`n_repeats` must be 2 at least"),
        ({"n_points": 0}, "`n_points` must be"),
    ],
)
def test_bad_numbers_of_points_are_refused(options, text):
    model = eqx.nn.MLP(5, 2, 8, 1, key=KEY)
    with pytest.raises(ValueError, match=text):
        nt.estimate_infinite_kernels(model, KEY, jnp.ones((2, 5)), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN)
def test_what_is_sampled_agrees_with_wide_networks(name):
    build, shape = OPEN[name]
    x = jr.normal(jr.key(1), (3, *shape))
    x = x.at[2].set(x[1])  # a copy, whose correlation is one
    found = nt.estimate_infinite_kernels(
        build(16, KEY), KEY, x, n_points=512, n_repeats=4, **OPTIONS
    )
    wide = build(256, KEY)
    drawn = []
    for i in range(200):
        model = nt.parameterize(wide, x[0], jr.key(i), "ntk", 1.3, 0.2)
        y = jax.vmap(model)(x)
        drawn.append((y @ y.T / y.shape[1], nt.ntk(model, x) if i < 50 else None))
    for which in (0, 1):
        several = np.stack(
            [np.asarray(d[which]) for d in drawn if d[which] is not None]
        )
        noise = np.linalg.norm(several.std(axis=0)) / np.sqrt(len(several))
        own = np.linalg.norm(found[2 + which])
        error = np.linalg.norm(several.mean(axis=0) - found[which])
        # Four standard errors, and what networks of width 256 differ by.
        assert error < 4 * np.hypot(noise, own) + 0.03 * np.linalg.norm(found[which])
