"""Heavy-ball momentum: against optax, at its limits, and carried on."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import equintk as nt
from equintk.predict import GradientDescent, GradientFlow, State
from tests.equintk.predict.linearised import draw
from tests.helpers import assert_close, relative_error

C, RIDGE = 0.3, 0.2
STEPS = [0, 1, 2, 3, 17, 150]


@pytest.fixture(scope="module")
def network():
    return draw()


@pytest.fixture(scope="module")
def y_train(network):
    return np.random.default_rng(1).normal(size=network.f0_train.shape)


def bound(network, momentum):
    """The largest stable learning rate, with the ridge."""
    curvature = 2 / nt.metrics.max_learning_rate(network.k_train_train, c=C) + RIDGE
    return 2 * (1 + momentum) / curvature


def descend(network, y_train, rate, momentum):
    return GradientDescent(
        network.k_train_train,
        y_train,
        learning_rate=rate,
        momentum=momentum,
        c=C,
        ridge=RIDGE,
    )


# Little momentum creeps, much oscillates, and modes past one step's curvature flip.
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("speed", [0.05, 0.5, 0.95])
def test_outputs_are_those_of_optax_on_the_linearised_network(
    network, y_train, momentum, speed
):
    rate = speed * float(bound(network, momentum))
    loss = lambda f, step: C / 2 * jnp.sum((f - y_train) ** 2)
    optimizer = optax.sgd(rate, momentum=momentum)
    train, test = network.train(loss, optimizer, STEPS, RIDGE)
    descent = descend(network, y_train, rate, momentum)
    assert_close(descent.train(STEPS, network.f0_train), train)
    got = descent.test(STEPS, network.k_test_train, network.f0_train, network.f0_test)
    assert_close(got, test)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_carried_on_from_a_state_is_training_that_never_stopped(
    network, y_train, momentum
):
    # The rate falls on the way: one optimizer with a schedule, two objects with a state
    # between them, at whose start the velocity is not zero.
    first, second = (part * float(bound(network, momentum)) for part in (0.5, 0.1))
    schedule = lambda step: jnp.where(step < 11, first, second)
    loss = lambda f, step: C / 2 * jnp.sum((f - y_train) ** 2)
    optimizer = optax.chain(
        optax.trace(momentum),
        optax.scale_by_schedule(schedule),
        optax.scale(-1.0),
    )
    train, test = network.train(loss, optimizer, [11, 12, 40], RIDGE)
    fast, slow = (descend(network, y_train, rate, momentum) for rate in (first, second))
    k_test_train = network.k_test_train
    state = fast.state(11, network.f0_train)
    between = fast.test(11, k_test_train, network.f0_train, network.f0_test)
    assert_close(state.f_train, train[0])
    assert_close(slow.train([0, 1, 29], state), train)
    assert_close(slow.test([0, 1, 29], k_test_train, state, between), test)
    again = slow.state(20, slow.state(9, state))
    assert_close(again.f_train, train[2])


def test_a_state_of_flow_goes_on_as_flow_with_the_ridge_it_started_from(
    network, y_train
):
    flow = GradientFlow(network.k_train_train, y_train, c=C, ridge=RIDGE)
    state = flow.state(2.0, network.f0_train)
    assert_close(flow.train(3.0, state), flow.train(5.0, network.f0_train))
    moved = np.einsum("ijab,jb->ia", network.k_train_train, state.coefficients)
    assert_close(state.f_train, network.f0_train + moved)
    # Without the coefficients the penalty would count from where the state stands.
    forgetful = flow.train(jnp.inf, state.f_train)
    assert relative_error(forgetful, flow.train(jnp.inf, network.f0_train)) > 1e-2


def exact_decay(x, beta, steps):
    """E by the recursion in rational numbers, by squaring its matrix."""
    x, beta = Fraction(x), Fraction(beta)
    multiply = lambda a, b: [
        [sum(a[i][k] * b[k][j] for k in range(2)) for j in range(2)] for i in range(2)
    ]
    power, left = [[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]], steps
    square = [[1 + beta - x, -beta], [Fraction(1), Fraction(0)]]
    while left:
        if left % 2:
            power = multiply(square, power)
        left //= 2
        if left:
            square = multiply(square, square)
    return float(sum(power[0]))


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.96875])
def test_every_kind_of_mode_is_right_to_rounding(beta):
    critical = (1 - beta**0.5) ** 2  # where creeping turns into oscillation
    x = np.array([2.0**-30, 2.0**-8, critical, critical * (1 + 1e-9), 0.5, 2.0])
    descent = GradientDescent(
        np.diag(x), np.ones(len(x)), learning_rate=1.0, momentum=beta
    )
    for steps in (1, 2, 7, 64, 200):
        exact = [exact_decay(float(a), beta, steps) for a in x]
        got = 1 - descent.train(steps, np.zeros(len(x)))
        np.testing.assert_allclose(got, exact, atol=1e-13)


@pytest.mark.parametrize("traced", [False, True])
def test_modes_that_take_a_billion_billion_steps_are_followed(traced):
    # Slow ones are flow at time steps / (1 - momentum), though 1 - x is 1 in float64.
    x, steps = 1e-16, [1.0, 1e15, 1e16, 1e17, 9e18, np.inf]

    def train(steps):
        descent = GradientDescent(
            np.diag([x]), np.ones(1), learning_rate=1.0, momentum=0.9
        )
        return descent.train(steps, np.zeros(1))[:, 0]

    got = (jax.jit(train) if traced else train)(jnp.asarray(steps))
    flow = -np.expm1(-10 * x * np.array(steps))
    np.testing.assert_allclose(got[1:], flow[1:], rtol=1e-12)
    assert_close(got[0], x)


def test_compiled_and_mapped_predictions_are_the_eager_ones(network, y_train):
    steps = jnp.array([0.0, 1, 30, jnp.inf])

    def predict(momentum, steps):
        descent = descend(network, y_train, 0.2, momentum)
        return descent.train(steps, network.f0_train)

    eager = predict(0.8, steps)
    assert_close(jax.jit(predict)(0.8, steps), eager)
    mapped = jax.jit(jax.vmap(predict, (0, None)))(jnp.array([0.0, 0.8]), steps)
    assert_close(mapped[1], eager)
    assert_close(mapped[0], predict(0.0, steps))


def test_the_derivative_by_the_momentum_is_that_of_the_recursion(network, y_train):
    def stepped(beta, rate):
        theta = velocity = jnp.zeros(network.gradients.shape[-1])
        for _ in range(6):
            residual = network.f0_train + network.gradients @ theta - y_train
            gradient = C * jnp.einsum("ia,iap->p", residual, network.gradients)
            velocity = beta * velocity + gradient + RIDGE * theta
            theta = theta - rate * velocity
        return jnp.sum(jnp.sin(network.f0_train + network.gradients @ theta))

    def spectral(beta, rate):
        descent = descend(network, y_train, rate, beta)
        return jnp.sum(jnp.sin(descent.train(6, network.f0_train)))

    got, expected = (
        jax.jit(jax.grad(f, (0, 1)))(0.7, 0.2) for f in (spectral, stepped)
    )
    assert_close(jnp.stack(got), jnp.stack(expected))


def test_a_relative_ridge_is_in_units_of_the_mean_diagonal(network, y_train):
    kernel = network.k_train_train
    absolute = C * 0.1 * np.mean(np.einsum("iiaa->ia", kernel))
    options = [
        {"k_train_train": kernel, "y_train": y_train, "c": C, **ridge}
        for ridge in ({"ridge": absolute}, {"ridge_relative": 0.1})
    ]
    descent = lambda **o: GradientDescent(learning_rate=0.1, **o)
    for build in (GradientFlow, descent):
        one, other = (build(**o).train(3.0, network.f0_train) for o in options)
        assert_close(one, other)

    def predict(ridge):
        return GradientFlow(kernel, y_train, c=C, ridge_relative=ridge).train(
            3.0, network.f0_train
        )

    assert_close(jax.jit(predict)(0.1), predict(0.1))


def test_divergence_is_warned_about_with_the_bound_and_refused_in_the_end():
    kernel, y_train = np.diag([1.0, 4.0]), np.ones(2)
    GradientDescent(kernel, y_train, learning_rate=0.9, momentum=0.8)
    with pytest.warns(UserWarning, match="beyond the largest stable one, 0.9:"):
        descent = GradientDescent(kernel, y_train, learning_rate=1.0, momentum=0.8)
    with pytest.raises(ValueError, match="training has no end: only below 0.9"):
        descent.train(jnp.inf, np.zeros(2))
    compiled = jax.jit(lambda s: descent.train(s, np.zeros(2)))
    assert jnp.isfinite(compiled(10**9)).all()


EYE, ONES = np.eye(2), np.ones((2, 3))


def make(**options):
    return lambda: GradientDescent(EYE, ONES, learning_rate=0.5, **options)


def carry(**changes):
    state = {"f_train": ONES, "coefficients": ONES, "velocity": ONES} | changes
    return lambda: make(momentum=0.5)().train(1, State(**state))


REFUSED = {
    "momentum of one": (
        make(momentum=1.0),
        "`momentum` must be a finite number of at least 0 and below 1, but it is 1",
    ),
    "negative momentum": (make(momentum=-0.1), "`momentum` must be .* but it is -0.1"),
    "two ridges": (
        make(ridge=0.1, ridge_relative=0.2),
        "`ridge` is 0.1 and `ridge_relative` 0.2, but only one",
    ),
    "negative relative ridge": (make(ridge_relative=-1), "`ridge_relative` must be"),
    "uncountable steps": (
        lambda: make(momentum=0.5)().train(1e30, ONES),
        r"`steps` must be at most 9e\+18 with momentum.*holds 1e\+30. Type `jnp.inf`",
    ),
    "states of two moments": (
        lambda: make()().state([1, 2], ONES),
        "A state is that of one moment",
    ),
    "state of another shape": (
        carry(f_train=np.ones(2)),
        r"`f0_train.f_train` must hold.*of shape \(2, 3\)",
    ),
    "state with NaN": (
        carry(velocity=np.nan * ONES),
        "`f0_train.velocity` must be finite",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()
