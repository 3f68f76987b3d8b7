"""Kernels on which predictions fail elsewhere: an answer or a reason, never NaN."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk.predict import (
    Ensemble,
    FunctionSpaceDescent,
    FunctionSpaceFlow,
    GaussianProcess,
    GradientDescent,
    GradientFlow,
    losses,
)
from tests.helpers import assert_close, relative_error

N, M, OUT = 5, 3, 2
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N + M, 20)) / 20**0.5
Y, F0 = RNG.normal(size=(2, N, OUT))
G0 = RNG.normal(size=(M, OUT))


def kernels(rows: Sequence[int] = range(N)):
    """Train-train, test-train and test-test, of some training examples."""
    train, test = FEATURES[list(rows)], FEATURES[N:]
    return train @ train.T, test @ train.T, test @ test.T


def ask_flow(k, k_test, k_test_test, when=jnp.inf):
    return GradientFlow(k, Y).test(when, k_test, F0, G0)


def ask_descent(k, k_test, k_test_test, when=jnp.inf):
    descent = GradientDescent(k, Y, learning_rate=0.2)
    return descent.test(when, k_test, F0, G0)


def ask_momentum(k, k_test, k_test_test, when=jnp.inf):
    descent = GradientDescent(k, Y, learning_rate=0.2, momentum=0.6)
    return descent.test(when, k_test, F0, G0)


def ask_steps(k, k_test, k_test_test, when=2000):
    given = {"loss": losses.squared, "learning_rate": 0.2, "momentum": 0.6}
    return FunctionSpaceDescent(k, Y, **given).test(when, k_test, F0, G0)


def ask_solver(k, k_test, k_test_test, when=jnp.inf):
    flow = FunctionSpaceFlow(k, Y, loss=losses.squared, rtol=1e-9)
    return flow.test(when, k_test, F0, G0)


def ask_ensemble(k, k_test, k_test_test, when=jnp.inf):
    ensemble = Ensemble(k, Y, nngp_train_train=k)
    predicted = ensemble.test(when, k_test, k_test, k_test_test)
    return jnp.concatenate([predicted.mean, predicted.covariance], axis=1)


def ask_process(k, k_test, k_test_test, when=None):
    predicted = GaussianProcess(k, Y).test(k_test, k_test_test)
    return jnp.concatenate([predicted.mean, predicted.covariance], axis=1)


DYNAMICS: dict[str, Any] = {
    "flow": ask_flow,
    "descent": ask_descent,
    "momentum": ask_momentum,
    "steps": ask_steps,
    "solver": ask_solver,
    "ensemble": ask_ensemble,
    "process": ask_process,
}


@pytest.mark.parametrize("ask", DYNAMICS.values(), ids=DYNAMICS)
def test_duplicated_inputs_end_at_the_pseudo_inverse(ask):
    k, k_test, k_test_test = kernels([0, 1, 1, 2, 0])
    inverse = np.linalg.pinv(k, rcond=1e-12)
    got = ask(k, k_test, k_test_test)
    if ask in (ask_ensemble, ask_process):
        covariance = k_test_test - k_test @ inverse @ k_test.T
        expected = np.concatenate([k_test @ inverse @ Y, covariance], axis=1)
    else:
        expected = G0 - k_test @ inverse @ (F0 - Y)
    assert relative_error(got, expected) < (1e-6 if ask is ask_solver else 1e-8)


@pytest.mark.parametrize("ask", DYNAMICS.values(), ids=DYNAMICS)
def test_a_kernel_of_zeros_teaches_nothing(ask):
    k_test_test = kernels()[2]
    got = ask(np.zeros((N, N)), np.zeros((M, N)), k_test_test)
    expected = G0
    if ask in (ask_ensemble, ask_process):
        expected = np.concatenate([np.zeros((M, OUT)), k_test_test], axis=1)
    np.testing.assert_array_equal(got, expected)


BUILDERS = {
    "flow": lambda k: GradientFlow(k, Y),
    "momentum": lambda k: GradientDescent(k, Y, learning_rate=0.2, momentum=0.6),
    "steps": lambda k: FunctionSpaceDescent(
        k, Y, loss=losses.huber, learning_rate=0.2, ridge=0.1
    ),
    "ensemble": lambda k: Ensemble(k, Y, nngp_train_train=k),
    "process": lambda k: GaussianProcess(k, Y, ridge=0.1),
}
ASKED = {
    "flow": lambda d: d.train([1.0, jnp.inf], F0),
    "momentum": lambda d: d.train([1, jnp.inf], F0),
    "steps": lambda d: d.train([1, jnp.inf], F0),
    "ensemble": lambda d: d.train([1.0, jnp.inf]).covariance,
    "process": lambda d: d.train().covariance,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("steps", "momentum")
        else name
        for name in BUILDERS
    ],
)
def test_objects_cross_the_boundary_of_compilation_both_ways(name):
    k = kernels()[0]
    build: Any = BUILDERS[name]
    ask: Any = ASKED[name]
    outside = build(k)
    compiled = eqx.filter_jit(ask)(outside)
    eager = ask(outside)  # after it was asked inside: nothing traced is left behind
    assert_close(compiled, eager)
    inside = eqx.filter_jit(build)(k)
    assert_close(ask(inside), eager)
    both: Any = eqx.filter_jit(lambda k: ask(build(k)))
    assert_close(both(k), eager)
    mapped: Any = jax.jit(jax.vmap(lambda k: ask(build(k))))
    mapped = mapped(np.stack([k, 2 * k]))
    assert_close(mapped[0], eager)
    assert_close(mapped[1], ask(build(2 * k)))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_predictions_do_not_depend_on_the_units_of_the_kernel(scale: float):
    # Weights of a large standard deviation give kernels of 1e12 (issue 197).
    k, k_test, k_test_test = kernels()
    for when in (2.0, jnp.inf):
        expected = ask_flow(k, k_test, k_test_test, when)
        got = ask_flow(scale * k, scale * k_test, scale * k_test_test, when / scale)
        assert_close(got, expected)
    for momentum in (0.0, 0.9):
        descents = [
            GradientDescent(s * k, Y, learning_rate=0.2 / s, momentum=momentum)
            for s in (1.0, scale)
        ]
        got, expected = (d.train([1, 30, jnp.inf], F0) for d in descents[::-1])
        assert_close(got, expected)


@pytest.fixture(scope="module")
def relu_grid():
    """100 points of a line, on which the incumbent's float32 kernel is indefinite."""
    x = np.linspace(-10 * np.pi, 10 * np.pi, 100, dtype=np.float32)[:, None]
    return x, np.sin(x) + np.sin(2 * x)


