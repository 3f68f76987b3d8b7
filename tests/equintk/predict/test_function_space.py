"""Any loss, in steps and in continuous time: against optax on the linear network."""

import functools
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equintk.predict import (
    FunctionSpaceDescent,
    FunctionSpaceFlow,
    GradientDescent,
    GradientFlow,
    losses,
)
from tests.equintk.predict.linearised import N_TRAIN, OUT, Linearised, draw
from tests.helpers import assert_close, relative_error

C, RIDGE, RATE = 0.3, 0.2, 0.4
STEPS = [0, 1, 5, 30]
BATCHES = [[0, 1, 2], [5, 3, 4], [6]]
WEIGHTS = np.array([1, 2, 0.5, 0, 1, 1, 3])
LABELLED = np.array([1, 1, 1, 1, 1, 0, 1], bool)
RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, OUT, N_TRAIN)
TARGETS = RNG.normal(size=(N_TRAIN, OUT))
SOFTMAX = losses.softmax_cross_entropy


@pytest.fixture(scope="module")
def network():
    return draw()


def members(batches):
    matrix = np.zeros((len(batches), N_TRAIN))
    for i, batch in enumerate(batches):
        matrix[i, batch] = 1
    return matrix


ALL = [list(range(N_TRAIN))]
REGIMES: dict[str, Any] = {
    "gradient descent": {},
    "momentum": {"momentum": 0.8},
    "minibatches": {"batches": BATCHES, "c": [1 / len(b) for b in BATCHES]},
    "minibatches, momentum, weights and a mask": {
        "batches": BATCHES,
        "momentum": 0.6,
        "weights": WEIGHTS,
        "labelled": LABELLED,
    },
}
LOSSES: dict[str, Any] = {
    "softmax": (SOFTMAX, LABELS, optax.softmax_cross_entropy_with_integer_labels),
    "squared": (losses.squared, TARGETS, lambda f, y: jnp.sum((f - y) ** 2, -1) / 2),
    "logistic": (
        losses.logistic,
        (TARGETS > 0) * 1.0,
        lambda f, y: jnp.sum(optax.sigmoid_binary_cross_entropy(f, y), -1),
    ),
    "huber": (losses.huber, TARGETS, lambda f, y: jnp.sum(optax.huber_loss(f, y), -1)),
    "one's own": (
        lambda f, y: jnp.sum(jnp.cosh(f - y)) / 10,
        TARGETS,
        lambda f, y: jnp.sum(jnp.cosh(f - y), -1) / 10,
    ),
}
# Each loss in the regime that has everything, and softmax in all regimes; the closed
# forms, which are faster to test, hold the squared loss.
ALL_AT_ONCE = "minibatches, momentum, weights and a mask"


@pytest.mark.parametrize(
    ("loss", "regime"),
    [
        pytest.param(
            *(loss, regime),
            id=f"{loss}, {regime}",
            marks=[]
            if loss == "softmax" or regime == ALL_AT_ONCE
            else pytest.mark.slow,
        )
        for loss in LOSSES
        for regime in REGIMES
    ],
)
def test_outputs_are_those_of_optax_on_the_linearised_network(network, loss, regime):
    ours, y, theirs = LOSSES[loss]
    regime = REGIMES[regime]
    options = {"c": C, **regime}
    scales = members(regime.get("batches", ALL)) * np.reshape(options["c"], (-1, 1))
    scales = scales * regime.get("weights", 1.0) * regime.get("labelled", 1.0)
    scales = jnp.asarray(scales)

    def total(f, step):
        return jnp.sum(scales[step % len(scales)] * theirs(f, jnp.asarray(y)))

    optimizer = optax.sgd(RATE, momentum=regime.get("momentum"))
    train, test = network.train(total, optimizer, STEPS, RIDGE)
    descent = FunctionSpaceDescent(
        network.k_train_train, y, loss=ours, learning_rate=RATE, ridge=RIDGE, **options
    )
    assert_close(descent.train(STEPS, network.f0_train), train)
    assert_close(descent.train(5, network.f0_train), train[2])
    backwards = descent.test(
        STEPS[::-1], network.k_test_train, network.f0_train, network.f0_test
    )
    assert_close(backwards, test[::-1])


