"""Predictions from a network's own kernel, and the network linearised and trained."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

import equintk as nt
from tests.helpers import assert_close, relative_error

N, M, OUT = 5, 4, 3

Problem = tuple[Any, Any, Any, Any]
"""Model, training inputs and targets, test inputs."""


@pytest.fixture
def problem(getkey):
    model = eqx.nn.MLP(3, OUT, 16, 2, activation=jnp.tanh, key=getkey())
    x_train, x_test = jr.normal(getkey(), (N, 3)), jr.normal(getkey(), (M, 3))
    return model, x_train, jr.normal(getkey(), (N, OUT)), x_test


def linearized_network(model, x_train, y, x_test, t, ridge, c=1.0):
    """Outputs after gradient flow in parameter space, by one matrix exponential.

    d/dt [theta, 1] = [[-A, b], [0, 0]] [theta, 1] with A = c J^T J + ridge I.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(params)

    def f(theta, x):
        return jax.vmap(eqx.combine(unravel(theta), static))(x).ravel()

    j, j_test = (np.asarray(jax.jacrev(f)(theta, x)) for x in (x_train, x_test))
    f0, f0_test = f(theta, x_train), f(theta, x_test)
    # The movement stays in the span of J's rows: an orthonormal basis of it is enough.
    basis, _ = np.linalg.qr(j.T)
    j_in = j @ basis
    n = basis.shape[1]
    a = np.zeros((n + 1, n + 1))
    a[:n, :n] = -(c * j_in.T @ j_in + ridge * np.eye(n))
    a[:n, n] = -c * j_in.T @ (np.asarray(f0) - np.asarray(y).ravel())
    moved = expm(t * a)[:n, n]
    return (np.asarray(f0_test) + j_test @ basis @ moved).reshape(-1, OUT)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_three_outputs_at_finite_times_follow_the_linearized_network(
    problem: Problem, t, ridge
):
    got = nt.ntk_predict(*problem, t, batch_size=2, ridge=ridge)
    assert relative_error(got, linearized_network(*problem, t, ridge)) < 1e-8


def test_the_loss_scale_slows_time(problem: Problem):
    c = nt.loss_scale("mean", problem[2])
    got = nt.ntk_predict(*problem, 2.0, ridge=0.1, c=c)
    assert relative_error(got, linearized_network(*problem, 2.0, 0.1, c)) < 1e-8


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_end_of_training_is_kernel_regression(problem: Problem, ridge):
    model, x_train, y, x_test = problem
    k_tt, k_st = (
        np.asarray(nt.ntk_full(model, x, x_train))
        .transpose(0, 2, 1, 3)
        .reshape(len(x) * OUT, -1)
        for x in (x_train, x_test)
    )
    f0, f0_test = (np.asarray(jax.vmap(model)(x)).ravel() for x in (x_train, x_test))
    solved = np.linalg.solve(k_tt + ridge * np.eye(N * OUT), np.asarray(y).ravel() - f0)
    expected = (f0_test + k_st @ solved).reshape(M, OUT)
    assert (
        relative_error(nt.ntk_predict(*problem, jnp.inf, ridge=ridge), expected) < 1e-8
    )


def test_a_network_that_is_really_trained_follows_its_prediction(getkey):
    # Width 512, three outputs, full-batch steps: time is learning rate times steps. A
    # prediction whose clock is off by the number of outputs is wrong by 0.5 here.
    model = eqx.nn.MLP(4, OUT, 512, 1, activation=jnp.tanh, key=getkey())
    x, y = jr.normal(getkey(), (6, 4)), jr.normal(getkey(), (6, OUT))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    learning_rate = 0.02 * nt.metrics.max_learning_rate(nt.ntk_full(model, x))
    start = jax.vmap(model)(x)

    @jax.jit
    def step(params):
        loss = lambda p: 0.5 * jnp.sum((jax.vmap(eqx.combine(p, static))(x) - y) ** 2)
        return jax.tree.map(
            lambda p, g: p - learning_rate * g, params, jax.grad(loss)(params)
        )

    for _ in range(50):
        params = step(params)
    trained = jax.vmap(eqx.combine(params, static))(x)
    predicted = nt.ntk_predict(model, x, y, x, 50 * learning_rate, ridge=0.0)
    assert jnp.linalg.norm(trained - start) > 0.3 * jnp.linalg.norm(y - start)
    assert jnp.linalg.norm(trained - predicted) < 0.05 * jnp.linalg.norm(
        trained - start
    )


def test_times_may_be_a_number_a_list_or_an_array(problem: Problem):
    alone = nt.ntk_predict(*problem, 1.0)
    assert alone.shape == (M, OUT)
    for times in ([0.0, 1.0, jnp.inf], np.asarray([0.0, 1.0, np.inf])):
        several = nt.ntk_predict(*problem, times)
        assert several.shape == (3, M, OUT)
        assert_close(several[1], alone)
    assert_close(several[0], jax.vmap(problem[0])(problem[3]))


