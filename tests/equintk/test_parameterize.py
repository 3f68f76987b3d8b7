"""The parameterizations: variances, multipliers, roles, and the refusals."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import ZOO, assert_close

LAYERS = {
    "Linear": (eqx.nn.Linear(400, 300, key=jr.key(0)), (400,), 400),
    "Conv1d": (eqx.nn.Conv1d(20, 60, 5, key=jr.key(0)), (20, 9), 100),
    "Conv2d, groups": (
        eqx.nn.Conv2d(20, 60, 3, groups=2, key=jr.key(0)),
        (20, 9, 9),
        90,
    ),
    "ConvTranspose2d": (
        eqx.nn.ConvTranspose2d(20, 60, 3, key=jr.key(0)),
        (20, 5, 5),
        180,
    ),
    "Embedding": (eqx.nn.Embedding(100, 300, key=jr.key(0)), (), 1),
}


@pytest.mark.parametrize("scheme", ["ntk", "standard"])
@pytest.mark.parametrize("name", LAYERS)
def test_effective_weights_have_variance_w_over_fan_in(name, scheme, getkey):
    layer, shape, fan_in = LAYERS[name]
    x = jax.ShapeDtypeStruct(shape, jnp.int32 if name == "Embedding" else jnp.float64)
    got = nt.parameterize(layer, x, getkey(), scheme, W_std=1.5, b_std=0.3)
    weight, raw = got.effective.weight, got.module.weight
    n = weight.size
    assert abs(jnp.var(weight) * fan_in / 1.5**2 - 1) < 5 * np.sqrt(2 / n)
    raw_variance = 1.0 if scheme == "ntk" else 1.5**2 / fan_in
    assert abs(jnp.var(raw) / raw_variance - 1) < 5 * np.sqrt(2 / n)
    if getattr(layer, "bias", None) is not None:
        assert abs(jnp.std(got.effective.bias) / 0.3 - 1) < 5 / np.sqrt(
            2 * layer.bias.size
        )


@pytest.mark.parametrize("cell", [eqx.nn.GRUCell, eqx.nn.LSTMCell])
def test_recurrent_cells_have_two_fan_ins(cell, getkey):
    class Step(eqx.Module):
        cell: Any

        def __call__(self, x):
            h = jnp.zeros(200)
            out = self.cell(x, (h, h) if cell is eqx.nn.LSTMCell else h)
            return out[0] if cell is eqx.nn.LSTMCell else out

    got = nt.parameterize(Step(cell(50, 200, key=getkey())), jnp.zeros(50), getkey())
    assert np.isclose(dict(got.multipliers)[".cell.weight_ih"], 50**-0.5)
    assert np.isclose(dict(got.multipliers)[".cell.weight_hh"], 200**-0.5)
    assert dict(got.multipliers)[".cell.bias"] == 0.0


def test_the_ntk_of_a_deep_network_does_not_grow_with_width_only_in_the_ntk_scheme(
    getkey,
):
    x = jr.normal(getkey(), (3, 5))

    def trace(width, scheme):
        model = eqx.nn.MLP(5, 1, width, 2, activation=jnp.tanh, key=getkey())
        scaled = nt.parameterize(model, x[0], getkey(), scheme, W_std=1.5, b_std=0.1)
        return float(jnp.trace(nt.ntk(scaled, x)))

    assert 0.5 < trace(512, "ntk") / trace(64, "ntk") < 2
    assert 4 < trace(512, "standard") / trace(64, "standard") < 16


def test_both_schemes_draw_the_same_function(getkey):
    key, x = getkey(), jr.normal(getkey(), (3,))
    model = ZOO["mlp"].model(getkey())
    one, two = (
        nt.parameterize(model, x, key, s, W_std=1.3) for s in ("ntk", "standard")
    )
    assert_close(one(x), two(x))


@pytest.mark.parametrize(
    "case",
    [case for name, case in ZOO.items() if "raw arrays" not in name],
    ids=[name for name in ZOO if "raw arrays" not in name],
)
def test_the_result_is_a_module_of_the_same_signature(case, getkey):
    model = case.model(getkey(), jnp.float32)
    x = case.inputs(getkey(), 2, jnp.float32)
    scaled = nt.parameterize(model, x[0], getkey(), W_std=1.2, b_std=0.1)
    assert scaled(x[0]).shape == model(x[0]).shape
    assert scaled(x[0]).dtype == jnp.float32
    same = jax.tree_util.tree_structure(model) == jax.tree_util.tree_structure(
        scaled.module
    )
    assert same
    # Multipliers are constants: the parameters are those of the module.
    count = lambda tree: len(
        jax.tree_util.tree_leaves(eqx.filter(tree, eqx.is_inexact_array))
    )
    assert count(scaled) == count(model)


def test_gains_keep_their_start(getkey):
    model = ZOO["layer norm"].model(getkey())
    scaled = nt.parameterize(model, jnp.ones(3), getkey(), W_std=2.0)
    assert_close(scaled.effective.norm.weight, model.norm.weight)
    assert ".norm.weight" not in dict(scaled.multipliers)


def test_roles_override_and_serve_raw_arrays(getkey):
    model = ZOO["matrix output, raw arrays"].model(getkey())
    x = jnp.ones(3)
    scaled = nt.parameterize(model, x, getkey(), roles={".w": 3, ".scale": "gain"})
    assert np.isclose(dict(scaled.multipliers)[".w"], 3**-0.5)
    assert_close(scaled.module.scale, model.scale)
    linear = eqx.nn.Linear(3, 2, key=getkey())
    wider = nt.parameterize(linear, x, getkey(), roles={".weight": 12})
    assert np.isclose(dict(wider.multipliers)[".weight"], 12**-0.5)


def test_parameterizing_again_starts_from_the_module(getkey):
    key, x = getkey(), jnp.ones(3)
    once = nt.parameterize(eqx.nn.Linear(3, 2, key=key), x, key)
    assert eqx.tree_equal(nt.parameterize(once, x, key), once)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"scheme": "mpu"},
            "`scheme` must be one of 'ntk', 'standard', but it is 'mpu'",
        ),
        ({"W_std": -1.0}, "`W_std` must"),
        ({"b_std": float("nan")}, "`b_std` must"),
        ({"key": 3}, "`key` must be one JAX random key"),
        (
            {"roles": {".wieght": 3}},
            "names '.wieght', which is no parameter.*'.weight'",
        ),
        ({"roles": {".weight": "wide"}}, "must be a weight's fan-in"),
        ({"roles": "bias"}, "`roles` must map the paths of parameters to their roles"),
        ({"scheme": ["ntk"]}, "`scheme` must be one of"),
        ({"x": jnp.ones((7, 4))}, "without a batch axis, of shape \\(7, 4\\)"),
    ],
)
def test_bad_input_is_refused_with_what_to_type(arguments, text, getkey):
    linear = eqx.nn.Linear(3, 2, key=getkey())
    arguments = {"x": jnp.ones(3), "key": jr.key(0), **arguments}
    with pytest.raises(Exception) as error:
        nt.parameterize(linear, **arguments)
    assert re.search(text, f"{error.value} {getattr(error.value, '__notes__', '')}")


def test_a_parameter_without_a_role_is_named_by_its_path(getkey):
    model = ZOO["matrix output, raw arrays"].model(getkey())
    with pytest.raises(
        ValueError, match=r"`model\.w` sits in no layer.*roles=\{'\.w': 64\}"
    ):
        nt.parameterize(model, jnp.ones(3), getkey())


def test_a_closure_is_refused(getkey):
    linear = eqx.nn.Linear(3, 2, key=getkey())
    with pytest.raises(ValueError, match="no parameters.*Module` itself"):
        nt.parameterize(lambda x: linear(x), jnp.ones(3), getkey())


@pytest.mark.parametrize(
    "through",
    [
        lambda build, key: jax.device_put(build(key)),
        lambda build, key: jax.jit(build)(key),
        lambda build, key: jax.tree.map(jnp.asarray, build(key)),
        lambda build, key: jax.tree.map(lambda a: a[0], jax.vmap(build)(key[None])),
    ],
)
def test_multipliers_stay_constants_under_every_transformation(through, getkey):
    model = eqx.nn.Linear(3, 2, key=getkey())
    x, key = jr.normal(getkey(), (4, 3)), getkey()
    build = lambda key: nt.parameterize(model, x[0], key, W_std=1.5, b_std=0.3)
    assert_close(nt.ntk(through(build, key), x), 1.5**2 * x @ x.T / 3 + 0.3**2)
    leaves = jax.tree.leaves(eqx.filter(through(build, key), eqx.is_inexact_array))
    assert len(leaves) == 2


def test_a_parameterized_part_is_parameterized_once(getkey):
    linear = lambda: eqx.nn.Linear(3, 3, key=getkey())
    part = nt.parameterize(linear(), jnp.ones(3), getkey(), W_std=5.0)
    model = eqx.nn.Sequential([part, linear()])
    scaled = nt.parameterize(model, jnp.ones(3), getkey())
    multipliers = [multiplier for _, multiplier in scaled.multipliers]
    assert np.allclose(multipliers, [3**-0.5, 0.0] * 2)
    assert isinstance(scaled.module.layers[0], eqx.nn.Linear)


def tied(key):
    """An embedding whose table is also the weight of the readout."""
    k1, k2 = jr.split(key)
    layers = (eqx.nn.Embedding(5, 4, key=k1), eqx.nn.Linear(4, 5, key=k2))

    class Tied(eqx.Module):
        shared: eqx.nn.Shared

        def __call__(self, token):
            embedding, readout = self.shared()
            return readout(embedding(token))

    return Tied(eqx.nn.Shared(layers, lambda m: m[1].weight, lambda m: m[0].weight))


def test_a_tied_weight_with_two_fan_ins_is_refused_by_its_path(getkey):
    token, path = jnp.asarray(2), ".shared.pytree[0].weight"
    with pytest.raises(
        ValueError, match=r"shared\.pytree\[0\]\.weight` is used with.* 1 and 4"
    ):
        nt.parameterize(tied(getkey()), token, getkey())
    scaled = nt.parameterize(tied(getkey()), token, getkey(), roles={path: np.int64(4)})
    assert dict(scaled.multipliers)[path] == 0.5


def test_layers_that_normalise_their_weight_are_refused(getkey):
    model = eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=getkey()))
    with pytest.raises(ValueError, match="WeightNorm, which normalises the weight"):
        nt.parameterize(model, jnp.ones(3), getkey())
