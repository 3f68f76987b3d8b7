"""Gradient flow: the matrix exponential, its limits, transformations, bad input."""

import contextlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import equintk as nt
from equintk.predict import GradientFlow
from tests.helpers import assert_close, relative_error, tolerance

N_TRAIN, N_TEST = 5, 3


class Data(NamedTuple):
    """A kernel on train and test inputs, targets, and outputs at initialisation."""

    k_train_train: np.ndarray
    y_train: np.ndarray
    k_test_train: np.ndarray
    f0_train: np.ndarray
    f0_test: np.ndarray

    def test(self, dynamics, t):
        return dynamics.test(t, self.k_test_train, self.f0_train, self.f0_test)

    def averaged(self):
        """The same with the kernel of the first output for all."""
        first = (...,) + (0,) * (self.k_train_train.ndim - 2)
        return self._replace(
            k_train_train=self.k_train_train[first],
            k_test_train=self.k_test_train[first],
        )

    def astype(self, dtype):
        return Data(*(a.astype(dtype) for a in self))

    def matrices(self):
        """Both coupled kernels as matrices, entry by entry, and the residual."""
        (n, out), m = self.y_train.shape, len(self.f0_test)
        train, test = np.empty((n * out, n * out)), np.empty((m * out, n * out))
        for i, a, j, b in np.ndindex(n, out, n, out):
            train[i * out + a, j * out + b] = self.k_train_train[i, j, a, b]
        for i, a, j, b in np.ndindex(m, out, n, out):
            test[i * out + a, j * out + b] = self.k_test_train[i, j, a, b]
        return train, test, np.ravel(self.f0_train - self.y_train)


def draw(out=(3,), duplicated=False, seed=0):
    rng = np.random.default_rng(seed)
    n = N_TRAIN + N_TEST
    features = rng.normal(size=(n, *out, 40)) / np.sqrt(40)
    if duplicated:
        features[1] = features[0]
    full = np.moveaxis(np.tensordot(features, features, (-1, -1)), len(out) + 1, 1)
    return Data(
        full[:N_TRAIN, :N_TRAIN],
        rng.normal(size=(N_TRAIN, *out)),
        full[N_TRAIN:, :N_TRAIN],
        rng.normal(size=(N_TRAIN, *out)),
        rng.normal(size=(N_TEST, *out)),
    )


@pytest.mark.parametrize("ridge", [0, 0.1])
@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_flow_is_the_matrix_exponential_with_the_ridge_in_the_bracket_only(ridge, c, t):
    data = draw()
    k_train_train, k_test_train, residual = data.matrices()
    a = k_train_train + ridge / c * np.eye(len(residual))
    learnt = np.linalg.solve(a, residual - expm(-c * t * a) @ residual)
    flow = GradientFlow(data.k_train_train, data.y_train, c=c, ridge=ridge)
    train, test = flow.train(t, data.f0_train), data.test(flow, t)
    assert_close(np.ravel(train), np.ravel(data.f0_train) - k_train_train @ learnt)
    assert_close(np.ravel(test), np.ravel(data.f0_test) - k_test_train @ learnt)


@pytest.mark.parametrize("t", [0.7, jnp.inf])
def test_predictions_at_the_training_inputs_are_the_training_outputs(t):
    data = draw()
    flow = GradientFlow(data.k_train_train, data.y_train, ridge=0.1)
    again = flow.test(t, data.k_train_train, data.f0_train, data.f0_train)
    assert_close(again, flow.train(t, data.f0_train))


def test_without_a_ridge_training_ends_at_the_targets():
    data = draw()
    flow = GradientFlow(data.k_train_train, data.y_train)
    assert_close(flow.train(jnp.inf, data.f0_train), data.y_train)
    assert_close(flow.train(0, data.f0_train), data.f0_train)
    assert_close(data.test(flow, 0.0), data.f0_test)


