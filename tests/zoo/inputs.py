"""What examples are made of, what a module holds beside arrays, what is trained."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from ..helpers import Case
from .member import generic, member

INPUTS = {}


def _draw_dict(rng, n):
    return {
        "image": rng.standard_normal((n, 2, 3)),
        "time": rng.standard_normal(n),
        "pair": (rng.standard_normal((n, 3)), None),
    }


def _draw_mixed(rng, n):
    return (
        rng.integers(0, 4, (n, 5)),
        rng.standard_normal((n, 3)),
        rng.random((n, 5)) < 0.6,
    )


@member(INPUTS, draw=_draw_dict, w=(4, 6), v=(4, 3), b=(4,))
def a_dictionary_of_arrays(x, w, v, b):
    other, _ = x["pair"]
    return jnp.tanh(w @ jnp.ravel(x["image"]) * x["time"] + v @ other + b)


@member(INPUTS, draw=_draw_mixed, w=(4, 3), v=(2, 3))
def tokens_with_numbers_and_a_mask(x, w, v):
    tokens, numbers, mask = x
    rows = jnp.where(mask[:, None], w[tokens], 0.0)
    return v @ jnp.tanh(rows.sum(axis=0) + numbers)


@member(INPUTS, x=(3,), tokens=5, w=(4, 3))
def integers_used_as_numbers(x, w):
    return jnp.tanh(w @ x.astype(w.dtype))


class ManyKindsOfLeaves(eqx.Module):
    """Integers, NumPy arrays, functions, strings and `None` among the parameters."""

    weight: jax.Array
    bias: np.ndarray
    order: np.ndarray
    activation: Callable
    scale: float
    depth: int
    name: str
    missing: None
    nested: dict[str, Any]

    def __init__(self, key):
        self.weight = jr.normal(key, (4, 3))
        self.bias = np.ones(4)
        self.order = np.asarray([2, 0, 1])
        self.activation = jnp.tanh
        self.scale = 0.7
        self.depth = 2
        self.name = "many kinds"
        self.missing = None
        self.nested = {"flag": True, "gain": jnp.ones(4), "mask": jnp.arange(4) > 1}

    def __call__(self, x):
        h = self.activation(self.weight @ x[self.order] + self.bias)
        for _ in range(self.depth):
            h = self.scale * h * self.nested["gain"]
        return jnp.where(self.nested["mask"], h, h**2)


def _biases(model):
    """Only vectors are trained."""
    return jtu.tree_map(lambda a: eqx.is_inexact_array(a) and a.ndim == 1, model)


def _first_convolution(model):
    mask = jtu.tree_map(lambda _: False, model)
    return eqx.tree_at(lambda m: m.layers[0].weight, mask, True)


def _mlp(key):
    return eqx.nn.MLP(3, 2, 4, 2, activation=jnp.tanh, key=key)


INPUTS["many kinds of leaves"] = Case(generic(ManyKindsOfLeaves), (3,))
INPUTS["only biases are trained"] = Case(generic(_mlp), (3,), trainable=_biases)
INPUTS["chosen by a function of the leaf"] = Case(
    generic(_mlp),
    (3,),
    trainable=lambda model: lambda leaf: eqx.is_array(leaf) and leaf.ndim == 2,
)
INPUTS["one convolution kernel of several is trained"] = Case(
    generic(
        lambda key: eqx.nn.Sequential(
            [
                eqx.nn.Conv1d(2, 3, 3, key=key),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Conv1d(3, 2, 2, key=key),
            ]
        )
    ),
    (2, 6),
    trainable=_first_convolution,
)
