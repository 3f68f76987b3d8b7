"""Makes neural_tangents_infinite.npz with neural-tangents, the archived reference.

It runs in an environment of its own, which cannot hold equintk (Python 3.11):

    pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 tf2jax==0.3.6 \
        "numpy<2" "scipy<1.13"
    python tests/golden/neural_tangents_infinite.py

Every network is written in its layer language; the same ones in Equinox are in
tests/equintk/infinite/architectures.py, under the same names.
"""

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

W, B = 1.3, 0.2


def dense(out=8, scheme="ntk"):
    """A dense layer; in the standard parameterization at width 8."""
    return stax.Dense(out, W, B, parameterization=scheme)


def conv(channels=8, size=(3, 3), strides=(1, 1), padding="SAME"):
    """A convolution."""
    return stax.Conv(channels, size, strides, padding, W, B)


def mlp(activation, depth=2, scheme="ntk"):
    """Hidden layers of one activation."""
    hidden = [layer for _ in range(depth) for layer in (dense(8, scheme), activation())]
    return stax.serial(*hidden, dense(3, scheme))


def branches(join, *two):
    """Two branches of a hidden layer, joined."""
    return stax.serial(dense(), stax.FanOut(2), stax.parallel(*two), join)


VECTORS = {
    "relu": mlp(stax.Relu, 3),
    "relu standard": mlp(stax.Relu, 3, "standard"),
    "leaky": mlp(lambda: stax.LeakyRelu(0.1)),
    "abrelu": mlp(lambda: stax.ABRelu(-0.5, 1.5)),
    "abs": mlp(stax.Abs),
    "sign": mlp(stax.Sign),
    "erf": mlp(stax.Erf),
    "erf standard": mlp(stax.Erf, 2, "standard"),
    "sigmoid like": mlp(stax.Sigmoid_like),
    "gelu": mlp(stax.Gelu),
    "sin": mlp(stax.Sin),
    "cos": mlp(stax.Cos),
    "rbf": mlp(stax.Rbf),
    "exp": mlp(stax.Exp, 1),
    "gaussian": mlp(stax.Gaussian, 1),
    "monomial 3": mlp(lambda: stax.Monomial(3), 1),
    "polynomial": mlp(lambda: stax.Polynomial((0.5, -1.0, 0.3)), 1),
    "rectified monomial 2": mlp(lambda: stax.RectifiedMonomial(2), 1),
    "residual": stax.serial(
        branches(
            stax.FanInSum(),
            stax.Identity(),
            stax.serial(stax.Relu(), dense()),
        ),
        stax.Relu(),
        dense(3),
    ),
    "product": stax.serial(
        branches(
            stax.FanInProd(),
            stax.serial(stax.Relu(), dense()),
            stax.serial(stax.Erf(), dense()),
        ),
        dense(3),
    ),
    "dense concatenation": stax.serial(
        branches(
            stax.FanInConcat(-1),
            stax.serial(stax.Relu(), dense()),
            stax.serial(stax.Erf(), dense()),
        ),
        dense(3),
    ),
    "layer norm": stax.serial(dense(), stax.LayerNorm(eps=1e-5), stax.Relu(), dense(3)),
}

IMAGES = {
    "conv flatten": stax.serial(
        conv(), stax.Relu(), conv(8, (3, 3), (2, 2), "VALID"), stax.Relu(),
        stax.Flatten(), dense(3),
    ),
    "conv pooled": stax.serial(
        conv(), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), conv(8, (2, 2)),
        stax.Relu(), stax.GlobalAvgPool(), dense(3),
    ),
    "conv summed": stax.serial(
        conv(), stax.Erf(), stax.SumPool((2, 2)), conv(8, (2, 2), (1, 1), "VALID"),
        stax.Relu(), stax.GlobalSumPool(), dense(3),
    ),
    "conv circular": stax.serial(
        conv(padding="CIRCULAR"), stax.Relu(), conv(padding="CIRCULAR"), stax.Relu(),
        stax.GlobalAvgPool(), dense(3),
    ),
    "conv layer norm": stax.serial(
        conv(), stax.LayerNorm(axis=(1, 2, 3), eps=1e-5), stax.Relu(),
        stax.GlobalAvgPool(), dense(3),
    ),
    "conv index": stax.serial(
        conv(), stax.Relu(), stax.Index(stax.Slice[:, 1:3, ::2]), stax.Flatten(),
        dense(3),
    ),
    "conv space": stax.serial(conv(), stax.Relu(), conv()),
}  # fmt: skip

TOKENS = {
    "attention identity": stax.serial(
        stax.GlobalSelfAttention(
            8, 8, 8, 4, linear_scaling=False, W_key_std=W, W_value_std=W,
            W_query_std=W, W_out_std=W, b_std=B, attention_mechanism="IDENTITY",
        ),
        stax.GlobalAvgPool(), dense(3),
    ),
    "attention softmax": stax.serial(
        stax.GlobalSelfAttention(
            8, 8, 8, 4, linear_scaling=True, W_key_std=W, W_value_std=W,
            W_query_std=W, W_out_std=W, b_std=B, attention_mechanism="SOFTMAX",
        ),
        stax.GlobalAvgPool(), dense(3),
    ),
}  # fmt: skip


def main():
    """Draw inputs with NumPy; save them with the kernels of every architecture."""
    rng = np.random.default_rng(0)
    saved = {}
    for group, shape in (
        (VECTORS, (5,)), (IMAGES, (5, 5, 2)), (TOKENS, (4, 3)),
    ):  # fmt: skip
        kind = {id(VECTORS): "vector", id(IMAGES): "image"}.get(id(group), "token")
        x1, x2 = (rng.normal(size=(n, *shape)) for n in (4, 3))
        saved[f"{kind}/x1"], saved[f"{kind}/x2"] = x1, x2
        for name, (_, _, kernel_fn) in group.items():
            for suffix, other in (("same", None), ("cross", x2)):
                try:
                    k = kernel_fn(x1, other, ("nngp", "ntk"))
                except Exception as error:
                    print(name, suffix, type(error).__name__, error)
                    continue
                saved[f"{name}/{suffix}/nngp"] = k.nngp
                saved[f"{name}/{suffix}/ntk"] = k.ntk
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **saved)
    print(len(saved), "arrays")


if __name__ == "__main__":
    main()
