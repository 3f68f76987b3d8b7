"""Spectra from products alone: against dense algebra, and error bars against truth."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import equintk as nt
from tests.helpers import assert_close


def dense(matrix):
    return lx.MatrixLinearOperator(jnp.asarray(matrix), lx.positive_semidefinite_tag)


def kernel(n, decay, seed=0):
    """A positive definite matrix with eigenvalues `decay(1), decay(2), ...`."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    matrix = (rotation * decay(np.arange(1.0, n + 1))) @ rotation.T
    return (matrix + matrix.T) / 2


@pytest.fixture
def operator(getkey):
    mlp = eqx.nn.MLP(3, 2, 16, 2, activation=jnp.tanh, key=getkey())
    return nt.NTKOperator(mlp, jr.normal(getkey(), (60, 3)))


def test_top_eigenvalues_of_a_network_are_those_of_its_kernel(operator, getkey):
    top = nt.top_eigenvalues(operator, 3, getkey(), n_steps=6)
    expected = np.linalg.eigvalsh(operator.as_matrix())[::-1][:3]
    assert_close(top.value, expected)
    assert top.vectors.shape == (3, 60, 2)
    for i in range(3):
        image = operator.mv(top.vectors[i]) - top.value[i] * top.vectors[i]
        assert jnp.linalg.norm(image) < 1e-6 * top.value[0]


def test_residuals_bound_the_errors_of_unconverged_eigenvalues(getkey):
    matrix = kernel(200, lambda i: 1 / np.sqrt(i))
    top = nt.top_eigenvalues(dense(matrix), 4, getkey(), n_steps=3)
    values = np.linalg.eigvalsh(matrix)
    distance = np.min(np.abs(values[:, None] - np.asarray(top.value)), axis=0)
    assert np.all(distance <= top.residual)
    assert np.max(top.residual) > 1e-6


def test_repeated_eigenvalues_are_found_as_often_as_they_are_repeated(getkey):
    # Seven times 2, then a low rank: spaces that the products span run out.
    matrix = kernel(150, lambda i: np.where(i <= 7, 2.0, np.where(i <= 20, 1.0, 0.0)))
    top = nt.top_eigenvalues(dense(matrix), 10, getkey(), n_steps=5)
    assert_close(top.value, [2.0] * 7 + [1.0] * 3)


def test_the_zero_operator_has_eigenvalues_of_zero(getkey):
    top = nt.top_eigenvalues(dense(np.zeros((100, 100))), 2, getkey(), n_steps=3)
    np.testing.assert_array_equal(top.value, 0)


@pytest.mark.parametrize("decay", [lambda i: 1 / i, lambda i: np.ones_like(i) + i % 2])
def test_error_bars_of_the_trace_cover_the_truth(decay):
    matrix = kernel(120, decay)
    operator = dense(matrix)
    estimates = jax.jit(jax.vmap(lambda key: nt.stochastic_trace(operator, key, 45)))(
        jr.split(jr.key(0), 200)
    )
    deviation = (estimates.value - np.trace(matrix)) / estimates.standard_error
    # Student's t with 14 degrees of freedom has a standard deviation of 1.08.
    assert 0.9 < np.sqrt(np.mean(deviation**2)) < 1.3
    assert abs(np.mean(deviation)) < 5 * 1.08 / np.sqrt(200)


def test_a_trace_of_all_directions_is_exact(getkey):
    matrix = kernel(12, lambda i: 1 / i)
    trace = nt.stochastic_trace(dense(matrix), getkey(), 12)
    assert_close(trace.value, np.trace(matrix))
    assert trace.standard_error == 0


def test_error_bars_of_the_log_determinant_cover_the_truth():
    matrix = kernel(120, lambda i: 10 / i**2) + 0.1 * np.eye(120)
    operator = dense(matrix)
    estimate = lambda key: nt.stochastic_logdet(operator, key, 16, 12, smallest=0.1)
    estimates = jax.jit(jax.vmap(estimate))(jr.split(jr.key(0), 200))
    assert np.all(estimates.bias < 0.01 * estimates.standard_error)
    truth = np.linalg.slogdet(matrix)[1]
    deviation = (estimates.value - truth) / estimates.standard_error
    # Student's t with 15 degrees of freedom has a standard deviation of 1.07.
    assert 0.9 < np.sqrt(np.mean(deviation**2)) < 1.3
    assert abs(np.mean(deviation)) < 5 * 1.07 / np.sqrt(200)


