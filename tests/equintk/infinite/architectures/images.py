"""Networks of an image."""

import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

from . import WIDTH, erf, linear, net, plain_norm, readout

WEIGHTS = jnp.array([1.0, -1.0, 0.5, 0.2, 2.0])


def conv(key, n_in=WIDTH, size=3, **options):
    options.setdefault("padding", "SAME")
    return nn.Conv2d(n_in, WIDTH, size, key=key, **options)


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


def flattened(p, x):
    return p[1](jax.nn.relu(p[0](jnp.ravel(x))))


def windows(h, size):
    """What each window of an image holds, one after another along a new axis."""
    n, m = (n - size + 1 for n in h.shape[1:])
    return jnp.stack(
        [h[:, i : i + n, j : j + m] for i in range(size) for j in range(size)]
    )


def conv_local(p, x):
    (w, b), (v, c) = p[:2]
    seen = windows(jnp.pad(x, ((0, 0), (1, 1), (1, 1))), 3)
    h = jax.nn.relu(jnp.einsum("ockhw,kchw->ohw", w, seen) + b)
    h = jax.nn.relu(jnp.einsum("ockhw,kchw->ohw", v, windows(h, 2)) + c)
    return p[2](jnp.mean(h, axis=(1, 2)))


def local(n_in, size, space):
    def make(key):
        shape = (WIDTH, n_in, size * size, space, space)
        return jr.normal(key, shape), jr.normal(key, (WIDTH, space, space))

    return make


def pooled(function, *layers):
    """Something between two convolutions, and a readout of the mean over pixels."""

    def call(p, x):
        h = jax.nn.relu(p[1](function(p[2:-1], jax.nn.relu(p[0](x)))))
        return p[-1](jnp.mean(h, axis=(1, 2)))

    return net(call, image, conv, *layers, readout())


def transposed(padding, **options):
    def make(key):
        return nn.ConvTranspose2d(
            WIDTH, WIDTH, 3, 2, padding=padding, key=key, **options
        )

    def call(p, x):
        h = jax.nn.relu(p[1](jax.nn.relu(p[0](x))))
        return p[2](jnp.mean(h, axis=(1, 2)))

    return net(call, image, make, readout())


def average_pool_normalized(p, h):
    pool = nn.AvgPool2d(2, 1, padding=((0, 1), (0, 1)))
    return pool(h) / pool(jnp.ones((1, *h.shape[1:]), h.dtype))


def average_pool_circular(p, h):
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1)), mode="wrap")
    return nn.AvgPool2d(3, 1)(padded)


def sum_pool_same(p, h):
    return jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 3, 3), (1, 2, 2), "SAME")


def weighted(p, x):
    h = jnp.einsum("chw,w->ch", jax.nn.relu(p[0](x)), WEIGHTS)
    return p[2](jnp.mean(jax.nn.relu(p[1](h)), axis=1))


def conv_in_rows(key):
    return nn.Conv1d(WIDTH, WIDTH, 3, padding="SAME", key=key)


def norm_over_pixels(p, h):
    norm = nn.LayerNorm((WIDTH, 5), use_weight=False, use_bias=False)
    return jax.vmap(norm, 2, 2)(p[0](h))


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
    "flatten": net(flattened, lambda key: linear(key, 50), readout()),
    "conv local": net(conv_local, local(2, 3, 5), local(WIDTH, 2, 4), readout()),
    "conv transpose SAME": transposed("SAME"),
    "conv transpose VALID": transposed("VALID"),
    "conv transpose CIRCULAR": transposed("SAME", padding_mode="CIRCULAR"),
    "average pool same": pooled(
        lambda p, h: nn.AvgPool2d(2, 1, padding=((0, 1), (0, 1)))(h)
    ),
    "average pool same normalized": pooled(average_pool_normalized),
    "average pool circular": pooled(average_pool_circular),
    "sum pool same": pooled(sum_pool_same),
    "resize linear": pooled(lambda p, h: jax.image.resize(h, (WIDTH, 7, 7), "linear")),
    "resize nearest": pooled(
        lambda p, h: jax.image.resize(h, (WIDTH, 3, 3), "nearest")
    ),
    "dot general": net(weighted, image, conv_in_rows, readout()),
    "dot general scalar": pooled(lambda p, h: 0.7 * h),
    "identity": pooled(lambda p, h: nn.Identity()(h)),
    "layer norm over pixels": pooled(norm_over_pixels, conv),
}
STANDARD = {
    "conv standard": net(
        conv_flatten,
        image,
        lambda key: conv(key, stride=2, padding="VALID"),
        readout(4 * WIDTH),
    ),
}