@pytest.mark.slow
def test_an_averaged_kernel_moves_each_output_alike():
    # One network of scalar output for each output: the kernel is theirs, uncoupled.
    alone = draw(out=1)
    gradients = np.einsum("inp,ab->iapb", alone.gradients, np.eye(OUT))
    test_gradients = np.einsum("inp,ab->iapb", alone.test_gradients, np.eye(OUT))
    network = Linearised(
        gradients.reshape(N_TRAIN, OUT, -1),
        test_gradients.reshape(len(test_gradients), OUT, -1),
        draw().f0_train,
        draw().f0_test,
    )
    given = {"loss": SOFTMAX, "learning_rate": RATE, "c": C}
    full = FunctionSpaceDescent(network.k_train_train, LABELS, **given)
    averaged = FunctionSpaceDescent(alone.k_train_train[..., 0, 0], LABELS, **given)
    arguments = (network.f0_train, network.f0_test)
    assert_close(
        averaged.test(7, alone.k_test_train[..., 0, 0], *arguments),
        full.test(7, network.k_test_train, *arguments),
    )
    end = [
        FunctionSpaceDescent(k, LABELS, ridge=RIDGE, **given).train(
            jnp.inf, network.f0_train
        )
        for k in (alone.k_train_train[..., 0, 0], network.k_train_train)
    ]
    assert_close(*end)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_steps_on_the_squared_loss_are_those_of_the_closed_form(network, momentum):
    given = {"learning_rate": RATE, "momentum": momentum, "c": C, "ridge": RIDGE}
    kernel = network.k_train_train
    stepped = FunctionSpaceDescent(kernel, TARGETS, loss=losses.squared, **given)
    closed = GradientDescent(kernel, TARGETS, **given)
    steps = [0, 3, 40, jnp.inf]
    expected = closed.train(steps, network.f0_train)
    assert_close(stepped.train(steps, network.f0_train), expected)
    states = [d.state(6, network.f0_train) for d in (stepped, closed)]
    for got, right in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-12)
    # And each goes on from where the other stopped.
    assert_close(closed.train(4, states[0]), stepped.train(10, network.f0_train))
    assert_close(stepped.train(4, states[1]), stepped.train(10, network.f0_train))


def test_minibatches_are_carried_on_after_whole_rounds_only(network):
    descent = FunctionSpaceDescent(
        network.k_train_train, LABELS, loss=SOFTMAX, learning_rate=RATE,
        momentum=0.5, c=C, ridge=RIDGE, batches=BATCHES,
    )  # fmt: skip
    state = descent.state(6, network.f0_train)
    assert_close(descent.train(4, state), descent.train(10, network.f0_train))
    with pytest.raises(ValueError, match="all 3 `batches`.* but 7 steps are no mult"):
        descent.state(7, network.f0_train)


@pytest.mark.slow
def test_examples_without_a_label_are_only_predicted(network):
    hidden = np.where(LABELLED[:, None], TARGETS, np.nan)
    given = {"loss": losses.huber, "c": C, "ridge": RIDGE}
    kernel = network.k_train_train
    seen = kernel[LABELLED][:, LABELLED]
    f0 = network.f0_train
    for dynamics, when in (
        (functools.partial(FunctionSpaceDescent, learning_rate=RATE), [7, jnp.inf]),
        (functools.partial(FunctionSpaceFlow, rtol=1e-9), [2.0]),
    ):
        masked = dynamics(kernel, hidden, labelled=LABELLED, **given)
        fewer = dynamics(seen, TARGETS[LABELLED], **given)
        got = masked.train(when, f0)
        expected = fewer.test(when, kernel[:, LABELLED], f0[LABELLED], f0)
        assert_close(got, expected, 1e-6)


def test_the_end_with_a_ridge_is_where_the_penalised_loss_is_stationary(network):
    given = {"loss": SOFTMAX, "c": C, "ridge": RIDGE, "weights": WEIGHTS}
    kernel = network.k_train_train
    descent = FunctionSpaceDescent(kernel, LABELS, learning_rate=RATE, **given)
    flow = FunctionSpaceFlow(kernel, LABELS, **given)
    state = descent.state(jnp.inf, network.f0_train)
    probabilities = jax.nn.softmax(state.f_train) - np.eye(OUT)[LABELS]
    pull = C * WEIGHTS[:, None] * probabilities
    np.testing.assert_allclose(RIDGE * state.coefficients, -pull, atol=1e-14)
    moved = np.einsum("ijab,jb->ia", kernel, state.coefficients)
    assert_close(state.f_train, network.f0_train + moved)
    late = descent.train(2000, network.f0_train)
    assert relative_error(state.f_train, late) < 1e-8
    assert relative_error(flow.train(jnp.inf, network.f0_train), late) < 1e-8
    # And from anywhere on the way.
    halfway = descent.state(3, network.f0_train)
    assert relative_error(flow.train([0.0, jnp.inf], halfway)[1], late) < 1e-8


