"""Networks of a vector."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

from . import WIDTH, erf, keys, linear, net, plain_norm, readout


def mlp(activation, depth=2):
    def make(key=None):
        return nn.MLP(5, 3, WIDTH, depth, activation=activation, key=next(keys(key)))

    return make


def first(key):
    return linear(key, 5)


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


def fixed(layer):
    return lambda key: layer


def repeated(p, x):
    """The same layers over and over, each with weights of its own."""
    h, _ = jax.lax.scan(lambda h, layer: (layer(jax.nn.relu(h)), None), p[0](x), p[1])
    return p[2](jax.nn.relu(h))


def stack(key):
    return eqx.filter_vmap(linear)(jr.split(key, 2))


def two_outputs(p, x):
    h = p[0](x)
    return p[1](jax.nn.relu(h)), p[2](erf(h))


def two_inputs(p, pair):
    one, two = pair
    return p[3](jax.nn.relu(p[0](one) + p[2](jax.nn.relu(p[1](two)))))


def dropped(p, pair):
    x, key = pair
    one, two = jr.split(key)
    h = p[1](jax.nn.relu(p[0](x)), key=one)
    return p[4](p[3](erf(p[2](h)), key=two))


def dropped_in_test(p, x):
    return p[2](p[1](jax.nn.relu(p[0](x))))


def layers(p, x):
    return p[2](jax.nn.relu(p[1](jax.nn.relu(p[0](x)))))


def normed_hermite(p, x):
    h = p[1](p[0](x))
    return p[2]((h**3 - 3 * h) / jnp.sqrt(6.0))


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
    "erf scaled": mlp(lambda z: 0.8 * erf(1.3 * z) + 0.2),
    "sin scaled": mlp(lambda z: 0.8 * jnp.sin(1.3 * z + 0.4)),
    "cos scaled": mlp(lambda z: 0.8 * jnp.cos(1.3 * z + 0.4)),
    "rbf scaled": mlp(
        lambda z: jnp.sqrt(2.0) * jnp.sin(jnp.sqrt(1.4) * z + jnp.pi / 4)
    ),
    "exp scaled": mlp(lambda z: 0.5 * jnp.exp(0.6 * z), 1),
    "gaussian scaled": mlp(lambda z: 0.5 * jnp.exp(-0.3 * z**2), 1),
    "gabor": mlp(lambda z: jnp.exp(-(z**2)) * jnp.sin(z), 1),
    "hermite 3": net(normed_hermite, first, plain_norm(WIDTH, 1e-12), readout()),
    "monomial 0": mlp(lambda z: z**0, 1),
    "monomial 5": mlp(lambda z: z**5, 1),
    "rectified monomial 3": mlp(lambda z: jax.nn.relu(z) ** 3, 1),
    "elementwise": mlp(jax.nn.relu),
    "repeat": net(repeated, first, stack, readout()),
    "tuple outputs": net(two_outputs, first, readout(), readout()),
    "tuple inputs": net(
        two_inputs, first, lambda key: linear(key, 3), linear, readout()
    ),
    "dropout": net(
        dropped,
        first,
        fixed(nn.Dropout(0.2)),
        linear,
        fixed(nn.Dropout(0.4)),
        readout(),
    ),
    "dropout in test": net(
        dropped_in_test, first, fixed(nn.Dropout(0.2, inference=True)), readout()
    ),
}
STANDARD = {
    "relu standard": mlp(jax.nn.relu, 3),
    "erf standard": mlp(erf),
    "relu standard scaled": net(
        layers,
        lambda key: linear(key, 5, 2 * WIDTH),
        lambda key: linear(key, 2 * WIDTH, 4 * WIDTH),
        readout(4 * WIDTH),
    ),
}