@pytest.mark.parametrize("t", [jnp.inf, 1e20])
def test_duplicated_inputs_end_at_the_pseudo_inverse(t):
    data = draw(duplicated=True)
    k_train_train, k_test_train, residual = data.matrices()
    solved = np.linalg.lstsq(k_train_train, residual, rcond=1e-12)[0]
    flow = GradientFlow(data.k_train_train, data.y_train)
    test = np.ravel(data.f0_test) - k_test_train @ solved
    assert_close(np.ravel(data.test(flow, t)), test, tolerance(jnp.float64, 1e6))
    # Two targets for one input: training ends at their mean, where outputs agree.
    train = flow.train(t, data.f0_train) - data.f0_train
    assert_close(train[0], train[1])


def test_rounding_in_null_modes_is_not_amplified_in_float32():
    data = draw(duplicated=True)
    single = data.astype(np.float32)
    noise = 1e-7 * np.random.default_rng(1).normal(size=data.k_test_train.shape)
    single = single._replace(k_test_train=single.k_test_train + np.float32(noise))
    exact = GradientFlow(data.k_train_train, data.y_train)
    rounded = GradientFlow(single.k_train_train, single.y_train)
    for t in (1e3, 1e7, 1e30, jnp.inf):
        late = pytest.warns(UserWarning, match="3 of 15 modes.*duplicated inputs")
        with late if t in (1e7, 1e30) else contextlib.nullcontext():
            got = single.test(rounded, t)
        assert got.dtype == jnp.float32
        assert_close(got, data.test(exact, t), 1e-2)


def test_an_averaged_kernel_moves_each_output_as_the_identity_coupling_does():
    data = draw((2, 3)).averaged()
    coupled = np.einsum("ij,ac,bd->ijabcd", data.k_train_train, np.eye(2), np.eye(3))
    crossed = np.einsum("ij,ac,bd->ijabcd", data.k_test_train, np.eye(2), np.eye(3))
    t = jnp.array([0.3, 2.0])
    averaged = GradientFlow(data.k_train_train, data.y_train)
    full = GradientFlow(coupled, data.y_train)
    assert_close(averaged.train(t, data.f0_train), full.train(t, data.f0_train))
    expected = full.test(t, crossed, data.f0_train, data.f0_test)
    assert_close(data.test(averaged, t), expected)


