"""Averages over initialisations, their standard errors, and the NNGP kernel."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import assert_close, relative_error

X = np.linspace(-1, 1, 12).reshape(4, 3)


def build(key, out=2):
    model = eqx.nn.MLP(3, out, 8, 1, activation=jnp.tanh, key=key)
    return nt.parameterize(model, X[0], key, "ntk", W_std=1.5, b_std=0.1)


def test_mean_and_standard_error_are_those_of_the_draws(getkey):
    key = getkey()
    kernel = lambda model: nt.ntk(model, X)
    estimate = nt.monte_carlo(kernel, build, key, 6)
    draws = np.stack([kernel(build(jr.fold_in(key, i))) for i in range(6)])
    assert_close(estimate.mean, draws.mean(0))
    assert_close(estimate.standard_error, draws.std(0, ddof=1) / np.sqrt(6))
    assert estimate.n_samples == 6


def test_increasing_counts_give_running_means_of_the_same_draws(getkey):
    key = getkey()
    kernel = lambda model: {"k": nt.ntk(model, X), "f": model(X[0])}
    running = nt.monte_carlo(kernel, build, key, [1, 3, 5])
    assert running.n_samples == (1, 3, 5)
    assert running.mean["k"].shape == (3, 4, 4)
    for i, n in enumerate((1, 3, 5)):
        alone = nt.monte_carlo(kernel, build, key, n)
        assert_close(running.mean["k"][i], alone.mean["k"])
        assert_close(running.mean["f"][i], alone.mean["f"])
    assert np.all(np.isinf(running.standard_error["k"][0]))
    assert np.all(np.isfinite(running.standard_error["k"][1:]))


def test_the_nngp_is_the_average_of_output_products(getkey):
    key = getkey()
    expected = np.mean(
        [
            np.einsum("ia,ja->ij", f, f) / 2
            for f in (jax.vmap(build(jr.fold_in(key, i)))(X) for i in range(5))
        ],
        axis=0,
    )
    assert_close(nt.nngp(build, key, X, n_samples=5), expected)
    assert_close(nt.nngp(build, key, X[:3], X[2:], 5, batch_size=2), expected[:3, 2:])


def linear_network(key):
    # Covariance known by hand: W_std^2 x.x' / d + b_std^2, whatever the draw's width.
    return nt.parameterize(
        eqx.nn.Linear(3, 1, key=key), X[0], key, "standard", W_std=1.5, b_std=0.1
    )


def test_the_nngp_is_unbiased(getkey):
    exact = 1.5**2 * X @ X.T / 3 + 0.1**2
    key = getkey()
    draw = eqx.filter_jit(linear_network)
    product = eqx.filter_jit(
        lambda m: jnp.outer(jax.vmap(m)(X)[:, 0], jax.vmap(m)(X)[:, 0])
    )
    estimate = nt.monte_carlo(product, draw, key, 200)
    assert_close(nt.nngp(draw, key, X, n_samples=200), estimate.mean)
    assert np.max(np.abs((estimate.mean - exact) / estimate.standard_error)) < 4.5


def test_the_error_of_the_nngp_follows_its_law(getkey):
    # One output of a network of width 64: yardstick [0.9, 1.15] of
    # sqrt((1 + tr(K)^2 / ||K||^2) / n_samples); the exact kernel by the arc-sine law.
    x = np.asarray(jr.normal(getkey(), (20, 10)))

    @eqx.filter_jit
    def erf_network(key):
        model = eqx.nn.MLP(10, 1, 64, 1, activation=jax.scipy.special.erf, key=key)
        return nt.parameterize(model, x[0], key, "ntk", W_std=1.5)

    first = 1.5**2 * x @ x.T / 10
    norm = 1 + 2 * np.diag(first)
    exact = 1.5**2 * 2 / np.pi * np.arcsin(2 * first / np.sqrt(np.outer(norm, norm)))
    n_samples = 8
    errors = [
        relative_error(nt.nngp(erf_network, key, x, n_samples=n_samples), exact)
        for key in jr.split(getkey(), 64)
    ]
    law = np.sqrt((1 + np.trace(exact) ** 2 / np.sum(exact**2)) / n_samples)
    assert 0.9 < np.sqrt(np.mean(np.square(errors))) / law < 1.15


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, [], [3, 3], [5, 2], "many", True])
def test_sample_counts_must_be_positive_and_increasing(n_samples, getkey):
    with pytest.raises(
        ValueError, match="`n_samples` must be a positive integer or an incr"
    ):
        nt.monte_carlo(lambda m: nt.ntk(m, X), build, getkey(), n_samples)


def test_bad_input_is_refused_with_what_to_type(getkey):
    wrong: Any = jnp.ones(3)
    with pytest.raises(ValueError, match="`model_fn` must be a function"):
        nt.monte_carlo(lambda m: nt.ntk(m, X), wrong, getkey(), 2)
    with pytest.raises(
        ValueError, match="`kernel` must be a function.*monte_carlo\\(lambda"
    ):
        nt.monte_carlo(wrong, build, getkey(), 2)
    with pytest.raises(ValueError, match="draw 0.*non-finite"):
        nt.monte_carlo(lambda m: jnp.nan * nt.ntk(m, X), build, getkey(), 2)
    with pytest.raises(ValueError, match="`n_samples` must be"):
        nt.nngp(build, getkey(), X, n_samples=0)
    with pytest.raises(ValueError, match="`model_fn` must be a function"):
        nt.nngp(wrong, getkey(), X)
    with pytest.raises(ValueError, match="examples of one shape"):
        nt.nngp(build, getkey(), X, X[:, :2])


def test_counts_may_be_numpy_integers_and_kernels_integers(getkey):
    counts: Any = np.asarray([1, 3])
    one = nt.monte_carlo(lambda m: jnp.arange(2), build, getkey(), counts)
    assert one.mean.dtype == jnp.float64 and one.n_samples == (1, 3)


def test_a_model_given_for_model_fn_is_answered_with_what_to_type(getkey):
    model: Any = build(getkey())
    with pytest.raises(Exception) as error:
        nt.nngp(model, getkey(), X)
    assert "`lambda key: nt.parameterize(model, x[0], key)`" in " ".join(
        error.value.__notes__
    )
    nothing: Any = lambda m: None
    with pytest.raises(ValueError, match="`kernel\\(model\\)` must return arrays"):
        nt.monte_carlo(nothing, build, getkey(), 2)
