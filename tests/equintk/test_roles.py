"""What each parameter of a model is read to be, and what is refused."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk._trace.roles import roles

WIDTH = 6


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


def read(function, x, **shapes):
    """Kind, fan-in, fan-out and layer of each array."""
    found = roles(raw(function, **shapes), x)
    return {
        path[len(".arrays['") : -len("']")]: tuple(role)[:4]
        for path, role in found.items()
    }


X = jnp.ones(3)
IMAGE = jnp.ones((2, 5, 5))


def per_head(a, x):
    heads = jnp.einsum("si,hio->hso", x, a["w"])
    return jnp.einsum("hso,hoj->sj", jnp.tanh(heads), a["v"])


def stacked(a, x):
    def step(h, layer):
        w, b = layer
        return jnp.tanh(w @ h + b), None

    h, _ = jax.lax.scan(step, a["first"] @ x, (a["w"], a["b"]))
    return a["last"] @ h


def recurrent(a, xs):
    step = lambda h, x: (jnp.tanh(a["hh"] @ h + a["ih"] @ x), None)
    return a["out"] @ jax.lax.scan(step, jnp.zeros(WIDTH), xs)[0]


def looped(a, x):
    h = a["first"] @ x
    for i in range(2):
        h = jnp.tanh(a["w"][i] @ h)
    return a["last"] @ jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(a["w"][i] @ h), h)


def convolved(a, x, **options):
    padding = [(1, 1), (1, 1)]
    h = jax.lax.conv_general_dilated(x[None], a["w"], (1, 1), padding, **options)
    return h[0]


def residual_cnn(a, x):
    h = convolved({"w": a["first"]}, x) + a["b"]
    h = h + convolved({"w": a["w"]}, jax.nn.relu(h)) / 2
    return a["last"] @ h.mean((1, 2))


def normalised(a, x):
    h = a["w"] @ x
    h = (h - h.mean()) * jax.lax.rsqrt(h.var() + 1e-6)
    return a["v"] @ (h * a["gain"] + a["shift"])


READ = {
    "a matrix and its bias": (
        lambda a, x: jnp.tanh(a["w"] @ x + a["b"]) @ a["v"],
        X, {"w": (6, 3), "b": (6,), "v": (6, 2)},
        {"w": ("weight", 3, 6, "input"), "b": ("bias", 1, 6, "hidden"),
         "v": ("weight", 6, 2, "output")},
    ),
    "a product of three axes": (
        lambda a, x: jnp.einsum("ijk,jk->i", a["w"], x),
        jnp.ones((3, 4)), {"w": (6, 3, 4)}, {"w": ("weight", 12, 6, "single")},
    ),
    "transposed, halved, reshaped and cast": (
        lambda a, x: ((0.5 * a["w"]).T.reshape(3, 6).astype(jnp.float32)
                      @ jnp.ones(6, jnp.float32) + x.astype(jnp.float32)),
        X, {"w": (6, 3)}, {"w": ("weight", 6, 3, "single")},
    ),
    "one matrix for each head": (
        per_head, jnp.ones((5, 4)), {"w": (2, 4, 6), "v": (2, 6, 3)},
        {"w": ("weight", 4, 12, "input"), "v": ("weight", 12, 3, "output")},
    ),
    "layers stacked in a scan": (
        stacked, X, {"first": (6, 3), "w": (4, 6, 6), "b": (4, 6), "last": (2, 6)},
        {"first": ("weight", 3, 6, "input"), "w": ("weight", 6, 6, "hidden"),
         "b": ("bias", 1, 6, "hidden"), "last": ("weight", 6, 2, "output")},
    ),
    "layers taken by a counter": (
        looped, X, {"first": (6, 3), "w": (2, 6, 6), "last": (2, 6)},
        {"first": ("weight", 3, 6, "input"), "w": ("weight", 6, 6, "hidden"),
         "last": ("weight", 6, 2, "output")},
    ),
    "a recurrent network": (
        recurrent, jnp.ones((5, 3)), {"ih": (6, 3), "hh": (6, 6), "out": (2, 6)},
        {"ih": ("weight", 3, 6, "input"), "hh": ("weight", 6, 6, "hidden"),
         "out": ("weight", 6, 2, "output")},
    ),
    "a recurrent weight that nothing follows": (
        lambda a, xs: jax.lax.scan(
            lambda h, x: (jnp.tanh(a["hh"] @ h + x), None), jnp.zeros(6), xs)[0],
        jnp.ones((5, 6)), {"hh": (6, 6)}, {"hh": ("weight", 6, 6, "hidden")},
    ),
    "a convolution in groups": (
        lambda a, x: convolved(a, x, feature_group_count=2),
        jnp.ones((4, 5, 5)), {"w": (6, 2, 3, 3)}, {"w": ("weight", 18, 6, "single")},
    ),
    "a dilated transposed convolution": (
        lambda a, x: convolved(a, x, lhs_dilation=(2, 2), rhs_dilation=(2, 2)),
        IMAGE, {"w": (6, 2, 3, 3)}, {"w": ("weight", 18, 6, "single")},
    ),
    "a convolution of each channel alone mixes no units": (
        lambda a, x: a["v"] @ jnp.tanh(
            convolved({"w": a["d"]}, jnp.tanh(convolved(a, x)), feature_group_count=6)
        ).sum((1, 2)),
        IMAGE, {"w": (6, 2, 3, 3), "d": (6, 1, 3, 3), "v": (1, 6)},
        {"w": ("weight", 18, 6, "input"), "d": ("weight", 9, 6, "input"),
         "v": ("weight", 6, 1, "output")},
    ),
    "a residual convolutional network": (
        residual_cnn, IMAGE,
        {"first": (6, 2, 3, 3), "b": (6, 1, 1), "w": (6, 6, 3, 3), "last": (4, 6)},
        {"first": ("weight", 18, 6, "input"), "b": ("bias", 1, 6, "hidden"),
         "w": ("weight", 54, 6, "hidden"), "last": ("weight", 6, 4, "output")},
    ),
    "a row for one token": (
        lambda a, i: a["v"] @ a["table"][i],
        jnp.asarray(2), {"table": (7, 6), "v": (2, 6)},
        {"table": ("weight", 1, 6, "input"), "v": ("weight", 6, 2, "output")},
    ),
    "rows for several tokens": (
        lambda a, i: a["table"][i] @ a["v"],
        jnp.asarray([2, 0]), {"table": (7, 6), "v": (6, 2)},
        {"table": ("weight", 1, 6, "input"), "v": ("weight", 6, 2, "output")},
    ),
    "what is normalised is scaled and shifted": (
        normalised, X, {"w": (6, 3), "gain": (6,), "shift": (6,), "v": (1, 6)},
        {"w": ("weight", 3, 6, "input"), "gain": ("gain", 1, 6, "hidden"),
         "shift": ("gain", 1, 6, "hidden"), "v": ("weight", 6, 1, "output")},
    ),
    "normalised layers of one unit": (
        normalised, X, {"w": (1, 3), "gain": (1,), "shift": (1,), "v": (1, 1)},
        {"w": ("weight", 3, 1, "input"), "gain": ("gain", 1, 1, "hidden"),
         "shift": ("gain", 1, 1, "hidden"), "v": ("weight", 1, 1, "output")},
    ),
    "a bias for each of several examples": (
        lambda a, x: jax.vmap(lambda row: a["w"] @ row + a["b"])(x),
        jnp.ones((4, 3)), {"w": (6, 3), "b": (6,)},
        {"w": ("weight", 3, 6, "single"), "b": ("bias", 1, 6, "output")},
    ),
    "a network on a fixed grid": (
        lambda a, x: jnp.tanh(a["t"] @ jnp.tanh(a["s"] @ jnp.ones(2))) @ (a["w"] @ x),
        X, {"s": (6, 2), "t": (6, 6), "w": (6, 3)},
        {"s": ("weight", 2, 6, "input"), "t": ("weight", 6, 6, "output"),
         "w": ("weight", 3, 6, "single")},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "x", "shapes", "expected"), READ.values(), ids=READ
)
def test_roles_are_read_from_what_is_done_with_an_array(function, x, shapes, expected):
    assert read(function, x, **shapes) == expected


REFUSED = {
    "low-rank update": (
        lambda a, x: (a["w"] + a["b"] @ a["a"]) @ x,
        {"w": (6, 3), "b": (6, 2), "a": (2, 3)},
        "made of it and of other arrays",
    ),
    "product of two": (
        lambda a, x: (a["b"] @ a["a"]) @ x,
        {"b": (6, 2), "a": (2, 3)},
        "made of it and of other arrays",
    ),
    "mask": (
        lambda a, x: (a["w"] * jnp.tril(jnp.ones((3, 3)))) @ x,
        {"w": (3, 3)},
        "made of it and of other arrays",
    ),
    "weight times a scalar parameter": (
        lambda a, x: (a["w"] * a["g"]) @ x,
        {"g": (), "w": (6, 3)},
        "made of it and of other arrays",
    ),
    "constant matrix on the left": (
        lambda a, x: (jnp.ones((4, 6)) @ a["w"]) @ x,
        {"w": (6, 3)},
        "made of it and of other arrays",
    ),
    "positional embedding": (
        lambda a, x: jnp.tanh(a["p"] + x[None]),
        {"p": (2, 3)},
        "added with 2 axes, of shape \\(2, 3\\): a bias or a positional embedding",
    ),
    "spread over units": (
        lambda a, x: jnp.tanh(a["w"] * x[0]),
        {"w": (6,)},
        "spreads over more units",
    ),
    "experts": (
        lambda a, x: a["w"][jnp.argmax(x)] @ x,
        {"w": (3, 6, 3)},
        "arrays of shape \\(6, 3\\) are looked up",
    ),
    "table at fixed places": (
        lambda a, x: a["t"][jnp.asarray([0, 2])][:, 0] + x[:2],
        {"t": (3, 1)},
        "taken at fixed places",
    ),
    "log scale": (
        lambda a, x: jnp.exp(a["s"]) * x,
        {"s": (3,)},
        "not known \\(`exp`",
    ),
    "start of a loop": (
        lambda a, xs: jax.lax.scan(lambda h, x: (h + x, None), a["h"], xs)[0],
        {"h": ()},
        "a loop starts from it",
    ),
    "returned": (lambda a, x: a["w"], {"w": (3,)}, "returns it as it is"),
    "unused": (lambda a, x: x, {"w": (3,)}, "not used for this example"),
    "own gradient": (
        lambda a, x: (
            jax.custom_jvp(jnp.matmul)(a["w"], x) if False else _own_gradient(a["w"], x)
        ),
        {"w": (6, 3)},
        "not known \\(`custom_jvp_call`",
    ),
}


@jax.custom_jvp
def _own_gradient(w, x):
    return w @ x


_own_gradient.defjvp(lambda at, by: (at[0] @ at[1], by[0] @ at[1]))


@pytest.mark.parametrize(("function", "shapes", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_what_to_type(function, shapes, text):
    first = next(iter(shapes))
    typed = rf"model\.arrays\['\w+'\]` has no role.*{text}.*`roles=\{{.*: 64\}}`"
    with pytest.raises(ValueError, match=typed):
        read(function, X, **shapes)
    given = {f".arrays['{name}']": 3 for name in shapes}
    found = roles(raw(function, **shapes), X, given)
    assert found[f".arrays['{first}']"].fan_in == 3


def test_an_error_says_which_line_of_the_user_it_means():
    def function(a, x):
        return jnp.exp(a["s"]) * x  # the line that is named

    line = function.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=rf"`exp` at test_roles\.py:{line}\)"):
        read(function, X, s=(3,))


@pytest.mark.parametrize(
    "wrap",
    [
        eqx.nn.WeightNorm,
        lambda layer: eqx.nn.make_with_state(eqx.nn.SpectralNorm)(
            layer, "weight", key=jr.key(1)
        ),
    ],
    ids=["WeightNorm", "SpectralNorm"],
)
def test_layers_that_normalise_their_weight_are_refused(wrap, getkey):
    made = eqx.nn.inference_mode(wrap(eqx.nn.Linear(3, 2, key=getkey())))
    layer, state = made if isinstance(made, tuple) else (made, None)

    class Model(eqx.Module):
        layer: Any

        def __call__(self, x):
            return self.layer(x) if state is None else self.layer(x, state)[0]

    with pytest.raises(ValueError, match="weight` has no role that can be read"):
        nt.parameterize(Model(layer), X, getkey())


def test_two_fan_ins_are_named_with_both_places():
    two = lambda a, x: a["w"] @ (a["w"].T @ x)
    with pytest.raises(
        ValueError, match=r"roles 3 and 6.*test_roles.py.*test_roles.py"
    ):
        read(two, X, w=(3, 6))


def test_what_is_added_to_a_low_rank_update_is_fed_by_what_comes_before():
    # With roles given, the layer of each part is that of their sum.
    def function(a, x):
        h = jnp.tanh(a["first"] @ x)
        return a["last"] @ jnp.tanh((a["w"] + a["b"] @ a["a"]) @ h)

    shapes = {"first": (6, 3), "w": (6, 6), "b": (6, 2), "a": (2, 6), "last": (1, 6)}
    given = {f".arrays['{n}']": f for n, f in {"w": 6, "b": 2, "a": 6}.items()}
    found = roles(raw(function, **shapes), X, given)
    layers = {path: role.layer for path, role in found.items()}
    assert layers == {
        f".arrays['{name}']": {"first": "input", "last": "output"}.get(name, "hidden")
        for name in shapes
    }
