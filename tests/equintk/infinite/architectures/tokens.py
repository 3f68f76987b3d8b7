"""Networks of a sequence of tokens."""

import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

from . import WIDTH, erf, linear, net, readout

UNITS = 16  # four heads of four: fewer would stay few beside them


def heads(p, seen, values, weights):
    """Heads of size 4, from their keys, queries and values, and a mean over tokens."""
    k, q, v = (
        jax.vmap(layer)(x).reshape(-1, UNITS // 4, 4)
        for layer, x in zip(p, (seen, seen, values), strict=False)
    )
    mixed = jnp.einsum("hts,shd->thd", weights(q, k), v).reshape(-1, UNITS)
    return p[4](jnp.mean(jax.vmap(p[3])(mixed), axis=0))


def attention(weights):
    return net(lambda p, x: heads(p, x, x, weights), *PROJECTIONS)


def identity(q, k):
    return jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(4.0)


def tied(function):
    """A function of the products of keys with themselves."""
    return lambda q, k: function(jnp.einsum("thd,shd->hts", k, k) / 4)


softmax = tied(jax.nn.softmax)


def summed(p, x):
    h = jax.vmap(p[5])(x)
    return heads(p, h + p[6], h, softmax)


def concatenated(p, x):
    h = jnp.concatenate([jax.vmap(p[5])(x), p[6]], axis=1)
    return heads(p, h, h, softmax)


def summed_for_values_too(p, x):
    h = jax.vmap(p[5])(x) + p[6]
    return heads(p, h, h, identity)


def positions(key):
    return jr.normal(key, (4, UNITS))


def projection(n_in):
    return lambda key: nn.Linear(n_in, UNITS, use_bias=False, key=key)


def embedded(key):
    return linear(key, 3, UNITS)


def projected(key):
    return linear(key, 3)


AFTER = (lambda key: linear(key, UNITS, UNITS), readout(UNITS))
PROJECTIONS = (projection(3),) * 3 + AFTER
PROJECTED = (projection(UNITS),) * 3 + AFTER
CONCATENATED = (projection(2 * UNITS),) * 3 + AFTER
TOKENS = {
    "attention identity": attention(identity),
    "attention softmax": attention(softmax),
    "attention relu": attention(tied(jax.nn.relu)),
    "attention abs": attention(tied(jnp.abs)),
    "attention positions summed": net(summed, *PROJECTED, embedded, positions),
    "attention positions concatenated": net(
        concatenated, *CONCATENATED, embedded, positions
    ),
    "attention identity positions": net(
        summed_for_values_too, *PROJECTED, embedded, positions
    ),
}


def aggregate(p, pair):
    x, graph = pair
    h = graph.T @ jax.nn.relu(jax.vmap(p[0])(x))
    h = graph.T @ jax.nn.relu(jax.vmap(p[1])(h))
    return p[2](jnp.mean(h, axis=0))


def aggregate_sparse(p, pair):
    x, edges = pair
    sent, received = edges.T
    h = jax.nn.relu(jax.vmap(p[0])(x))
    known = (sent >= 0) & (received >= 0)
    messages = jnp.where(known[:, None], h[sent], 0.0)
    h = jax.ops.segment_sum(messages, jnp.where(known, received, 0), h.shape[0])
    h = jax.nn.relu(jax.vmap(p[1])(h))
    return p[2](jnp.sum(h, axis=0))


NODES = {
    "aggregate": net(aggregate, projected, linear, readout()),
    "aggregate sparse": net(aggregate_sparse, projected, linear, readout()),
}
MASK = 100.0


def masked(p, x):
    known = x[:, :1] != MASK
    h = jax.vmap(p[0])(jnp.where(known, x, 0.0))
    h = jnp.where(known, jax.nn.relu(h), 0.0)
    h = jnp.where(known, erf(jax.vmap(p[1])(h)), 0.0)
    return p[2](jnp.sum(h, axis=0) / jnp.sum(known.astype(x.dtype)))


def masked_flatten(p, x):
    known = x[:, :1] != MASK
    h = jax.vmap(p[0])(jnp.where(known, x, 0.0))
    return p[1](jnp.ravel(jnp.where(known, jax.nn.relu(h), 0.0)))


def masked_attention(p, x):
    known = x[:, 0] != MASK
    h = jnp.where(known[:, None], x, 0.0)
    k, v = (jax.vmap(layer)(h).reshape(-1, UNITS // 4, 4) for layer in p[:2])
    scores = jnp.where(known, jnp.einsum("thd,shd->hts", k, k) / 4, -jnp.inf)
    mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), v).reshape(-1, UNITS)
    h = jnp.where(known[:, None], jax.vmap(p[2])(mixed), 0.0)
    return p[3](jnp.sum(h, axis=0) / jnp.sum(known.astype(x.dtype)))


MASKED = {
    "masked": net(masked, projected, linear, readout()),
    "masked flatten": net(masked_flatten, projected, readout(4 * WIDTH)),
    "masked attention": net(masked_attention, *PROJECTIONS[1:]),
}