@pytest.mark.parametrize("out", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("coupled", [False, True])
def test_several_times_put_a_time_axis_in_front(out, coupled):
    data = draw(out)
    data = data if coupled else data.averaged()
    flow = GradientFlow(data.k_train_train, data.y_train)
    one = data.test(flow, 0.3)
    assert one.shape == (N_TEST, *out)
    assert flow.train(0.3, data.f0_train).shape == (N_TRAIN, *out)
    for times in ([0.3, 1], np.array([0.3, 1.0]), jnp.array([0.3, 1.0])):
        several = data.test(flow, times)
        assert several.shape == (2, N_TEST, *out)
        assert_close(several[0], one)


@pytest.mark.parametrize("coupled", [False, True])
def test_compiled_predictions_are_the_eager_ones(coupled):
    data = draw() if coupled else draw().averaged()
    times = jnp.array([0.3, 5.0, jnp.inf])

    def predict(k_train_train, y_train, t, k_test_train, f0_train, f0_test):
        flow = GradientFlow(k_train_train, y_train, c=0.5, ridge=0.1)
        test = flow.test(t, k_test_train, f0_train, f0_test)
        return jnp.concatenate([flow.train(t, f0_train), test], axis=1)

    arguments = (data.k_train_train, data.y_train, times)
    arguments += (data.k_test_train, data.f0_train, data.f0_test)
    eager = predict(*arguments)
    assert_close(jax.jit(predict)(*arguments), eager)
    # The times alone, around a basis from the host.
    flow = GradientFlow(data.k_train_train, data.y_train, c=0.5, ridge=0.1)
    only_times = jax.jit(lambda t: data.test(flow, t))
    assert_close(only_times(times), eager[:, N_TRAIN:])
    # The object itself crosses the boundary, both ways.
    made = eqx.filter_jit(lambda k: GradientFlow(k, data.y_train, c=0.5, ridge=0.1))(
        data.k_train_train
    )
    for crossing in (flow, made):
        asked = eqx.filter_jit(lambda f, t: data.test(f, t))(crossing, times)
        assert_close(asked, eager[:, N_TRAIN:])


def test_mapping_over_times_and_over_kernels_is_a_loop():
    data, other = draw().averaged(), draw(seed=1).averaged()
    flow = GradientFlow(data.k_train_train, data.y_train)
    times = jnp.array([0.1, 1.0, jnp.inf])
    mapped = jax.jit(jax.vmap(lambda t: data.test(flow, t)))(times)
    assert_close(mapped, data.test(flow, times))

    def predict(kernel, t):
        return data.test(GradientFlow(kernel, data.y_train), t)

    kernels = np.stack([data.k_train_train, other.k_train_train])
    mapped = jax.jit(jax.vmap(predict, in_axes=(0, None)))(kernels, 1.0)
    assert_close(mapped, jnp.stack([predict(k, 1.0) for k in kernels]))


def test_compiling_mapping_and_differentiating_go_in_any_order():
    data = draw().averaged()
    kernels = np.stack([np.eye(N_TRAIN), data.k_train_train])

    def value(kernel):
        flow = GradientFlow(kernel, data.y_train, ridge=0.1)
        return jnp.sum(jnp.sin(data.test(flow, jnp.array([1.0, jnp.inf]))))

    one = jax.jit(jax.grad(value))
    expected = np.stack([one(kernel) for kernel in kernels])
    everything = lambda value: lambda kernels: jnp.sum(jax.vmap(value)(kernels))
    for gradients in (
        jax.jit(jax.vmap(jax.grad(value))),
        jax.vmap(one),
        jax.vmap(jax.grad(jax.jit(value))),
        jax.grad(jax.jit(everything(value))),
        jax.jit(jax.grad(everything(jax.jit(value)))),
    ):
        assert_close(gradients(kernels), expected)


def test_the_derivative_by_time_is_the_flow_itself():
    data = draw().averaged()
    flow = GradientFlow(data.k_train_train, data.y_train, c=0.5)
    rate = jax.jit(jax.jacfwd(lambda t: flow.train(t, data.f0_train)))
    for t in (0.0, 1.0, 10.0):
        residual = flow.train(t, data.f0_train) - data.y_train
        assert_close(rate(t), -0.5 * data.k_train_train @ residual)
    assert not rate(jnp.inf).any()
    acceleration = jax.jit(jax.jacfwd(rate))(1.0)
    assert_close(acceleration, -0.5 * data.k_train_train @ rate(1.0))


def test_the_result_has_the_common_dtype_of_the_arrays():
    data = draw().astype(np.float32)
    flow = GradientFlow(data.k_train_train, data.y_train)
    assert flow.train(1.0, data.f0_train).dtype == jnp.float32
    assert flow.train(1.0, np.float64(data.f0_train)).dtype == jnp.float64
    assert jax.jit(lambda f0: flow.train(1.0, f0))(data.f0_train).dtype == jnp.float32
    half = jnp.asarray(data.y_train, jnp.bfloat16)
    kernel = jnp.asarray(data.k_train_train, jnp.bfloat16)
    flow = GradientFlow(kernel, half, ridge=0.1)
    assert flow.train(1.0, half).dtype == jnp.bfloat16
    assert jax.jit(lambda f0: flow.train(1.0, f0))(half).dtype == jnp.bfloat16


def test_float32_predictions_are_close_to_float64_ones():
    data = draw()
    single = data.astype(np.float32)
    exact = GradientFlow(data.k_train_train, data.y_train)
    rounded = GradientFlow(single.k_train_train, single.y_train)
    traced = jax.jit(lambda d, t: d.test(GradientFlow(d.k_train_train, d.y_train), t))
    for t in (0.1, 10.0, jnp.inf):
        expected = data.test(exact, t)
        assert_close(single.test(rounded, t), expected, tolerance(jnp.float32, 100))
        assert_close(traced(single, t), expected, tolerance(jnp.float32, 1000))


def test_the_host_solves_in_float64_also_where_jax_has_none():
    # An ill-conditioned kernel, whose float32 eigenvalues are noise.
    x = np.linspace(0, 1, N_TRAIN)
    kernel = np.exp(-((x[:, None] - x[None, :]) ** 2))
    y = np.sin(5 * x)
    expected = kernel[:2] @ np.linalg.solve(kernel, y - expm(-1e3 * kernel) @ y)
    with jax.enable_x64(False):
        flow = GradientFlow(kernel, y)
        got = flow.test(1e3, kernel[:2], np.zeros(N_TRAIN), np.zeros(2))
        assert got.dtype == jnp.float32
        jitted = jax.jit(lambda t: flow.train(t, np.zeros(N_TRAIN)))(1e3)
        assert jitted.dtype == jnp.float32
    assert relative_error(got, expected) < tolerance(jnp.float32, 10)
    assert relative_error(jitted[:2], expected) < tolerance(jnp.float32, 100)


def test_lists_and_integers_are_taken_for_arrays():
    flow = GradientFlow([[2, 1], [1, 2]], [1, 0])
    from_arrays = GradientFlow(jnp.array([[2.0, 1], [1, 2]]), jnp.array([1.0, 0]))
    got = flow.test(1, [[1, 1]], [0, 0], [0])
    assert_close(
        got, from_arrays.test(1.0, jnp.ones((1, 2)), jnp.zeros(2), jnp.zeros(1))
    )


def test_a_kernel_of_zeros_learns_nothing():
    flow = GradientFlow(np.zeros((2, 2)), np.ones(2))
    for t in (1.0, 1e30, jnp.inf):
        assert not flow.train(t, np.zeros(2)).any()


EYE, ONES = np.eye(2), np.ones((2, 3))


def ask(k_train_train: Any = EYE, y_train: Any = ONES, **options):
    return lambda: GradientFlow(k_train_train, y_train, **options)


def train(t: Any = 1.0, f0_train: Any = ONES):
    return lambda: GradientFlow(EYE, ONES).train(t, f0_train)


def predict(t=1.0, k_test_train=EYE[:1], f0_train=ONES, f0_test=ONES[:1], k=EYE):
    return lambda: GradientFlow(k, ONES).test(t, k_test_train, f0_train, f0_test)


NAN = np.array([[1, np.nan], [np.inf, 1]])
COUPLED = np.einsum("ij,ab->ijab", EYE, np.eye(3))
REFUSED = {
    "no examples": (
        ask(y_train=np.ones((0, 3))),
        r"counts examples, but it has shape \(0, 3\)",
    ),
    "scalar target": (ask(y_train=1.0), r"pass `y_train\[None\]`"),
    "kernel of another size": (
        ask(k_train_train=np.eye(3)),
        r"`k_train_train` has shape \(3, 3\).*needs \(2, 2\).*or \(2, 2, 3, 3\)",
    ),
    "kernel per output": (
        ask(k_train_train=np.ones((2, 2, 3))),
        "has shape \\(2, 2, 3\\)",
    ),
    "kernel with NaN": (
        ask(k_train_train=NAN),
        "`k_train_train` must be finite, but 2 of its 4",
    ),
    "target with NaN": (
        ask(y_train=NAN),
        r"`y_train` must be finite.*the first at \(0, 1\)",
    ),
    "complex target": (ask(y_train=1j * ONES), "must hold real numbers.*two outputs"),
    "text": (ask(y_train=["a", "b"]), "must hold real numbers"),
    "negative ridge": (
        ask(ridge=-1e-3),
        "`ridge` must be a finite number at least 0, but it is -",
    ),
    "NaN ridge": (ask(ridge=np.nan), "`ridge` must be a finite number at least 0"),
    "c of zero": (ask(c=0.0), "`c` must be a finite number above 0, but it is 0.0"),
    "several c": (ask(c=np.ones(2)), "`c` must be a finite number above 0"),
    "negative kernel": (ask(k_train_train=-EYE), "positive semi-definite.*-1.00e\\+00"),
    "negative time": (
        train(t=-1.0),
        "`t` must be a time of at least 0, but it holds -1",
    ),
    "one negative time": (train(t=[1.0, -2.0]), "but it holds -2"),
    "NaN time": (train(t=np.nan), "but it holds nan"),
    "no time": (train(t=[]), r"a list of at least one, but it has shape \(0,\)"),
    "grid of times": (train(t=np.ones((2, 2))), r"shape \(2, 2\).*jnp.ravel"),
    "f0 of another shape": (
        train(f0_train=np.zeros(2)),
        r"`f0_train` must hold.*of shape \(2, 3\), but.*type `jnp.zeros\(\(2, 3\)\)`",
    ),
    "f0 with NaN": (train(f0_train=np.nan * ONES), "`f0_train` must be finite"),
    "f0 of None": (train(f0_train=None), "`f0_train` must hold real numbers"),
    "test f0 of another shape": (
        predict(f0_test=ONES),
        r"`f0_test` must hold.*of shape \(1, 3\)",
    ),
    "transposed test kernel": (
        predict(k_test_train=np.ones((2, 1))),
        r"`k_test_train` must be.*of shape \(m, 2\).*`nt.ntk\(model, x_test, x_train",
    ),
    "coupled test kernel": (
        predict(k_test_train=COUPLED),
        "of the same kind.*averaged over outputs",
    ),
    "averaged test kernel": (
        predict(k=COUPLED),
        r"`ntk_full`\), of shape \(m, 2, 3, 3\)",
    ),
    "test kernel with NaN": (
        predict(k_test_train=NAN),
        "`k_test_train` must be finite",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()


TRACED = {
    "negative time": (
        lambda t, k: GradientFlow(EYE, ONES).train(t, ONES),
        (-1.0, 0),
        "time of",
    ),
    "NaN": (lambda t, k: GradientFlow(k, ONES).train(t, ONES), (1.0, NAN), "holds NaN"),
    "ridge": (
        lambda t, k: GradientFlow(EYE, ONES, ridge=t).train(1.0, ONES),
        (-1.0, 0),
        "`ridge` must",
    ),
}


@pytest.mark.parametrize(("call", "arguments", "text"), TRACED.values(), ids=TRACED)
def test_bad_values_are_refused_inside_compiled_code(call, arguments, text):
    with pytest.raises(Exception, match=text):
        jax.block_until_ready(jax.jit(call)(*arguments))


def test_the_names_are_public():
    assert nt.predict.GradientFlow is GradientFlow


def test_float32_kernels_follow_float64_until_their_entries_say_nothing_more():
    # 200 points on a line: most eigenvalues are far below the largest, but above what
    # rounding does to the entries. A floor relative to the largest eigenvalue would
    # drop modes that are being learnt, and the training error would rise again.
    x = np.linspace(-1, 1, 200)[:, None]
    kernel = np.exp(-8 * (x - x.T) ** 2)
    y = np.sign(np.sin(6 * x))
    times = [1.0, 10.0, 100.0, 1e3, 1e4]

    def errors(dtype):
        flow = GradientFlow(jnp.asarray(kernel, dtype), jnp.asarray(y, dtype))
        fitted = np.asarray(flow.train(times, jnp.zeros_like(jnp.asarray(y, dtype))))
        return np.sqrt(np.mean((fitted - y) ** 2, axis=(1, 2)))

    single = errors(jnp.float32)
    assert np.all(np.diff(single) <= 1e-3)
    assert np.allclose(single, errors(jnp.float64), rtol=0.02)


def test_a_prediction_beyond_its_precision_is_an_error():
    single = lambda shape, value: jnp.full(shape, value, jnp.float32)
    flow = GradientFlow(jnp.eye(2, dtype=jnp.float32), single(2, 3e38))
    with pytest.raises(ValueError, match="leaves the range of float32"):
        flow.test(jnp.inf, single((1, 2), 9.0), single(2, 0.0), single(1, 0.0))
