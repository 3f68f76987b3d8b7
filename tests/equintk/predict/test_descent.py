"""Gradient descent: against its own recursion, at its limits and beyond stability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from equintk.predict import GradientDescent, GradientFlow
from tests.helpers import assert_close, relative_error, tolerance

N_TRAIN, N_TEST, OUT = 5, 3, 3


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N_TRAIN + N_TEST, OUT, 40)) / np.sqrt(40)
    kernel = np.einsum("iap,jbp->ijab", features, features)
    y_train, f0_train = rng.normal(size=(2, N_TRAIN, OUT))
    f0_test = rng.normal(size=(N_TEST, OUT))
    return (
        kernel[:N_TRAIN, :N_TRAIN],
        kernel[N_TRAIN:, :N_TRAIN],
        y_train,
        f0_train,
        f0_test,
    )


def iterate(data, learning_rate, c, ridge, steps):
    """The linearised network, stepped: parameters are coefficients of examples."""
    k_train_train, k_test_train, y_train, f0_train, f0_test = data
    apply = lambda k, a: (k.swapaxes(2, 3) * a[None, :, :, None]).sum((1, 2))
    coefficients = np.zeros_like(y_train)
    for _ in range(steps):
        residual = f0_train + apply(k_train_train, coefficients) - y_train
        gradient = c * residual + ridge * coefficients
        coefficients = coefficients - learning_rate * gradient
    train = f0_train + apply(k_train_train, coefficients)
    return train, f0_test + apply(k_test_train, coefficients)


@pytest.mark.parametrize("ridge", [0, 0.1])
@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize("speed", [0.5, 1.0, 1.6, 1.99])
def test_descent_is_its_own_recursion(data, ridge, c, speed):
    # `speed` is learning rate times largest curvature: modes beyond 1 change sign.
    k_train_train, k_test_train, y_train, f0_train, f0_test = data
    learning_rate = speed / (
        2 / nt.metrics.max_learning_rate(k_train_train, c=c) + ridge
    )
    descent = GradientDescent(
        k_train_train, y_train, learning_rate=learning_rate, c=c, ridge=ridge
    )
    for steps in (0, 1, 2, 7, 40):
        train, test = iterate(data, learning_rate, c, ridge, steps)
        assert_close(descent.train(steps, f0_train), train)
        assert_close(descent.test(steps, k_test_train, f0_train, f0_test), test)


def test_a_mode_whose_curvature_is_the_inverse_learning_rate_is_learnt_in_one_step():
    descent = GradientDescent(np.diag([0.5, 1, 1.5]), np.ones(3), learning_rate=1.0)
    steps = [0, 1, 2, 3]
    got = 1 - descent.train(steps, np.zeros(3))
    s = np.arange(4)[:, None]
    np.testing.assert_allclose(got, np.array([[0.5, 0, -0.5]]) ** s, atol=1e-15)


def test_many_small_steps_are_gradient_flow(data):
    k_train_train, k_test_train, y_train, f0_train, f0_test = data
    arguments = (k_test_train, f0_train, f0_test)
    flow = GradientFlow(k_train_train, y_train, c=0.3).test(2.0, *arguments)
    for steps, error in ((1e3, 1e-3), (1e6, 1e-6), (1e12, 1e-11)):
        learning_rate = 2.0 / steps
        descent = GradientDescent(
            k_train_train, y_train, learning_rate=learning_rate, c=0.3
        )
        assert relative_error(descent.test(steps, *arguments), flow) < error


@pytest.mark.parametrize("steps", [jnp.inf, 1e15])
def test_descent_ends_where_gradient_flow_ends(data, steps):
    k_train_train, k_test_train, y_train, f0_train, f0_test = data
    duplicated = [0, 1, 1, 2, 0]
    kernel = k_train_train[duplicated][:, duplicated]
    arguments = (k_test_train[:, duplicated], f0_train[duplicated], f0_test)
    flow = GradientFlow(kernel, y_train).test(jnp.inf, *arguments)
    descent = GradientDescent(kernel, y_train, learning_rate=0.1)
    got = descent.test(steps, *arguments)
    assert_close(got, flow, tolerance(jnp.float64, 1e6))


def test_compiled_and_mapped_predictions_are_the_eager_ones(data):
    k_train_train, k_test_train, y_train, f0_train, f0_test = data
    steps = jnp.array([0.0, 1, 2, 31, jnp.inf])

    def predict(kernel, learning_rate, steps):
        descent = GradientDescent(
            kernel, y_train, learning_rate=learning_rate, ridge=0.1
        )
        train = descent.train(steps, f0_train)
        test = descent.test(steps, k_test_train, f0_train, f0_test)
        return jnp.concatenate([train, test], axis=-2)

    eager = predict(k_train_train, 0.3, steps)
    assert_close(jax.jit(predict)(k_train_train, 0.3, steps), eager)
    over_steps = jax.jit(jax.vmap(lambda s: predict(k_train_train, 0.3, s)))
    assert_close(over_steps(steps), eager)
    over_rates = jax.jit(jax.vmap(lambda rate: predict(k_train_train, rate, steps)))
    assert_close(over_rates(jnp.array([0.1, 0.3]))[1], eager)
    integers = jax.jit(lambda s: predict(k_train_train, 0.3, s))(jnp.array([1, 2]))
    assert_close(integers, eager[1:3])


def test_the_derivative_by_the_learning_rate_is_that_of_the_recursion(data):
    k_train_train, k_test_train, y_train, f0_train, f0_test = data

    def spectral(learning_rate, kernel):
        descent = GradientDescent(
            kernel, y_train, learning_rate=learning_rate, ridge=0.1
        )
        return jnp.sum(jnp.sin(descent.test(6, k_test_train, f0_train, f0_test)))

    def stepped(learning_rate, kernel):
        symmetric = (kernel + kernel.transpose(1, 0, 3, 2)) / 2
        both = iterate((symmetric, *data[1:]), learning_rate, 1.0, 0.1, 6)
        return jnp.sum(jnp.sin(both[1]))

    got, expected = (
        jax.jit(jax.grad(f, (0, 1)))(0.5, k_train_train) for f in (spectral, stepped)
    )
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b)


def test_float32_predictions_are_close_to_float64_ones(data):
    single = [np.float32(a) for a in data]
    for steps in (1, 100, jnp.inf):
        both = []
        for k_train_train, k_test_train, y_train, f0_train, f0_test in (data, single):
            descent = GradientDescent(k_train_train, y_train, learning_rate=0.5)
            both.append(descent.test(steps, k_test_train, f0_train, f0_test))
        assert both[1].dtype == jnp.float32
        assert relative_error(both[1], both[0]) < tolerance(jnp.float32, 100)


def test_the_stable_learning_rate_is_not_warned_about_and_more_is():
    kernel, y_train = np.diag([1.0, 4.0]), np.ones(2)
    bound = nt.metrics.max_learning_rate(kernel, c=0.5)
    GradientDescent(kernel, y_train, learning_rate=bound, c=0.5)
    with pytest.warns(UserWarning, match="is 1.01, beyond the largest stable one, 1:"):
        GradientDescent(kernel, y_train, learning_rate=1.01 * bound, c=0.5)
    with pytest.warns(UserWarning, match="beyond the largest stable one, 0.8:"):
        GradientDescent(kernel, y_train, learning_rate=bound, c=0.5, ridge=0.5)


def test_divergence_follows_the_recursion_and_then_saturates():
    kernel, y_train = np.diag([1.0, 4.0]), np.ones(2)
    with pytest.warns(UserWarning, match="predictions diverge"):
        descent = GradientDescent(kernel, y_train, learning_rate=1.0)
    assert_close(descent.train(5, np.zeros(2)), [1, 1 + 3**5])
    for train in (descent.train, jax.jit(lambda s, f0: descent.train(s, f0))):
        assert jnp.isfinite(train(10**9, np.zeros(2))).all()


EYE, ONES = np.eye(2), np.ones((2, 3))


def make(learning_rate=0.5, **options):
    return lambda: GradientDescent(EYE, ONES, learning_rate=learning_rate, **options)


def train(steps, learning_rate=0.5):
    descent = GradientDescent(EYE, ONES, learning_rate=learning_rate)
    return lambda: descent.train(steps, ONES)


REFUSED = {
    "no learning rate": (
        make(0.0),
        "`learning_rate` must be a finite number above 0, but it is 0",
    ),
    "NaN learning rate": (
        make(np.nan),
        "`learning_rate` must be a finite number above 0",
    ),
    "negative ridge": (
        make(ridge=-1),
        "`ridge` must be a finite number at least 0, but it is -1",
    ),
    "c of zero": (make(c=0), "`c` must be a finite number above 0, but it is 0"),
    "fractional steps": (
        train(0.5),
        "`steps` must be a whole number of at least 0, but it holds 0.5",
    ),
    "one fraction": (train([1, 1.5]), "but it holds 1.5"),
    "negative steps": (train(-1), "but it holds -1"),
    "NaN steps": (train(np.nan), "but it holds nan"),
    "no steps": (train([]), "a list of at least one"),
    "no end": (
        train([1, np.inf], 2.0),
        "training has no end: only below 2 does it converge",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_bad_values_are_refused_inside_compiled_code():
    def train(learning_rate, steps):
        return GradientDescent(EYE, ONES, learning_rate=learning_rate).train(
            steps, ONES
        )

    assert jnp.isfinite(jax.jit(train)(0.5, jnp.inf)).all()
    for arguments, text in (
        ((0.5, 1.5), "must be a whole number"),
        ((2.5, jnp.inf), "training has no end"),
        ((-1.0, 1.0), "`learning_rate` must be a finite number above 0"),
    ):
        with pytest.raises(Exception, match=text):
            jax.block_until_ready(jax.jit(train)(*arguments))
