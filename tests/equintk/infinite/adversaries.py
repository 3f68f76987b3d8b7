"""Models made to mislead: each has a limit that is computed, or is refused."""

import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

from tests.equintk.infinite.architectures import Net

OUT = 16
relu, tanh = jax.nn.relu, jnp.tanh


def linear(n_in, n_out, bias=True):
    return lambda n, key: nn.Linear(
        n_in if n_in else n, n_out if n_out else n, use_bias=bias, key=key
    )


def array(*shape):
    return lambda n, key: jr.normal(key, tuple(s if s else n for s in shape))


def net(call, *layers):
    def build(n, key):
        keys = jr.split(key, len(layers))
        return Net([layer(n, k) for layer, k in zip(layers, keys, strict=True)], call)

    return build


IN, HID, READ = linear(5, 0), linear(0, 0), linear(0, OUT)


def after(function, *more):
    """A hidden layer, a function of it, a readout."""
    return net(lambda p, x: p[-1](function(p[1:-1], p[0](x))), IN, *more, READ)


def square(p, x):
    """A hidden matrix, from an input vector."""
    return jnp.einsum("abi,i->ab", p, x)


@jax.custom_jvp
def straight_through(z):
    return jnp.sign(z)


straight_through.defjvp(lambda z, t: (jnp.sign(z[0]), t[0]))


def of_tokens(function, p, x, n):
    """A function of several projections of the tokens."""
    return function(*[jax.vmap(layer)(x) for layer in p[:n]])


def identity_head(q, k, v):
    return (q @ k.T / jnp.sqrt(q.shape[1])) @ v


def softmax_head(q, k, v):
    return jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[1])) @ v


def squared_scores(q, k):
    return jnp.mean((q @ k.T / jnp.sqrt(q.shape[1])) * (q @ k.T / jnp.sqrt(q.shape[1])))


def masked_mean(p, x):
    h = jax.vmap(p[0])(x)
    mask = x[:, :1] > 0
    total = jnp.sum(jnp.where(mask, relu(h), 0.0), axis=0)
    return p[1](total / (1 + jnp.sum(mask.astype(x.dtype))))


def tied_twice(p, x):
    h = p[0](x)
    for _ in range(2):
        h = p[1](relu(h)) + h
    return p[2](relu(h))


def over_time(p, x):
    def step(h, xt):
        h = relu(p[0](xt) + p[1](h))
        return h, h

    h0 = jnp.zeros(p[1].in_features, x.dtype)
    return p[2](jnp.mean(jax.lax.scan(step, h0, x)[1], axis=0))


VECTOR, SEQUENCE = (5,), (3, 5)

