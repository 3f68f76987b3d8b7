import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

import equintk as nt
from experiments import datasets, kernels, models, pipeline, times
from experiments.schema import ConfigError
from experiments.tables import CURVE_COLUMNS

from .commands import small

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

ABSOLUTE = ("optimizer.learning_rate_unit=absolute",)
THREE_CLASSES = ("dataset=digits10", "dataset.classes=[0,4,7]")


class Network(eqx.Module):
    """Two layers side by side: linear in its parameters, or nearly so."""

    input: eqx.nn.Linear
    readout: eqx.nn.Linear
    bend: float = eqx.field(static=True)
    hidden: tuple = ()

    def __call__(self, x):
        return (
            self.readout(x) + self.input(x) + self.bend * jnp.tanh(self.input(x)) ** 2
        )


@pytest.fixture
def use_network(monkeypatch):
    """Puts a network of known parameters into the pipeline."""

    def use(bend):
        keys = jr.split(jr.key(7))
        layers = [eqx.nn.Linear(64, 3, dtype=float, key=key) for key in keys]
        model = Network(*layers, bend=bend)
        monkeypatch.setattr(pipeline, "_network", lambda *_: lambda key: model)
        return model

    return use


class Flat:
    """A network as a function of one vector of parameters; compiled once."""

    def __init__(self, model):
        self.start, unravel = ravel_pytree(model)
        self.outputs = jax.jit(lambda flat, x: jax.vmap(unravel(flat))(x).ravel())
        self.jacobian = jax.jit(jax.jacrev(self.outputs))

        @jax.jit
        @jax.grad
        def gradient(flat, x, y, c, ridge):
            fit = jnp.sum((self.outputs(flat, x) - y) ** 2)
            return c / 2 * fit + ridge / 2 * jnp.sum((flat - self.start) ** 2)

        self.gradient = gradient


@pytest.fixture(scope="module")
def flat():
    """Gives the same `Flat` for the same network."""
    known = {}

    def of(model):
        if model.bend not in known:
            known[model.bend] = Flat(model)
        return known[model.bend]

    return of


def run(*overrides):
    config = small(*overrides)
    return config, pipeline.run(config, "r0123456789ab")


def values(results):
    """Every measurement by network, step, split and metric."""
    table = [dict(zip(CURVE_COLUMNS, row, strict=True)) for row in results.curves]
    keys = [(r["network"], r["step"], r["split"], r["metric"]) for r in table]
    assert len(set(keys)) == len(keys)
    return {key: row["value"] for key, row in zip(keys, table, strict=True)}


