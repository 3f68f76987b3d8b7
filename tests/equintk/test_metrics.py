"""Kernel metrics: closed forms, invariances, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from equintk import metrics
from tests.helpers import assert_close


@pytest.fixture
def pair():
    x1, x2 = np.random.default_rng(0).normal(size=(2, 5, 8))
    return x1 @ x1.T, x2 @ x2.T


def test_distance_is_relative_to_the_reference():
    reference = jnp.diag(jnp.array([3.0, 4.0]))
    moved = reference + jnp.array([[0.0, 0.3], [0.4, 0.0]])
    assert_close(metrics.kernel_drift(moved, reference), 0.1)
    assert_close(metrics.relative_distance(moved, reference), 0.1)
    outputs = jnp.ones((2, 3, 4))
    assert_close(metrics.relative_distance(1.5 * outputs, outputs), 0.5)


def test_distances_do_not_overflow_in_float32(pair):
    k, k0 = (np.float32(1e25) * np.float32(a) for a in pair)
    assert_close(metrics.kernel_drift(k, k0), metrics.kernel_drift(*pair), 1e-5)


def test_drift_at_the_start_is_zero_and_so_is_its_derivative(pair):
    k0, _ = pair
    drift, slope = jax.jit(jax.value_and_grad(metrics.kernel_drift))(k0, k0)
    assert drift == 0
    assert not slope.any()


def test_alignment_is_one_up_to_scale_and_constant_functions(pair):
    k, other = pair
    assert_close(metrics.centred_alignment(k, 3 * k + 7), 1.0)
    assert 0 <= metrics.centred_alignment(k, other) < 1
    assert_close(
        metrics.centred_alignment(k, other), metrics.centred_alignment(other, k)
    )


def test_centred_alignment_is_the_cosine_of_kernels_of_centred_features():
    x1, x2 = np.random.default_rng(0).normal(size=(2, 6, 4)) + 3
    k1, k2 = x1 @ x1.T, x2 @ x2.T
    c1, c2 = (x - x.mean(0) for x in (x1, x2))
    c1, c2 = c1 @ c1.T, c2 @ c2.T
    expected = np.vdot(c1, c2) / (np.linalg.norm(c1) * np.linalg.norm(c2))
    assert_close(metrics.centred_alignment(k1, k2), expected)


def test_target_alignment_is_one_for_the_targets_own_kernel_and_sums_over_outputs(
    getkey,
):
    y = np.random.default_rng(0).normal(size=(5, 2, 3))
    flat = y.reshape(5, 6)
    assert_close(metrics.target_alignment(2 * flat @ flat.T, y), 1.0)
    # Of the identity: trace(y y^T) over sqrt(n) times the norm of y y^T.
    expected = np.sum(flat**2) / (np.sqrt(5) * np.linalg.norm(flat @ flat.T))
    assert_close(metrics.target_alignment(np.eye(5), y), expected)
    assert_close(metrics.target_alignment(np.eye(5), y[:, 0, 0]), 1 / np.sqrt(5))


def test_effective_rank_counts_equal_eigenvalues():
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 3)))[0]
    assert_close(metrics.effective_rank(directions @ directions.T), 3.0)
    assert_close(metrics.effective_rank(np.ones((6, 6))), 1.0)
    assert_close(metrics.effective_rank(0.1 * np.eye(6)), 6.0)


def test_the_largest_learning_rate_is_two_over_the_largest_curvature():
    kernel = np.diag([1.0, 4.0])
    assert_close(metrics.max_learning_rate(kernel), 0.5)
    assert_close(metrics.max_learning_rate(kernel, c=0.1), 5.0)
    assert_close(metrics.max_learning_rate(kernel, momentum=0.9), 0.95)


@pytest.mark.parametrize("out", [(1,), (3,), (2, 2)])
def test_coupled_outputs_are_one_matrix(out):
    size = int(np.prod(out))
    features = np.random.default_rng(0).normal(size=(4, size, 30))
    kernel = np.einsum("iap,jbp->ijab", features, features).reshape(4, 4, *out, *out)
    largest = np.linalg.norm(features.reshape(4 * size, 30), ord=2) ** 2
    assert_close(metrics.max_learning_rate(kernel), 2 / largest)


def test_heavy_ball_is_stable_below_its_bound_and_not_above():
    kernel, momentum = np.array([[3.0]]), 0.8
    bound = float(metrics.max_learning_rate(kernel, momentum=momentum))

    def end(learning_rate):
        f = v = 1.0
        for _ in range(2000):
            v = momentum * v + f
            f = f - learning_rate * 3.0 * v
        return abs(f)

    assert end(0.99 * bound) < 1e-3
    assert end(1.01 * bound) > 1e3


METRICS = {
    "kernel_drift": lambda k1, k2: metrics.kernel_drift(k1, k2),
    "relative_distance": lambda k1, k2: metrics.relative_distance(k1, k2),
    "centred_alignment": lambda k1, k2: metrics.centred_alignment(k1, k2),
    "target_alignment": lambda k1, k2: metrics.target_alignment(k1, k2[:, :2]),
    "effective_rank": lambda k1, k2: metrics.effective_rank(k1),
    "max_learning_rate": lambda k1, k2: metrics.max_learning_rate(k1, c=0.5),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metrics_are_the_same_compiled_mapped_and_from_numpy(metric, pair):
    eager = metric(*pair)
    assert eager.shape == ()
    assert eager.dtype == jnp.float64
    assert_close(jax.jit(metric)(*pair), eager)
    assert_close(metric(*map(jnp.asarray, pair)), eager)
    stacked = [np.stack([k, 2 * k]) for k in pair]
    assert_close(jax.jit(jax.vmap(metric))(*stacked)[0], eager)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_derivatives_of_metrics_agree_with_finite_differences(metric, pair):
    k1, k2 = pair
    direction = np.outer(np.arange(5.0), np.arange(5.0)) / 10
    metric = jax.jit(metric)
    slope = np.vdot(jax.jit(jax.grad(metric))(k1, k2), direction)
    h = 1e-5
    finite = (metric(k1 + h * direction, k2) - metric(k1 - h * direction, k2)) / (2 * h)
    assert_close(slope, finite, 1e-6)


EYE, ZEROS = np.eye(2), np.zeros((2, 2))
NAN = np.array([[1, np.nan], [0, 1]])
REFUSED = {
    "two sizes": (lambda: metrics.kernel_drift(EYE, np.eye(3)), "must have one shape"),
    "not square": (
        lambda: metrics.kernel_drift(np.ones((2, 3)), EYE),
        r"`k` must be.*\(2, 3\)",
    ),
    "full kernel": (
        lambda: metrics.kernel_drift(EYE, np.ones((2, 2, 3, 3))),
        r"`k0` must be.*`nt.ntk\(model, x\)`",
    ),
    "two shapes": (
        lambda: metrics.relative_distance(np.ones(2), np.ones(3)),
        r"`k` and `reference` must have one shape.*\(2,\) and \(3,\)",
    ),
    "zero reference": (
        lambda: metrics.kernel_drift(EYE, ZEROS),
        "`k0` holds only zeros",
    ),
    "NaN": (lambda: metrics.kernel_drift(NAN, EYE), r"`k` must be finite.*\(0, 1\)"),
    "complex": (lambda: metrics.effective_rank(1j * EYE), "`k` must hold real numbers"),
    "empty": (
        lambda: metrics.effective_rank(np.ones((0, 0))),
        r"`k` is empty.*\(0, 0\)",
    ),
    "constant kernel": (
        lambda: metrics.centred_alignment(np.full((3, 3), 0.1), np.eye(3)),
        "`k1` is constant up to rounding",
    ),
    "alignment of two sizes": (
        lambda: metrics.centred_alignment(EYE, np.eye(3)),
        "one shape",
    ),
    "targets of another number": (
        lambda: metrics.target_alignment(EYE, np.ones((3, 1))),
        r"one target for each of the 2 rows.*\(2, \*out\).*\(3, 1\)",
    ),
    "zero targets": (
        lambda: metrics.target_alignment(EYE, ZEROS),
        "`y` holds only zeros",
    ),
    "zero kernel": (lambda: metrics.effective_rank(ZEROS), "`k` holds only zeros"),
    "no learning rate for zeros": (
        lambda: metrics.max_learning_rate(ZEROS),
        "only zeros",
    ),
    "negative kernel": (
        lambda: metrics.max_learning_rate(-EYE),
        "no positive eigenvalue",
    ),
    "test-train kernel": (
        lambda: metrics.max_learning_rate(np.ones((2, 3))),
        r"\(n, n\) or \(n, n, \*out, \*out\), but it has shape \(2, 3\)",
    ),
    "diagonal over outputs": (
        lambda: metrics.max_learning_rate(np.ones((2, 2, 3))),
        "has shape",
    ),
    "c of zero": (lambda: metrics.max_learning_rate(EYE, c=0), "`c` must be.*above 0"),
    "momentum of one": (
        lambda: metrics.max_learning_rate(EYE, momentum=1.0),
        "must be below 1",
    ),
    "negative momentum": (
        lambda: metrics.max_learning_rate(EYE, momentum=-0.1),
        "at least 0",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_zero_reference_is_refused_inside_compiled_code():
    with pytest.raises(Exception, match="holds only zeros"):
        jax.block_until_ready(jax.jit(metrics.kernel_drift)(EYE, ZEROS))


def test_the_namespace_is_public():
    assert nt.metrics is metrics


def test_half_precision_is_compared_in_float32():
    ones = jnp.ones((300, 300), jnp.float16)
    assert_close(metrics.relative_distance(ones, 2 * ones), 0.5)
    assert_close(metrics.target_alignment(ones, ones[0]), 1.0)
    assert_close(metrics.effective_rank(jnp.eye(700, dtype=jnp.float16)), 700.0)
    rate = jax.jit(metrics.max_learning_rate)(jnp.eye(3, dtype=jnp.bfloat16))
    assert_close(rate, 2.0)


def test_numbers_too_small_to_square_are_refused_as_zeros():
    for call in (metrics.effective_rank, metrics.max_learning_rate):
        with pytest.raises(ValueError, match="holds only zeros"):
            call(np.eye(2, dtype=np.float32) * np.float32(1e-40))


def test_the_largest_learning_rate_of_an_asymmetric_kernel_is_refused():
    with pytest.raises(ValueError, match="`kernel` is not symmetric beyond rounding"):
        metrics.max_learning_rate(np.asarray([[1.0, 5.0], [0.0, 1.0]]))