ADVERSARIES = {
    # orders and entries of one array
    "transposed sum": (
        net(
            lambda p, x: jnp.einsum(
                "oab,ab->o", p[1], relu(square(p[0], x) + square(p[0], x).T)
            ),
            array(0, 0, 5), array(OUT, 0, 0),
        ), VECTOR,
    ),
    "transposed product": (
        net(
            lambda p, x: jnp.einsum(
                "oab,ab->o", p[1], square(p[0], x) * square(p[0], x).T
            ),
            array(0, 0, 5), array(OUT, 0, 0),
        ), VECTOR,
    ),
    "weight and its transpose": (
        net(
            lambda p, x: p[2](relu(p[1].T @ tanh(p[1] @ relu(p[0](x))))),
            IN, array(0, 0), READ,
        ), VECTOR,
    ),
    "weight and its transpose, summed": (
        net(lambda p, x: p[2](relu(p[1].T @ p[0](x) + p[1] @ p[0](x))),
            IN, array(0, 0), READ), VECTOR,
    ),
    "reversed": (after(lambda p, h: relu(h + h[::-1])), VECTOR),
    "rolled": (after(lambda p, h: relu(h + jnp.roll(h, 1))), VECTOR),
    "halves swapped": (
        after(lambda p, h: relu(h + jnp.concatenate(jnp.split(h, 2)[::-1]))), VECTOR,
    ),
    "halves multiplied": (
        net(lambda p, x: p[2](jnp.multiply(*jnp.split(p[1](relu(p[0](x))), 2))),
            IN, lambda n, k: nn.Linear(n, 2 * n, key=k), READ), VECTOR,
    ),
    "sorted": (after(lambda p, h: jnp.sort(h)), VECTOR),
    "neighbours": (after(lambda p, h: jnp.diff(h, append=h[:1])), VECTOR),
    "running sum": (after(lambda p, h: jnp.cumsum(h)), VECTOR),
    "maximum": (after(lambda p, h: h - jnp.max(h)), VECTOR),
    "softmax over channels": (after(lambda p, h: jax.nn.softmax(h)), VECTOR),
    "channel by number": (
        after(lambda p, h: h * jnp.arange(h.size, dtype=h.dtype)), VECTOR,
    ),
    "one channel": (after(lambda p, h: relu(h) * h[0]), VECTOR),
    "reshaped and mixed": (
        after(lambda p, h: (h.reshape(-1, 2) @ jnp.array([[1.0, 2.0], [0.5, 1.0]]))
              .ravel()), VECTOR,
    ),
    # sums
    "sum without size": (after(lambda p, h: relu(h) + jnp.sum(h)), VECTOR),
    "sum over the root of the size": (
        after(lambda p, h: relu(h + jnp.sum(h) / jnp.sqrt(h.size))), VECTOR,
    ),
    "centred and then summed": (
        after(lambda p, h: relu(h) + jnp.sum(relu(h) - jnp.mean(relu(h)))), VECTOR,
    ),
    "difference of sums": (
        after(lambda p, h: relu(h) + jnp.sum(relu(h)) - jnp.sum(relu(-h))), VECTOR,
    ),
    "mean": (after(lambda p, h: relu(h) * jnp.mean(relu(h))), VECTOR),
    "norm": (after(lambda p, h: jnp.sqrt(h.size) * h / jnp.linalg.norm(h)), VECTOR),
    "standard deviation": (
        after(lambda p, h: relu((h - jnp.mean(h)) / jnp.std(h))), VECTOR,
    ),
    "readout by mean": (
        net(lambda p, x: jnp.mean(relu(p[0](x)), keepdims=True), IN), VECTOR,
    ),
    # finite axes taken for infinite ones
    "mean over outputs, inside": (
        net(lambda p, x: p[2](relu(p[1](relu(p[0](x)))[:1])),
            IN, linear(0, 4), linear(1, OUT)), VECTOR,
    ),
    "one unit": (
        net(lambda p, x: p[2](relu(p[0](x)) * p[1](relu(p[0](x)))),
            IN, linear(0, 1), READ), VECTOR,
    ),
    "scalar gate": (
        net(lambda p, x: p[2](relu(p[0](x)) * jax.nn.sigmoid(p[1](x))),
            IN, linear(5, "scalar"), READ), VECTOR,
    ),
    # functions of several Gaussians
    "two Gaussians": (
        net(lambda p, x: p[2](relu(p[0](x)) * 1.0 + relu(relu(p[1](x)) + p[0](x))),
            IN, IN, READ), VECTOR,
    ),
    "gated twice": (
        net(lambda p, x: p[2](tanh(p[0](x) * p[1](x))), IN, IN, READ), VECTOR,
    ),
    "product of shared": (
        net(lambda p, x: p[1](p[0](x) * relu(p[0](2 * x))), IN, READ), VECTOR,
    ),
    "cube": (after(lambda p, h: h * h * h), VECTOR),
    "largest of two": (
        net(lambda p, x: p[2](jnp.maximum(p[0](x), p[1](x))), IN, IN, READ), VECTOR,
    ),
    "residual after relu": (
        net(lambda p, x: p[2](relu(p[0](x)) + relu(p[1](relu(p[0](x))))),
            IN, HID, READ), VECTOR,
    ),
    "long short-term": (
        net(lambda p, x: p[1](p[0](x, (jnp.ones(p[0].hidden_size),) * 2)[0]),
            lambda n, k: nn.LSTMCell(5, n, key=k), READ), VECTOR,
    ),
    # parameters used oddly
    "bias twice": (
        net(lambda p, x: p[3](relu(p[0] @ x + p[2]) + relu(p[1] @ x + p[2])),
            array(0, 5), array(0, 5), array(0), READ), VECTOR,
    ),
    "weight as bias": (
        net(lambda p, x: p[1](relu(p[0] @ x + p[0][:, 0])), array(0, 5), READ), VECTOR,
    ),
    "two fan-ins": (
        net(lambda p, x: p[1](relu(p[0] @ x) + relu(p[0][:, :2] @ x[:2])),
            array(0, 5), READ), VECTOR,
    ),
    "normalised weight": (
        net(lambda p, x: p[1](relu(p[0] / jnp.linalg.norm(p[0]) @ x)),
            array(0, 5), READ), VECTOR,
    ),
    "low rank": (
        net(lambda p, x: p[2](relu((p[0] @ p[1]) @ x)), array(0, 2), array(2, 5), READ),
        VECTOR,
    ),
    "masked weight": (
        net(lambda p, x: p[1](relu((p[0] * jnp.arange(5.0)[None]) @ x)),
            array(0, 5), READ), VECTOR,
    ),
    "function of a weight": (
        net(lambda p, x: p[1](relu(tanh(p[0]) @ x)), array(0, 5), READ), VECTOR,
    ),
    "shared in depth, with skips": (net(tied_twice, IN, HID, READ), VECTOR),
    "layers of one stack": (
        net(lambda p, x: p[2](relu(p[1][0] @ relu(p[0](x)) + p[1][1] @ relu(p[0](x)))),
            IN, array(2, 0, 0), READ), VECTOR,
    ),
    "mixed tokens": (
        net(lambda p, x: p[2](jnp.mean(relu(p[1] @ jax.vmap(p[0])(x)), axis=0)),
            IN, array(3, 3), READ), SEQUENCE,
    ),
    "depthwise": (
        net(lambda p, x: p[2](jnp.mean(relu(p[1](jax.vmap(p[0])(x).T)), axis=1)),
            IN, lambda n, k: nn.Conv1d(n, n, 2, groups=n, key=k), READ), SEQUENCE,
    ),
    # gradients of their own, randomness, control flow
    "straight through": (after(lambda p, h: straight_through(h)), VECTOR),
    "stopped": (after(lambda p, h: jax.lax.stop_gradient(relu(h))), VECTOR),
    "branch": (
        after(lambda p, h: jax.lax.cond(jnp.mean(h) > 0, relu, tanh, h)), VECTOR,
    ),
    "loop": (
        after(lambda p, h: jax.lax.while_loop(
            lambda h: jnp.sum(h**2) > 1.0, lambda h: 0.5 * h, h)), VECTOR,
    ),
    "step elsewhere": (after(lambda p, h: jnp.where(h > 1.0, 1.0, 0.0)), VECTOR),
    "clipped": (after(lambda p, h: jnp.clip(h, -1.0, 1.0)), VECTOR),
    "rounded": (after(lambda p, h: jnp.round(h)), VECTOR),
    "reciprocal": (after(lambda p, h: 1 / h), VECTOR),
    "logarithm": (after(lambda p, h: jnp.log(h**2)), VECTOR),
    # places
    "tokens masked": (net(masked_mean, IN, READ), SEQUENCE),
    "tokens reversed": (
        net(lambda p, x: p[1](jnp.mean(jax.vmap(p[0])(x) * jax.vmap(p[0])(x)[::-1],
                                       axis=0)), IN, READ), SEQUENCE,
    ),
    "tokens summed after relu, then relu": (
        net(lambda p, x: p[1](relu(jnp.sum(relu(jax.vmap(p[0])(x)), axis=0) - 1)),
            IN, READ), SEQUENCE,
    ),
    "tokens, running sum": (
        net(lambda p, x: p[1](jnp.mean(relu(jnp.cumsum(jax.vmap(p[0])(x), axis=0)),
                                       axis=0)), IN, READ), SEQUENCE,
    ),
    "largest token": (
        net(lambda p, x: p[1](jnp.max(jax.vmap(p[0])(x), axis=0)), IN, READ), SEQUENCE,
    ),
    "over time": (net(over_time, IN, linear(0, 0, False), READ), SEQUENCE),
    "single head": (
        net(lambda p, x: jnp.mean(of_tokens(identity_head, p, x, 3) @ p[3].T, axis=0),
            IN, IN, IN, array(OUT, 0)), SEQUENCE,
    ),
    "softmax of Gaussians": (
        net(lambda p, x: jnp.mean(of_tokens(softmax_head, p, x, 3) @ p[3].T, axis=0),
            IN, IN, IN, array(OUT, 0)), SEQUENCE,
    ),
    "scores twice": (
        net(lambda p, x: of_tokens(squared_scores, p, x, 2) * p[3](relu(p[2](x[0]))),
            IN, IN, IN, READ), SEQUENCE,
    ),
}  # fmt: skip
"""By name: what builds a model of a width from a key, and the shape of an example."""