def obviously(network, config, learning_rate):
    """What a run measures, by dense algebra and by descending the gradient."""
    data = datasets.build(config.dataset)
    n_out = data.y_train.shape[1]
    c = {"sum": 1.0, "mean_over_examples": 1 / 6, "mean": 1 / 6 / n_out}[
        config.loss.name
    ]
    start = np.asarray(network.start)
    outputs = lambda *args: np.asarray(network.outputs(*args))

    def kernels(flat):
        j = [np.asarray(network.jacobian(flat, x)) for x in (data.x_train, data.x_test)]
        return j[0] @ j[0].T, j[1] @ j[0].T

    def averaged(k):
        k = k.reshape(len(k) // n_out, n_out, -1, n_out)
        return np.einsum("iaja->ij", k) / n_out

    k_tt, k_st = kernels(start)
    used_tt, used_st = k_tt, k_st
    if not config.kernel.coupled:
        used_tt, used_st = (np.kron(averaged(k), np.eye(n_out)) for k in (k_tt, k_st))
    if learning_rate is None:
        largest = np.linalg.eigvalsh(used_tt)[-1]
        learning_rate = (
            config.optimizer.learning_rate * 2 / (c * largest + config.ridge)
        )
    a = used_tt + config.ridge / c * np.eye(len(used_tt))
    one_step = np.eye(len(a)) - learning_rate * c * a
    f0 = {"train": outputs(start, data.x_train), "test": outputs(start, data.x_test)}
    y = {"train": data.y_train.ravel(), "test": data.y_test.ravel()}

    steps = times.build(config.time_grid).tolist()
    flats = [start]
    for _ in range(steps[-1]):
        given = (data.x_train, y["train"], c, config.ridge)
        step = np.asarray(network.gradient(flats[-1], *given))
        flats.append(flats[-1] - learning_rate * step)

    found = {}
    for s in steps:
        decay = np.linalg.matrix_power(one_step, s)
        if config.dynamics.name == "flow":
            decay = expm(-learning_rate * s * c * a)
        solved = np.linalg.solve(
            a, (np.eye(len(a)) - decay) @ (f0["train"] - y["train"])
        )
        for split, x, k in (
            ("train", data.x_train, used_tt), ("test", data.x_test, used_st)
        ):  # fmt: skip
            f, p = outputs(flats[s], x), f0[split] - k @ solved
            moved = outputs(flats[-1], x) - f0[split]
            classes = [a.reshape(-1, n_out).argmax(1) for a in (f, p, y[split])]
            found |= {
                (s, split, "rmse"): np.sqrt(np.mean((f - p) ** 2)),
                (s, split, "relative_divergence"): np.sqrt(
                    np.sum((f - p) ** 2) / np.sum(moved**2)
                ),
                (s, split, "loss_network"): c / 2 * np.sum((f - y[split]) ** 2),
                (s, split, "loss_prediction"): c / 2 * np.sum((p - y[split]) ** 2),
                (s, split, "error_network"): np.sqrt(np.mean((f - y[split]) ** 2)),
                (s, split, "error_prediction"): np.sqrt(np.mean((p - y[split]) ** 2)),
                (s, split, "accuracy_network"): np.mean(classes[0] == classes[2]),
                (s, split, "accuracy_prediction"): np.mean(classes[1] == classes[2]),
            }
        then, now = averaged(k_tt), averaged(kernels(flats[s])[0])
        drift = np.linalg.norm(now - then) / np.linalg.norm(then)
        found[s, "train", "kernel_drift"] = drift
        spectrum, at_start = (np.linalg.eigvalsh(k)[::-1] for k in (now, then))
        bound = 2 / (c * np.linalg.eigvalsh(used_tt)[-1] + config.ridge)
        edge = learning_rate / bound * spectrum[0] / at_start[0]
        found[s, "train", "edge_of_stability"] = edge
        rank = spectrum.sum() ** 2 / (spectrum**2).sum()
        found[s, "train", "effective_rank"] = rank
        targets = data.y_train @ data.y_train.T
        cosine = np.sum(now * targets) / np.linalg.norm(now) / np.linalg.norm(targets)
        found[s, "train", "target_alignment"] = cosine
        for k, value in enumerate(spectrum, start=1):
            found[s, "train", f"eigenvalue/{k}"] = value
        n = len(start) // 2  # the two layers are of one size
        parts = {"input": slice(n), "readout": slice(n, None), "all": slice(None)}
        for layer, which in parts.items():
            moved = np.linalg.norm(flats[s][which] - start[which])
            found[s, "parameters", f"movement_absolute/{layer}"] = moved
            moved = moved / np.linalg.norm(start[which])
            found[s, "parameters", f"movement_relative/{layer}"] = moved
    return {("all", *key): float(value) for key, value in found.items()}


@pytest.mark.parametrize(
    "overrides, learning_rate",
    [
        ("", None),
        ("loss=mean ridge=0.02 dynamics=flow", None),
        ("loss=mean_over_examples ridge=0.3 optimizer.learning_rate=1", None),
        ("time_grid=linear kernel.coupled=false dynamics=flow", None),
        (
            "optimizer.learning_rate_unit=absolute optimizer.learning_rate=0.001 "
            "kernel.coupled=false", 0.001,
        ),
    ],
)  # fmt: skip
def test_every_number_of_a_run_is_what_an_obvious_computation_says(
    use_network, flat, overrides, learning_rate
):
    network = flat(use_network(bend=0.5))
    config, results = run(*THREE_CLASSES, *overrides.split())
    found, expected = values(results), obviously(network, config, learning_rate)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=1e-7, atol=1e-12, err_msg=key
        )


