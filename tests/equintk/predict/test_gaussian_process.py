"""Gaussian processes: against dense algebra, scipy's density, and real data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_diabetes

from equintk.predict import GaussianProcess, GradientFlow
from tests.helpers import assert_close

RNG = np.random.default_rng(0)
N, M, OUT = 6, 4, 2
FEATURES = RNG.normal(size=(N + M, 30)) / 30**0.5
KERNEL = FEATURES @ FEATURES.T
K, K_TEST, K_TEST_TEST = KERNEL[:N, :N], KERNEL[N:, :N], KERNEL[N:, N:]
Y = RNG.normal(size=(N, OUT))


def test_the_posterior_is_the_normal_distribution_given_the_targets():
    process = GaussianProcess(K, Y, c=0.5, ridge=0.1)
    inverse = np.linalg.inv(K + 0.2 * np.eye(N))
    got = process.test(K_TEST, K_TEST_TEST)
    assert_close(got.mean, K_TEST @ inverse @ Y)
    assert_close(got.covariance, K_TEST_TEST - K_TEST @ inverse @ K_TEST.T)
    seen = process.train()
    assert_close(seen.mean, K @ inverse @ Y)
    assert_close(seen.covariance, K - K @ inverse @ K)
    again = process.test(K, K)
    assert_close(again.covariance, seen.covariance)
    flow = GradientFlow(K, Y, c=0.5, ridge=0.1)
    zeros = np.zeros((N, OUT)), np.zeros((M, OUT))
    assert_close(got.mean, flow.test(jnp.inf, K_TEST, *zeros))


def test_outputs_that_couple_are_inferred_together():
    features = RNG.normal(size=(N + M, OUT, 30)) / 30**0.5
    full = np.einsum("iap,jbp->ijab", features, features)
    flat = full.transpose(0, 2, 1, 3).reshape((N + M) * OUT, -1)
    k, k_test, k_test_test = (
        flat[: N * OUT, : N * OUT], flat[N * OUT :, : N * OUT],
        flat[N * OUT :, N * OUT :],
    )  # fmt: skip
    process = GaussianProcess(full[:N, :N], Y, ridge=0.1)
    got = process.test(full[N:, :N], full[N:, N:])
    inverse = np.linalg.inv(k + 0.1 * np.eye(N * OUT))
    assert_close(np.ravel(got.mean), k_test @ inverse @ np.ravel(Y))
    covariance = k_test_test - k_test @ inverse @ k_test.T
    assert_close(
        np.transpose(got.covariance, (0, 2, 1, 3)).reshape(M * OUT, -1), covariance
    )
    assert_close(np.ravel(got.variance), np.diag(covariance))
    density = multivariate_normal(np.zeros(N * OUT), k + 0.1 * np.eye(N * OUT))
    assert_close(process.log_marginal_likelihood(), density.logpdf(np.ravel(Y)))


def test_the_log_marginal_likelihood_is_the_density_of_the_targets():
    process = GaussianProcess(K, Y, c=0.5, ridge=0.1)
    density = multivariate_normal(np.zeros(N), K + 0.2 * np.eye(N))
    assert_close(process.log_marginal_likelihood(), np.sum(density.logpdf(Y.T)))


def kernels():
    duplicated = FEATURES[[0, 1, 1, 2, 0, 3]]
    return {
        "identity": np.eye(N),
        "generic": K,
        "duplicated": duplicated @ duplicated.T,
    }


@pytest.mark.parametrize("kernel", kernels().values(), ids=kernels())
def test_its_gradient_agrees_with_finite_differences(kernel):
    def likelihood(kernel, y, ridge, c):
        return GaussianProcess(kernel, y, ridge=ridge, c=c).log_marginal_likelihood()

    numbers = (kernel, Y, 0.3, 0.7)
    value = jax.jit(likelihood)
    assert_close(value(*numbers), likelihood(*numbers))
    gradients = jax.jit(jax.grad(likelihood, (0, 1, 2, 3)))(*numbers)
    for i, gradient in enumerate(gradients):
        along = RNG.normal(size=np.shape(numbers[i]))
        along = along @ along.T if i == 0 else along
        finite = [
            value(*numbers[:i], numbers[i] + h * along, *numbers[i + 1 :])
            for h in (0, 1e-5, 2e-5)
        ]  # one-sided: a null eigenvalue may only move up
        slope = (-3 * finite[0] + 4 * finite[1] - finite[2]) / 2e-5
        assert abs(np.vdot(gradient, along) - slope) < 1e-6 * (1 + abs(slope)), i


def relu_kernel(x1, x2, weight, bias):
    """NNGP of one hidden layer of ReLU (Cho and Saul 2009)."""
    d = x1.shape[1]
    k12 = weight * x1 @ x2.T / d + bias
    k1, k2 = (weight * jnp.sum(x**2, 1) / d + bias for x in (x1, x2))
    norms = jnp.sqrt(k1[:, None] * k2[None, :])
    cosine = jnp.clip(k12 / norms, -1 + 1e-12, 1 - 1e-12)
    angle = jnp.arccos(cosine)
    rectified = norms * (jnp.sin(angle) + (jnp.pi - angle) * cosine) / (2 * jnp.pi)
    return weight * rectified + bias


def test_variances_and_noise_fitted_by_evidence_are_calibrated_on_diabetes():
    data: Any = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(data[1]))[:220]
    x, y = (np.asarray(part)[order] for part in data)
    x, y = x / x.std(0), (y - y[:120].mean()) / y[:120].std()
    x, x_test, y, y_test = x[:120], x[120:], y[:120], y[120:]

    def process(parameters):
        weight, bias, noise = jnp.exp(parameters)
        kernel = relu_kernel(x, x, weight, bias)
        return GaussianProcess(kernel, y, ridge=noise), (weight, bias)

    def loss(parameters):
        return -process(parameters)[0].log_marginal_likelihood() / len(y)

    optimizer = optax.sgd(1.0, momentum=0.8)
    step = jax.jit(jax.value_and_grad(loss))
    parameters = jnp.log(jnp.array([2.0, 0.1, 0.05]))
    state, losses = optimizer.init(parameters), []
    for _ in range(40):
        value, gradient = step(parameters)
        update, state = optimizer.update(gradient, state)
        parameters = jnp.asarray(optax.apply_updates(parameters, update))
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.1

    fitted, scales = process(parameters)
    predicted = fitted.test(
        relu_kernel(x_test, x, *scales), relu_kernel(x_test, x_test, *scales)
    )
    deviation = jnp.sqrt(predicted.variance + jnp.exp(parameters[2]))
    z = (y_test - predicted.mean) / deviation
    assert 0.85 < jnp.mean(z**2) ** 0.5 < 1.15
    assert 0.82 < jnp.mean(jnp.abs(z) < 1.645) < 0.97  # nominally 0.9
    assert jnp.mean((y_test - predicted.mean) ** 2) < 0.65 * jnp.mean(y_test**2)


def test_a_density_that_does_not_exist_is_refused():
    duplicated = kernels()["duplicated"]
    likelihood = lambda k: GaussianProcess(k, Y).log_marginal_likelihood()
    with pytest.raises(ValueError, match="singular up to rounding.*Add a `ridge`"):
        likelihood(duplicated)
    with pytest.raises(Exception, match="singular up to rounding"):
        jax.block_until_ready(jax.jit(likelihood)(duplicated))


def test_without_noise_the_targets_are_known_and_duplicates_share_their_mean():
    process = GaussianProcess(K, Y)
    assert_close(process.train().mean, Y)
    assert not process.train().covariance.any()
    assert jnp.max(process.test(K, K).variance) < 1e-12
    duplicated = GaussianProcess(kernels()["duplicated"], Y).train().mean
    assert_close(duplicated[1], (Y[1] + Y[2]) / 2)


def test_kernels_that_do_not_belong_together_are_refused():
    process = GaussianProcess(K, Y, ridge=0.1)
    with pytest.raises(ValueError, match="do not belong together"):
        process.test(5 * K_TEST, K_TEST_TEST)
    with pytest.raises(
        ValueError, match=r"`k_test_test` has shape \(4, 6\), but needs"
    ):
        process.test(K_TEST, K_TEST)
