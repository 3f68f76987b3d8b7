"""Every row of the guide for users of neural-tangents gives what theirs gave."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

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


class Small(eqx.Module):
    """An output of shape `(2, 3)`, with arguments that are no input."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.first = eqx.nn.Linear(3, 4, key=k1)
        self.last = eqx.nn.Linear(4, 6, key=k2)

    def __call__(self, x, temperature=1.0, key=None):
        h = jnp.tanh(self.first(x))
        if key is not None:
            h = jnp.where(jr.bernoulli(key, 0.5, h.shape), h, 0.0)
        return (temperature * self.last(h)).reshape(2, 3)


KEY = jr.key(0)
N_SAMPLES = 4


def outputs(model, x, **kwargs):
    return np.stack([np.asarray(model(row, **kwargs)) for row in x])


def jacobians(model, x, **kwargs):
    """`(n, 2, 3, n_params)`."""
    flat, unravel = ravel_pytree(eqx.filter(model, eqx.is_array))
    rest = eqx.filter(model, eqx.is_array, inverse=True)
    of = lambda p, row: eqx.combine(unravel(p), rest)(row, **kwargs)
    return np.stack([np.asarray(jax.jacrev(of)(flat, row)) for row in x])


class Truth:
    """Products of Jacobians, or outputs, of one network, with the axes of theirs."""

    def __init__(self):
        rng = np.random.default_rng(0)
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))
        self.model = Small(KEY)
        self.x1, self.x2 = draw(4, 3), draw(3, 3)
        self.shift1, self.shift2 = draw(4, 3), draw(3, 3)
        self.vector = draw(3, 2, 3)

    def ntk(self, axes, x1=None, x2=None, **kwargs):
        """`axes` as `numpy.einsum` has them of `(i, a, b, p)` and `(j, c, d, p)`."""
        x1, x2 = (self.x1 if x1 is None else x1), (self.x2 if x2 is None else x2)
        j1, j2 = (jacobians(self.model, x, **kwargs) for x in (x1, x2))
        return np.einsum(axes, j1, j2)

    def nngp(self, axes, x2=None):
        f1, f2 = (outputs(self.model, x) for x in (self.x1, x2))
        return np.einsum(axes, f1, f2)

    def mean(self, axes, n_samples=N_SAMPLES, of=jacobians):
        models = [Small(jr.fold_in(KEY, i)) for i in range(n_samples)]
        draws = [
            np.einsum(axes, of(model, self.x1), of(model, self.x2)) for model in models
        ]
        return np.mean(draws, axis=0)

    def derivatives(self, degree):
        """Of the outputs from the parameters towards 1.1 times them."""
        params, rest = eqx.partition(self.model, eqx.is_array)
        along = lambda t: jnp.asarray(
            jax.vmap(eqx.combine(jtu.tree_map(lambda p: (1 + t) * p, params), rest))(
                self.x1
            )
        )
        found = []
        for _ in range(degree + 1):
            found.append(np.asarray(along(0.0)))
            along = jax.jacfwd(along)
        return found


NTK = "empirical_ntk_fn(f, trace_axes=(-2, -1)"
COUPLED = "empirical_ntk_fn(f, trace_axes=()"
NNGP = "empirical_nngp_fn(f"
BOTH = "empirical_kernel_fn(f, trace_axes=(-2, -1))(x1, x2, "
X1_X2 = "(x1, x2, params)"
X1_NONE = "(x1, None, params)"
AVERAGED = lambda o: o.ntk("iabp,jabp->ij") / 6