@pytest.mark.parametrize(
    "kernel, loss, ridge",
    [
        ("exact", "sum", 0),
        ("exact", "sum", 0.3),
        ("exact", "mean_over_examples", 0.3),
        ("exact", "mean", 0.3),
        ("mc", "mean", 0.3),
    ],
)
def test_the_prediction_of_a_linear_model_is_its_training(
    use_network, flat, monkeypatch, kernel, loss, ridge
):
    use_network(bend=0.0)

    def on_every_parameter(model, key, x, proj_dim, *_, **__):
        jacobian = flat(model).jacobian(flat(model).start, x)
        return jacobian.reshape(len(x), 3, proj_dim) / 3**0.5

    monkeypatch.setattr(kernels.nt, "ntk_features", on_every_parameter)
    _, results = run(
        *THREE_CLASSES,
        f"loss={loss}",
        f"ridge={ridge}",
        f"kernel={kernel}",
        "proj_dim=390",
    )
    found = values(results)
    apart = [value for (*_, metric), value in found.items() if metric == "rmse"]
    moved = found["all", 4, "parameters", "movement_absolute/all"]
    assert max(apart) < 1e-12 < 1e-3 < moved


def test_the_nngp_kernel_predicts_the_network_whose_readout_alone_trains(monkeypatch):
    # In the ntk parameterization the readout's own tangent kernel is the NNGP kernel
    # of one network: with it for the average over networks, nothing is left apart.
    given = ("kernel=nngp", "ridge=0.1")

    def of_one(model_fn, key, x1, x2, n_samples, **_):
        model = model_fn(jr.split(jr.key(0))[0])
        return nt.ntk(model, x1, x2, trainable=models.readout_only(model, x1[0]))

    monkeypatch.setattr(kernels.nt, "nngp", of_one)
    _, results = run(*given)
    found = values(results)
    for key, value in found.items():
        if key[0] == "readout" and key[-1] == "rmse":
            assert value < 1e-12
        if key[0] == "all" and key[-1] == "rmse" and key[1] > 0:
            assert value > 1e-3


def test_kernel_nngp_trains_the_readout_alone_and_then_everything():
    config, results = run("kernel=nngp")
    found, end = values(results), config.time_grid.steps
    assert list(dict.fromkeys(network for network, *_ in found)) == ["readout", "all"]
    assert found["readout", end, "train", "kernel_drift"] == 0
    assert found["readout", end, "parameters", "movement_absolute/input"] == 0
    assert found["readout", end, "parameters", "movement_absolute/readout"] > 0
    assert found["all", end, "train", "kernel_drift"] > 0
    assert found["all", end, "parameters", "movement_absolute/input"] > 0
    summary = results.summary
    assert summary["rmse_test"] == found["readout", end, "test", "rmse"]
    assert summary["rmse_test@all"] == found["all", end, "test", "rmse"]


def test_the_posterior_mean_is_kernel_ridge_regression_from_zero(monkeypatch):
    seen = []

    def remembered(*args, **kwargs):
        seen.append(nngp(*args, **kwargs))
        return seen[-1]

    nngp = nt.nngp
    monkeypatch.setattr(kernels.nt, "nngp", remembered)
    config, results = run("kernel=nngp", "ridge=0.1", "loss=mean")
    data, k = datasets.build(config.dataset), np.asarray(seen[0])
    mean = k[6:] @ np.linalg.solve(k[:6] + 0.1 * 6 * np.eye(6), data.y_train)
    rmse = np.sqrt(np.mean((mean - data.y_test) ** 2))
    assert results.summary["posterior_rmse_test"] == pytest.approx(rmse, rel=1e-9)


