"""The parameterizations: variances, multipliers, roles, and the refusals."""

import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import ZOO, assert_close, one_in

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


@pytest.mark.slow
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


@pytest.mark.parametrize("name", one_in(2, ZOO))
def test_the_result_is_a_module_of_the_same_signature(name, getkey):
    case = ZOO[name]
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
            "`scheme` must be one of 'ntk', 'standard', 'mup', 'mean_field', but it is",
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


def test_draws_are_those_of_one_split_in_the_order_of_the_leaves():
    key, (k1, k2) = jr.key(5), jr.split(jr.key(5))
    got = nt.parameterize(eqx.nn.Linear(3, 2, key=key), jnp.ones(3), key).module
    assert (got.weight == jr.normal(k1, (2, 3))).all()
    assert (got.bias == jr.normal(k2, (2,))).all()


class Net(eqx.Module):
    """A network whose last features can be seen; its leaves are all parameters."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm | None
    hidden: list
    readout: eqx.nn.Linear

    def __init__(self, width, key, depth=1, norm=False):
        self.first = eqx.nn.Linear(3, width, key=key)
        self.norm = eqx.nn.LayerNorm(width) if norm else None
        self.hidden = [eqx.nn.Linear(width, width, key=key) for _ in range(depth)]
        self.readout = eqx.nn.Linear(width, 1, key=key)

    def features(self, x):
        h = self.first(x)
        h = jnp.tanh(h if self.norm is None else self.norm(h))
        for layer in self.hidden:
            h = jnp.tanh(layer(h))
        return h

    def __call__(self, x):
        return self.readout(self.features(x))


XS, YS = jnp.asarray([[0.3, -1.0, 0.8], [1.2, 0.4, -0.1]]), jnp.asarray([[1.0], [-0.5]])


@functools.cache
def moved(width, scheme, optimizer, depth, n_steps):
    """Root mean squares: outputs at the start, their change, that of a feature."""
    net = Net(width, jr.key(0), depth)

    def one(key):
        model = nt.parameterize(net, XS[0], key, scheme, W_std=1.5, b_std=0.2)
        loss = lambda m: 0.5 * jnp.sum((jax.vmap(m)(XS) - YS) ** 2)
        factors = nt.learning_rate_multipliers(model, optimizer)

        def step(model, _):
            grads = eqx.filter_grad(loss)(model)
            if optimizer == "adam":  # its first step, without its epsilon
                grads = jax.tree.map(jnp.sign, grads)
            change = jax.tree.map(lambda factor, g: -0.02 * factor * g, factors, grads)
            return eqx.apply_updates(model, change), None

        after, _ = jax.lax.scan(step, model, length=n_steps)
        f0, f1 = jax.vmap(model)(XS), jax.vmap(after)(XS)
        features = lambda m: jax.vmap(m.effective.features)(XS)
        drawn = f0 - model.effective.readout.bias[None]
        seen = (drawn, f1 - f0, features(after) - features(model))
        return jnp.stack([jnp.mean(a**2) for a in seen])

    several = eqx.filter_jit(jax.vmap(one))(jr.split(jr.key(1), 16))
    return np.sqrt(several.mean(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "optimizer", "depth", "n_steps", "powers"),
    [
        ("mup", "sgd", 1, 20, (-0.5, 0, 0)),
        ("mean_field", "sgd", 0, 20, (-0.5, 0, 0)),
        ("ntk", "sgd", 1, 20, (0, 0, -0.5)),
        ("standard", "sgd", 1, 1, (0, 1, 0.5)),
        ("mup", "adam", 1, 1, (-0.5, 0, 0)),
        ("mean_field", "adam", 0, 1, (-0.5, 0, 0)),
        ("ntk", "adam", 1, 1, (0, 0, -0.5)),
        ("standard", "adam", 1, 1, (0, 0, -0.5)),
    ],
)
def test_how_outputs_and_features_move_with_width(
    scheme, optimizer, depth, n_steps, powers
):
    # Outputs at the start, but for their bias, what becomes of them and of a feature,
    # as powers of the width.
    narrow, wide = (moved(n, scheme, optimizer, depth, n_steps) for n in (32, 256))
    measured = np.log(wide / narrow) / np.log(256 / 32)
    assert np.abs(measured - powers).max() < 0.16, measured


def test_the_kernel_of_mup_is_that_of_its_two_outer_layers_and_of_all_between():
    # One linear layer before another: f = v w x, kernel |x|^2 (|V|^2 n + |W x|^2 / n).
    net = eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 8, False, key=jr.key(0)),
            eqx.nn.Linear(8, 1, False, key=jr.key(1)),
        ]
    )
    scaled = nt.parameterize(net, XS[0], jr.key(3), "mup", W_std=1.3)
    w, v = (layer.weight for layer in scaled.effective.layers)
    h = XS @ w.T
    expected = XS @ XS.T * 8 * jnp.sum(v**2) + h @ h.T / 8
    assert_close(nt.ntk(scaled, XS), expected)


def test_mean_field_is_refused_for_deeper_networks():
    with pytest.raises(ValueError, match=r'one hidden layer.*hidden\[0\].*"mup"'):
        nt.parameterize(Net(4, jr.key(0)), XS[0], jr.key(0), "mean_field")


@pytest.mark.parametrize("scheme", ["ntk", "standard", "mup", "mean_field"])
def test_what_is_zero_or_a_gain_starts_where_it_did_and_learns(scheme):
    net = Net(5, jr.key(0), depth=0, norm=True)
    zeroed = eqx.tree_at(
        lambda m: (m.readout.weight, m.first.bias, m.norm.weight),
        net, (jnp.zeros((1, 5)), jnp.zeros(5), jnp.arange(1.0, 6)),
    )  # fmt: skip
    scaled = nt.parameterize(zeroed, XS[0], jr.key(1), scheme, b_std=0.5)
    effective = scaled.effective
    assert not effective.readout.weight.any()
    assert not effective.first.bias.any()
    assert not effective.norm.bias.any()
    assert_close(effective.norm.weight, zeroed.norm.weight)
    assert effective.readout.bias.any()
    multipliers = dict(scaled.multipliers)
    drawn = dict(nt.parameterize(net, XS[0], jr.key(1), scheme).multipliers)
    assert multipliers.get(".readout.weight", 1.0) == drawn[".readout.weight"]
    gain = 5**0.5 if scheme in ("mup", "mean_field") else 1.0
    assert multipliers.get(".first.bias", 1.0) == gain
    assert multipliers.get(".norm.weight", 1.0) == gain
    # Again: gains are where they were, and drawn zeros are no start.
    again = nt.parameterize(scaled, XS[0], jr.key(1), "ntk", b_std=0.5)
    assert_close(again.effective.norm.weight, zeroed.norm.weight)
    assert not again.effective.readout.weight.any()


def test_zeros_that_were_drawn_are_no_start():
    once = nt.parameterize(
        eqx.nn.Linear(3, 2, key=jr.key(0)), XS[0], jr.key(1), "standard"
    )
    assert not once.module.bias.any()
    part = eqx.nn.Sequential([once])
    for model in (once, part):
        again = nt.parameterize(model, XS[0], jr.key(1), "standard", b_std=0.5)
        (bias,) = [a for a in jax.tree.leaves(again) if getattr(a, "shape", 0) == (2,)]
        assert bias.all()


def test_named_roles_are_drawn_even_where_they_are_zero():
    linear = jax.tree.map(jnp.zeros_like, eqx.nn.Linear(3, 2, key=jr.key(0)))
    roles = {".weight": 3, ".bias": "bias"}
    scaled = nt.parameterize(linear, XS[0], jr.key(1), b_std=0.5, roles=roles)
    assert scaled.effective.weight.all()
    assert scaled.effective.bias.all()


def test_zeros_that_a_transformation_hides_are_refused_when_they_are_met():
    def build(scale):
        linear = eqx.nn.Linear(3, 2, key=jr.key(0))
        linear = eqx.tree_at(lambda m: m.bias, linear, scale * jnp.ones(2))
        return nt.parameterize(linear, XS[0], jr.key(1), b_std=0.5)

    build = eqx.filter_jit(build)
    assert build(jnp.asarray(1.0)).effective.bias.all()
    with pytest.raises(
        Exception, match=r"`model\.bias` starts at zero.*Build the model"
    ):
        jax.block_until_ready(build(jnp.asarray(0.0)).module.bias)


def test_normalisation_keeps_its_start_where_values_are_hidden():
    build = eqx.filter_jit(
        lambda key: nt.parameterize(Net(5, key, norm=True), XS[0], key, b_std=0.5)
    )
    norm = build(jr.key(0)).effective.norm
    assert_close(norm.weight, jnp.ones(5))
    assert not norm.bias.any()


def test_each_scheme_gives_a_users_own_arrays_the_variance_of_their_fan_in():
    class Heads(eqx.Module):
        """Embedded tokens, a matrix per head, a residual branch that starts at 0."""

        table: jax.Array
        position: jax.Array
        heads: jax.Array
        merge: jax.Array

        def __init__(self, rng):
            normal = lambda *shape: jnp.asarray(rng.standard_normal(shape))
            self.table, self.position = normal(50, 40), normal(4, 40)
            self.heads, self.merge = normal(3, 40, 20), jnp.zeros((3, 20, 40))

        def __call__(self, tokens):
            h = self.table[tokens] + self.position
            each = jax.nn.relu(jnp.einsum("sd,hde->hse", h, self.heads))
            return h + jnp.einsum("hse,hed->sd", each, self.merge)

    model, tokens = Heads(np.random.default_rng(0)), jnp.arange(4)
    with pytest.raises(ValueError, match=r"`model\.position`.*bias or a positional"):
        nt.parameterize(model, tokens, jr.key(0))
    for scheme in ("ntk", "standard", "mup"):
        scaled = nt.parameterize(
            model, tokens, jr.key(0), scheme, roles={".position": 1}
        )
        effective = scaled.effective
        assert abs(jnp.var(effective.table) - 1) < 0.2
        assert abs(jnp.var(effective.position) - 1) < 0.5
        assert abs(40 * jnp.var(effective.heads) - 1) < 0.2
        assert not effective.merge.any()
    assert_close(dict(scaled.multipliers)[".position"], 40**0.5)
    assert_close(dict(scaled.multipliers)[".merge"], 60**-0.5)


def test_stacked_layers_are_drawn_as_single_ones_are(getkey):
    class Stack(eqx.Module):
        layers: eqx.nn.Linear
        gates: jax.Array

        def __call__(self, x):
            arrays, rest = eqx.partition(self.layers, eqx.is_array)
            step = lambda h, layer: (jnp.tanh(eqx.combine(layer, rest)(h)), None)
            return jax.lax.scan(step, x, arrays)[0] * self.gates

    layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(7, 7, key=k))(
        jr.split(getkey(), 4)
    )
    scaled = nt.parameterize(
        Stack(layers, jnp.ones(7)), jnp.ones(7), getkey(), b_std=0.3
    )
    multipliers = dict(scaled.multipliers)
    assert np.isclose(multipliers[".layers.weight"], 7**-0.5)
    assert multipliers[".layers.bias"] == 0.3
    assert_close(scaled.effective.gates, jnp.ones(7))


def test_factors_of_learning_rates_have_the_shape_of_parameters_and_known_values():
    net = Net(16, jr.key(0))
    get = lambda scheme, optimizer: nt.learning_rate_multipliers(
        nt.parameterize(net, XS[0], jr.key(0), scheme, W_std=2.0, b_std=0.5), optimizer
    )
    mup = get("mup", "adam").module
    assert np.isclose(mup.first.weight, 1 / 4)
    assert np.isclose(mup.first.bias, 1 / 4)
    assert np.isclose(mup.hidden[0].weight, 1 / 16)
    assert np.isclose(mup.readout.weight, 1 / 4)
    assert np.isclose(mup.readout.bias, 1.0)
    standard = get("standard", "adam").module
    assert np.isclose(standard.hidden[0].weight, 1 / 64)
    assert set(jax.tree.leaves(get("ntk", "sgd"))) == {1.0}
    with pytest.raises(ValueError, match="must be one of 'adam', 'sgd'"):
        get("mup", "sdg")
    with pytest.raises(ValueError, match="what `nt.parameterize` returned"):
        nt.learning_rate_multipliers(net)