def test_the_indefinite_kernel_of_issue_198_is_refused_with_its_eigenvalue(relu_grid):
    _, y = relu_grid
    path = Path(__file__).parents[2] / "golden" / "neural_tangents_predict.npz"
    with np.load(path) as arrays:
        kernel = arrays["relu_grid"]
    assert kernel.dtype == np.float32
    for build in (
        lambda: GradientFlow(kernel, y, ridge_relative=1e-4),
        lambda: GaussianProcess(kernel, y, ridge_relative=1e-4),
        lambda: Ensemble(kernel, y, nngp_train_train=np.eye(100, dtype=np.float32)),
        lambda: Ensemble(np.eye(100), y, nngp_train_train=kernel),
        lambda: FunctionSpaceDescent(
            kernel, y, loss=losses.squared, learning_rate=1e-6
        ),
    ):
        with pytest.raises(ValueError, match=r"eigenvalue is -2\.04e\+00, where round"):
            build()
    assert jnp.isfinite(
        GradientFlow(kernel, y, ridge_relative=1e-3).train(jnp.inf, np.zeros_like(y))
    ).all()


def test_our_kernel_of_that_network_gives_right_predictions_in_float32(relu_grid):
    x, y = relu_grid

    model = eqx.nn.MLP(1, 1, 64, 2, dtype=jnp.float32, key=jr.key(0))
    one = jnp.zeros(1, jnp.float32)
    drawn = nt.parameterize(model, one, jr.key(1), "ntk", W_std=1.5, b_std=0.05)

    def predict(dtype):
        cast = lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a
        kernel = nt.ntk(jax.tree.map(cast, drawn), x.astype(dtype))
        assert kernel.dtype == dtype
        targets, times = jnp.asarray(y, dtype), [1e-3, 1.0, jnp.inf]
        zeros = jnp.zeros_like(targets)
        bare = GradientFlow(kernel, targets).train(times, zeros)
        assert jnp.isfinite(bare).all()
        flow = GradientFlow(kernel, targets, ridge_relative=1e-4)
        process = GaussianProcess(kernel, targets, ridge_relative=1e-4)
        return flow.train(times, zeros), process.test(kernel, kernel).mean

    single, double = predict(jnp.float32), predict(jnp.float64)
    for got, expected in zip(single, double, strict=True):
        assert got.dtype == jnp.float32
        # Entries of 8000 are right to 1e-3, and the ridge is 0.3: a few percent.
        assert relative_error(got, expected) < 3e-2


