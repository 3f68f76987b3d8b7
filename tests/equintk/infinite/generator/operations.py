"""What random models are put together from.

Values are of a kind: `x` an example, `h` an array of hidden units, `t` one for each of
several tokens, `s` a number. An operation has the kinds it takes, the kind it gives, a
weight by which it is chosen, and perhaps a layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from equinox import nn
from jax import lax

relu, tanh = jax.nn.relu, jnp.tanh
IN, OUT, TOKENS = 5, 512, 3


class Operation(NamedTuple):
    """One word of the language.

    Attributes:
        takes: the kinds of its operands.
        gives: the kind of its result.
        call: of the layer, where there is one, and the operands.
        layer: the name of the layer in `LAYERS`, or `None`.
        weight: how often it is chosen.
    """

    takes: str
    gives: str
    call: Callable[..., Any]
    layer: str | None = None
    weight: float = 1.0


class Table(eqx.Module):
    """An array of parameters."""

    weight: jax.Array


def table(*shape: int | None) -> Callable[..., Any]:
    return lambda n, key: Table(jr.normal(key, [n if s is None else s for s in shape]))


class Dropped(eqx.Module):
    """Dropout by a key of its own, the same for all examples."""

    layer: nn.Dropout
    key: jax.Array

    def __call__(self, h):
        return self.layer(h, key=self.key)


def opaque_abs(z):
    """A function of which the expectation is given, by `known`."""
    return jnp.exp(jnp.log(z**2) / 2)


LAYERS: dict[str, Callable[..., Any]] = {
    "in": lambda n, key: nn.Linear(IN, n, key=key),
    "in, no bias": lambda n, key: nn.Linear(IN, n, use_bias=False, key=key),
    "hidden": lambda n, key: nn.Linear(n, n, key=key),
    "hidden, no bias": lambda n, key: nn.Linear(n, n, use_bias=False, key=key),
    "double": lambda n, key: nn.Linear(n, 2 * n, key=key),
    "halve": lambda n, key: nn.Linear(2 * n, n, key=key),
    "read": lambda n, key: nn.Linear(n, OUT, key=key),
    "norm": lambda n, key: nn.LayerNorm(n),
    "plain norm": lambda n, key: nn.LayerNorm(n, use_weight=False, use_bias=False),
    "root norm": lambda n, key: nn.RMSNorm(n),
    "narrow": lambda n, key: nn.Linear(n, 4, key=key),
    "one": lambda n, key: nn.Linear(n, 1, key=key),
    "few": lambda n, key: nn.Linear(2, n, key=key),
    "table": lambda n, key: nn.Embedding(4, n, key=key),
    "stack": table(2, None, None),
    "mixing": table(TOKENS, TOKENS),
    "positions": table(TOKENS, None),
    "kernel": lambda n, key: nn.Conv1d(n, n, 2, key=key),
    "depthwise": lambda n, key: nn.Conv1d(n, n, 2, groups=n, key=key),
    "flat": lambda n, key: nn.Linear(TOKENS * n, n, key=key),
    "dropout": lambda n, key: Dropped(nn.Dropout(0.3), key),
    "recurrent": lambda n, key: nn.GRUCell(n, n, key=key),
}


@jax.custom_jvp
def straight_through(z):
    return jnp.sign(z)


straight_through.defjvp(lambda z, t: (jnp.sign(z[0]), t[0]))


@jax.custom_jvp
def honest(z):
    return z * jax.nn.sigmoid(z)


honest.defjvp(lambda z, t: jax.jvp(lambda a: a * jax.nn.sigmoid(a), z, t))


@jax.custom_vjp
def scaled_gradient(z):
    return relu(z)


scaled_gradient.defvjp(
    lambda z: (relu(z), z), lambda z, g: (0.5 * g * (z > 0).astype(g.dtype),)
)


@jax.custom_vjp
def honest_square(z):
    return z**2 / 2


honest_square.defvjp(lambda z: (z**2 / 2, z), lambda z, g: (g * z,))


def attention(q, k, v, scale, softmax):
    scores = q @ k.T / q.shape[-1] ** scale
    return (jax.nn.softmax(scores) if softmax else scores) @ v


def repeated(layer, h):
    for _ in range(2):
        h = relu(layer(h))
    return h


def looped(layer, h):
    return lax.fori_loop(0, 2, lambda i, a: tanh(layer(a)) + a, h)


def carried(layer, h):
    """A loop whose state holds the weights."""
    step = lambda c, _: ((relu(c[1] @ c[0]), c[1]), None)
    return lax.scan(step, (h, layer.weight), None, length=2)[0][0]


def decaying(layer, h):
    """The same, with weights that change on the way."""
    step = lambda c, _: ((relu(c[1] @ c[0]), 0.5 * c[1]), None)
    return lax.scan(step, (h, layer.weight), None, length=2)[0][0]


def turning(layer, h):
    """The same, with weights that are transposed on the way."""
    step = lambda c, _: ((relu(c[1] @ c[0]), c[1].T), None)
    return lax.scan(step, (h, layer.weight), None, length=2)[0][0]


def stacked(layer, h):
    return lax.scan(lambda a, w: (relu(w @ a) + a, None), h, layer.weight)[0]


def over_time(layer, t):
    step = lambda h, a: (relu(layer(h) + a), None)
    return lax.scan(step, 0 * t[0], t)[0]


def outputs_over_time(layer, t):
    step = lambda h, a: (lambda b: (b, b))(tanh(layer(h) + a))
    return lax.scan(step, jnp.zeros(t.shape[1]), t, reverse=True)[1]


def pointwise(function, weight=1.0, both=True):
    found = {"": Operation("h", "h", function, weight=weight)}
    return found | ({"tokens ": Operation("t", "t", function)} if both else {})


def interleaved(h):
    return h.reshape(2, -1).T.ravel()


def permuted(h):
    return h[np.random.default_rng(0).permutation(h.size)]


def halves(h):
    return jnp.split(h, 2)


POINTWISE: dict[str, tuple[Any, float]] = {
    "relu": (relu, 4.0),
    "tanh": (tanh, 2.0),
    "erf": (jax.scipy.special.erf, 1.0),
    "gelu": (jax.nn.gelu, 1.0),
    "silu": (jax.nn.silu, 1.0),
    "sin": (jnp.sin, 1.0),
    "cos": (jnp.cos, 1.0),
    "abs": (jnp.abs, 1.0),
    "leaky": (jax.nn.leaky_relu, 1.0),
    "square": (lambda z: z**2 / 2, 1.0),
    "cube": (lambda z: z**3 / 4, 0.5),
    "relu squared": (lambda z: relu(z) ** 2 / 2, 1.0),
    "z times relu": (lambda z: 0.7 * z * relu(z), 0.7),
    "gaussian": (lambda z: jnp.exp(-(z**2) / 2), 1.0),
    "exp": (lambda z: jnp.exp(0.3 * z), 0.5),
    "sigmoid": (jax.nn.sigmoid, 1.0),
    "softplus": (jax.nn.softplus, 0.7),
    "root": (lambda z: jnp.sqrt(1 + z**2), 0.7),
    "logarithm": (lambda z: jnp.log(1 + z**2), 0.5),
    "shifted relu": (lambda z: relu(z - 0.5), 0.7),
    "affine": (lambda z: 1.5 * z - 0.4, 1.0),
    "negative": (lambda z: -z, 0.5),
    "jump": (lambda z: jnp.where(z > 0, 1.0, 0.0), 0.5),
    "jump elsewhere": (lambda z: jnp.where(z > 0.3, 1.0, 0.0), 0.3),
    "clip": (lambda z: jnp.clip(z, -1, 1), 0.5),
    "round": (jnp.round, 0.3),
    "whole number": (lambda z: z.astype(jnp.int32).astype(z.dtype), 0.3),
    "single": (lambda z: z.astype(jnp.float32).astype(z.dtype), 0.7),
    "half": (lambda z: relu(z.astype(jnp.float16)).astype(z.dtype), 0.3),
    "stopped": (lax.stop_gradient, 0.5),
    "stopped part": (lambda z: relu(z) + lax.stop_gradient(z), 0.4),
    "straight through": (straight_through, 0.5),
    "honest": (honest, 0.5),
    "scaled gradient": (scaled_gradient, 0.5),
    "honest square": (honest_square, 0.5),
    "remat": (jax.checkpoint(lambda z: jnp.sin(relu(z))), 0.5),
    "jit": (jax.jit(lambda z: tanh(z) + relu(z)), 0.5),
    "of a derivative": (jax.vmap(jax.grad(lambda z: jnp.sin(z) * z)), 0.4),
    "chosen": (lambda z: jnp.where(z > 0, z, 0.2 * jnp.sin(z)), 0.5),
    "inverse": (lambda z: 1 / z, 0.2),
    "power": (lambda z: jnp.abs(z) ** 1.5, 0.3),
}
"""Functions of one entry."""

UNITS: dict[str, tuple[Any, float]] = {
    "reversed": (lambda h: h[::-1], 0.7),
    "rolled": (lambda h: jnp.roll(h, 1), 0.5),
    "sorted": (jnp.sort, 0.3),
    "running sum": (jnp.cumsum, 0.3),
    "largest": (lambda h: lax.top_k(h, 4)[0][0] * h, 0.3),
    "one hot": (lambda h: h * jax.nn.one_hot(jnp.argmax(h), h.size), 0.3),
    "halves swapped": (lambda h: jnp.concatenate(halves(h)[::-1]), 1.0),
    "half, then zeros": (lambda h: jnp.pad(halves(h)[0], (0, h.size // 2)), 0.5),
    "halves multiplied": (lambda h: jnp.tile(jnp.multiply(*halves(h)), 2), 0.7),
    "halves added": (lambda h: jnp.concatenate([halves(h)[0] + halves(h)[1]] * 2), 0.7),
    "half and relu": (
        lambda h: jnp.concatenate([halves(h)[0], relu(halves(h)[1])]), 1.0,
    ),
    "interleaved": (interleaved, 0.7),
    "permuted": (permuted, 0.3),
    "even units": (lambda h: jnp.repeat(h[::2], 2), 0.5),
    "even and odd": (lambda h: jnp.concatenate([h[::2], h[1::2]]), 0.7),
    "even times odd": (lambda h: jnp.concatenate([h[::2] * h[1::2]] * 2), 0.7),
    "means of pairs": (lambda h: jnp.repeat(h.reshape(-1, 2).mean(1), 2), 0.7),
    "by groups": (
        lambda h: (h.reshape(4, -1) - h.reshape(4, -1).mean(1, keepdims=True)).ravel(),
        0.7,
    ),
    "numbered": (lambda h: h * jnp.arange(h.size).astype(h.dtype), 0.3),
    "alternating": (lambda h: jnp.where(jnp.arange(h.size) % 2 == 0, h, -h), 0.3),
    "softmax": (lambda h: jax.nn.softmax(h) * h.size, 0.4),
    "centred": (lambda h: h - jnp.mean(h), 1.0),
    "normed": (lambda h: h * jnp.sqrt(h.size) / jnp.linalg.norm(h), 1.0),
    "standardised": (lambda h: (h - jnp.mean(h)) / jnp.std(h), 1.0),
    "matrix": (lambda h: (h.reshape(2, -1) + h.reshape(-1, 2).T).ravel(), 0.5),
    "outer": (lambda h: (jnp.outer(h, h) @ h) / h.size, 0.7),
    "outer, transposed": (
        lambda h: (jnp.outer(h, relu(h)) + jnp.outer(h, relu(h)).T) @ relu(h) / h.size,
        0.7,
    ),
    "loop until": (
        lambda h: lax.while_loop(lambda a: jnp.sum(a**2) > 1, lambda a: a / 2, h), 0.3,
    ),
    "branch": (lambda h: lax.cond(jnp.mean(h) > 0, relu, tanh, h), 0.5),
    "branch on size": (lambda h: lax.cond(jnp.mean(h**2) > 0.1, relu, tanh, h), 0.5),
    "choice by mean": (lambda h: jnp.where(jnp.mean(h) > 0, relu(h), -h), 0.5),
    "mapped": (lambda h: lax.map(lambda a: jnp.sin(a) + a, h), 0.4),
}  # fmt: skip
"""Functions of all units together."""

NUMBERS: dict[str, tuple[Any, float]] = {
    "mean": (jnp.mean, 1.0),
    "mean square": (lambda h: jnp.mean(h**2), 1.0),
    "mean of relu": (lambda h: jnp.mean(relu(h)), 1.0),
    "deviation": (jnp.std, 1.0),
    "root mean square": (lambda h: jnp.linalg.norm(h) / jnp.sqrt(h.size), 1.0),
    "norm": (jnp.linalg.norm, 0.7),
    "sum": (jnp.sum, 0.5),
    "sum of squares": (lambda h: jnp.sum(h**2), 0.5),
    "sum over root": (lambda h: jnp.sum(h) / jnp.sqrt(h.size), 0.7),
    "mean times root": (lambda h: jnp.mean(h) * jnp.sqrt(h.size), 0.7),
    "mean times size": (lambda h: jnp.mean(relu(h) - 0.2) * h.size, 0.5),
    "one unit": (lambda h: h[0], 0.5),
    "few units": (lambda h: jnp.mean(h[:2]), 0.5),
    "half of them": (lambda h: jnp.mean(h[: h.size // 2] ** 2), 0.7),
    "maximum": (jnp.max, 0.4),
    "median": (jnp.median, 0.2),
    "participation": (lambda h: jnp.sum(h**2) ** 2 / jnp.sum(h**4) / h.size, 0.7),
    "log of sum of exp": (
        lambda h: jax.scipy.special.logsumexp(h) - jnp.log(h.size), 0.5,
    ),
    "similarity": (
        lambda h: jnp.sum(h * relu(h)) / jnp.linalg.norm(h) / jnp.linalg.norm(relu(h)),
        0.7,
    ),
    "log of norm": (lambda h: jnp.log(jnp.linalg.norm(h)), 0.4),
}  # fmt: skip
"""Numbers made of all units."""

OF_NUMBERS: dict[str, tuple[Any, float]] = {
    "tanh": (tanh, 1.0),
    "cos": (jnp.cos, 1.0),
    "root": (lambda s: jnp.sqrt(1 + s**2), 1.0),
    "double": (lambda s: 2 * s, 0.5),
    "exp": (lambda s: jnp.exp(0.3 * tanh(s)), 0.5),
    "sign": (jnp.sign, 0.4),
}

WITH_NUMBERS: dict[str, tuple[Any, float]] = {
    "times number": (lambda h, s: h * s, 1.5),
    "plus number": (lambda h, s: h + s, 1.5),
    "over number": (lambda h, s: h / jnp.sqrt(1 + s**2), 1.0),
    "divided": (lambda h, s: h / s, 0.5),
    "relu past number": (lambda h, s: relu(h + s), 1.0),
    "sine of multiple": (lambda h, s: jnp.sin(s * h), 0.7),
    "chosen by number": (lambda h, s: jnp.where(s > 0.5, h, relu(h)), 0.5),
    "times number and root": (
        lambda h, s: 0.1 * h * s * jnp.sqrt(h.size), 0.4,
    ),
}  # fmt: skip

PAIRS: dict[str, tuple[Any, float]] = {
    "sum": (lambda a, b: a + b, 4.0),
    "difference": (lambda a, b: a - b, 1.5),
    "product": (lambda a, b: a * b, 2.0),
    "gate": (lambda a, b: a * jax.nn.sigmoid(b), 1.5),
    "weighted": (lambda a, b: 0.6 * a + 1.7 * b, 1.0),
    "maximum": (jnp.maximum, 0.7),
    "where": (lambda a, b: jnp.where(a > 0, a, b), 0.7),
    "relu of sum": (lambda a, b: relu(a + b), 1.5),
    "product of relus": (lambda a, b: relu(a) * relu(b), 1.0),
    "hypotenuse": (lambda a, b: jnp.sqrt(1 + a**2 + b**2), 0.5),
    "plus reversed": (lambda a, b: a + b[::-1], 0.5),
    "projection": (lambda a, b: a * jnp.mean(a * b), 1.0),
    "scalar product": (lambda a, b: a * (jnp.dot(a, b) / jnp.sqrt(a.size)), 0.7),
    "outer product": (lambda a, b: jnp.outer(a, b) @ b / a.size, 0.7),
    "difference of norms": (
        lambda a, b: a * tanh(jnp.linalg.norm(a) - jnp.linalg.norm(b)), 0.5,
    ),
    "alternately": (lambda a, b: jnp.stack([a, b], 1).ravel()[: a.size], 0.5),
    "one after the other": (
        lambda a, b: jnp.concatenate([a[: a.size // 2], b[: a.size // 2]]), 1.0,
    ),
}  # fmt: skip

WITH_EXAMPLES: dict[str, tuple[Any, float]] = {
    "times input": (lambda h, x: h * x[0], 1.0),
    "plus input": (lambda h, x: h + x[1], 1.0),
    "chosen by input": (lambda h, x: jnp.where(x[0] > 0, h, relu(h)), 1.0),
    "branch by input": (lambda h, x: lax.cond(x[0] > 0, relu, tanh, h), 0.7),
    "unit by input": (lambda h, x: relu(h) * h[jnp.argmax(x)], 0.4),
    "times input's size": (lambda h, x: h * jnp.sqrt(jnp.mean(x**2)), 1.0),
    "as often as input says": (
        lambda h, x: lax.fori_loop(
            0, jnp.argmax(x).astype(jnp.int32), lambda i, a: tanh(a), h
        ), 0.3,
    ),
}  # fmt: skip
