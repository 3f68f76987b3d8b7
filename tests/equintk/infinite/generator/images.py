"""What random models of images are put together from.

An example is an image of few channels, kind `x`; `i` is an image of hidden channels,
of which `h` has one number each.
"""

import jax
import jax.numpy as jnp
from equinox import nn

from .operations import LAYERS, POINTWISE, Operation, attention, relu, tanh
from .primitives import neighbours, slanted

SHAPE = (2, 3, 4)  # of an example: channels, height, width
_PIXELS = 12

LAYERS |= {
    "conv in": lambda n, key: nn.Conv2d(2, n, 3, padding=1, key=key),
    "conv": lambda n, key: nn.Conv2d(n, n, 3, padding=1, key=key),
    "conv, no bias": lambda n, key: nn.Conv2d(
        n, n, 3, padding=1, use_bias=False, key=key
    ),
    "conv, circular": lambda n, key: nn.Conv2d(
        n, n, 3, padding=1, padding_mode="CIRCULAR", key=key
    ),
    "conv, no padding": lambda n, key: nn.Conv2d(n, n, (1, 2), key=key),
    "conv, strided": lambda n, key: nn.Conv2d(n, n, (1, 2), (1, 2), key=key),
    "conv, dilated": lambda n, key: nn.Conv2d(n, n, 2, padding=1, dilation=2, key=key),
    "conv, transposed": lambda n, key: nn.ConvTranspose2d(n, n, 3, padding=1, key=key),
    "conv of both": lambda n, key: nn.Conv2d(2 * n, n, 3, padding=1, key=key),
    "one by one": lambda n, key: nn.Conv2d(n, n, 1, key=key),
    "depthwise 2d": lambda n, key: nn.Conv2d(n, n, 3, padding=1, groups=n, key=key),
    "two groups": lambda n, key: nn.Conv2d(n, n, 3, padding=1, groups=2, key=key),
    "group norm": lambda n, key: nn.GroupNorm(4, n),
    "channel norm": lambda n, key: nn.GroupNorm(n, n),
    "image norm": lambda n, key: nn.LayerNorm((n, *SHAPE[1:])),
    "pixels": lambda n, key: nn.Linear(_PIXELS * n, n, key=key),
}


def _convolved(layer, i, change):
    """By a layer's weights, changed."""
    return jax.lax.conv_general_dilated(
        i[None], change(layer.weight), (1, 1), ((1, 1), (1, 1))
    )[0]


def _by_pixels(layer, i):
    return jax.vmap(jax.vmap(layer, 1, 1), 2, 2)(i)


def _attended(i):
    tokens = i.reshape(i.shape[0], -1).T
    return attention(tokens, tokens, tokens, 1.0, True).T.reshape(i.shape)


def _resized(i):
    n, height, width = i.shape
    small = jax.image.resize(i, (n, 2, 3), "linear")
    return jax.image.resize(small, (n, height, width), "nearest")


def _weighted(i, x):
    """The mean over pixels, weighted as each image says itself."""
    return jnp.einsum("chw,hw->c", i, jax.nn.softmax(x[0], axis=(0, 1)))


def _images(call, layer=None, weight=1.0):
    return Operation("i", "i", call, layer, weight)


