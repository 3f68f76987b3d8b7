import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from experiments import kernels
from experiments.schema import (
    ExactConfig,
    KernelConfig,
    MonteCarloConfig,
    NNGPConfig,
    Projection,
)

# Less time to compile.
pytestmark = pytest.mark.usefixtures("runs_may_set_jax")


def network(key):
    return eqx.nn.MLP(3, 2, 4, 1, jnp.tanh, dtype=float, key=key)


MODEL = network(jr.key(0))
X_TRAIN, X_TEST = np.split(np.random.default_rng(0).standard_normal((8, 3)), [5])


def build(config, progress=lambda done, total: None, key=1):
    x_train, x_test = jnp.asarray(X_TRAIN), jnp.asarray(X_TEST)
    return kernels.build(config, MODEL, network, jr.key(key), x_train, x_test, progress)


def mc(batch_size, coupled, proj_dim, method="gaussian"):
    return MonteCarloConfig(
        "mc", batch_size, coupled, proj_dim, Projection[method], False
    )


def nngp(batch_size, n_samples):
    return NNGPConfig("nngp", batch_size, n_samples, False)


def blocks(kernel):
    """Train-train over test-train, outputs coupled by the examples' side."""
    k = np.concatenate([kernel.train_train, kernel.test_train])
    return k.transpose(0, 2, 1, 3).reshape(len(k) * 2, -1) if k.ndim == 4 else k


@pytest.mark.parametrize("coupled", [True, False])
def test_the_exact_kernel_is_that_of_the_jacobians(coupled):
    params, static = eqx.partition(MODEL, eqx.is_inexact_array)
    f = lambda p, x: eqx.combine(p, static)(x)
    jacobian = jax.jit(jax.vmap(jax.jacrev(f), (None, 0)))
    j = jacobian(params, np.concatenate([X_TRAIN, X_TEST]))
    j = np.concatenate([leaf.reshape(8, 2, -1) for leaf in jax.tree.leaves(j)], axis=2)
    expected = np.einsum("iap,jbp->ijab", j, j[:5])
    if not coupled:
        expected = np.einsum("ijaa->ij", expected) / 2
    got = build(ExactConfig("exact", 2, coupled))
    np.testing.assert_allclose(got.train_train, expected[:5], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got.test_train, expected[5:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["gaussian", "rademacher", "sketch"])
def test_one_draw_of_projections_serves_training_and_test_inputs(method):
    # So all blocks together are the Gram matrix of few features.
    k = blocks(build(mc(5, True, 3, method)))
    assert k.shape == (16, 10)
    assert np.linalg.matrix_rank(k[:10]) == 3
    assert np.linalg.matrix_rank(k) == 3


def test_uncoupled_projections_are_the_average_over_outputs_of_coupled_ones():
    coupled = build(mc(4, True, 7))
    averaged = build(mc(4, False, 7))
    for name in ("train_train", "test_train"):
        trace = np.einsum("ijaa->ij", getattr(coupled, name)) / 2
        np.testing.assert_allclose(
            getattr(averaged, name), trace, rtol=1e-10, atol=1e-12
        )


def test_many_projections_are_close_to_the_exact_kernel():
    got = build(mc(8, True, 5_000)).train_train
    exact = build(ExactConfig("exact", 8, True)).train_train
    # about sqrt(rank / proj_dim) = 0.04
    assert nt.metrics.relative_distance(got, exact) < 0.12


def test_the_nngp_kernel_is_the_covariance_over_networks_drawn_from_the_key():
    got = build(nngp(4, 6))
    expected = nt.nngp(network, jr.key(1), X_TEST, X_TRAIN, 6)
    np.testing.assert_allclose(got.test_train, expected, rtol=1e-10)
    assert got.train_train.shape == (5, 5)
    assert got.networks == ("readout", "all")


@pytest.mark.parametrize(
    "config",
    [ExactConfig("exact", 4, True), mc(4, True, 7)],
    ids=lambda config: config.name,
)
def test_tangent_kernels_predict_the_whole_network_and_bound_its_learning_rate(config):
    got = build(config)
    assert got.networks == ("all",)
    assert np.array_equal(got.tangent, got.train_train)


def test_the_learning_rate_of_kernel_nngp_is_bound_by_the_tangent_kernel():
    got = build(nngp(4, 6))
    np.testing.assert_allclose(
        got.tangent, build(ExactConfig("exact", 4, True)).tangent
    )


@pytest.mark.parametrize(
    "config",
    [
        ExactConfig("exact", 2, True),
        mc(2, True, 7),
        nngp(2, 6),
    ],
    ids=lambda config: config.name,
)
def test_progress_ends_when_all_is_done(config):
    seen = []
    build(config, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_an_unknown_kernel_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no kernel `rbf`.*one of exact, mc, nngp"):
        build(KernelConfig("rbf", 4))


def test_a_kernel_is_not_changed_once_it_is_built():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build(ExactConfig("exact", 4, True)).networks = ()  # type: ignore