EMPIRICAL: dict[str, Callable[[Truth], Any]] = {
    f"empirical_ntk_fn(f){X1_X2}": lambda o: o.ntk("iabp,jcbp->ijac") / 3,
    f"{NTK}){X1_X2}": AVERAGED,
    f"empirical_ntk_fn(f, trace_axes=(1, 2)){X1_NONE}": lambda o: (
        o.ntk("iabp,jabp->ij", x2=o.x1) / 6
    ),
    f"{COUPLED}){X1_X2}": lambda o: o.ntk("iabp,jcdp->ijacbd"),
    f"{COUPLED}, diagonal_axes=(-2, -1)){X1_X2}": lambda o: o.ntk("iabp,jabp->ijab"),
    f"empirical_ntk_fn(f, trace_axes=(-1,), diagonal_axes=(-2,)){X1_X2}": lambda o: (
        o.ntk("iabp,jabp->ija") / 3
    ),
    f"{COUPLED}, diagonal_axes=(-2,)){X1_X2}": lambda o: o.ntk("iabp,jadp->ijabd"),
    f"{COUPLED}, diagonal_axes=(-1,)){X1_X2}": lambda o: o.ntk("iabp,jcbp->ijacb"),
    f"{NTK}, diagonal_axes=(0,)){X1_NONE}": lambda o: (
        o.ntk("iabp,iabp->i", x2=o.x1) / 6
    ),
    f"{COUPLED}, diagonal_axes=(0,)){X1_NONE}": lambda o: o.ntk(
        "iabp,icdp->iacbd", x2=o.x1
    ),
    f"{NTK}, vmap_axes=0){X1_X2}": AVERAGED,
    f"{NTK}, implementation=NtkImplementation.AUTO){X1_X2}": AVERAGED,
    f"{NTK}, implementation=3, _j_rules=True, _s_rules=True, _fwd=None){X1_X2}": (
        AVERAGED
    ),
    f"{NTK})(x1, x2, params, temperature=2.)": lambda o: (
        o.ntk("iabp,jabp->ij", temperature=2.0) / 6
    ),
    f"{NTK})(x1, x2, params, shift=(shift1, shift2))": lambda o: (
        o.ntk("iabp,jabp->ij", o.x1 + o.shift1, o.x2 + o.shift2) / 6
    ),
    f"{NTK})(x1, None, params, rng=key)": lambda o: (
        o.ntk("iabp,jabp->ij", x2=o.x1, key=KEY) / 6
    ),
    f"{NNGP}){X1_X2}": lambda o: o.nngp("iab,jcb->ijac", o.x2) / 3,
    f"{NNGP}, trace_axes=(-2, -1)){X1_X2}": lambda o: o.nngp("iab,jab->ij", o.x2) / 6,
    f"{NNGP}, trace_axes=()){X1_X2}": lambda o: o.nngp("iab,jcd->ijacbd", o.x2),
    f"{NNGP}, trace_axes=(-1,), diagonal_axes=(-2,)){X1_X2}": lambda o: (
        o.nngp("iab,jab->ija", o.x2) / 3
    ),
    f"{NNGP}, trace_axes=(-2, -1), diagonal_axes=(0,)){X1_NONE}": lambda o: (
        o.nngp("iab,iab->i", o.x1) / 6
    ),
    f"{NNGP}, trace_axes=(), diagonal_axes=(0,)){X1_NONE}": lambda o: o.nngp(
        "iab,icd->iacbd", o.x1
    ),
    f"{BOTH}'ntk', params)": AVERAGED,
    f"{BOTH}'nngp', params)": lambda o: o.nngp("iab,jab->ij", o.x2) / 6,
    f"{BOTH}None, params).ntk": AVERAGED,
    f"{BOTH}('nngp', 'ntk'), params).nngp": lambda o: o.nngp("iab,jab->ij", o.x2) / 6,
    "empirical_ntk_vp_fn(f, x1, x2, params)(vector)": lambda o: np.einsum(
        "iabjcd,jcd->iab", o.ntk("iabp,jcdp->iabjcd"), o.vector
    ),
    "linearize(f, params)(moved, x1)": lambda o: (
        o.derivatives(1)[0] + 0.1 * o.derivatives(1)[1]
    ),
    "taylor_expand(f, params, 2)(moved, x1)": lambda o: sum(
        factor * derivative
        for factor, derivative in zip((1, 0.1, 0.005), o.derivatives(2), strict=True)
    ),
}

