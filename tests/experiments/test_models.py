import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import erf
from scipy.stats import norm

import equintk as nt
from experiments import models
from experiments.schema import (
    Activation,
    CNNConfig,
    MLPConfig,
    ModelConfig,
    Pooling,
    ResidualMLPConfig,
    SirenConfig,
)

IMAGE = (2, 3, 4)

CONFIGS = {
    "mlp": MLPConfig("mlp", 6, 3, Activation.tanh),
    "mlp_of_one_layer": MLPConfig("mlp", 6, 1, Activation.tanh),
    "residual_mlp": ResidualMLPConfig("residual_mlp", 6, 2, Activation.gelu),
    "siren": SirenConfig("siren", 6, 2, 10.0),
    "cnn": CNNConfig("cnn", 6, 2, Activation.tanh, 3, Pooling.mean),
    "cnn_flat": CNNConfig("cnn", 6, 1, Activation.tanh, 2, Pooling.flatten),
}

every_model = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def build(config, image_shape: tuple[int, int, int] | None = IMAGE, seed=0):
    return models.build(config, 24, 3, image_shape, jr.key(seed))


def wrap(network):
    return models.Rescaled(network, None, 2.0)


def as_numpy(layer):
    return np.asarray(layer.weight), np.asarray(layer.bias)


@every_model
def test_one_example_gives_one_output_vector(config):
    x = jax.ShapeDtypeStruct((24,), float)
    assert eqx.filter_eval_shape(lambda x: build(config)(x), x).shape == (3,)


@every_model
def test_the_output_depends_on_every_parameter(config):
    model = build(config)
    x = jnp.linspace(-1, 1, 24)
    loss = lambda model: jnp.sum(model(x) ** 2)
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(model)
    n_arrays = 2 * (len(model.hidden) + 2)  # a weight and a bias per layer
    leaves = jtu.tree_leaves(gradient)
    assert len(leaves) == n_arrays
    assert all(jnp.any(leaf != 0) and jnp.isfinite(leaf).all() for leaf in leaves)


@every_model
def test_the_key_alone_decides_the_parameters(config):
    weights = [build(config, seed=seed).input.weight for seed in (0, 0, 1)]
    assert jnp.array_equal(weights[0], weights[1])
    assert not jnp.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda depth: MLPConfig("mlp", 4, depth, Activation.erf),
        lambda depth: SirenConfig("siren", 4, depth, 1.0),
        lambda depth: CNNConfig("cnn", 4, depth, Activation.erf, 3, Pooling.mean),
    ],
    ids=["mlp", "siren", "cnn"],
)
def test_depth_counts_activations_the_first_of_which_follows_the_input(make, depth):
    names = ["input", *(f"hidden[{i}]" for i in range(depth - 1)), "readout"]
    model = build(make(depth))
    assert list(models.layers(model)) == names


def test_depth_of_a_residual_network_counts_its_residual_layers():
    config = ResidualMLPConfig("residual_mlp", 4, 2, Activation.erf)
    names = ["input", "hidden[0]", "hidden[1]", "readout"]
    model = build(config)
    assert list(models.layers(model)) == names


@pytest.mark.parametrize(
    "activation, twin",
    [
        (Activation.erf, erf),
        (Activation.relu, lambda x: np.maximum(x, 0)),
        (Activation.tanh, np.tanh),
        (Activation.gelu, lambda x: x * norm.cdf(x)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_mlp_is_what_numpy_says(activation, twin):
    model = build(MLPConfig("mlp", 6, 2, activation))
    x = np.random.default_rng(0).standard_normal(24)
    (w1, b1), (w2, b2), (w3, b3) = map(
        as_numpy, (model.input, model.hidden[0], model.readout)
    )
    expected = w3 @ twin(w2 @ twin(w1 @ x + b1) + b2) + b3
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12)


def test_residual_mlp_is_what_numpy_says():
    model = build(ResidualMLPConfig("residual_mlp", 6, 1, Activation.tanh))
    x = np.random.default_rng(0).standard_normal(24)
    (w1, b1), (w2, b2), (w3, b3) = map(
        as_numpy, (model.input, model.hidden[0], model.readout)
    )
    h = w1 @ x + b1
    expected = w3 @ (h + np.tanh(w2 @ h + b2)) + b3
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)


def test_siren_has_its_frequency_in_the_first_layer_alone():
    model = build(SirenConfig("siren", 6, 2, 7.0))
    x = np.random.default_rng(0).standard_normal(24)
    (w1, b1), (w2, b2), (w3, b3) = map(
        as_numpy, (model.input, model.hidden[0], model.readout)
    )
    expected = w3 @ np.sin(w2 @ np.sin(7 * (w1 @ x + b1)) + b2) + b3
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)


