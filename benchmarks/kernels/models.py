"""The networks as Equinox modules, written as a user would write them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu

from .values import OMEGA, parameters
from .workloads import Net


class Siren(eqx.Module):
    """Sines of stretched linear maps."""

    layers: list

    def __init__(self, *sizes: int, key):
        keys = jr.split(key, len(sizes) - 1)
        self.layers = [
            eqx.nn.Linear(n_in, n_out, key=k)
            for n_in, n_out, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]

    def __call__(self, x):
        """The value at one point."""
        for layer in self.layers[:-1]:
            x = jnp.sin(OMEGA * layer(x))
        return self.layers[-1](x)


class CNN(eqx.Module):
    """Three convolutions, an average over the image and a linear map."""

    convolutions: list
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2, k3, k4 = jr.split(key, 4)
        self.convolutions = [
            eqx.nn.Conv2d(1, 32, 3, padding="SAME", key=k1),
            eqx.nn.Conv2d(32, 64, 3, stride=2, padding="SAME", key=k2),
            eqx.nn.Conv2d(64, 64, 3, stride=2, padding="SAME", key=k3),
        ]
        self.readout = eqx.nn.Linear(64, 10, key=k4)

    def __call__(self, x):
        """The scores of one image."""
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return self.readout(jnp.mean(x, axis=(1, 2)))


class LeNet(eqx.Module):
    """LeNet-5 with a maximum and an average where the original has two averages."""

    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    maximum: eqx.nn.MaxPool2d
    average: eqx.nn.AvgPool2d
    head: eqx.nn.Sequential

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(1, 6, 5, padding=2, key=k1)
        self.conv2 = eqx.nn.Conv2d(6, 16, 5, key=k2)
        self.maximum = eqx.nn.MaxPool2d(2, 2)
        self.average = eqx.nn.AvgPool2d(2, 2)
        sizes, keys = (400, 120, 84, 10), jr.split(k3, 3)
        self.head = eqx.nn.Sequential(
            [
                eqx.nn.Linear(sizes[0], sizes[1], key=keys[0]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(sizes[1], sizes[2], key=keys[1]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Linear(sizes[2], sizes[3], key=keys[2]),
            ]
        )

    def __call__(self, x):
        """The scores of one image."""
        x = self.maximum(jnp.tanh(self.conv1(x)))
        x = self.average(jnp.tanh(self.conv2(x)))
        return self.head(jnp.ravel(x))


class Block(eqx.Module):
    """A pre-norm encoder block."""

    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    wide: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, dim: int, key):
        k1, k2, k3 = jr.split(key, 3)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(dim), eqx.nn.LayerNorm(dim)
        self.attention = eqx.nn.MultiheadAttention(4, dim, key=k1)
        self.wide = eqx.nn.Linear(dim, 4 * dim, key=k2)
        self.narrow = eqx.nn.Linear(4 * dim, dim, key=k3)

    def __call__(self, tokens):
        """Tokens in, tokens out."""
        h = jax.vmap(self.norm1)(tokens)
        tokens = tokens + self.attention(h, h, h)
        h = jax.vmap(self.wide)(jax.vmap(self.norm2)(tokens))
        return tokens + jax.vmap(self.narrow)(jax.nn.gelu(h))


class ViT(eqx.Module):
    """A vision transformer on patches that are cut already."""

    embedding: eqx.nn.Linear
    token: jax.Array
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, key, dim: int = 64, blocks: int = 2):
        k1, k2, k3, k4, k5 = jr.split(key, 5)
        self.embedding = eqx.nn.Linear(49, dim, key=k1)
        self.token = jr.normal(k2, (1, dim))
        self.positions = jr.normal(k3, (17, dim))
        self.blocks = [Block(dim, k) for k in jr.split(k4, blocks)]
        self.norm = eqx.nn.LayerNorm(dim)
        self.readout = eqx.nn.Linear(dim, 10, key=k5)

    def __call__(self, patches):
        """The scores of one image."""
        tokens = jnp.concatenate([self.token, jax.vmap(self.embedding)(patches)])
        tokens = tokens + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        # The mean, not the first token alone: all of the last block counts.
        return self.readout(jnp.mean(jax.vmap(self.norm)(tokens), axis=0))


class GRU(eqx.Module):
    """A number from a sequence."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.cell = eqx.nn.GRUCell(8, 64, key=k1)
        self.readout = eqx.nn.Linear(64, 1, key=k2)

    def __call__(self, xs):
        """The value after the last step."""
        start = jnp.zeros(64, xs.dtype)
        state, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), start, xs)
        return self.readout(state)


def build(net: Net) -> Callable[..., Any]:
    """The module of a net, with the values its peers in other environments get."""
    key = jr.key(1)
    sizes = (net.in_shape[0], *(layer.fan_out for layer in net.layers))
    if net.kind in _OWN_VALUES:  # no peer elsewhere: Equinox's own initialisation
        return _OWN_VALUES[net.kind](key)
    skeleton = eqx.filter_eval_shape(
        {
            "relu": lambda: eqx.nn.MLP(
                sizes[0], sizes[-1], sizes[1], len(sizes) - 2, jax.nn.relu, key=key
            ),
            "siren": lambda: Siren(*sizes, key=key),
            "cnn": lambda: CNN(key),
        }[net.kind]
    )
    drawn = iter([array for pair in parameters(net) for array in pair])
    return jtu.tree_map(
        lambda leaf: (
            jnp.asarray(next(drawn)).reshape(leaf.shape)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        skeleton,
    )


_OWN_VALUES = {"vit": ViT, "lenet": LeNet, "gru": GRU}
