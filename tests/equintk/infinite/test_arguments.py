"""Scalings, learning rates, outputs, blocks; and bad arguments."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.equintk.infinite.architectures import Net

OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}


def mlp(depth=1, **options):
    return eqx.nn.MLP(5, 3, 16, depth, key=jr.key(0), **options)


def inputs(n=4):
    return jr.normal(jr.key(1), (n, 5))


@pytest.mark.parametrize(
    "scheme",
    ["ntk", "standard", "mup", pytest.param("mean_field", marks=pytest.mark.slow)],
)
def test_a_parameterized_model_has_the_kernels_of_the_same_arguments(scheme):
    x = inputs()
    given = nt.infinite_kernels(mlp(), x, parameterization=scheme, W_std=1.3, b_std=0.2)
    model = nt.parameterize(mlp(), x[0], jr.key(2), scheme, 1.3, 0.2)
    written = nt.infinite_kernels(model, x)
    np.testing.assert_allclose(written.nngp, given.nngp, rtol=1e-12)
    np.testing.assert_allclose(written.ntk, given.ntk, rtol=1e-12)


def normed(width=16):
    one, two, three = jr.split(jr.key(3), 3)
    layers = [
        eqx.nn.Conv1d(5, width, 3, padding=1, key=one), eqx.nn.GroupNorm(2, width),
        eqx.nn.Conv1d(width, width, 2, key=two), eqx.nn.Linear(width, 3, key=three),
    ]  # fmt: skip

    def call(p, x):
        return p[3](jnp.mean(jax.nn.relu(p[2](jax.nn.relu(p[1](p[0](x))))), axis=1))

    return Net(layers, call)


RATES = {".layers[0].weight": 0.0, ".layers[1].weight": 2.0, ".layers[3].bias": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("rates", [{}, RATES], ids=["alike", "of each"])
@pytest.mark.parametrize("scheme", ["ntk", "standard", "mup"])
def test_a_parameterized_network_with_norms_has_the_same_kernels(scheme, rates):
    x = jr.normal(jr.key(1), (3, 5, 4))
    options = {"parameterization": scheme, "W_std": 1.3, "b_std": 0.2}
    given = nt.infinite_kernels(normed(), x, **options, learning_rate=rates)
    model = nt.parameterize(normed(), x[0], jr.key(2), scheme, 1.3, 0.2)
    of_written = {f".module{path}": rate for path, rate in rates.items()}
    written = nt.infinite_kernels(model, x, learning_rate=of_written)
    np.testing.assert_allclose(written.nngp, given.nngp, rtol=1e-12)
    np.testing.assert_allclose(written.ntk, given.ntk, rtol=1e-12)
    if rates:
        alike = nt.infinite_kernels(normed(), x, **options)
        assert np.abs(alike.ntk - given.ntk).max() > 0.01


@pytest.mark.parametrize(
    ("scheme", "activations"),
    [("mup", (jax.nn.relu,)), ("mean_field", (jnp.tanh,))],
    ids=["mup", "mean_field"],
)
def test_outputs_vanish_with_the_width_where_kernels_move(scheme, activations):
    x = inputs(3)
    options = {"parameterization": scheme, "W_std": 1.3, "b_std": 0.2}
    for activation in activations:
        narrow, wide = (
            nt.infinite_kernels(
                eqx.nn.MLP(5, 3, width, 1, activation, key=jr.key(0)), x, **options
            )
            for width in (16, 4096)
        )
        for kernels in (narrow, wide):
            np.testing.assert_array_equal(kernels.nngp, np.full((3, 3), 0.2**2))
        # The module's width is in no kernel.
        np.testing.assert_allclose(narrow.ntk, wide.ntk, rtol=1e-12)
        alone = nt.infinite_nngp(mlp(activation=activation), x, **options)
        np.testing.assert_array_equal(alone, narrow.nngp)
        # By the output weights: the second moments of the activations.
        moments = nt.infinite_nngp(
            eqx.nn.MLP(5, 3, 8, 1, activation, key=jr.key(0)), x,
            **options | {"parameterization": "ntk"},
        )  # fmt: skip
        rates = {".layers[1].weight": 1.0, ".layers[1].bias": 0.0}
        rates |= {f".layers[0].{name}": 0.0 for name in ("weight", "bias")}
        readout = nt.infinite_ntk(
            mlp(activation=activation), x, **options, learning_rate=rates
        )
        np.testing.assert_allclose(readout, (moments - 0.04) / 1.69, rtol=1e-9)
    model = nt.parameterize(mlp(use_final_bias=False), x[0], jr.key(2), scheme, 1.3)
    assert not np.any(nt.infinite_nngp(model, x))


def test_equinox_draws_uniform_weights_of_a_third_of_the_variance():
    x = inputs()
    own = nt.infinite_nngp(mlp(use_bias=False, use_final_bias=False), x)
    same = nt.infinite_nngp(
        mlp(use_bias=False, use_final_bias=False), x,
        parameterization="standard", W_std=1 / np.sqrt(3),
    )  # fmt: skip
    np.testing.assert_allclose(own, same, rtol=1e-12)


def test_a_model_whose_readout_alone_moves_has_the_nngp_as_tangent_kernel():
    x, model = inputs(), mlp()
    paths = [".layers[0].weight", ".layers[0].bias"]
    got = nt.infinite_kernels(
        model, x, **OPTIONS, learning_rate={path: 0.0 for path in paths}
    )
    np.testing.assert_allclose(got.ntk, got.nngp, rtol=1e-12)


def test_the_tangent_kernel_is_the_sum_of_those_of_each_parameter():
    x, model = inputs(), mlp()
    paths = [f".layers[{i}].{name}" for i in (0, 1) for name in ("weight", "bias")]
    alone = [
        nt.infinite_ntk(
            model, x, **OPTIONS, learning_rate={p: float(p == path) for p in paths}
        )
        for path in paths
    ]
    np.testing.assert_allclose(sum(alone), nt.infinite_ntk(model, x, **OPTIONS))


def test_gains_of_a_trainable_norm_count():
    # f = w . (g * n(h) + s), n(h) of unit mean square: by w the kernel is W^2 times the
    # correlation c, by each gain and shift W^2 c and W^2 more, by h what is left.
    def model(use):
        norm = eqx.nn.LayerNorm(16, eps=0.0, use_weight=use, use_bias=use)
        first = eqx.nn.Linear(5, 16, use_bias=False, key=jr.key(0))
        last = eqx.nn.Linear(16, 1, use_bias=False, key=jr.key(1))
        return Net([first, norm, last], lambda p, x: p[2](p[1](p[0](x))))

    x = inputs()
    with_gains = nt.infinite_kernels(model(True), x, parameterization="ntk")
    without = nt.infinite_kernels(model(False), x, parameterization="ntk")
    np.testing.assert_allclose(with_gains.nngp, without.nngp, rtol=1e-12)
    more = with_gains.ntk - without.ntk
    np.testing.assert_allclose(more, without.nngp + 1, rtol=1e-10)


@pytest.mark.parametrize("out_size", [1, "scalar"])
def test_an_output_of_one_entry_has_the_kernel_of_one_of_many(out_size):
    x = inputs()
    one = eqx.nn.MLP(5, out_size, 16, 1, key=jr.key(0))
    got = nt.infinite_kernels(one, x, **OPTIONS)
    many = nt.infinite_kernels(mlp(), x, **OPTIONS)
    np.testing.assert_allclose(got.nngp, many.nngp, rtol=1e-12)
    np.testing.assert_allclose(got.ntk, many.ntk, rtol=1e-12)


def test_one_output_may_have_a_bias_that_starts_at_zero():
    x, model = inputs(), eqx.nn.Linear(5, 1, key=jr.key(0))
    got = nt.infinite_ntk(model, x, parameterization="standard")
    np.testing.assert_allclose(got, x @ x.T + 1, rtol=1e-12)


def test_outputs_in_a_pytree_have_a_kernel_each():
    model = Net(
        [mlp(), mlp()], lambda p, x: {"one": p[0](x), "two": (p[1](x), p[0](2 * x))}
    )
    x = inputs()
    got = nt.infinite_ntk(model, x, **OPTIONS)
    alone = nt.infinite_ntk(mlp(), x, **OPTIONS)
    np.testing.assert_allclose(got["one"], alone, rtol=1e-12)
    np.testing.assert_allclose(got["two"][0], alone, rtol=1e-12)
    doubled = nt.infinite_ntk(mlp(), 2 * x, **OPTIONS)
    np.testing.assert_allclose(got["two"][1], doubled, rtol=1e-12)


def test_axes_named_finite_stay():
    # A mean over 2 units that are no limit of many: half the variance of one.
    layer = eqx.nn.Linear(5, 2, use_bias=False, key=jr.key(0))
    model = Net(layer, lambda p, x: jnp.mean(p(x), keepdims=True))
    x = inputs()
    with pytest.raises(nt.NoLimitError, match="`finite`"):
        nt.infinite_nngp(model, x, parameterization="ntk")
    got = nt.infinite_nngp(model, x, parameterization="ntk", finite=(".layers.weight",))
    np.testing.assert_allclose(got, x @ x.T / 5 / 2, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_blocks_change_nothing(batch_size):
    x1, x2 = inputs(7), inputs(9)[2:]
    seen = []
    got = nt.infinite_ntk(
        mlp(), x1, x2, **OPTIONS, batch_size=batch_size,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    whole = nt.infinite_ntk(mlp(), x1, x2, **OPTIONS)
    np.testing.assert_allclose(got, whole, rtol=1e-13)
    assert seen[-1][0] == seen[-1][1]


def test_one_example_and_another_is_the_transpose():
    x1, x2 = inputs(3), inputs(5)
    got = nt.infinite_ntk(mlp(), x1, x2, **OPTIONS)
    other = nt.infinite_ntk(mlp(), x2, x1, **OPTIONS)
    np.testing.assert_allclose(got, other.T, rtol=1e-12)


BAD = {
    "a number without a scheme": ({"W_std": 1.0}, "belong to a parameterization"),
    "an unknown scheme": ({"parameterization": "nkt"}, "must be one of 'ntk'"),
    "a negative deviation": ({**OPTIONS, "W_std": -1.0}, "`W_std` must be"),
    "no such parameter": (
        {**OPTIONS, "finite": (".layer",)}, "`finite` names '.layer'.*'.layers",
    ),
    "no such rate": (
        {**OPTIONS, "learning_rate": {".w": 1.0}}, "`learning_rate` names '.w'",
    ),
    "a negative rate": (
        {**OPTIONS, "learning_rate": -1.0}, "`learning_rate` must be",
    ),
    "no block": ({**OPTIONS, "batch_size": 0}, "`batch_size` must be"),
    "no tolerance": ({**OPTIONS, "tolerance": 0.0}, "`tolerance` must be"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    options, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        nt.infinite_kernels(mlp(), inputs(), **options)


class Tripled(eqx.Module):
    module: Any

    def __call__(self, x):
        return 3 * self.module(x)


def test_a_part_that_was_parameterized_is_not_taken_for_the_whole():
    mlp = eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0))
    x = jnp.ones((2, 3))
    part = Tripled(nt.parameterize(mlp, x[0], jr.key(0), "ntk", W_std=1.4, b_std=0.3))
    for given in ({}, {"parameterization": "ntk", "W_std": 1.4, "b_std": 0.3}):
        with pytest.raises(ValueError, match="Pass the model to `nt.parameterize`"):
            nt.infinite_ntk(part, x, **given)


def test_a_parameterized_model_is_not_parameterized_again():
    model = nt.parameterize(mlp(), inputs()[0], jr.key(2))
    with pytest.raises(ValueError, match=r"pass `model\.module`"):
        nt.infinite_kernels(model, inputs(), parameterization="ntk")


def test_an_array_without_a_layer_needs_a_scheme():
    model = Net(jr.normal(jr.key(0), (3, 5)), lambda p, x: p @ x)
    with pytest.raises(ValueError, match="How the parameter `model.layers` is drawn"):
        nt.infinite_kernels(model, inputs())


def attention(p, x):
    return p[1](*(jax.vmap(p[0])(x),) * 3)  # softmax of untied queries and keys


def max_pool(p, x):
    return p[1](p[0](x))


OPEN = {
    "attention": (
        attention, (eqx.nn.Linear(5, 32, key=jr.key(1)),
                    eqx.nn.MultiheadAttention(4, 32, key=jr.key(0))), "reduce_max",
    ),
    "max pool": (
        max_pool, (eqx.nn.Conv1d(3, 8, 2, key=jr.key(0)), eqx.nn.MaxPool1d(2)),
        "reduce_window_max",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_what_has_no_closed_form_is_refused_with_its_line_and_a_way_out(name):
    call, layers, primitive = OPEN[name]
    x = jr.normal(jr.key(1), (2, 3, 5))
    line = call.__code__.co_firstlineno + 1
    named = rf"`{primitive}`.* {__file__}:{line}, in `{call.__name__}"
    with pytest.raises(nt.NoLimitError, match=named) as caught:
        nt.infinite_kernels(Net(list(layers), call), x, **OPTIONS)
    assert "`nt.monte_carlo`" in str(caught.value)


def of_three(p, x):
    h = [jax.nn.relu(p[0](scale * x)) for scale in (1.0, 2.0)]
    return p[1](h[0] * h[1] * p[0](3.0 * x))


def mean_of_three(p, x):
    h = [jax.nn.relu(p[0](scale * x)) for scale in (1.0, 2.0)]
    return p[1](p[0](x) * jnp.mean(h[0] * h[1] * p[0](3.0 * x)))


@pytest.mark.parametrize("call", [of_three, mean_of_three])
def test_what_is_refused_only_when_it_is_computed_names_its_line_too(call):
    layers = [eqx.nn.Linear(n, 16, key=jr.key(0)) for n in (5, 16)]
    line = call.__code__.co_firstlineno + 2
    named = rf"more than two dependent.*{__file__}:{line}, in `{call.__name__}"
    with pytest.raises(nt.NoLimitError, match=named):
        nt.infinite_nngp(Net(layers, call), inputs(2), **OPTIONS)
