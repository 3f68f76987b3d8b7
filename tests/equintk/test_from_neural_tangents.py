"""Every row of the guide for users of neural-tangents gives what theirs gave."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import relative_error

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "from_neural_tangents.md").read_text(encoding="utf-8")
CLOSED_FORM = 1e-10
SOLVER = 1e-5  # of the default tolerance, 1e-6 in a step
SMALL_STEPS = 2e-3  # how far steps of this size are from their continuous time


def section(name):
    return re.split(rf"^## {name}\n", GUIDE, flags=re.MULTILINE)[1].partition("\n## ")[
        0
    ]


def rows(name):
    """Pairs of what is typed there and here."""
    return re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", section(name), re.MULTILINE)


ENSEMBLE = "gradient_descent_mse_ensemble(kernel_fn, x, y, learning_rate"
MSE = "gradient_descent_mse(ntk, y, learning_rate"
FULL = "gradient_descent_mse(full, y, learning_rate, trace_axes=())"
CROSS_ENTROPY = "gradient_descent(cross_entropy, full, classes, "
SQUARED = "gradient_descent(squared, full, y, "
GP = "gp_inference(kernels, y, diag_reg)"
ODE = "learning_rate, trace_axes=())(ode_steps, f0"
MOMENTUM = "small_rate, momentum, trace_axes=())"
ALL_TEST = "kernels_test, kernels_test_test)"

PREDICT: dict[str, tuple[Any, float]] = {
    f"{MSE})(steps, f0)": ("mse_averaged_train", CLOSED_FORM),
    f"{MSE})(steps, f0, g0, ntk_test)[1]": ("mse_averaged_test", CLOSED_FORM),
    "gradient_descent_mse(ntk, y)(None, f0, g0, ntk_test)[1]": (
        ("mse_averaged_test", -1),
        CLOSED_FORM,
    ),
    f"{MSE})(steps, 0., 0., ntk_test)[1]": ("ensemble_ntk_mean", CLOSED_FORM),
    f"{FULL}(steps, f0)": ("mse_full_train", CLOSED_FORM),
    f"{FULL}(steps, f0, g0, full_test)[1]": ("mse_full_test", CLOSED_FORM),
    f"{MSE}, diag_reg)(steps, f0, g0, ntk_test)[1]": (
        "mse_averaged_relative_test",
        CLOSED_FORM,
    ),
    f"{MSE}, diag_reg, diag_reg_absolute_scale=True)(steps, f0, g0, ntk_test)[1]": (
        "mse_averaged_absolute_test",
        CLOSED_FORM,
    ),
    f"{MSE}, diag_reg)(steps, f0, f0, ntk)[1]": (
        "mse_averaged_relative_train",
        CLOSED_FORM,
    ),
    f"{CROSS_ENTROPY}{ODE})": ("cross_entropy_train", SOLVER),
    f"{CROSS_ENTROPY}{ODE}, g0, full_test)[1]": ("cross_entropy_test", SOLVER),
    f"{SQUARED}{MOMENTUM}(momentum_steps, f0)": (
        "momentum_squared_train",
        SMALL_STEPS,
    ),
    f"{CROSS_ENTROPY}{MOMENTUM}(momentum_steps, f0)": (
        "momentum_cross_entropy_train",
        SMALL_STEPS,
    ),
    # From step 100 it goes on to step 1000.
    f"{SQUARED}{MOMENTUM}(900., ODEState(fx_train, qx_train=qx_train)).fx_train": (
        ("momentum_squared_train", -1),
        SMALL_STEPS,
    ),
    f"{ENSEMBLE})(steps, x_test, 'ntk')": ("ensemble_ntk_mean", CLOSED_FORM),
    f"{ENSEMBLE})(steps, x_test, 'ntk', True).mean": ("ensemble_ntk_mean", CLOSED_FORM),
    f"{ENSEMBLE})(steps, x_test, 'ntk', True).covariance": (
        "ensemble_ntk_covariance",
        CLOSED_FORM,
    ),
    f"{ENSEMBLE})(steps, x_test, 'nngp', True).covariance": (
        "ensemble_nngp_covariance",
        CLOSED_FORM,
    ),
    f"{ENSEMBLE})(steps, None, 'ntk', True).covariance": (
        "ensemble_train_covariance",
        CLOSED_FORM,
    ),
    f"{ENSEMBLE}, diag_reg)(steps, x_test, 'ntk', True).covariance": (
        "ensemble_ntk_relative_covariance",
        CLOSED_FORM,
    ),
    f"{GP}('nngp', kernels_test)": ("gp_nngp_mean", CLOSED_FORM),
    f"{GP}('nngp', {ALL_TEST}.covariance": ("gp_nngp_covariance", CLOSED_FORM),
    f"{GP}('ntk', {ALL_TEST}.covariance": ("gp_ntk_covariance", CLOSED_FORM),
    f"{GP}('ntkgp', {ALL_TEST}.mean": ("gp_ntkgp_mean", CLOSED_FORM),
    f"{GP}('ntkgp', {ALL_TEST}.covariance": ("gp_ntkgp_covariance", CLOSED_FORM),
    "max_learning_rate(full)": (("max_learning_rates", 0), CLOSED_FORM),
    "max_learning_rate(full, momentum=momentum)": (
        ("max_learning_rates", 1),
        CLOSED_FORM,
    ),
    "max_learning_rate(ntk, y_train_size=y.size)": (
        ("max_learning_rates", 2),
        CLOSED_FORM,
    ),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(ROOT / "tests/golden/neural_tangents_predict.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def names(golden):
    """What the section on `predict` says there is, and what its own code adds."""
    kernels = {
        f"{kind}{suffix}": golden[f"{kind}_{part}"]
        for kind, parts in {
            "ntk": ("train", "test", "test_test"),
            "nngp": ("train", "test", "test_test"),
            "full": ("train", "test"),
        }.items()
        for part in parts
        for suffix in ["" if part == "train" else f"_{part}"]
    }
    names = kernels | {
        "y": golden["y"], "f0": golden["f0"], "g0": golden["f0_test"],
        "classes": golden["classes"], "steps": golden["times"],
        "ode_steps": golden["ode_times"], "momentum_steps": golden["momentum_steps"],
        "learning_rate": 0.7, "diag_reg": 0.1, "small_rate": 1e-3, "momentum": 0.9,
    }  # fmt: skip
    for block in re.findall(r"```python\n(.*?)```", section("predict"), re.DOTALL):
        exec(block, names)
    return names


def test_every_row_of_predict_is_known():
    assert [there for there, _ in rows("predict")] == list(PREDICT)


@pytest.mark.parametrize(("there", "here"), rows("predict"))
def test_a_row_of_predict_gives_what_theirs_gave(golden, names, there, here):
    saved, tolerance = PREDICT[there]
    saved, which = saved if isinstance(saved, tuple) else (saved, slice(None))
    assert relative_error(eval(here, names), golden[saved][which]) < tolerance
