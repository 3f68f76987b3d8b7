"""Ensembles: against networks that are trained, and the algebra of their covariance."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.special import erf

from equintk.predict import Ensemble, GaussianProcess, GradientDescent, GradientFlow
from tests.helpers import assert_close, relative_error

N_TRAIN, N_TEST, OUT = 5, 4, 3
RNG = np.random.default_rng(0)
Y = RNG.normal(size=(N_TRAIN, OUT))


def gram(n_features):
    features = RNG.normal(size=(N_TRAIN + N_TEST, n_features)) / n_features**0.5
    return features @ features.T


NTK, NNGP = gram(30), gram(20)
TRAIN, TEST = slice(N_TRAIN), slice(N_TRAIN, None)


def blocks(kernel):
    return kernel[TRAIN, TRAIN], kernel[TEST, TRAIN], kernel[TEST, TEST]


def make(**options):
    ntk, nngp = (kernel[TRAIN, TRAIN] for kernel in (NTK, NNGP))
    return Ensemble(ntk, Y, nngp_train_train=nngp, **options)


def ask(ensemble, t):
    return ensemble.test(t, NTK[TEST, TRAIN], NNGP[TEST, TRAIN], NNGP[TEST, TEST])


DYNAMICS = {
    "flow": {},
    "descent": {"learning_rate": 0.3},
    "momentum": {"learning_rate": 0.3, "momentum": 0.7},
}


@pytest.mark.parametrize("options", DYNAMICS.values(), ids=DYNAMICS)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_moments_are_those_of_draws_that_are_trained(options, ridge):
    # A draw of the outputs at the start moves linearly: its image is the map of each
    # direction that the NNGP has, without sampling.
    times = jnp.array([0.0, 2.0, 7.0, jnp.inf])
    dynamics = GradientDescent if "learning_rate" in options else GradientFlow
    trained = dynamics(NTK[TRAIN, TRAIN], Y, c=0.5, ridge=ridge, **options)
    values, vectors = np.linalg.eigh(NNGP)
    directions = vectors * np.sqrt(np.maximum(values, 0))
    ensemble = make(c=0.5, ridge=ridge, **options)
    on_test, on_train = ask(ensemble, times), ensemble.train(times)

    def image(start):
        start = np.repeat(start[:, None], OUT, axis=1)
        return np.concatenate(
            [
                trained.train(times, start[TRAIN]),
                trained.test(times, NTK[TEST, TRAIN], start[TRAIN], start[TEST]),
            ],
            axis=1,
        )

    zero = image(np.zeros(N_TRAIN + N_TEST))
    spread = np.stack([(image(d) - zero)[:, :, 0] for d in directions.T])
    covariance = np.einsum("dti,dtj->tij", spread, spread)
    for got, part in ((on_train, TRAIN), (on_test, TEST)):
        assert_close(got.mean, zero[:, part])
        expected = covariance[:, part, part]
        np.testing.assert_allclose(got.covariance, expected, atol=1e-13)


def test_an_uncoupled_ensemble_is_the_coupled_one_without_coupling():
    couple = lambda kernel: np.einsum("ij,ab->ijab", kernel, np.eye(OUT))
    (ntk, ntk_test, _), (nngp, nngp_test, nngp_test_test) = map(blocks, (NTK, NNGP))
    times = [1.0, 3.0]
    alone = ask(make(), times)
    full = Ensemble(couple(ntk), Y, nngp_train_train=couple(nngp))
    short = Ensemble(couple(ntk), Y, nngp_train_train=nngp)
    covariances = (nngp_test, nngp_test_test)
    for coupled in (
        full.test(times, couple(ntk_test), *map(couple, covariances)),
        short.test(times, couple(ntk_test), *covariances),
    ):
        assert coupled.covariance.shape == (2, N_TEST, N_TEST, OUT, OUT)
        assert_close(coupled.mean, alone.mean)
        assert_close(
            coupled.covariance, np.stack([couple(k) for k in alone.covariance])
        )
        assert_close(coupled.variance, alone.variance)
    assert alone.variance.shape == (2, N_TEST, OUT)


def test_training_the_last_layer_alone_ends_at_the_posterior():
    nngp, nngp_test, nngp_test_test = blocks(NNGP)
    ends = Ensemble(nngp, Y, nngp_train_train=nngp).test(
        jnp.inf, nngp_test, nngp_test, nngp_test_test
    )
    posterior = GaussianProcess(nngp, Y).test(nngp_test, nngp_test_test)
    assert_close(ends.mean, posterior.mean)
    assert_close(ends.covariance, posterior.covariance)


def test_samples_have_the_mean_and_covariance_they_are_drawn_from():
    predicted = ask(make(), [0.5, jnp.inf])
    draws = predicted.sample(jr.key(0), 20_000)
    assert draws.shape == (20_000, 2, N_TEST, OUT)
    # Six standard errors of a mean, and about six of a variance.
    mean_error = (draws.mean(0) - predicted.mean) / jnp.sqrt(
        predicted.variance / 20_000
    )
    assert jnp.max(jnp.abs(mean_error)) < 6
    assert relative_error(draws.var(0), predicted.variance) < 6 * (2 / 20_000) ** 0.5
    joint = jnp.cov(draws[:, 1, :, 0].T)
    assert relative_error(joint, predicted.covariance[1]) < 0.05
    other = jnp.mean(draws[:, 1, 0, 0] * draws[:, 1, 0, 1])
    product = predicted.mean[1, 0, 0] * predicted.mean[1, 0, 1]
    assert abs(other - product) < 0.05


def test_without_a_ridge_nothing_is_left_of_the_spread_on_the_training_set():
    ended = make().train(jnp.inf)
    assert_close(ended.mean, Y)
    assert jnp.max(jnp.abs(ended.covariance)) < 1e-13
    assert_close(ended.sample(jr.key(0), 3), np.stack([Y] * 3), 1e-6)


def test_ensembles_are_compiled_and_differentiated():
    (ntk, ntk_test, _), (nngp, nngp_test, nngp_test_test) = map(blocks, (NTK, NNGP))

    def spread(ntk, nngp, nngp_test_test, ridge):
        ensemble = Ensemble(ntk, Y, nngp_train_train=nngp, ridge=ridge)
        predicted = ensemble.test([1.0, 4.0], ntk_test, nngp_test, nngp_test_test)
        return jnp.sum(jnp.sin(predicted.covariance)) + jnp.sum(predicted.mean**2)

    numbers = (ntk, nngp, nngp_test_test, 0.1)
    assert_close(jax.jit(spread)(*numbers), spread(*numbers))
    gradients = jax.jit(jax.grad(spread, (0, 1, 2, 3)))(*numbers)
    value = jax.jit(spread)
    for i, gradient in enumerate(gradients):
        along = RNG.normal(size=np.shape(numbers[i]))
        along = along + along.T if along.ndim else along
        finite = [
            value(*numbers[:i], numbers[i] + h * along, *numbers[i + 1 :])
            for h in (-1e-6, 1e-6)
        ]
        slope = (finite[1] - finite[0]) / 2e-6
        assert abs(np.vdot(gradient, along) - slope) < 1e-6 * (1 + abs(slope))


def network(parameters, x):
    """One hidden layer of erf in the NTK parameterization, W_std 1.4 and b_std 0.3."""
    w1, b1, w2, b2 = parameters
    hidden = erf(1.4 / x.shape[1] ** 0.5 * x @ w1.T + 0.3 * b1[None])
    return 1.4 / len(w2) ** 0.5 * hidden @ w2 + 0.3 * b2


def limit_kernels(x):
    """Its NNGP and NTK at infinite width (Williams 1997; Lee et al. 2019)."""
    first = 1.96 * x @ x.T / x.shape[1] + 0.09
    d = 1 + 2 * np.diag(first)
    product = np.outer(d, d)
    nngp = 1.96 * 2 / np.pi * np.arcsin(2 * first / np.sqrt(product)) + 0.09
    slopes = 4 / np.pi / np.sqrt(product - 4 * first**2)
    return nngp, nngp + 1.96 * slopes * first


@pytest.mark.slow
def test_four_hundred_trained_networks_are_spread_as_predicted():
    width, n_networks, steps = 512, 400, (4, 32)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(24, 6)), rng.normal(size=8)
    nngp, ntk = limit_kernels(x)
    rate = 1 / float(np.linalg.eigvalsh(ntk[:8, :8])[-1])
    ensemble = Ensemble(
        ntk[:8, :8], y, nngp_train_train=nngp[:8, :8], learning_rate=rate
    )
    predicted = ensemble.test(steps, ntk[8:, :8], nngp[8:, :8], nngp[8:, 8:])

    @jax.jit
    @jax.vmap
    def train(key):
        keys = jr.split(key, 4)
        shapes = ((width, 6), (width,), (width,), ())
        parameters = [jr.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
        loss = lambda p: jnp.sum((network(p, x[:8]) - y) ** 2) / 2

        def step(parameters, _):
            gradients = jax.grad(loss)(parameters)
            moved = [p - rate * g for p, g in zip(parameters, gradients, strict=True)]
            return moved, network(moved, x[8:])

        return jax.lax.scan(step, parameters, None, max(steps))[1]

    outputs = train(jr.split(jr.key(0), n_networks))[:, np.array(steps) - 1]
    ratio = jnp.mean(outputs.var(0, ddof=1) / predicted.variance, axis=1)
    z = (outputs.mean(0) - predicted.mean) / jnp.sqrt(predicted.variance / n_networks)
    rms = jnp.sqrt(jnp.mean(z**2, axis=1))
    assert jnp.all((ratio > 0.9) & (ratio < 1.1)), ratio
    assert jnp.all((rms > 0.7) & (rms < 1.3)), rms


REFUSED: dict[str, Any] = {
    "covariance of another size": (
        lambda: Ensemble(NTK, np.ones(9), nngp_train_train=np.eye(3)),
        r"`nngp_train_train` has shape \(3, 3\), but needs \(9, 9\)",
    ),
    "covariance that is none": (
        lambda: Ensemble(NTK, np.ones(9), nngp_train_train=-np.eye(9)),
        r"positive semi-definite.*eigenvalue is -1.00e\+00",
    ),
    "momentum of flow": (
        lambda: make(momentum=0.5),
        "without a `learning_rate` this is gradient flow, which has none",
    ),
    "test-test of another size": (
        lambda: make().test(1.0, NTK[TEST, TRAIN], NNGP[TEST, TRAIN], np.eye(2)),
        r"`nngp_test_test` has shape \(2, 2\), but needs \(4, 4\)",
    ),
    "kernels of two networks": (
        lambda: Ensemble(
            NNGP[TRAIN, TRAIN], Y, nngp_train_train=NNGP[TRAIN, TRAIN]
        ).test(jnp.inf, NNGP[TEST, TRAIN], 5 * NNGP[TEST, TRAIN], NNGP[TEST, TEST]),
        "variance is negative beyond rounding: the kernels do not belong together",
    ),
    "fractional steps": (lambda: make(learning_rate=0.1).train(0.5), "whole number"),
    "no samples": (
        lambda: make().train(1.0).sample(jr.key(0), 0),
        "`n_samples` must be a positive integer",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()
