"""Gaussian processes: against dense algebra, scipy's density, and real data."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

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


def test_variances_and_noise_fitted_by_evidence_are_calibrated_on_diabetes():
    path = Path(__file__).parents[3] / "examples" / "calibrated_uncertainty.py"
    example = runpy.run_path(str(path))
    found = example["main"]()
    assert found["evidence_after"] > found["evidence_before"] + 0.1
    assert 0.85 < found["rms_z"] < 1.15
    assert 0.82 < found["inside_90"] < 0.97
    assert found["mse"] < 0.65


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
