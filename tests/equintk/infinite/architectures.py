"""The networks of tests/golden/neural_tangents_infinite.py, as one writes them here."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

WIDTH = 8
erf = jax.scipy.special.erf


class Net(eqx.Module):
    """Layers, and a function of them and of an example."""

    layers: Any
    call: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.call(self.layers, x)


def keys(key=None):
    key = jr.key(0) if key is None else key
    i = 0
    while True:
        yield jr.fold_in(key, i)
        i += 1


def linear(key, n_in=WIDTH, n_out=WIDTH):
    return nn.Linear(n_in, n_out, key=key)


def conv(key, n_in=WIDTH, size=3, **options):
    options.setdefault("padding", "SAME")
    return nn.Conv2d(n_in, WIDTH, size, key=key, **options)


def mlp(activation, depth=2):
    def make(key=None):
        return nn.MLP(5, 3, WIDTH, depth, activation=activation, key=next(keys(key)))

    return make


def net(call, *layers):
    def make(key=None):
        several = keys(key)
        return Net([layer(next(several)) for layer in layers], call)

    return make


def first(key):
    return linear(key, 5)


def readout(n_in=WIDTH):
    return lambda key: linear(key, n_in, 3)


def residual(p, x):
    h = p[0](x)
    h = h + p[1](jax.nn.relu(h))
    return p[2](jax.nn.relu(h))


def product(p, x):
    h = p[0](x)
    return p[3](p[1](jax.nn.relu(h)) * p[2](erf(h)))


def concatenation(p, x):
    h = p[0](x)
    return p[3](jnp.concatenate([p[1](jax.nn.relu(h)), p[2](erf(h))]))


def layer_norm(p, x):
    return p[2](jax.nn.relu(p[1](p[0](x))))


def plain_norm(shape):
    return lambda key: nn.LayerNorm(shape, use_weight=False, use_bias=False)


VECTORS = {
    "relu": mlp(jax.nn.relu, 3),
    "leaky": mlp(lambda z: jax.nn.leaky_relu(z, 0.1)),
    "abrelu": mlp(lambda z: jnp.where(z > 0, 1.5 * z, -0.5 * z)),
    "abs": mlp(jnp.abs),
    "sign": mlp(jnp.sign),
    "erf": mlp(erf),
    "sigmoid like": mlp(lambda z: (erf(z / 2.4020563531719796) + 1) / 2),
    "gelu": mlp(lambda z: jax.nn.gelu(z, approximate=False)),
    "sin": mlp(jnp.sin),
    "cos": mlp(jnp.cos),
    "rbf": mlp(lambda z: jnp.sqrt(2.0) * jnp.sin(jnp.sqrt(2.0) * z + jnp.pi / 4)),
    "exp": mlp(jnp.exp, 1),
    "gaussian": mlp(lambda z: jnp.exp(-(z**2)), 1),
    "monomial 3": mlp(lambda z: z**3, 1),
    "polynomial": mlp(lambda z: 0.5 - z + 0.3 * z**2, 1),
    "rectified monomial 2": mlp(lambda z: jax.nn.relu(z) ** 2, 1),
    "residual": net(residual, first, linear, readout()),
    "product": net(product, first, linear, linear, readout()),
    "dense concatenation": net(
        concatenation, first, linear, linear, readout(2 * WIDTH)
    ),
    "layer norm": net(layer_norm, first, plain_norm(WIDTH), readout()),
}
STANDARD = {
    "relu standard": mlp(jax.nn.relu, 3),
    "erf standard": mlp(erf),
}


def image(key):
    return conv(key, 2)


def sum_pool(h):
    return jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 2, 2), (1, 1, 1), "VALID")


def conv_flatten(p, x):
    h = jax.nn.relu(p[1](jax.nn.relu(p[0](x))))
    return p[2](jnp.ravel(h))


def conv_pooled(p, x):
    h = nn.AvgPool2d(2, 2)(jax.nn.relu(p[0](x)))
    h = jax.nn.relu(p[1](h))
    return p[2](jnp.mean(h, axis=(1, 2)))


def conv_summed(p, x):
    h = jax.nn.relu(p[1](sum_pool(erf(p[0](x)))))
    return p[2](jnp.sum(h, axis=(1, 2)))


def conv_circular(p, x):
    h = jax.nn.relu(p[1](jax.nn.relu(p[0](x))))
    return p[2](jnp.mean(h, axis=(1, 2)))


def conv_layer_norm(p, x):
    h = jax.nn.relu(p[1](p[0](x)))
    return p[2](jnp.mean(h, axis=(1, 2)))


def conv_index(p, x):
    return p[1](jnp.ravel(jax.nn.relu(p[0](x))[:, 1:3, ::2]))


def conv_space(p, x):
    return p[1](jax.nn.relu(p[0](x)))


def circular(n_in):
    return lambda key: conv(key, n_in, padding_mode="CIRCULAR")


IMAGES = {
    "conv flatten": net(
        conv_flatten,
        image,
        lambda key: conv(key, stride=2, padding="VALID"),
        readout(4 * WIDTH),
    ),
    "conv pooled": net(conv_pooled, image, lambda key: conv(key, size=2), readout()),
    "conv summed": net(
        conv_summed, image, lambda key: conv(key, size=2, padding="VALID"), readout()
    ),
    "conv circular": net(conv_circular, circular(2), circular(WIDTH), readout()),
    "conv layer norm": net(conv_layer_norm, image, plain_norm((8, 5, 5)), readout()),
    "conv index": net(conv_index, image, readout(6 * WIDTH)),
    "conv space": net(conv_space, image, conv),
}


def attention(p, x, weights):
    """Heads of size 2, from their keys, queries and values."""
    k, q, v = (
        jax.vmap(layer)(x).reshape(-1, WIDTH // 2, 2) for layer in (p[0], p[1], p[2])
    )
    mixed = jnp.einsum("hts,shd->thd", weights(q, k), v).reshape(-1, WIDTH)
    return p[4](jnp.mean(jax.vmap(p[3])(mixed), axis=0))


def identity(q, k):
    return jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(2.0)


def softmax(q, k):
    return jax.nn.softmax(jnp.einsum("thd,shd->hts", k, k) / 2)


def projection(key):
    return nn.Linear(3, WIDTH, use_bias=False, key=key)


PROJECTIONS = (projection,) * 3 + (linear, readout())
TOKENS = {
    "attention identity": net(lambda p, x: attention(p, x, identity), *PROJECTIONS),
    "attention softmax": net(lambda p, x: attention(p, x, softmax), *PROJECTIONS),
}