IMAGE: dict[str, Operation] = {
    "in": Operation("x", "i", lambda p, x: p(x), "conv in", 1.5),
    "conv": _images(lambda p, i: p(i), "conv", 4.0),
    "conv of relu": _images(lambda p, i: p(relu(i)), "conv", 4.0),
    "conv, no bias": _images(lambda p, i: p(relu(i)), "conv, no bias", 2.0),
    "conv twice": _images(lambda p, i: p(tanh(p(i))), "conv", 0.7),
    "circular": _images(lambda p, i: p(relu(i)), "conv, circular", 1.5),
    "not padded": _images(
        lambda p, i: jnp.pad(p(i), ((0, 0), (0, 0), (0, 1))), "conv, no padding", 0.7
    ),
    "strided": _images(lambda p, i: jnp.repeat(p(relu(i)), 2, 2), "conv, strided", 1.0),
    "dilated": _images(lambda p, i: p(relu(i)), "conv, dilated", 1.0),
    "transposed": _images(lambda p, i: p(relu(i)), "conv, transposed", 1.0),
    "one by one": _images(lambda p, i: p(relu(i)), "one by one", 1.0),
    "by pixels": _images(_by_pixels, "hidden", 1.0),
    "flipped kernel": _images(
        lambda p, i: _convolved(p, i, lambda w: w[:, :, ::-1, ::-1]),
        "conv, no bias", 0.6,
    ),
    "turned kernel": _images(
        lambda p, i: _convolved(p, i, lambda w: w.swapaxes(2, 3)), "conv, no bias", 0.6
    ),
    "channels of kernel exchanged": _images(
        lambda p, i: _convolved(p, i, lambda w: w.swapaxes(0, 1)), "conv, no bias", 0.5
    ),
    "middle of kernel": _images(
        lambda p, i: jnp.einsum("oi,ihw->ohw", p.weight[:, :, 1, 1], i),
        "conv, no bias", 0.5,
    ),
    "mean of kernel": _images(
        lambda p, i: jnp.einsum("oi,ihw->ohw", p.weight.mean(axis=(2, 3)), i),
        "conv, no bias", 0.3,
    ),
    "depthwise": _images(lambda p, i: p(i), "depthwise 2d", 0.3),
    "two groups": _images(lambda p, i: p(relu(i)), "two groups", 0.3),
    "group norm": _images(lambda p, i: p(i), "group norm", 1.0),
    "channel norm": _images(lambda p, i: p(i), "channel norm", 0.4),
    "image norm": _images(lambda p, i: p(i), "image norm", 0.6),
    "centred": _images(lambda i: i - jnp.mean(i, (1, 2), keepdims=True), weight=0.7),
    "normed": _images(
        lambda i: i / jnp.sqrt(0.1 + jnp.mean(i**2, 0, keepdims=True)), weight=0.7
    ),
    "pooled": _images(nn.AvgPool2d(2, 1, ((0, 1), (0, 1))), weight=1.5),
    "largest of four": _images(nn.MaxPool2d(2, 1, ((0, 1), (0, 1))), weight=0.2),
    "mirrored": _images(lambda i: i[:, :, ::-1], weight=0.7),
    "rolled": _images(lambda i: jnp.roll(i, 1, 1), weight=0.5),
    "channels reversed": _images(lambda i: i[::-1], weight=0.4),
    "channels swapped": _images(
        lambda i: jnp.concatenate(jnp.split(i, 2)[::-1]), weight=0.3
    ),
    "places as channels": _images(
        lambda i: i.transpose(1, 2, 0).reshape(i.shape), weight=0.15
    ),
    "resized": _images(_resized, weight=0.7),
    "attended": _images(_attended, weight=0.7),
    "excited": _images(
        lambda p, i: i * jax.nn.sigmoid(p(jnp.mean(i, (1, 2))))[:, None, None],
        "hidden", 0.7,
    ),
    "neighbours": _images(lambda i: neighbours(i, axis=2), weight=2.0),
    "neighbouring channels": _images(lambda i: neighbours(i, axis=0), weight=0.4),
    "slanted": _images(lambda i: slanted(i, slope=-0.3), weight=2.0),
    "masked": Operation(
        "ix", "i", lambda i, x: jnp.where(x[:1] > 0, i, 0.0), weight=1.0
    ),
    "times pixels": Operation("ix", "i", lambda i, x: i * x[:1], weight=0.7),
    "sum": Operation("ii", "i", lambda a, b: a + b, weight=3.0),
    "product": Operation("ii", "i", lambda a, b: a * b, weight=1.0),
    "gate": Operation("ii", "i", lambda a, b: a * jax.nn.sigmoid(b), weight=1.0),
    "relu of sum": Operation("ii", "i", lambda a, b: relu(a + b), weight=0.4),
    "both": Operation(
        "ii", "i", lambda p, a, b: p(jnp.concatenate([a, b])), "conv of both", 1.0
    ),
    "to all pixels": Operation(
        "ih", "i", lambda i, h: i + h[:, None, None], weight=0.7
    ),
    "mean": Operation("i", "h", lambda i: jnp.mean(i, (1, 2)), weight=1.5),
    "sum of pixels": Operation("i", "h", lambda i: jnp.sum(i, (1, 2)), weight=0.5),
    "corner": Operation("i", "h", lambda i: i[:, 0, -1], weight=0.5),
    "flattened": Operation("i", "h", lambda p, i: p(i.ravel()), "pixels", 1.5),
    "largest": Operation("i", "h", lambda i: jnp.max(i, (1, 2)), weight=0.2),
    "weighted": Operation("ix", "h", _weighted, weight=0.7),
    "pixel of input": Operation(
        "ix", "h", lambda i, x: i.reshape(i.shape[0], -1)[:, jnp.argmax(x[0])],
        weight=0.5,
    ),
    "of units": Operation("h", "h", lambda p, h: p(relu(h)), "hidden", 1.5),
    "norm of units": Operation("h", "h", lambda p, h: p(h), "norm", 0.5),
    "sum of units": Operation("hh", "h", lambda a, b: a + b, weight=0.7),
    "cosine of units": Operation("h", "h", jnp.cos, weight=0.7),
}  # fmt: skip
IMAGE |= {
    f"{name} of image": _images(function, weight=0.25 * weight)
    for name, (function, weight) in POINTWISE.items()
    if name != "of a derivative"
}