@pytest.mark.slow
def test_the_limit_of_that_network_is_right_in_float64_and_refused_in_float32(
    relu_grid,
):
    # Nearly parallel inputs: their angle is lost in a float32 covariance.
    x, y = relu_grid
    model = eqx.nn.MLP(1, 1, 8, 2, dtype=jnp.float32, key=jr.key(0))
    one = jnp.zeros(1, jnp.float32)
    drawn = nt.parameterize(model, one, jr.key(1), "ntk", W_std=1.5, b_std=0.05)
    with pytest.raises(ValueError, match=r"eigenvalue is -2\.\d.*kernel in float64"):
        GradientFlow(nt.infinite_ntk(drawn, x), y, ridge_relative=1e-4)
    wide = jax.tree.map(
        lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, drawn
    )
    kernel, y = np.asarray(nt.infinite_ntk(wide, x.astype(float))), y.astype(float)
    zeros = np.zeros_like(y)
    flow = GradientFlow(kernel, y, ridge_relative=1e-4)
    inverse = np.linalg.inv(kernel + flow.problem.shift * np.eye(len(x)))
    assert_close(flow.train(jnp.inf, zeros), kernel @ inverse @ y, 1e-9)
    bare = GradientFlow(kernel, y).train(jnp.inf, zeros)
    assert relative_error(bare, y) < 1e-7


@pytest.mark.parametrize("name", ["identity", "duplicated inputs"])
@pytest.mark.parametrize("when", [2.0, jnp.inf])
def test_gradients_of_a_covariance_agree_with_finite_differences(name, when):
    k, k_test, k_test_test = kernels([0, 1, 1, 2, 0])
    k = np.eye(N) if name == "identity" else k
    prior = 4 * k + np.eye(N)

    def spread(k, prior, k_test, ridge):
        ensemble = Ensemble(k, Y, nngp_train_train=prior, ridge=ridge)
        given = (k_test, jnp.ones((M, N)) / 10, 9 * jnp.eye(M))
        predicted = ensemble.test(when, *given)
        return jnp.sum(jnp.sin(predicted.covariance)) + jnp.sum(predicted.mean**3)

    numbers = (k, prior, k_test, 0.3)
    value = jax.jit(spread)
    gradients = jax.jit(jax.grad(spread, (0, 1, 2, 3)))(*numbers)
    for i, gradient in enumerate(gradients):
        along = RNG.normal(size=np.shape(numbers[i]))
        along = along @ along.T if i < 2 else along
        f = [
            value(*numbers[:i], numbers[i] + h * along, *numbers[i + 1 :])
            for h in (0, 1e-5, 2e-5, 3e-5)
        ]  # one-sided: a null eigenvalue may only move up
        slope = (-11 * f[0] + 18 * f[1] - 9 * f[2] + 2 * f[3]) / 6e-5
        assert abs(np.vdot(gradient, along) - slope) < 1e-6 * (1 + abs(slope)), i


def test_what_a_low_precision_hides_is_warned_about_with_its_share():
    values = np.array([1.0, 0.5, 1e-9], np.float32)
    flow = GradientFlow(np.diag(values), np.array([1.0, 1.0, 1.0], np.float32))
    zero = np.zeros(3, np.float32)
    flow.train([1.0, 1e3, jnp.inf], zero)
    with pytest.warns(UserWarning, match="1 of 3 modes .* 33% .* float32 .* `ridge`"):
        flow.train([1.0, 1e7, jnp.inf], zero)
    wide = GradientFlow(np.diag(values.astype(float)), np.ones(3))
    wide.train([1.0, 1e7], np.zeros(3))  # here the mode is known, and followed
    unseen = GradientFlow(np.diag(values), np.array([1.0, 1.0, 0.0], np.float32))
    unseen.train(1e7, zero)
