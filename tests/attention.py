"""Attention whose derivatives XLA gets wrong in float32, where it fuses them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


class Attention(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    last: eqx.nn.Linear

    def __init__(self, width, n_outputs, *, key):
        keys = jr.split(key, 3)
        self.first = eqx.nn.Linear(7, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[1])
        self.last = eqx.nn.Linear(width, n_outputs, key=keys[2])

    def __call__(self, x):
        h = jax.vmap(self.first)(x)
        q = jax.vmap(self.norm)(h)
        return self.last(jnp.mean(h + self.attention(q, q, q), axis=0))


def in_float32(tree):
    return jax.tree_util.tree_map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, tree
    )
