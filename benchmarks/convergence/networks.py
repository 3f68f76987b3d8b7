"""Architectures of any width, as one writes them, with a few examples each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from equinox import nn

relu, silu, tanh = jax.nn.relu, jax.nn.silu, jnp.tanh

Layer = Callable[[int, int, Any], Any]
"""Of the width, the number of outputs and a key."""


class Network(NamedTuple):
    """An architecture.

    Attributes:
        title: for the table.
        stax: whether the incumbent's layers can express it.
        build: of width, number of outputs and key: a module.
        examples: of a key, three of them. All but random masks are the same for any.
        scheme: of `parameterize`; `None` for Equinox's own draw.
    """

    title: str
    stax: bool
    build: Callable[[int, int, Any], Any]
    examples: Callable[[Any], Any]
    scheme: str | None = "ntk"

    @property
    def options(self) -> dict[str, Any]:
        """Of `infinite_kernels`, and of `parameterize` but for one name."""
        if self.scheme is None:
            return {}
        return {"parameterization": self.scheme, "W_std": 1.2, "b_std": 0.3}


class Net(eqx.Module):
    """Layers, and what is done with them."""

    layers: tuple[Any, ...]
    call: Callable[[Any, Any], Any] = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        """The output for one example."""
        return self.call(self.layers, x)


def _net(call: Callable[[Any, Any], Any], *layers: Layer) -> Any:
    def build(width: int, out: int, key: Any) -> Net:
        keys = jr.split(key, len(layers))
        made = (layer(width, out, k) for layer, k in zip(layers, keys, strict=True))
        return Net(tuple(made), call)

    return build


def _dense(n_in: int | None, more: int = 1, bias: bool = True) -> Layer:
    """A hidden layer, from `n_in` inputs or `more` times the width."""
    return lambda n, out, key: nn.Linear(n_in or more * n, n, use_bias=bias, key=key)


def _readout(more: int = 1) -> Layer:
    return lambda n, out, key: nn.Linear(more * n, out, key=key)


def _conv(n_in: int | None) -> Layer:
    return lambda n, out, key: nn.Conv2d(n_in or n, n, 2, key=key)


def _norm(n: int, out: int, key: Any) -> nn.LayerNorm:
    return nn.LayerNorm(n)


_IN, _HID, _READ = _dense(5), _dense(None), _readout()


def _normal(seed: int, *shape: int) -> Any:
    # NumPy's, which are the same numbers in either precision.
    return jnp.asarray(np.random.default_rng(seed).normal(size=(3, *shape)))


def _vectors(key: Any) -> Any:
    return _normal(1, 5)


def _tokens(key: Any) -> Any:
    return _normal(2, 4, 5)


def _images(key: Any) -> Any:
    return _normal(3, 2, 4, 4)


def _words(key: Any) -> Any:
    return jnp.array([[0, 1, 2, 3], [3, 3, 4, 0], [5, 6, 6, 6]])


def _masked(key: Any) -> Any:
    return _vectors(key), jr.split(key, 3)


def _long(key: Any) -> Any:
    # Equinox draws uniformly, and only a sum of many entries is then a Gaussian.
    return _normal(4, 512)


def _mlp(activation: Any, depth: int = 3) -> Any:
    return lambda n, out, key: nn.MLP(5, out, n, depth, activation, key=key)


def _flattened(p: Any, x: Any) -> Any:
    return p[2](relu(p[1](relu(p[0](x)))).ravel())


def _pooled(p: Any, x: Any) -> Any:
    return p[2](jnp.mean(relu(p[1](relu(p[0](x)))), (1, 2)))


def _embedded(p: Any, x: Any) -> Any:
    return p[2](relu(p[1](jnp.mean(jax.vmap(p[0])(x), axis=0))))


def _dropped(p: Any, pair: Any) -> Any:
    x, key = pair
    return p[3](p[2](relu(p[1](relu(p[0](x)))), key=key))


def _reused(p: Any, x: Any) -> Any:
    h = p[0](x)
    for _ in range(3):
        h = p[1](relu(h))
    return p[2](relu(h))


def _gated(p: Any, x: Any) -> Any:
    h = p[0](x)
    for gate, value in ((p[1], p[2]), (p[3], p[4])):
        h = h + silu(gate(h)) * value(h)
    return p[5](h)


def _dense_net(p: Any, x: Any) -> Any:
    h = relu(p[0](x))
    for layer in p[1:3]:
        h = jnp.concatenate([h, relu(layer(h))])
    return p[3](h)


def _after_relu(p: Any, x: Any) -> Any:
    h = relu(p[0](x))
    h = h + relu(p[1](h))
    return p[3](relu(p[2](h)))


def _normed(p: Any, x: Any) -> Any:
    h = p[1](relu(p[0](x)))
    return p[4](p[3](relu(p[2](h))))


def _over_time(p: Any, x: Any) -> Any:
    def step(h: Any, xt: Any) -> Any:
        return tanh(p[0](xt) + p[1](h)), None

    start = jnp.zeros(p[1].in_features, x.dtype)
    return p[2](jax.lax.scan(step, start, x)[0])


def _linear_attention(p: Any, x: Any) -> Any:
    h = relu(jax.vmap(p[0])(x))
    q, k = (jnp.square(jax.vmap(layer)(h)) for layer in p[1:3])
    scores = q @ k.T / q.shape[1]
    v = jax.vmap(p[3])(h)
    mixed = scores / jnp.sum(scores, axis=1, keepdims=True) @ v
    return p[4](jnp.mean(relu(mixed), axis=0))


def _transformer(p: Any, x: Any) -> Any:
    h = jax.vmap(p[0])(x)
    u = jax.vmap(p[1])(h)
    q = jax.vmap(p[2])(u)
    h = h + jax.nn.softmax(q @ q.T / q.shape[1]) @ jax.vmap(p[3])(u)
    u = jax.vmap(p[4])(h)
    h = h + jax.vmap(p[6])(jax.nn.gelu(jax.vmap(p[5])(u), approximate=False))
    return p[7](jnp.mean(h, axis=0))


def _reused_conv(p: Any, x: Any) -> Any:
    h = p[0](x)
    for _ in range(2):
        h = h + p[1](relu(h))
    return p[2](jnp.mean(relu(h), (1, 2)))


def _same(n: int, out: int, key: Any) -> nn.Conv2d:
    return nn.Conv2d(n, n, 2, padding="SAME", key=key)


def _flat(n: int, out: int, key: Any) -> nn.Linear:
    return nn.Linear(4 * n, out, key=key)


def _own(n: int, out: int, key: Any) -> nn.MLP:
    return nn.MLP(512, out, n, 2, key=key)


def _embedding(n: int, out: int, key: Any) -> nn.Embedding:
    return nn.Embedding(7, n, key=key)


def _dropout(n: int, out: int, key: Any) -> nn.Dropout:
    return nn.Dropout(0.3)


NETWORKS = {
    "mlp": Network("ReLU MLP, 3 hidden layers", True, _mlp(relu), _vectors),
    "gelu": Network(
        "GELU MLP, 3 hidden layers", True,
        _mlp(lambda z: jax.nn.gelu(z, approximate=False)), _vectors,
    ),
    "flatten": Network(
        "CNN, flattened", True,
        _net(_flattened, _conv(2), _conv(None), _flat), _images,
    ),
    "pooled": Network(
        "CNN, averaged over places", True,
        _net(_pooled, _conv(2), _conv(None), _READ), _images,
    ),
    "dropout": Network(
        "MLP with dropout", True, _net(_dropped, _IN, _HID, _dropout, _READ), _masked,
    ),
    "equinox": Network(
        "ReLU MLP as Equinox draws it", True, _own, _long, None,
    ),
    "embedding": Network(
        "embedded words, averaged", False, _net(_embedded, _embedding, _HID, _READ),
        _words,
    ),
    "mean field": Network(
        "one hidden layer, mean field", False, _mlp(tanh, 1), _vectors, "mean_field",
    ),
    "mup": Network("tanh MLP in muP", False, _mlp(tanh, 2), _vectors, "mup"),
    "reused": Network(
        "one weight in three layers", False, _net(_reused, _IN, _HID, _READ), _vectors,
    ),
    "gated": Network(
        "gated units with skips", False,
        _net(_gated, _IN, _HID, _HID, _HID, _HID, _READ), _vectors,
    ),
    "dense net": Network(
        "DenseNet, 2 blocks", False,
        _net(_dense_net, _IN, _HID, _dense(None, 2), _readout(3)), _vectors,
    ),
    "residual": Network(
        "residual after a nonlinearity", False,
        _net(_after_relu, _IN, _HID, _HID, _READ), _vectors,
    ),
    "norm": Network(
        "trainable LayerNorm after ReLU", False,
        _net(_normed, _IN, _norm, _HID, _norm, _READ), _vectors,
    ),
    "rnn": Network(
        "RNN over 4 steps", False,
        _net(_over_time, _IN, _dense(None, 1, False), _READ), _tokens,
    ),
    "linear attention": Network(
        "linear attention, untied", False,
        _net(_linear_attention, _IN, _HID, _HID, _HID, _READ), _tokens,
    ),
    "transformer": Network(
        "transformer block, trainable norms", False,
        _net(_transformer, _IN, _norm, _HID, _HID, _norm, _HID, _HID, _READ), _tokens,
    ),
    "reused convolution": Network(
        "one convolution in two residual layers", False,
        _net(_reused_conv, _conv(2), _same, _READ), _images,
    ),
}  # fmt: skip