BATCHED = f"batch(ntk_fn, batch_size=2){X1_X2}"

BATCH: dict[str, Callable[[Truth], Any]] = {
    BATCHED: AVERAGED,
    BATCHED.replace("=2", "=0"): AVERAGED,
    BATCHED.replace("=2", "=2, device_count=-1"): AVERAGED,
    BATCHED.replace("=2", "=2, device_count=1"): AVERAGED,
    BATCHED.replace("=2", "=2, device_count=0"): AVERAGED,
    BATCHED.replace("=2", "=2, store_on_device=False"): AVERAGED,
}

DRAWN = "monte_carlo_kernel_fn(init_fn, apply_fn, key, n_samples"
OVER_ALL = "trace_axes=(-2, -1))(x1, x2"
MEAN = lambda o: o.mean("iabp,jabp->ij") / 6

MONTE_CARLO: dict[str, Callable[[Truth], Any]] = {
    f"{DRAWN}, {OVER_ALL}, 'ntk')": MEAN,
    f"{DRAWN}, {OVER_ALL}, 'nngp')": lambda o: o.mean("iab,jab->ij", of=outputs) / 6,
    f"{DRAWN}, {OVER_ALL}).ntk": MEAN,
    f"list({DRAWN.replace('n_samples', '[2, n_samples]')}, {OVER_ALL}, 'ntk'))": (
        lambda o: np.stack([o.mean("iabp,jabp->ij", n) / 6 for n in (2, N_SAMPLES)])
    ),
    f"{DRAWN})(x1, x2, 'ntk')": lambda o: o.mean("iabp,jcbp->ijac") / 3,
    f"{DRAWN}, trace_axes=(-1,), diagonal_axes=(-2,))(x1, x2, 'ntk')": lambda o: (
        o.mean("iabp,jabp->ija") / 3
    ),
    f"{DRAWN}, batch_size=2, device_count=-1, {OVER_ALL}, 'ntk')": MEAN,
}

MODULES = {"empirical": EMPIRICAL, "batch": BATCH, "monte_carlo": MONTE_CARLO}

AXES = "trace_axes diagonal_axes vmap_axes implementation _j_rules _s_rules _fwd"
BATCHES = "batch_size device_count store_on_device"
PUBLIC = {
    "empirical": "empirical_ntk_fn empirical_nngp_fn empirical_kernel_fn "
    f"empirical_ntk_vp_fn linearize taylor_expand NtkImplementation rng {AXES}",
    "batch": BATCHES,
    "monte_carlo": f"init_fn apply_fn key n_samples get {BATCHES} {AXES}",
}


@pytest.fixture(scope="module")
def truth():
    return Truth()


@pytest.fixture(scope="module")
def names_of_models(truth):
    """What these sections say there is, and what their own code adds."""
    names: dict[str, Any] = vars(truth) | {
        "key": KEY,
        "model_fn": eqx.filter_jit(Small),
        "n_samples": N_SAMPLES,
    }
    for module in MODULES:
        for block in re.findall(r"```python\n(.*?)```", section(module), re.DOTALL):
            exec(block, names)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_every_row_and_every_argument_of_a_module_is_known(module):
    assert [there for there, _ in rows(module)] == list(MODULES[module])
    words = set(re.findall(r"\w+", section(module)))
    assert not set(PUBLIC[module].split()) - words


@pytest.mark.parametrize(
    ("module", "there", "here"),
    [(module, *row) for module in MODULES for row in rows(module)],
)
def test_a_row_equals_a_product_of_jacobians(
    truth, names_of_models, module, there, here
):
    expected = MODULES[module][there](truth)
    assert relative_error(eval(here, names_of_models), expected) < 1e-12