@pytest.mark.parametrize("pooling", Pooling)
def test_cnn_is_what_scipy_says(pooling):
    model = build(CNNConfig("cnn", 6, 1, Activation.tanh, 3, pooling))
    x = np.random.default_rng(0).standard_normal(24)
    w1, b1 = as_numpy(model.input)
    w2, b2 = as_numpy(model.readout)
    before = [
        sum(
            correlate2d(channel, kernel, mode="same")
            for channel, kernel in zip(x.reshape(IMAGE), kernels, strict=True)
        )
        for kernels in w1
    ]
    h = np.tanh(np.stack(before) + b1)
    features = h.mean(axis=(1, 2)) if pooling is Pooling.mean else h.ravel()
    expected = w2 @ features + b2
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)


@every_model
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_readout_only_selects_the_two_arrays_of_the_readout(config, wrapped):
    network = build(config)
    model = wrap(network) if wrapped else network
    selected, rest = eqx.partition(model, models.readout_only(model, jnp.zeros(24)))
    arrays = jtu.tree_leaves(selected)
    assert arrays[0] is network.readout.weight
    assert arrays[1] is network.readout.bias
    assert len(arrays) == 2
    assert eqx.tree_equal(eqx.combine(selected, rest), model)


@every_model
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_layers_are_all_the_arrays_of_the_network_by_name(config, wrapped):
    network = build(config)
    by_name = models.layers(wrap(network) if wrapped else network)
    assert by_name["input"][0] is network.input.weight
    assert by_name["readout"][1] is network.readout.bias
    everything = [leaf for arrays in by_name.values() for leaf in arrays]
    assert sorted(map(id, everything)) == sorted(map(id, jtu.tree_leaves(network)))


def test_a_cnn_refuses_inputs_that_are_no_images():
    with pytest.raises(ValueError, match="cnn reads images.*24 numbers.*digits_3v8"):
        build(CONFIGS["cnn"], image_shape=None)


def test_an_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no model `transformer`.*mlp, cnn, siren"):
        build(ModelConfig("transformer", 4, 2))


def test_layers_of_any_module_are_named_by_what_holds_their_arrays():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jr.key(0))
    assert list(models.layers(model)) == ["layers[0]", "layers[1]"]
    alone = models.layers(eqx.nn.Linear(2, 1, use_bias=False, key=jr.key(0)))
    assert list(alone) == ["weight"]


def test_a_rescaled_network_is_a_multiple_of_what_it_moved():
    network, start = build(CONFIGS["mlp"]), build(CONFIGS["mlp"], seed=1)
    x = jr.normal(jr.key(0), (24,))
    got = models.Rescaled(network, start, 3.0)(x)
    np.testing.assert_allclose(got, 3 * (network(x) - start(x)), rtol=1e-12)
    kernel = nt.ntk(models.Rescaled(network, network, 3.0), x[None])
    np.testing.assert_allclose(kernel, 9 * nt.ntk(network, x[None]), rtol=1e-10)


def test_no_scale_and_no_centre_leave_a_network_as_it_is():
    network = build(CONFIGS["mlp"])
    assert models.rescaled(CONFIGS["mlp"], network) is network
    scaled = dataclasses.replace(CONFIGS["mlp"], output_scale=2.0, centred=True)
    wrapped = models.rescaled(scaled, network)
    assert not np.any(wrapped(jnp.ones(24)))
    assert list(models.layers(wrapped)) == list(models.layers(network))