def test_cross_entropy_without_a_ridge_has_no_end_and_says_why(network):
    kernel = network.k_train_train
    descent = FunctionSpaceDescent(kernel, LABELS, loss=SOFTMAX, learning_rate=RATE)
    flow = FunctionSpaceFlow(kernel, LABELS, loss=SOFTMAX)
    for dynamics in (descent, flow):
        with pytest.raises(
            ValueError, match=r"(?s)data that can be separated.*`ridge`"
        ):
            dynamics.train(jnp.inf, network.f0_train)


def test_flow_without_a_ridge_ends_where_there_is_an_end(network):
    flow = FunctionSpaceFlow(
        network.k_train_train, TARGETS, loss=losses.huber, rtol=1e-8, atol=1e-11
    )
    assert relative_error(flow.train(jnp.inf, network.f0_train), TARGETS) < 1e-5
    # One input with two labels: data that cannot be separated.
    kernel, y = np.ones((2, 2)), np.array([[0.0], [1.0]])
    flow = FunctionSpaceFlow(kernel, y, loss=losses.logistic)
    assert jnp.max(jnp.abs(flow.train(jnp.inf, np.ones((2, 1))))) < 1e-4


def test_flow_of_the_squared_loss_is_the_closed_form_to_its_tolerance(network):
    times = [3.0, 0.0, 0.4, 30.0]
    arguments = (network.k_test_train, network.f0_train, network.f0_test)
    exact = GradientFlow(network.k_train_train, TARGETS, c=C, ridge=RIDGE)
    expected = exact.test(times, *arguments)
    errors = []
    for rtol in (1e-4, 1e-8):
        flow = FunctionSpaceFlow(
            network.k_train_train, TARGETS, loss=losses.squared, c=C, ridge=RIDGE,
            rtol=rtol, atol=rtol / 1000,
        )  # fmt: skip
        got = flow.test(times, *arguments)
        assert_close(got[1], network.f0_test)
        errors.append(relative_error(got, expected))
    assert errors[0] < 1e-3 and errors[1] < 1e-7
    state = flow.state(0.4, network.f0_train)
    assert (
        relative_error(exact.train(2.6, state), exact.train(3.0, arguments[1])) < 1e-7
    )


@pytest.mark.slow
def test_small_steps_approach_the_flow(network):
    kernel, f0 = network.k_train_train, network.f0_train
    flow = FunctionSpaceFlow(kernel, LABELS, loss=SOFTMAX, rtol=1e-9, atol=1e-12)
    expected = flow.train(2.0, f0)

    def error(rate):
        descent = FunctionSpaceDescent(kernel, LABELS, loss=SOFTMAX, learning_rate=rate)
        return relative_error(descent.train(round(2.0 / rate), f0), expected)

    assert error(0.1) < 0.05
    assert 9 < error(0.01) / error(0.001) < 11


def test_a_solver_that_cannot_finish_says_what_to_type(network):
    flow = FunctionSpaceFlow(
        1e4 * network.k_train_train, TARGETS, loss=losses.squared, max_steps=50
    )
    with pytest.raises(ValueError, match=r"50 steps. Raise.*solver=diffrax.Kvaerno5"):
        flow.train(10.0, network.f0_train)


def test_without_diffrax_the_error_says_what_to_install(monkeypatch, network):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"pip install 'equintk\[flow\]'"):
        FunctionSpaceFlow(network.k_train_train, LABELS, loss=SOFTMAX)


class Scaled(eqx.Module):
    """A user's own loss, with a number to differentiate by."""

    power: jax.Array

    def __call__(self, f, y):
        return jnp.sum(jnp.sqrt(1 + self.power * (f - y) ** 2))


def predict(how, kernel, y, power, rate, ridge, weights, f0):
    given = {"loss": Scaled(power), "c": C, "ridge": ridge, "weights": weights}
    if how == "flow":
        # `rate` plays the part of time; a tight tolerance, for finite differences.
        flow = FunctionSpaceFlow(kernel, y, rtol=1e-10, atol=1e-13, **given)
        return jnp.sum(jnp.sin(flow.train(10 * rate, f0)))
    descent = FunctionSpaceDescent(kernel, y, learning_rate=rate, momentum=0.5, **given)
    steps = jnp.inf if how == "end" else [4, 9]
    return jnp.sum(jnp.sin(descent.train(steps, f0)))


