import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import equintk as nt
from experiments import training
from experiments.losses import Objective
from experiments.regimes import Regime
from experiments.trajectory import Trajectory
from tests.attention import Attention, in_float32


def train(model, x, y, x_test, steps, *, learning_rate, c=1.0, ridge=0.0, **rest):
    """Full-batch descent on the squared loss with these numbers."""
    squared = nt.predict.losses.squared
    objective = Objective(squared, y, y, lambda n: c, curvature=1.0)
    regime = Regime(objective, learning_rate, ridge=ridge)
    return training.train(model, regime, x, x_test, steps, **rest)


STEPS = np.array([0, 1, 2, 5, 40])


def data(n_train=3, n_test=4, in_dim=5, out_dim=2, seed=0):
    """Fewer examples than features, so that their Gram matrix has an inverse."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n_train, in_dim)),
        rng.standard_normal((n_train, out_dim)),
        rng.standard_normal((n_test, in_dim)),
    )


def linear(seed=0):
    return eqx.nn.Linear(5, 2, key=jr.key(seed))


def network(seed=0):
    return eqx.nn.MLP(5, 2, 8, 2, jnp.tanh, key=jr.key(seed))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("c", [1.0, 0.5])
def test_a_linear_model_follows_the_closed_form_of_its_kernel(c, ridge):
    x, y, x_test = data()
    model, lr = linear(), 0.05
    got = train(model, x, y, x_test, STEPS, learning_rate=lr, c=c, ridge=ridge)

    # The bias is one more feature, of value one.
    with_one = lambda x: np.column_stack([x, np.ones(len(x))])
    k_train, k_test = (with_one(a) @ with_one(x).T for a in (x, x_test))
    weight, bias = np.asarray(model.weight), np.asarray(model.bias)
    f_train, f_test = (a @ weight.T + bias for a in (x, x_test))
    a = k_train + ridge / c * np.eye(3)
    for i, s in enumerate(STEPS):
        done = np.eye(3) - np.linalg.matrix_power(np.eye(3) - lr * c * a, int(s))
        moved = np.linalg.solve(a, done @ (f_train - y))
        np.testing.assert_allclose(got.train[i], f_train - k_train @ moved, atol=1e-10)
        np.testing.assert_allclose(got.test[i], f_test - k_test @ moved, atol=1e-10)


def test_a_network_takes_the_steps_that_its_gradient_says():
    x, y, x_test = data()
    model, lr, c, ridge = network(), 0.1, 0.7, 0.2
    got = train(model, x, y, x_test, STEPS, learning_rate=lr, c=c, ridge=ridge)

    params, static = eqx.partition(model, eqx.is_inexact_array)
    start, tree = ravel_pytree(params)

    @jax.jit
    def outputs(flat, x):
        return jax.vmap(eqx.combine(tree(flat), static))(x)

    @jax.jit
    @jax.grad
    def gradient(flat):
        fit = ((outputs(flat, x) - y) ** 2).sum()
        return 0.5 * c * fit + 0.5 * ridge * ((flat - start) ** 2).sum()

    flat = start
    for s in range(STEPS[-1] + 1):
        if s in STEPS:
            expected = outputs(flat, x_test)
            np.testing.assert_allclose(got.test[STEPS == s][0], expected, rtol=1e-10)
        flat = flat - lr * gradient(flat)


def test_what_is_not_trainable_stays_exactly_as_it_was():
    model = network()
    nothing = jax.tree_util.tree_map(lambda leaf: False, model)
    last = eqx.tree_at(lambda m: m.layers[-1].weight, nothing, True)
    at_end = {}
    train(
        model,
        *data(),
        STEPS,
        learning_rate=0.1,
        trainable=last,
        on_time=at_end.__setitem__,
    )
    trained = at_end[40]
    assert not jnp.array_equal(trained.layers[-1].weight, model.layers[-1].weight)
    restored = eqx.tree_at(
        lambda m: m.layers[-1].weight, trained, model.layers[-1].weight
    )
    assert eqx.tree_equal(restored, model)


@pytest.mark.parametrize("readout_alone", [False, True], ids=["all", "readout alone"])
def test_seeds_and_numbers_share_one_compilation(readout_alone):
    traced = []

    class Counted(eqx.Module):
        frozen: eqx.nn.Linear
        readout: eqx.nn.Linear

        def __init__(self, key):
            self.frozen, self.readout = (eqx.nn.Linear(5, 5, key=key), linear())

        def __call__(self, x):
            traced.append(1)
            return self.readout(self.frozen(x))

    def run(seed):
        model = Counted(jr.key(seed))
        trainable = jax.tree_util.tree_map(lambda leaf: not readout_alone, model)
        trainable = eqx.tree_at(lambda m: m.readout.weight, trainable, True)
        numbers = {"learning_rate": 0.01 / (seed + 1), "c": 1 + seed, "ridge": seed}
        train(model, *data(seed=seed), STEPS, trainable=trainable, **numbers)
        return len(traced)

    first = run(0)
    assert (
        run(1) - first == 1
    )  # the shape of the outputs is asked for, nothing compiled
    assert first > 2


def test_the_callback_sees_the_model_of_each_recorded_output():
    x, y, x_test = data()
    seen = {}
    model = network()
    got = train(model, x, y, x_test, STEPS, learning_rate=0.1, on_time=seen.__setitem__)
    assert list(seen) == STEPS.tolist()
    assert eqx.tree_equal(seen[0], model)
    for i, then in enumerate(seen.values()):
        np.testing.assert_allclose(got.train[i], jax.vmap(then)(jnp.asarray(x)))
        np.testing.assert_allclose(got.test[i], jax.vmap(then)(jnp.asarray(x_test)))


def test_progress_counts_every_step():
    seen = []
    train(
        linear(),
        *data(),
        STEPS,
        learning_rate=0.01,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(step, 40) for step in range(1, 41)]


def test_a_network_in_single_precision_stays_so():
    model = eqx.nn.Linear(5, 2, dtype=jnp.float32, key=jr.key(0))
    x, y, x_test = (a.astype(np.float32) for a in data())
    got = train(model, x, y, x_test, STEPS, learning_rate=np.float64(0.01))
    assert got.train.dtype == got.test.dtype == np.float32


def test_diverging_training_is_an_error_with_the_stable_learning_rate():
    steps = np.array([0, 10, 2000])
    with pytest.raises(
        FloatingPointError, match="by step 2000.*rate of 5.*stability_bound"
    ):
        train(linear(), *data(), steps, learning_rate=5.0)


def test_targets_without_an_output_axis_are_refused():
    x, y, x_test = data()
    with pytest.raises(ValueError, match=r"the outputs, \(3, 2\).*shape is \(3,\)"):
        train(linear(), x, y[:, 0], x_test, STEPS, learning_rate=0.01)


@pytest.mark.parametrize("steps", [[0, 2, 2], [0.0, 1.0, 2.0], [[0, 1, 2]]])
def test_a_trajectory_refuses_steps_that_do_not_increase(steps):
    with pytest.raises(ValueError, match="strictly increasing integers"):
        Trajectory(np.array(steps), np.zeros((3, 4, 1)), np.zeros((3, 5, 1)))


def test_a_trajectory_refuses_outputs_that_do_not_fit_its_steps():
    steps = np.arange(3)
    with pytest.raises(
        ValueError, match=r"`test` must have shape \(3, n_test, \*out\)"
    ):
        Trajectory(steps, np.zeros((3, 4, 1)), np.zeros((2, 5, 1)))
    with pytest.raises(ValueError, match=r"\(1,\) in `train` and \(2,\) in `test`"):
        Trajectory(steps, np.zeros((3, 4, 1)), np.zeros((3, 5, 2)))


class Sensitivity(eqx.Module):
    """The derivatives of the outputs of attention, summed over its inputs."""

    attention: Attention

    def __call__(self, x):
        return jnp.sum(jax.jacrev(self.attention)(x), axis=(1, 2))


def test_many_derivatives_inside_a_float32_network_are_those_of_float64():
    # XLA's own fusions, with jaxlib 0.10 on a CPU, give outputs off by some percent.
    double = Sensitivity(Attention(256, 40, key=jr.key(0)))
    single = in_float32(double)
    x = jr.normal(jr.key(1), (17, 9, 7), jnp.float32)
    y = np.zeros((17, 40), np.float32)
    got = train(single, x, y, x[:1], STEPS[:1], learning_rate=0.1).train[0]
    want = train(
        double, x.astype(float), y, x[:1].astype(float), STEPS[:1], learning_rate=0.1
    ).train[0]
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
