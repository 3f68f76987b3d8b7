"""One set of kernels: neural-tangents 0.6.5 in float64 predicts the same."""

from pathlib import Path

import jax.numpy as jnp
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
from tests.helpers import relative_error

LEARNING_RATE, REGULARISATION = 0.7, 0.1
CLOSED_FORM = 1e-10  # what differs is rounding, in its solvers and ours


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[2] / "golden" / "neural_tangents_predict.npz"
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def c(golden):
    return nt.loss_scale("mean", golden["y"])


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("averaged", "ntk_train", "ntk_test"),
        ("full", "full_train", "full_test"),
    ],
)
def test_gradient_descent_mse(golden, c, name, train, test):
    times = LEARNING_RATE * golden["times"]
    for options, suffix in (
        ({}, ""),
        ({"ridge_relative": REGULARISATION}, "_relative"),
        ({"ridge": c * REGULARISATION}, "_absolute"),
    ):
        flow = GradientFlow(golden[train], golden["y"], c=c, **options)
        got = flow.test(times, golden[test], golden["f0"], golden["f0_test"])
        expected = golden[f"mse_{name}{suffix}_test"]
        assert relative_error(got, expected) < CLOSED_FORM
    flow = GradientFlow(golden[train], golden["y"], c=c)
    on_train = flow.train(times, golden["f0"])
    assert relative_error(on_train, golden[f"mse_{name}_train"]) < CLOSED_FORM


def ensemble(golden, kind, **options):
    return Ensemble(
        golden[f"{kind}_train"],
        golden["y"],
        nngp_train_train=golden["nngp_train"],
        **options,
    )


def on_test(golden, kind):
    return golden[f"{kind}_test"], golden["nngp_test"], golden["nngp_test_test"]


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_gradient_descent_mse_ensemble(golden, c, kind):
    times = LEARNING_RATE * golden["times"]
    got = ensemble(golden, kind, c=c).test(times, *on_test(golden, kind))
    mean, covariance = (
        golden[f"ensemble_{kind}_{part}"] for part in ("mean", "covariance")
    )
    assert relative_error(got.mean, mean) < CLOSED_FORM
    assert relative_error(got.covariance, covariance) < CLOSED_FORM


def test_gradient_descent_mse_ensemble_on_the_training_set(golden, c):
    got = ensemble(golden, "ntk", c=c).train(LEARNING_RATE * golden["times"])
    assert relative_error(got.mean, golden["ensemble_train_mean"]) < CLOSED_FORM
    covariance = golden["ensemble_train_covariance"]
    assert relative_error(got.covariance, covariance) < CLOSED_FORM


def test_regularised_ensemble(golden, c):
    times = LEARNING_RATE * golden["times"]
    for kind in ("ntk", "nngp"):
        got = ensemble(golden, kind, c=c, ridge_relative=REGULARISATION)
        got = got.test(times, *on_test(golden, kind))
        mean, covariance = (
            golden[f"ensemble_{kind}_relative_{part}"]
            for part in ("mean", "covariance")
        )
        assert relative_error(got.mean, mean) < CLOSED_FORM
        if kind == "ntk":
            assert relative_error(got.covariance, covariance) < CLOSED_FORM
        else:  # of the NNGP it gives the spread of networks with noise in their targets
            assert relative_error(got.covariance, covariance) > 1e-2


def test_gp_inference(golden):
    given = {"ridge_relative": REGULARISATION}
    results = {
        "ntk": ensemble(golden, "ntk", **given).test(jnp.inf, *on_test(golden, "ntk"))
    }
    for name, kind in (("nngp", "nngp"), ("ntkgp", "ntk")):
        process = GaussianProcess(golden[f"{kind}_train"], golden["y"], **given)
        results[name] = process.test(
            golden[f"{kind}_test"], golden[f"{kind}_test_test"]
        )
    for name, got in results.items():
        assert relative_error(got.mean, golden[f"gp_{name}_mean"]) < CLOSED_FORM
        covariance = golden[f"gp_{name}_covariance"]
        assert relative_error(got.covariance, covariance) < CLOSED_FORM


def test_gradient_descent_of_cross_entropy(golden, c):
    # Its solver runs at 1.4e-8, relative and absolute.
    flow = FunctionSpaceFlow(
        golden["full_train"], golden["classes"], loss=losses.softmax_cross_entropy,
        c=c, rtol=1e-8, atol=1e-11,
    )  # fmt: skip
    times = LEARNING_RATE * golden["ode_times"]
    train = flow.train(times, golden["f0"])
    test = flow.test(times, golden["full_test"], golden["f0"], golden["f0_test"])
    assert relative_error(train, golden["cross_entropy_train"]) < 1e-7
    assert relative_error(test, golden["cross_entropy_test"]) < 1e-7


def test_gradient_descent_with_momentum(golden, c):
    # It follows a continuous time in which steps are small; ours are steps. A tenth of
    # its learning rate, 1e-3, would be its tenth of an error: 1e-3 to 3e-4 here.
    given = {"learning_rate": 1e-3, "momentum": 0.9, "c": c}
    arguments = (golden["full_test"], golden["f0"], golden["f0_test"])
    dynamics = {
        "squared": GradientDescent(golden["full_train"], golden["y"], **given),
        "cross_entropy": FunctionSpaceDescent(
            golden["full_train"], golden["classes"],
            loss=losses.softmax_cross_entropy, **given,
        ),
    }  # fmt: skip
    for name, descent in dynamics.items():
        got = descent.test(golden["momentum_steps"], *arguments)
        assert relative_error(got, golden[f"momentum_{name}_test"]) < 2e-3


def test_max_learning_rate(golden, c):
    got = [
        nt.metrics.max_learning_rate(golden["full_train"], c=c, momentum=momentum)
        for momentum in (0.0, 0.9)
    ]
    got.append(nt.metrics.max_learning_rate(golden["ntk_train"], c=c))
    assert relative_error(got, golden["max_learning_rates"]) < CLOSED_FORM