@pytest.mark.parametrize(
    "how",
    [
        "steps",
        pytest.param("end", marks=pytest.mark.slow),
        pytest.param("flow", marks=pytest.mark.slow),
    ],
)
def test_gradients_agree_with_finite_differences(network, how):
    numbers = (
        network.k_train_train, TARGETS, jnp.array(1.3), jnp.array(0.1),
        jnp.array(RIDGE), WEIGHTS + 1, network.f0_train,
    )  # fmt: skip
    gradients = jax.jit(jax.grad(functools.partial(predict, how), range(7)))(*numbers)
    value = jax.jit(functools.partial(predict, how))
    for i, gradient in enumerate(gradients):
        along = RNG.normal(size=np.shape(numbers[i]))
        if i == 0:  # a kernel stays symmetric
            along = along + along.transpose(1, 0, 3, 2)
        moved = [
            value(*numbers[:i], numbers[i] + h * along, *numbers[i + 1 :])
            for h in (-1e-5, 1e-5)
        ]
        finite = (moved[1] - moved[0]) / 2e-5
        assert abs(np.vdot(gradient, along) - finite) < 1e-6 * (1 + abs(finite)), i


@pytest.mark.slow
def test_a_second_derivative_of_the_end_is_right(network):
    def end(ridge):
        descent = FunctionSpaceDescent(
            network.k_train_train, LABELS, loss=SOFTMAX, learning_rate=RATE, ridge=ridge
        )
        return jnp.sum(descent.train(jnp.inf, network.f0_train)[:, 0] ** 2)

    first = jax.jit(jax.grad(end))
    finite = (first(RIDGE + 1e-5) - first(RIDGE - 1e-5)) / 2e-5
    assert_close(jax.jit(jax.grad(jax.grad(end)))(RIDGE), finite, 1e-6)


def test_compiled_and_mapped_steps_are_the_eager_ones(network):
    def train(rate, f0):
        descent = FunctionSpaceDescent(
            network.k_train_train, LABELS, loss=SOFTMAX, learning_rate=rate, c=C
        )
        return descent.train([2, 9], f0)

    eager = train(RATE, network.f0_train)
    assert_close(jax.jit(train)(RATE, network.f0_train), eager)
    mapped = jax.jit(jax.vmap(train, (0, None)))(
        jnp.array([0.1, RATE]), network.f0_train
    )
    assert_close(mapped[1], eager)


