"""Which parameters are the last layer: its kernel is the Gram matrix of its inputs."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

import equintk as nt
from tests.helpers import ZOO, assert_close

N = 4


class Raw(eqx.Module):
    """Named arrays and a function of them and of an input."""

    arrays: dict
    function: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.function(self.arrays, x)


def raw(function, **shapes):
    rng = np.random.default_rng(0)
    drawn = {n: jnp.asarray(rng.standard_normal(s)) for n, s in shapes.items()}
    return Raw(drawn, function)


def chosen(model, x, trainable=None):
    """The paths of what is selected."""
    mask = nt.last_layer(model, x, trainable)
    assert jtu.tree_structure(mask) == jtu.tree_structure(model)
    return {jtu.keystr(p) for p, leaf in jtu.tree_leaves_with_path(mask) if leaf}


def names(function, x, **shapes):
    found = chosen(raw(function, **shapes), x)
    return {path[len(".arrays['") : -len("']")] for path in found}


def gram(inputs):
    return jnp.einsum("ih,jh->ij", inputs, inputs)


@pytest.mark.parametrize("use_bias", [True, False])
def test_of_an_mlp_it_is_the_gram_matrix_of_activations(getkey, use_bias):
    model = eqx.nn.MLP(
        3, 2, 8, 2, activation=jnp.tanh, use_final_bias=use_bias, key=getkey()
    )
    x = jr.normal(getkey(), (N, 3))
    h = x
    for layer in model.layers[:-1]:
        h = jnp.tanh(jax.vmap(layer)(h))
    got = nt.ntk(model, x, trainable=nt.last_layer(model, x[0]))
    assert_close(got, gram(h) + float(use_bias))


def test_of_a_convolutional_network_it_is_that_of_pooled_features(getkey):
    model, x = (
        ZOO["cnn with pooling"].build(getkey()),
        jr.normal(getkey(), (N, 2, 6, 6)),
    )
    readout = eqx.nn.Identity()
    features = eqx.tree_at(lambda m: m.readout, model, readout)
    got = nt.ntk(model, x, trainable=nt.last_layer(model, x[0]))
    assert_close(got, gram(jax.vmap(features)(x)) + 1)


READOUTS = ["residual mlp, shared weights", "layer norm", "gru in a scan"]


@pytest.mark.parametrize("name", [*READOUTS, "attention over tokens", "sequential"])
def test_layers_of_any_kind_may_come_before_it(name, getkey):
    case = ZOO[name]
    paths = chosen(case.build(getkey()), case.inputs(getkey(), 1)[0])
    assert paths == {
        "layer norm": {".last.weight", ".last.bias"},
        "sequential": {".layers[2].weight"},
    }.get(name, {".readout.weight", ".readout.bias"})


def test_each_head_has_a_last_layer_of_its_own(getkey):
    def heads(a, x):
        h = jnp.tanh(a["w"] @ x)
        deep = jnp.tanh(a["u"] @ h)
        return {"mean": a["v"] @ h + a["b"], "scale": a["s"] @ deep, "noise": a["n"]}

    model = raw(heads, w=(6, 3), v=(2, 6), b=(2,), u=(5, 6), s=(1, 5), n=(2,))
    x = jr.normal(getkey(), (N, 3))
    assert chosen(model, x[0]) == {f".arrays['{name}']" for name in "vbs"}
    h = jnp.tanh(x @ model.arrays["w"].T)
    kernels = nt.ntk(model, x, trainable=nt.last_layer(model, x[0]))
    assert_close(kernels["mean"], gram(h) + 1)
    assert_close(kernels["scale"], gram(jnp.tanh(h @ model.arrays["u"].T)))


X = jnp.ones(3)
TANH = lambda a, x: jnp.tanh(a["w"] @ x)


def stacked(a, x):
    step = lambda h, w: (jnp.tanh(w @ h), a["v"] @ h)
    return jax.lax.scan(step, TANH({"w": a["first"]}, x), a["w"])[1]


def normalised(a, x):
    w = a["g"] * a["w"] / jnp.linalg.norm(a["w"])
    return a["v"] @ jnp.tanh(jnp.exp(a["log"]) * (w @ x))


FOUND = {
    "a linear map": (lambda a, x: a["w"] @ x + a["b"], {"w": (2, 3), "b": (2,)}, "wb"),
    "a low-rank update": (
        lambda a, x: (a["u"] + a["p"] @ a["q"]) @ TANH(a, x),
        {"w": (6, 3), "u": (2, 6), "p": (2, 1), "q": (1, 6)},
        "upq",
    ),
    "a scaled readout": (
        lambda a, x: a["s"] * (a["v"] @ TANH(a, x)),
        {"w": (6, 3), "v": (2, 6), "s": ()},
        "vs",
    ),
    "a readout written as a sum": (
        lambda a, x: jnp.sum(a["v"] * TANH(a, x)),
        {"w": (6, 3), "v": (6,)},
        "v",
    ),
    "a readout at each step": (
        stacked,
        {"first": (6, 3), "w": (4, 6, 6), "v": (2, 6)},
        "v",
    ),
    "a skip connection": (
        lambda a, x: (lambda h: h + a["v"] @ h)(TANH(a, x)),
        {"w": (6, 3), "v": (6, 6)},
        "v",
    ),
    "weights that have no role": (
        normalised,
        {"w": (6, 3), "g": (6, 1), "log": (6,), "v": (2, 6)},
        "v",
    ),
}


@pytest.mark.parametrize(("function", "shapes", "expected"), FOUND.values(), ids=FOUND)
def test_it_is_read_from_what_comes_after_a_weight(function, shapes, expected):
    assert names(function, X, **shapes) == set(expected)


def test_an_embedding_that_nothing_follows_is_the_last_layer():
    assert names(lambda a, i: a["t"][i], jnp.asarray(2), t=(7, 3)) == {"t"}


REFUSED = {
    "tied weights": (
        lambda a, x: a["w"].T @ TANH(a, x) + a["b"],
        {"w": (6, 3), "b": (3,)},
        "`model.arrays\\['w'\\]` is used in the last layer and before it.*own",
    ),
    "a bias of two layers": (
        lambda a, x: a["v"] @ jnp.tanh(a["w"] @ x + a["b"]) + a["b"],
        {"w": (6, 3), "v": (6, 6), "b": (6,)},
        "`model.arrays\\['b'\\]` is used in the last layer and before it",
    ),
    "a recurrent end": (
        lambda a, x: jax.lax.scan(
            lambda h, t: (jnp.tanh(a["w"] @ h + t), None), jnp.zeros(3), x[None]
        )[0],
        {"w": (3, 3)},
        "no last layer that can be seen.*eqx.tree_at",
    ),
    "no weight": (lambda a, x: a["b"] + x, {"b": (3,)}, "no last layer that can be"),
    "a readout in a branch": (
        lambda a, x: jax.lax.cond(
            x[0] > 0, lambda h: a["v"] @ h, lambda h: -a["v"] @ h, TANH(a, x)
        ),
        {"w": (6, 3), "v": (2, 6)},
        "what `cond` does with `model.arrays\\['v'\\]` is not known.*eqx.tree_at",
    ),
}


@pytest.mark.parametrize(("function", "shapes", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_seen_for_certain_is_refused(function, shapes, text):
    with pytest.raises(ValueError, match=text):
        nt.last_layer(raw(function, **shapes), X)


def test_parameters_that_are_not_trainable_are_left_out(getkey):
    model = eqx.nn.MLP(3, 2, 8, 1, key=getkey())
    mask = jtu.tree_map(eqx.is_inexact_array, model)
    no_bias = eqx.tree_at(lambda m: m.layers[1].bias, mask, False)
    assert chosen(model, X, no_bias) == {".layers[1].weight"}
    last = lambda m: (m.layers[1].weight, m.layers[1].bias)
    frozen = eqx.tree_at(last, mask, (False, False))
    with pytest.raises(
        ValueError, match=r"no parameter of the last layer, which has .*"
    ):
        nt.last_layer(model, X, frozen)