def test_uncoupled_prediction_uses_the_averaged_kernel(problem: Problem):
    model, x_train, y, x_test = problem
    flow = nt.predict.GradientFlow(nt.ntk(model, x_train), y, ridge=0.1)
    expected = flow.test(
        1.0,
        nt.ntk(model, x_test, x_train),
        jax.vmap(model)(x_train),
        jax.vmap(model)(x_test),
    )
    assert_close(nt.ntk_predict(*problem, 1.0, ridge=0.1, coupled=False), expected)


def test_scalar_outputs_need_no_output_axis(getkey):
    model = eqx.nn.MLP(3, "scalar", 8, 1, activation=jnp.tanh, key=getkey())
    x, y = jr.normal(getkey(), (N, 3)), jr.normal(getkey(), (N,))
    got = nt.ntk_predict(model, x, y, x, jnp.inf, ridge=0.0)
    assert got.shape == (N,)
    assert_close(got, y, rtol=1e-8)


def test_float32_predictions_are_right_to_1e4_and_stay_float32(getkey):
    model = eqx.nn.MLP(
        3, OUT, 16, 2, activation=jnp.tanh, dtype=jnp.float32, key=getkey()
    )
    x, y = (
        jr.normal(getkey(), (N, 3), jnp.float32),
        jr.normal(getkey(), (N, OUT), jnp.float32),
    )
    wide = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    got = nt.ntk_predict(model, x, y, x, 1.0, ridge=0.1)
    assert got.dtype == jnp.float32
    expected = nt.ntk_predict(
        wide, x.astype(float), y.astype(float), x.astype(float), 1.0, ridge=0.1
    )
    assert relative_error(got, expected) < 1e-4


def test_predictions_work_under_jit_and_have_gradients(problem: Problem):
    model, x_train, y, x_test = problem
    predict = lambda x: nt.ntk_predict(model, x_train, y, x, 1.0, ridge=0.1)
    assert_close(jax.jit(predict)(x_test), predict(x_test), rtol=1e-9)
    step = 1e-5 * jnp.ones_like(y)
    total = lambda y: jnp.sum(nt.ntk_predict(model, x_train, y, x_test, 1.0) ** 2)
    difference = (total(y + step) - total(y - step)) / 2e-5
    assert_close(jnp.sum(jax.grad(total)(y)), difference, rtol=1e-6)


def test_random_projections_approach_the_exact_prediction(problem: Problem, getkey):
    # With its own draw for each block the prediction would not come near at the end.
    times = [1.0, jnp.inf]
    exact = nt.ntk_predict(*problem, times, ridge=1e-3)
    model, x_train, y, x_test = problem

    def error(proj_dim):
        predicted = [
            nt.mc_ntk_predict(
                model, key, x_train, y, x_test, times, proj_dim, ridge=1e-3
            )
            for key in jr.split(getkey(), 4)
        ]
        return np.mean([relative_error(p, exact) for p in predicted])

    assert error(3200) < 0.5 * error(200) and error(3200) < 0.1


@pytest.mark.parametrize("coupled", [True, False])
def test_random_projections_interpolate_the_training_targets(
    problem: Problem, coupled, getkey
):
    model, x_train, y, _ = problem
    key = getkey()
    got = nt.mc_ntk_predict(
        model, key, x_train, y, x_train, jnp.inf, 200, ridge=0.0, coupled=coupled
    )
    assert_close(got, y, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"y_train": np.ones((4, 3))},
            r"`y_train`.*\(5, 3\).*But it has shape \(4, 3\)",
        ),
        ({"y_train": np.ones((3, 5))}, r"Type `y_train\.T`"),
        ({"y_train": np.ones((5, 1, 3))}, r"Type `y_train.reshape\(\(5, 3\)\)`"),
        ({"x_test": None}, "`x_test` must be an array"),
        ({"t": None}, "`t` must be a time of at least 0"),
        (
            {"t": {}},
            "`t` must be a time.*list of such, but it is {}",
        ),
        (
            {"x_test": np.ones((2, 4))},
            "`x_train` and `x_test` must hold examples of one sh",
        ),
        ({"t": -1.0}, "`t` must be a time of at least 0"),
        ({"t": [0.1, np.nan]}, "`t` must be a time of at least 0"),
        ({"ridge": -1e-6}, "`ridge` must be a finite number at least 0"),
        ({"c": 0.0}, "`c` must be a finite number above 0"),
        ({"x_train": np.full((5, 3), np.nan)}, "`x_train` must be finite"),
        ({"y_train": np.full((5, 3), np.inf)}, "`y_train` must be finite"),
        ({"model": lambda x: x}, "no parameters.*Module` itself"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    change, text, problem: Problem, getkey
):
    model, x_train, y_train, x_test = problem
    arguments = {
        "model": model,
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "t": 1.0,
        **change,
    }
    computed = []
    watch = lambda done, total: computed.append(done)
    with pytest.raises(ValueError, match=f"(?s){text}"):
        nt.ntk_predict(**arguments, progress=watch)
    with pytest.raises(ValueError, match=f"(?s){text}"):
        nt.mc_ntk_predict(key=jr.key(0), **arguments, progress=watch)
    assert not computed