def test_float32_stays_float32_and_close(network):
    single = [np.float32(a) for a in (network.k_train_train, network.f0_train)]
    double = (network.k_train_train, network.f0_train)
    results = []
    for kernel, f0 in (single, double):
        descent = FunctionSpaceDescent(
            kernel, LABELS, loss=SOFTMAX, learning_rate=RATE, ridge=RIDGE
        )
        results.append(descent.train([30, jnp.inf], f0))
    assert results[0].dtype == jnp.float32
    assert_close(results[0], results[1], 1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_learning_rate_beyond_the_curvature_at_the_start_is_warned_about(momentum):
    # Of the logistic loss at 0 the curvature is 1/4, of the penalised one 1/4 + ridge.
    bound = 2 * (1 + momentum) / (C * 4.0 / 4 + RIDGE)

    def train(rate):
        descent = FunctionSpaceDescent(
            np.diag([1.0, 4.0]), np.ones(2), loss=losses.logistic, momentum=momentum,
            learning_rate=rate, c=C, ridge=RIDGE,
        )  # fmt: skip
        return descent.train(1, np.zeros(2))

    train(0.99 * bound)
    with pytest.warns(UserWarning, match=f"starts from only {bound:.4g}"):
        train(1.01 * bound)


def test_an_end_at_which_steps_do_not_settle_is_refused():
    # Saturated at the start, the logistic loss is flat; at its minimum it is not.
    def train(rate):
        descent = FunctionSpaceDescent(
            np.diag([1.0, 4.0]), np.full(2, 0.5), loss=losses.logistic,
            learning_rate=rate, ridge=0.01,
        )  # fmt: skip
        return descent.train(jnp.inf, np.full(2, 9.0))

    bound = 2 / (4 / 4 + 0.01)
    assert jnp.max(jnp.abs(train(0.9 * bound))) < 1
    with pytest.raises(ValueError, match="no end: only below 1.9.* does it settle"):
        train(1.2 * bound)
    with pytest.raises(Exception, match="training has no end"):
        jax.block_until_ready(jax.jit(train)(1.2 * bound))


def test_steps_that_diverge_are_an_error():
    descent = FunctionSpaceDescent(
        np.eye(2), np.ones(2), loss=losses.squared, learning_rate=5.0
    )
    with pytest.warns(UserWarning, match="only 2 is stable"):
        with pytest.raises(ValueError, match="Training diverged"):
            descent.train(10_000, np.zeros(2))
    compiled = jax.jit(lambda f0: descent.train(10_000, f0))
    with pytest.raises(Exception, match="Training diverged"):
        jax.block_until_ready(compiled(jnp.zeros(2)))


EYE, ONES, CLASSES = np.eye(2), np.ones((2, 3)), np.array([0, 2])


def make(k: Any = EYE, y: Any = CLASSES, loss: Any = SOFTMAX, **options):
    options = {"learning_rate": 0.5, **options}
    return lambda: FunctionSpaceDescent(k, y, loss=loss, **options)


def ask(steps: float = 1, f0: Any = ONES, **options):
    return lambda: make(**options)().train(steps, f0)


REFUSED = {
    "kernel of a strange shape": (
        make(k=np.ones((2, 2, 3))),
        r"`k_train_train` has shape \(2, 2, 3\), but must have \(n, n\)",
    ),
    "negative kernel": (
        make(k=-EYE),
        r"positive semi-definite.*eigenvalue is -1.00e\+00",
    ),
    "asymmetric kernel": (make(k=np.array([[1.0, 2], [0, 1]])), "must be symmetric"),
    "targets of other examples": (make(y=np.ones(3)), "each of the 2 training exam"),
    "no function": (make(loss="softmax"), "`loss` must be a function.*'softmax'"),
    "loss without a number": (
        ask(loss=lambda f, y: f),
        r"`loss` must give one number.*\(3,\) and \(\), but it gives",
    ),
    "class out of range": (
        ask(y=np.array([0, 3])),
        "the 3 classes from 0, but the targets go from 0 to 3",
    ),
    "signs for logistic": (
        ask(y=np.array([-1.0, 1]), loss=losses.logistic, f0=np.zeros(2)),
        r"go from -1 to 1. Of -1 and 1 type `\(y \+ 1\) / 2`",
    ),
    "centred labels": (
        ask(y=np.eye(3)[CLASSES] - 0.1),
        "probabilities as targets.*Centred labels are for `squared`",
    ),
    "negative weights": (make(weights=[-1.0, 1]), "`weights` must.*smallest is -1"),
    "weights of others": (make(weights=np.ones(3)), r"weights.*has shape \(3,\)"),
    "no labels": (make(labelled=[False, False]), "and 0 labels"),
    "numbers as mask": (make(labelled=[1, 0]), "bools of shape.*dtype int64"),
    "empty batch": (make(batches=[[0], []]), r"one of step 1 is \[\]"),
    "batch out of range": (make(batches=[[0, 2]]), r"from 0 to 1.*is \[0 2\]"),
    "no batches": (make(batches=[]), "but there are none"),
    "c for other batches": (
        make(batches=[[0], [1]], c=[1.0]),
        "each of the 2 `batches`",
    ),
    "end with batches": (
        ask(jnp.inf, batches=[[0], [1]], ridge=0.1),
        "with `batches` training never settles",
    ),
    "fractional steps": (ask(0.5), "`steps` must be a whole number of at least 0"),
    "outputs of other examples": (ask(f0=np.ones((3, 3))), "`f0_train` must hold"),
    "a loss that is not convex": (
        ask(
            jnp.inf, loss=lambda f, y: jnp.sum(jnp.cos(f)), ridge=0.01,
            f0=np.zeros((2, 3)),
        ),
        "The loss is not convex",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_what_is_needed(call, text):
    with pytest.raises(ValueError, match=f"(?s){text}"):
        call()


def test_steps_that_are_not_known_when_traced_are_refused():
    train = jax.jit(lambda steps: make()().train(steps, ONES))
    with pytest.raises(ValueError, match="`steps` must be known when this is traced"):
        train(3)
