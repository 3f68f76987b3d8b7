import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from experiments import kernel_errors, kernels, models
from experiments.kernels import Kernels
from experiments.schema import (
    ConfigError,
    ExactConfig,
    InfiniteConfig,
    MonteCarloConfig,
    NNGPConfig,
    Projection,
)

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


LIMITED = ExactConfig("exact", 32, True, measure_limit=True)


def infinite(model, x_test=X[:2]):
    config = InfiniteConfig("infinite", 32, measure_limit=True)
    return config, kernels.build(
        config, model, network, jr.key(0), X, x_test, lambda done, total: None
    )


def test_the_distance_to_infinite_width_is_that_of_the_averaged_kernels():
    model = network(jr.key(0))
    config, k = infinite(model)
    own, limit = nt.ntk(model, X), nt.infinite_ntk(model, X)
    np.testing.assert_allclose(k.train_train, limit, rtol=1e-12)
    np.testing.assert_allclose(k.test_train, limit[:2], rtol=1e-12)
    np.testing.assert_allclose(k.tangent, nt.ntk_full(model, X), rtol=1e-12)
    expected = np.linalg.norm(own - limit) / np.linalg.norm(limit)
    for found in (
        kernel_errors.to_the_limit(config, k, model, X),
        kernel_errors.to_the_limit(LIMITED, k, model, X),
    ):
        assert found == {
            "limit_distance": pytest.approx(expected), "limit_missing": ""
        }  # fmt: skip
    silent = dataclasses.replace(LIMITED, measure_limit=False)
    assert kernel_errors.to_the_limit(silent, k, model, X) == {}


def test_a_rescaled_network_has_the_limit_of_its_square():
    model = network(jr.key(0))
    rescaled = models.Rescaled(model, model, 3.0)
    # Divided by the square of the scale it is the kernel of the same network.
    np.testing.assert_allclose(nt.ntk(rescaled, X), 9 * nt.ntk(model, X), rtol=1e-9)
    k = kernels.limit(rescaled, X)
    np.testing.assert_allclose(k, 9 * nt.infinite_ntk(model, X), rtol=1e-12)


class Sorted(eqx.Module):
    module: Any

    def __call__(self, x):
        return jnp.sort(self.module(x))


def test_a_model_without_a_limit_is_refused_and_its_distance_is_empty():
    mlp = eqx.nn.MLP(4, 2, 4, 1, jnp.tanh, dtype=float, key=jr.key(0))
    model = nt.parameterize(Sorted(mlp), X[0], jr.key(0), "ntk", W_std=1.4, b_std=0.3)
    with pytest.raises(ConfigError, match="kernel=infinite needs.*`sort`"):
        infinite(model)
    k = jnp.eye(6)
    found = kernel_errors.to_the_limit(LIMITED, Kernels(k, k, k), model, X)
    assert found["limit_distance"] == "" and "`sort`" in str(found["limit_missing"])
