import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from experiments import kernel_errors
from experiments.kernels import Kernels
from experiments.schema import ExactConfig, MonteCarloConfig, NNGPConfig, Projection

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)))
MC = MonteCarloConfig("mc", 32, True, 64, Projection.gaussian, measure_error=True)
NNGP = NNGPConfig("nngp", 32, 64, measure_error=True)


def network(key, n_out=2):
    model = eqx.nn.MLP(4, n_out, 64, 1, jnp.tanh, dtype=float, key=key)
    return nt.parameterize(model, X[0], key, "ntk", W_std=1.4, b_std=0.3)


def errors(config, estimates, exact, model):
    """Of each estimate, and their law; what is measured of the first is the same."""
    distances = np.linalg.norm(estimates - exact[None], axis=(1, 2)) / np.linalg.norm(
        exact
    )
    k = estimates[0]
    found = kernel_errors.measure(config, Kernels(k, k, k), model, X)
    assert found["kernel_error"] == pytest.approx(distances[0], rel=1e-6)
    return distances, found["kernel_error_law"]


def test_errors_of_projections_of_coupled_outputs_obey_their_law():
    model = network(jr.key(0))
    features = nt.ntk_features(model, jr.key(1), X, 64 * 100)
    z = features.reshape(6, 2, 100, 64) * 100**0.5
    estimates = jnp.einsum("iasp,jasp->sij", z, z)
    found, law = errors(MC, estimates, nt.ntk(model, X), model)
    # Of 100 draws, whose errors spread by a third, the mean square is good to some 7 %.
    assert np.sqrt(np.mean(found**2)) == pytest.approx(law, rel=0.15)


def test_the_law_of_one_output_is_that_of_the_effective_rank():
    full = np.asarray(nt.ntk_full(network(jr.key(0), n_out=1), X))
    rank = float(nt.metrics.effective_rank(full[:, :, 0, 0]))
    expected = np.sqrt((1 + rank) / 64)
    assert kernel_errors.projection_law(full, 64) == pytest.approx(expected)


def test_errors_of_sampled_outputs_obey_their_law():
    outputs = jax.jit(jax.vmap(lambda key: jax.vmap(network(key))(X)))
    f = outputs(jr.split(jr.key(1), 40 * 64)).reshape(40, 64, 6, 2)
    estimates = jnp.einsum("tsia,tsja->tij", f, f) / 128
    model = network(jr.key(0))
    found, law = errors(NNGP, estimates, nt.infinite_nngp(model, X), model)
    assert np.sqrt(np.mean(found**2)) == pytest.approx(law, rel=0.2)


def test_exact_kernels_and_estimates_that_nobody_asks_about_have_no_error():
    k = jnp.eye(6)
    exact = ExactConfig("exact", 32, True)
    silent = [dataclasses.replace(c, measure_error=False) for c in (MC, NNGP)]
    for config in (exact, *silent):
        assert kernel_errors.measure(config, Kernels(k, k, k), None, X) == {}
