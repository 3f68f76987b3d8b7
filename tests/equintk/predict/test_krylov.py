"""Predictions from products with a kernel, against those of its whole eigenbasis."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import equintk as nt
from equintk._matrix_free import host, krylov

N, M = 60, 20
# Memory for 40 vectors of the 60 that the whole kernel needs.
ROOM = 64 * 20 * N + 8 * N * 40 + 40 * 40**2


@pytest.fixture(scope="module")
def data():
    """A kernel whose eigenvalues fall by a factor of a million, and targets."""
    x = np.asarray(jr.normal(jr.key(0), (N + M, 3)))
    gap = np.sum((x[:, None] - x[None]) ** 2, axis=-1)
    kernel = 3 * np.exp(-gap / 6) + 1e-4 * np.eye(N + M)
    y = np.stack([np.sin(2 * x[:, 0]), x[:, 1] * x[:, 2], np.sign(x[:, 0])], axis=1)
    f0 = np.asarray(jr.normal(jr.key(1), y.shape)) / 10
    return kernel[:N, :N], kernel[N:, :N], y[:N], f0[:N], f0[N:]


def coupling(kernel):
    """Outputs coupled by a matrix, `(n1, n2, 3, 3)`."""
    couple = np.array([[1.0, 0.3, 0.0], [0.3, 0.8, 0.2], [0.0, 0.2, 0.5]])
    return kernel[:, :, None, None] * couple


def as_operator(kernel):
    """A symmetric operator of an array, on vectors or on arrays `(n, 3)`."""
    if kernel.ndim == 2:
        tags = (lx.symmetric_tag,) if len(kernel) == kernel.shape[1] else ()
        return lx.MatrixLinearOperator(jnp.asarray(kernel), tags)
    product = lambda v: jnp.einsum("ijab,jb->ia", kernel, v, precision="highest")
    struct = jax.ShapeDtypeStruct((kernel.shape[1], 3), kernel.dtype)
    tags = (lx.symmetric_tag,) if len(kernel) == kernel.shape[1] else ()
    return lx.FunctionLinearOperator(product, struct, tags)


def rms(a):
    return float(np.sqrt(np.mean(np.asarray(a) ** 2)))


KINDS = {
    "array": (lambda k: k, lambda k: k),
    "operator": (lambda k: k, as_operator),
    "coupled array": (coupling, lambda k: k),
    "coupled operator": (coupling, as_operator),
}


@pytest.mark.parametrize(
    ("kind", "ridge"),
    [
        ("array", 0.0),
        ("array", 0.3),
        ("operator", 0.3),
        ("coupled array", 0.3),
        ("coupled operator", 0.0),
    ],
)
def test_flow_is_that_of_the_eigenbasis_within_the_returned_error(data, kind, ridge):
    kernel, test_kernel, y, f0, g0 = data
    shape, hand_over = KINDS[kind]
    kernel, test_kernel = shape(kernel), shape(test_kernel)
    times = np.array([0.0, 1e-3, 0.1, 1.0, 30.0] + [np.inf] * (ridge > 0))
    flow = nt.predict.KrylovFlow(
        hand_over(kernel), y, f0, c=0.7, ridge=ridge, latest=times[-1], tolerance=1e-7
    )
    exact = nt.predict.GradientFlow(kernel, y, c=0.7, ridge=ridge)
    for found, right in (
        (flow.train(times), exact.train(times, f0)),
        (
            flow.test(times, hand_over(test_kernel), g0),
            exact.test(times, test_kernel, f0, g0),
        ),
    ):
        assert found.value.shape == right.shape and found.error.shape == times.shape
        goal = 1e-7 * rms(f0 - y)
        for value, reference, error in zip(
            found.value, right, found.error, strict=True
        ):
            assert rms(value - reference) <= error + 1e-13
            assert error <= goal


@pytest.mark.parametrize("speed", [0.5, 1.7])
def test_descent_is_that_of_the_eigenbasis_within_the_returned_error(data, speed):
    kernel, test_kernel, y, f0, g0 = data
    rate = speed / (0.7 * np.linalg.eigvalsh(kernel)[-1] + 0.05)
    given = {"learning_rate": rate, "c": 0.7, "ridge": 0.05}
    descent = nt.predict.KrylovDescent(kernel, y, f0, tolerance=1e-7, **given)
    exact = nt.predict.GradientDescent(kernel, y, **given)
    steps = np.array([0, 1, 2, 7, 100, 10_000, np.inf])
    for found, right in (
        (descent.train(steps), exact.train(steps, f0)),
        (descent.test(steps, test_kernel, g0), exact.test(steps, test_kernel, f0, g0)),
    ):
        for value, reference, error in zip(
            found.value, right, found.error, strict=True
        ):
            assert rms(value - reference) <= error + 1e-13
            assert error <= 1e-7 * rms(f0 - y)


def test_an_error_that_is_large_is_returned_and_warned_about(data):
    kernel, test_kernel, y, f0, g0 = data
    flow = nt.predict.KrylovFlow(kernel, y, f0, max_bytes=ROOM)
    exact = nt.predict.GradientFlow(kernel, y)
    times = [0.01, 1.0, 100.0, 1e3]
    with pytest.warns(
        UserWarning, match="may be .*, above the .* take all of `max_bytes`"
    ):
        found = flow.test(times, test_kernel, g0)
    right = exact.test(times, test_kernel, f0, g0)
    wrong = np.array([rms(a - b) for a, b in zip(found.value, right, strict=True)])
    assert wrong[-1] > 1e-5
    assert (wrong <= np.asarray(found.error) + 1e-13).all()
    # A bound that is far too large would be none.
    assert found.error[-1] < 1e3 * wrong[-1]


@pytest.mark.parametrize("kind", ["array", "coupled operator"])
def test_the_end_with_a_ridge_is_solved_for_where_the_space_is_too_small(data, kind):
    kernel, test_kernel, y, f0, g0 = data
    shape, hand_over = KINDS[kind]
    kernel, test_kernel = shape(kernel), shape(test_kernel)
    reports = []
    flow = nt.predict.KrylovFlow(
        hand_over(kernel), y, f0, c=0.7, ridge=1e-3, tolerance=1e-9,
        max_bytes=ROOM if kind == "array" else 8 * 180 * 40,
        progress=lambda *counts: reports.append(counts),
    )  # fmt: skip
    assert flow.problem.end is not None
    exact = nt.predict.GradientFlow(kernel, y, c=0.7, ridge=1e-3)
    for found, right in (
        (flow.train(np.inf), exact.train(np.inf, f0)),
        (
            flow.test(np.inf, hand_over(test_kernel), g0),
            exact.test(np.inf, test_kernel, f0, g0),
        ),
    ):
        assert rms(found.value - right) <= found.error <= 1.1e-9 * rms(f0 - y)
    state, right = flow.state(np.inf), exact.state(np.inf, f0)
    assert rms(state.f_train - right.f_train) < 1e-8
    assert rms(state.coefficients - right.coefficients) < 1e-5
    assert reports[-1][0] == reports[-1][1]
    # Asked together, each moment has its own answer and its own error.
    with pytest.warns(UserWarning, match="at time 100 .* take all of `max_bytes`"):
        both = flow.test([100.0, np.inf], hand_over(test_kernel), g0)
    right = exact.test([100.0, np.inf], test_kernel, f0, g0)
    for value, reference, error in zip(both.value, right, both.error, strict=True):
        assert rms(value - reference) <= error
    assert both.error[1] < 1e-3 * both.error[0]


def test_the_end_of_descent_is_solved_for_as_well(data):
    kernel, test_kernel, y, f0, g0 = data
    given: Any = {"learning_rate": 0.01, "ridge": 1e-3}
    descent = nt.predict.KrylovDescent(kernel, y, f0, max_bytes=ROOM, **given)
    found = descent.test(np.inf, test_kernel, g0)
    right = nt.predict.GradientDescent(kernel, y, **given)
    assert rms(found.value - right.test(np.inf, test_kernel, f0, g0)) <= found.error
    assert found.error <= 1e-6 * rms(f0 - y)


def test_what_products_in_single_precision_leave_of_a_solve_is_in_its_error(data):
    kernel, test_kernel, y, f0, g0 = data
    single = lambda a: jnp.asarray(a, jnp.float32)
    operator = lx.MatrixLinearOperator(single(kernel), (lx.symmetric_tag,))
    flow = nt.predict.KrylovFlow(
        operator, y, f0, ridge=3e-3, tolerance=1e-12, max_bytes=8 * 60 * 60
    )
    assert flow.problem.end is not None
    exact = nt.predict.GradientFlow(single(kernel).astype(float), y, ridge=3e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rounding
        found = flow.test(np.inf, lx.MatrixLinearOperator(single(test_kernel)), g0)
    right = exact.test(np.inf, single(test_kernel).astype(float), f0, g0)
    wrong = rms(found.value - right)
    assert 1e-9 < wrong <= found.error < 1e4 * wrong


def test_a_time_beyond_the_latest_is_warned_about(data):
    kernel, _, y, f0, _ = data
    flow = nt.predict.KrylovFlow(kernel, y, f0, latest=1e-3)
    flow.train(1e-3)
    with pytest.warns(UserWarning, match="chosen for times up to 0.001") as seen:
        flow.train(1e4)
    assert seen[0].filename == __file__  # the line that asked


def test_the_products_of_a_network_are_enough(getkey):
    model = eqx.nn.MLP(2, 2, 16, 2, key=getkey())
    x, x_test = jr.normal(getkey(), (30, 2)), jr.normal(getkey(), (5, 2))
    y, f0, g0 = jnp.sin(3 * x), jax.vmap(model)(x), jax.vmap(model)(x_test)
    kernel, test_kernel = nt.NTKOperator(model, x), nt.NTKOperator(model, x_test, x)
    flow = nt.predict.KrylovFlow(kernel, y, f0, ridge=0.01)
    found = flow.test(jnp.array([1.0, jnp.inf]), test_kernel, g0)
    exact = nt.predict.GradientFlow(nt.ntk_full(model, x), y, ridge=0.01)
    right = exact.test([1.0, jnp.inf], nt.ntk_full(model, x_test, x), f0, g0)
    assert rms(found.value - right) < 1e-6


def test_errors_of_products_in_single_precision_are_in_the_returned_error(data):
    kernel, test_kernel, y, f0, g0 = data
    single = lambda a: jnp.asarray(a, jnp.float32)
    tags = (lx.symmetric_tag,)
    operator = lx.MatrixLinearOperator(single(kernel), tags)
    flow = nt.predict.KrylovFlow(operator, single(y), single(f0), ridge=0.03)
    exact = nt.predict.GradientFlow(single(kernel).astype(float), y, ridge=0.03)
    times = np.array([1.0, 30.0, np.inf])
    found = flow.test(times, lx.MatrixLinearOperator(single(test_kernel)), g0)
    right = exact.test(times, single(test_kernel).astype(float), f0, g0)
    wrong = [rms(a - b) for a, b in zip(found.value, right, strict=True)]
    assert wrong[-1] > 1e-8  # products in float64 are better
    assert (np.array(wrong) <= np.asarray(found.error)).all()
    late = nt.predict.KrylovFlow(operator, single(y), single(f0), latest=1e9)
    with pytest.warns(UserWarning, match="rounded to 1e-07.*pass float64 arrays"):
        late.train(1e9)


def test_a_float32_array_is_multiplied_in_float64(data):
    kernel, _, y, f0, _ = data
    kernel = np.asarray(kernel, np.float32)
    found = nt.predict.KrylovFlow(kernel, y, f0, ridge=1e-3).train(np.inf)
    right = nt.predict.GradientFlow(kernel, y, ridge=1e-3).train(np.inf, f0)
    assert rms(found.value - right) < 1e-6 * rms(f0 - y)


def test_eigenvalues_below_zero_by_the_rounding_of_entries_are_in_the_error(data):
    kernel, _, y, f0, _ = data
    kernel = np.asarray(kernel - 1.1e-4 * np.eye(N), np.float32)
    assert np.linalg.eigvalsh(kernel.astype(float))[0] < -1e-6
    flow = nt.predict.KrylovFlow(
        kernel, y, f0, ridge=1e-3, tolerance=1e-9, max_bytes=ROOM
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rounding
        found = flow.train(np.inf)
    right = nt.predict.GradientFlow(kernel, y, ridge=1e-3).train(np.inf, f0)
    assert 1e-7 < rms(found.value - right) <= found.error


def test_training_carried_on_from_a_state_is_training_that_never_stopped(data):
    kernel, test_kernel, y, f0, g0 = data
    first = nt.predict.KrylovFlow(kernel, y, f0, ridge=0.3)
    state = first.state(2.0)
    there = first.test(2.0, test_kernel, g0).value
    then = nt.predict.KrylovFlow(kernel, y, state, ridge=0.3)
    at_once = first.test(5.0, test_kernel, g0).value
    assert rms(then.test(3.0, test_kernel, there).value - at_once) < 1e-5
    exact = nt.predict.GradientFlow(kernel, y, ridge=0.3)
    also = exact.test(3.0, test_kernel, state, there)
    assert rms(also - at_once) < 1e-5


def test_a_kernel_of_low_rank_ends_the_space_and_duplicates_share_an_output():
    z = np.asarray(jr.normal(jr.key(3), (50, 4)))
    z = np.concatenate([z, z[:5]])
    y = np.asarray(jr.normal(jr.key(4), (55, 2)))
    flow = nt.predict.KrylovFlow(z @ z.T, y, 0 * y)
    found = flow.train([1.0, np.inf])
    right = nt.predict.GradientFlow(z @ z.T, y).train([1.0, np.inf], 0 * y)
    assert rms(found.value - right) < 1e-10
    assert rms(found.value[:, :5] - found.value[:, 50:]) < 1e-12
    assert len(flow.problem.space.values) < 55


def test_a_kernel_of_zeros_and_nothing_to_learn_move_nothing(data):
    kernel, _, y, f0, _ = data
    zero = nt.predict.KrylovFlow(0 * kernel, y, f0, ridge=0.1)
    assert rms(zero.train(np.inf).value - f0) == 0
    still = nt.predict.KrylovFlow(kernel, y, y, ridge=0.1)
    assert rms(still.train([1.0, np.inf]).value - y[None]) == 0


def test_rounding_asymmetry_is_averaged(data):
    kernel, _, y, f0, _ = data
    noise = 1e-15 * np.asarray(jr.normal(jr.key(5), kernel.shape))
    found = nt.predict.KrylovFlow(kernel + noise, y, f0, ridge=0.1)
    right = nt.predict.GradientFlow(kernel + noise, y, ridge=0.1)
    assert rms(found.train(np.inf).value - right.train(np.inf, f0)) < 1e-6


def test_many_times_need_no_more_products_than_one(data, monkeypatch):
    kernel, test_kernel, y, f0, g0 = data
    columns = []

    def counting(matrix, **options):
        products = host.of_array(matrix, **options)
        count = lambda v: columns.append(v.shape[1]) or products.product(v)
        return products._replace(product=count)

    monkeypatch.setattr("equintk.predict.krylov_problem.of_array", counting)
    flow = nt.predict.KrylovFlow(kernel, y, f0, ridge=0.01)
    grown = len(columns)
    flow.train(np.geomspace(0.01, 1e3, 50))
    assert len(columns) == grown
    flow.test(np.geomspace(0.01, 1e3, 50), test_kernel, g0)
    assert sum(columns[grown:]) == 50 * 3


def test_progress_and_a_bound_on_memory_are_kept(data):
    kernel, _, y, f0, _ = data
    seen = []
    nt.predict.KrylovFlow(kernel, y, f0, ridge=0.01, progress=lambda *a: seen.append(a))
    assert seen[-1][0] == seen[-1][1] and len(seen) > 1
    assert all(done <= total for done, total in seen)
    for n, width, bound in ((1000, 20, 1e7), (20_000, 20, 2e9), (100_000, 1, 2e9)):
        most = krylov.most_vectors(n, width, bound)
        assert 8 * n * (most + 8 * width) + 40 * most**2 <= bound
        assert (
            most == n or 8 * n * (most + 2 + 8 * width) + 40 * (most + 2) ** 2 > bound
        )


def krylov_flow(data, kernel=None, y=None, f0=None, **options):
    k, _, targets, start, _ = data
    pick = lambda given, own: own if given is None else given
    return nt.predict.KrylovFlow(
        pick(kernel, k), pick(y, targets), pick(f0, start), **options
    )


BAD = {
    "asymmetric": (
        lambda d: krylov_flow(d, d[0] + np.triu(np.ones_like(d[0]))),
        "must be symmetric",
    ),
    "indefinite": (
        lambda d: krylov_flow(d, d[0] - np.eye(N)),
        "positive semi-definite, but its smallest eigenvalue",
    ),
    "untagged": (
        lambda d: krylov_flow(d, lx.MatrixLinearOperator(jnp.asarray(d[0]))),
        "known to be symmetric",
    ),
    "shape": (lambda d: krylov_flow(d, d[0][:30, :30]), "has shape .30, 30."),
    "operator": (
        lambda d: krylov_flow(d, as_operator(d[0][:30, :30])),
        "multiplies vectors of shape .30,., but `y_train`",
    ),
    "nan": (lambda d: krylov_flow(d, d[0] * np.nan), "must be finite"),
    "relative": (
        lambda d: krylov_flow(d, as_operator(d[0]), ridge_relative=0.1),
        "needs the diagonal",
    ),
    "memory": (lambda d: krylov_flow(d, max_bytes=100), "must leave room"),
    "tolerance": (lambda d: krylov_flow(d, tolerance=0), "`tolerance` must be"),
    "latest": (lambda d: krylov_flow(d, latest=-1), "at least 0"),
    "time": (lambda d: krylov_flow(d, latest=1).train(-1.0), "at least 0"),
    "f0": (lambda d: krylov_flow(d, f0=d[3][:5]), "`f0_train` must hold"),
    "traced": (
        lambda d: jax.jit(lambda k: krylov_flow(d, k).train(1.0).value)(d[0]),
        "cannot be traced",
    ),
    "test operator": (
        lambda d: krylov_flow(d, latest=1).test(1.0, as_operator(d[1][:, :5]), d[4]),
        "`k_test_train` multiplies vectors",
    ),
    "test shape": (
        lambda d: krylov_flow(d, latest=1).test(1.0, d[1][:, :5], d[4]),
        "same kind as `k_train_train`",
    ),
    "momentum": (
        lambda d: nt.predict.KrylovDescent(
            d[0], d[2], d[3], learning_rate=0.1, momentum=0.9
        ),
        "`momentum` is 0.9, but .* type `GradientDescent`",
    ),
    "states": (lambda d: krylov_flow(d, latest=1).state([0.5, 1]), "one moment"),
    "end": (
        lambda d: nt.predict.KrylovDescent(
            d[0], d[2], d[3], learning_rate=1e-9, latest=10
        ).train(1.5),
        "whole number",
    ),
}


@pytest.mark.parametrize(("call", "text"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_what_is_needed(data, call, text):
    with pytest.raises(ValueError, match=text):
        call(data)


def test_an_unstable_learning_rate_is_warned_about_with_its_bound(data):
    kernel, _, y, f0, _ = data
    bound = 2 / np.linalg.eigvalsh(kernel)[-1]
    with pytest.warns(UserWarning, match=f"stable one, {bound:.6g}"):
        descent = nt.predict.KrylovDescent(
            kernel, y, f0, learning_rate=1.1 * bound, latest=10
        )
    with pytest.raises(ValueError, match="training has no end"):
        descent.train(np.inf)
    with pytest.warns(UserWarning, match="stable one"):
        endless = nt.predict.KrylovDescent(kernel, y, f0, learning_rate=1.1 * bound)
    assert len(endless.problem.space.values) < N  # not grown for what diverges
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = descent.train(10)
        exact = nt.predict.GradientDescent(kernel, y, learning_rate=1.1 * bound)
    assert rms(found.value - exact.train(10, f0)) <= found.error