def test_the_bias_of_a_log_determinant_bounds_what_few_steps_miss():
    # One vector with weight on all eigenvalues: only the steps are wrong.
    matrix = np.diag(np.logspace(-3, 1, 40))
    truth = np.linalg.slogdet(matrix)[1]
    biases = []
    for n_steps in (4, 8, 16, 40):
        # On a diagonal matrix random signs give the exact trace, without variance.
        estimate = nt.stochastic_logdet(
            dense(matrix), jr.key(0), 2, n_steps, smallest=1e-3
        )
        assert abs(estimate.value - truth) <= estimate.bias + 1e-8
        biases.append(estimate.bias)
    assert biases == sorted(biases, reverse=True)
    assert biases[0] > 1 and biases[-1] < 1e-6


def test_a_log_determinant_with_few_distinct_eigenvalues_is_finite(getkey):
    # The spaces that a vector reaches run out after two steps.
    matrix = kernel(30, lambda i: np.where(i <= 10, 3.0, 1.0))
    estimate = nt.stochastic_logdet(dense(matrix), getkey(), 4, 10, smallest=0.5)
    assert estimate.bias < 1e-8
    assert abs(estimate.value - 10 * np.log(3)) < 6 * estimate.standard_error + 1e-8


def test_a_singular_operator_has_no_log_determinant(getkey):
    singular = dense(kernel(30, lambda i: np.where(i <= 10, 1.0, 0.0)))
    with pytest.raises(ValueError, match="positive definite.*Add a ridge"):
        nt.stochastic_logdet(singular, getkey(), n_steps=30)


def test_nystrom_features_of_a_low_rank_kernel_are_exact(getkey):
    model = eqx.nn.Linear(4, 2, key=getkey())  # rank (4 + 1) * 2
    x, other = jr.normal(getkey(), (30, 4)), jr.normal(getkey(), (7, 4))
    features = nt.nystrom_features(nt.NTKOperator(model, x), getkey(), 12)
    assert features.value.shape == (30, 2, 12)
    product = lambda a, b: jnp.einsum("iar,jbr->ijab", a, b)
    assert_close(product(features.value, features.value), nt.ntk_full(model, x))
    at_other = features.at(nt.NTKOperator(model, other, x))
    assert_close(product(at_other, features.value), nt.ntk_full(model, other, x))


def test_nystrom_features_stay_below_the_kernel_and_near_it(getkey):
    matrix = kernel(80, lambda i: 1 / i**2)
    features = nt.nystrom_features(dense(matrix), getkey(), 20).value
    left = matrix - features @ features.T
    assert np.linalg.eigvalsh(left)[0] > -1e-12
    best = np.sum(1 / np.arange(21, 81.0) ** 2)
    assert best < np.trace(left) < 3 * best


def test_operators_that_do_not_fit_are_refused(operator, getkey):
    cross = nt.NTKOperator(operator.model, operator.x1[:5], operator.x1[:4])
    matrix: Any = jnp.eye(3)
    untagged = lx.MatrixLinearOperator(jnp.eye(3))
    with pytest.raises(ValueError, match="must be a lineax operator"):
        nt.stochastic_trace(matrix, getkey())
    with pytest.raises(ValueError, match="must be square"):
        nt.stochastic_trace(cross, getkey())
    with pytest.raises(ValueError, match="known to be symmetric"):
        nt.top_eigenvalues(untagged, 1, getkey())
    with pytest.raises(ValueError, match="known to be positive semi-definite"):
        nt.nystrom_features(
            lx.TaggedLinearOperator(untagged, lx.symmetric_tag), getkey(), 1
        )
    with pytest.raises(ValueError, match="`k` must be at most the size"):
        nt.top_eigenvalues(dense(jnp.eye(3)), 4, getkey())
    with pytest.raises(ValueError, match="`n_samples` must be at least 6"):
        nt.stochastic_trace(dense(jnp.eye(3)), getkey(), 2)
    with pytest.raises(ValueError, match="`n_steps` must be at least 3"):
        nt.stochastic_logdet(dense(jnp.eye(3)), getkey(), n_steps=2)