def test_too_few_samples_for_the_training_set_are_refused_before_any_kernel(
    monkeypatch,
):
    monkeypatch.setattr(kernels, "build", None)
    with pytest.raises(
        ConfigError,
        match="n_samples=5 has rank 5 at most.* 6 training examples.*n_samples=6 or",
    ):
        run("kernel=nngp", "n_samples=5")
    with pytest.raises(
        ConfigError, match="rank 3 at most.*n_samples=2 or more, or ridge"
    ):
        run("kernel=nngp", "n_samples=1", *THREE_CLASSES)


def test_a_ridge_allows_few_samples():
    _, results = run("kernel=nngp", "n_samples=5", "ridge=0.1")
    assert np.isfinite(results.summary["rmse_test"])


@pytest.mark.parametrize(
    "overrides, text",
    [
        ("dataset=digits_3v8 n_train=300 n_test=58", "need 358 examples.*has 357"),
        ("dataset=digits10 dataset.classes=[3,11]", "at least two different labels"),
        ("model=cnn dataset=teacher", "model=cnn reads images.*dataset=digits_3v8"),
    ],
)
def test_what_the_data_cannot_give_is_refused_before_any_kernel(
    monkeypatch, overrides, text
):
    monkeypatch.setattr(kernels, "build", None)
    with pytest.raises(ConfigError, match=text):
        run(*overrides.split())


@pytest.mark.parametrize("ridge", [0, 0.5])
def test_a_relative_learning_rate_is_a_fraction_of_the_stability_bound(ridge):
    c = {"sum": 1, "mean_over_examples": 1 / 6, "mean": 1 / 6}
    for loss, scale in c.items():
        _, results = run(
            f"loss={loss}", f"ridge={ridge}", "optimizer.learning_rate=0.3"
        )
        found = results.summary
        bound = 2 / (scale * found["largest_eigenvalue"] + ridge)
        assert found["stability_bound"] == pytest.approx(bound, rel=1e-6)
        assert found["learning_rate"] == pytest.approx(0.3 * bound, rel=1e-6)


def test_losses_that_differ_by_a_constant_train_alike_at_one_relative_learning_rate():
    by_loss = [
        values(run(f"loss={loss}")[1]) for loss in ("sum", "mean_over_examples", "mean")
    ]
    for key, value in by_loss[0].items():
        scale = 6 if key[-1].startswith("loss") else 1
        for other in by_loss[1:]:
            assert other[key] * scale == pytest.approx(value, rel=1e-9, abs=1e-12), key


def test_flow_time_is_the_learning_rate_times_the_steps():
    _, results = run()
    for row in results.curves:
        row = dict(zip(CURVE_COLUMNS, row, strict=True))
        assert row["time"] == pytest.approx(
            results.summary["learning_rate"] * row["step"]
        )


def test_at_the_start_nothing_is_apart_and_nothing_has_moved():
    zero = ("rmse", "relative_divergence", "kernel_drift", "movement_absolute/all")
    found = values(run()[1])
    at_start = [found[k] for k in found if k[1] == 0 and k[-1] in zero]
    assert at_start == [0.0] * 6


def test_the_same_config_gives_the_same_numbers_whatever_ran_before():
    single = ("precision=f32",)
    first = values(run(*single)[1])
    double = values(run()[1])
    assert values(run(*single)[1]) == first
    assert double != first
    # erf, tanh and the draws differ in the last digits of float32
    assert double["all", 4, "test", "loss_network"] == pytest.approx(
        first["all", 4, "test", "loss_network"], rel=0.5
    )


def test_seeds_draw_networks_of_their_own_on_the_same_data():
    (_, a), (_, b) = run(), run("seed=1")
    assert a.summary["n_params"] == b.summary["n_params"]
    assert a.summary["largest_eigenvalue"] != b.summary["largest_eigenvalue"]


def test_training_that_diverges_is_an_error():
    with pytest.raises(FloatingPointError, match="Training diverged: by step 4 .*stab"):
        run(*ABSOLUTE, "optimizer.learning_rate=1e100", "time_grid.n_times=1")


def test_training_that_moves_nothing_is_an_error():
    with pytest.raises(ValueError, match="did not move.*Raise optimizer.learning_rate"):
        run(*ABSOLUTE, "optimizer.learning_rate=1e-30")
