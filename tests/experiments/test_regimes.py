import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from experiments import losses, regimes, training
from experiments.datasets import Dataset
from experiments.schema import ConfigError, Loss

from .commands import small

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

N_TRAIN, N_TEST, STEPS = 7, 4, np.array([0, 1, 2, 5, 12])


def dataset(n_out, classes=None):
    """Seven examples of three classes, of two, or with three numbers as targets."""
    rng = np.random.default_rng(0)
    x_train, x_test = (rng.standard_normal((n, 5)) for n in (N_TRAIN, N_TEST))
    if classes is None:
        y = [rng.standard_normal((n, n_out)) for n in (N_TRAIN, N_TEST)]
    elif n_out == 1:
        y = [np.sign(rng.standard_normal((n, 1))) for n in (N_TRAIN, N_TEST)]
    else:
        y = [np.eye(n_out)[rng.integers(n_out, size=n)] - 1 / n_out for n in (7, 4)]
    return Dataset("mine", x_train, y[0], x_test, y[1], classes)


DATA = {
    "softmax": dataset(3, (0, 1, 2)),
    "logistic": dataset(1, (0, 1)),
    "mean": dataset(3),
    "sum": dataset(3),
    "mean_over_examples": dataset(3),
}


@pytest.fixture(scope="module")
def network():
    """A network of three outputs or one, its linearisation and its kernels."""
    known = {}

    def of(n_out):
        if n_out not in known:
            model = eqx.nn.MLP(5, n_out, 6, 1, jnp.tanh, dtype=float, key=jr.key(1))
            data = dataset(n_out)
            x, x_test = jnp.asarray(data.x_train), jnp.asarray(data.x_test)
            kernels = nt.ntk_full(model, x), nt.ntk_full(model, x_test, x)
            known[n_out] = nt.linearize(model), *kernels
        return known[n_out]

    return of


def regime_of(name, k_train_train, *overrides):
    config = dataclasses.replace(
        small("model=mlp", "steps=12", *overrides), loss=Loss[name]
    )
    largest = 2 / float(nt.metrics.max_learning_rate(k_train_train))
    return regimes.build(config, losses.build(config.loss, DATA[name]), largest)


REGIMES = {
    "descent": ("optimizer=sgd", "ridge=0.2"),
    "momentum": ("optimizer=momentum", "ridge=0.0"),
    "momentum and ridge": ("optimizer=momentum", "ridge=0.2"),
    "ragged batches": ("optimizer=minibatch", "optimizer.batch_size=3"),
    "batches, momentum and ridge": (
        "optimizer=minibatch", "optimizer.batch_size=2", "optimizer.momentum=0.5",
        "ridge=0.2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["mean_over_examples", "softmax", "logistic"])
@pytest.mark.parametrize("optimizer", REGIMES)
def test_every_regime_is_optax_training_of_the_linearised_network(
    network, optimizer, name
):
    data = DATA[name]
    linear, k_train_train, k_test_train = network(data.y_train.shape[1])
    regime = regime_of(name, k_train_train, *REGIMES[optimizer])
    trained = training.train(linear, regime, data.x_train, data.x_test, STEPS)
    predicted = regime.predict(k_train_train, k_test_train, trained)
    for split in ("train", "test"):
        f, p = getattr(trained, split), getattr(predicted, split)
        assert np.max(np.abs(f - p)) < 1e-8 < 1e-2 < np.max(np.abs(f[-1] - f[0]))


@pytest.mark.parametrize(
    "name", ["mean", pytest.param("softmax", marks=pytest.mark.slow)]
)
def test_the_flow_of_a_regime_is_the_limit_of_small_steps(network, name):
    data = DATA[name]
    linear, k_train_train, k_test_train = network(data.y_train.shape[1])
    flow = regime_of(
        name, k_train_train, "dynamics=flow", "optimizer.learning_rate=1e-3"
    )
    steps = np.array([0, 200])
    trained = training.train(linear, flow, data.x_train, data.x_test, steps)
    predicted = flow.predict(k_train_train, k_test_train, trained)
    moved = np.max(np.abs(trained.test[1] - trained.test[0]))
    assert np.max(np.abs(trained.test - predicted.test)) < 2e-3 * moved


def test_batches_go_through_all_examples_in_an_order_of_the_seed():
    overrides = ("optimizer=minibatch", "optimizer.batch_size=4", "n_train=10")
    one, again, other = (
        regimes.batches(small(*overrides, "steps=7", f"seed={seed}"), 10)
        for seed in (0, 0, 1)
    )
    assert [len(batch) for batch in one] == [4, 4, 2, 4, 4, 2, 4]
    for batches in (one, other):
        assert sorted(np.concatenate(batches[:3])) == list(range(10))
        assert sorted(np.concatenate(batches[3:6])) == list(range(10))
    assert [list(batch) for batch in one] == [list(batch) for batch in again]
    assert [list(batch) for batch in one] != [list(batch) for batch in other]
    assert [list(batch) for batch in one[:3]] != [list(batch) for batch in one[3:6]]


def test_a_batch_of_more_than_there_is_is_refused_with_what_to_type():
    config = small("optimizer=minibatch", "optimizer.batch_size=16")
    with pytest.raises(ConfigError, match="6 training examples.*batch_size=6 or less"):
        regimes.batches(config, 6)


@pytest.mark.parametrize(
    "name, data, text",
    [
        ("softmax", "mean", "needs a data set of classes.*`mine` is a regression"),
        ("softmax", "logistic", "more than two classes.*has 2. Type loss=logistic"),
        ("logistic", "softmax", "needs two classes.*has 3. Type loss=softmax"),
    ],
)
def test_a_cross_entropy_without_its_classes_is_refused(name, data, text):
    with pytest.raises(ConfigError, match=text):
        losses.build(Loss[name], DATA[data])


@pytest.mark.parametrize("name", DATA)
def test_no_output_curves_a_loss_more_than_its_bound_says(name):
    data = DATA[name]
    objective = losses.build(Loss[name], data)
    f = jr.normal(jr.key(0), data.y_train.shape) * jnp.array([[0.01], [1], [5]] * 3)[:7]
    hessian = jax.vmap(jax.hessian(objective.of_example))(f, objective.y_train)
    largest = np.linalg.eigvalsh(np.asarray(hessian)).max()
    assert 0.5 * objective.curvature <= largest <= objective.curvature * (1 + 1e-9)


def test_a_loss_over_time_is_the_scaled_sum_over_examples():
    objective = losses.build(Loss.softmax, DATA["softmax"])
    outputs = np.random.default_rng(0).standard_normal((2, 7, 3))
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    mine = probabilities[:, np.arange(7), np.argmax(DATA["softmax"].y_train, 1)]
    expected = -np.log(mine).mean(axis=1)
    got = objective.over_time(outputs, objective.y_train)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_learning_rate_past_the_bound_is_predicted_as_asked(network):
    # A warning would be an error here.
    _, k_train_train, k_test_train = network(3)
    regime = regime_of("mean", k_train_train, "optimizer.learning_rate=1.2")
    start = training.train(
        network(3)[0], regime, DATA["mean"].x_train, DATA["mean"].x_test, STEPS
    )
    predicted = regime.predict(k_train_train, k_test_train, start)
    assert np.abs(predicted.train[-1]).max() > np.abs(predicted.train[0]).max()
