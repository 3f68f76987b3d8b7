"""Makes neural_tangents_infinite.npz with neural-tangents, the archived reference.

It runs in an environment of its own, which cannot hold equintk (Python 3.11):

    pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 tf2jax==0.3.6 \
        "numpy<2" "scipy<1.13"
    python tests/golden/neural_tangents_infinite.py
    python tests/golden/neural_tangents_infinite.py standard

The second makes neural_tangents_infinite_standard.npz: the same networks, of the same
inputs, in the standard parameterization, but for self-attention, which there has none.
Every network is written in its layer language; the same ones in Equinox are in
tests/equintk/infinite/architectures.py, under the same names.
"""

import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

SCHEME = sys.argv[1] if sys.argv[1:] else "ntk"
W, B = 1.3, 0.2
MASK = 100.0
WEIGHTS = np.array([1.0, -1.0, 0.5, 0.2, 2.0])


def dense(out=8, scheme=SCHEME, s=(1, 1)):
    """A dense layer; in the standard parameterization at width 8."""
    return stax.Dense(out, W, B, parameterization=scheme, s=s)


def conv(channels=8, size=(3, 3), strides=(1, 1), padding="SAME", scheme=SCHEME):
    """A convolution."""
    return stax.Conv(channels, size, strides, padding, W, B, parameterization=scheme)


def attention(mechanism, linear_scaling=True, **options):
    """Self-attention and a readout of the mean over tokens."""
    return stax.serial(
        stax.GlobalSelfAttention(
            8, 8, 8, 4, linear_scaling=linear_scaling, W_key_std=W, W_value_std=W,
            W_query_std=W, W_out_std=W, b_std=B, attention_mechanism=mechanism,
            W_pos_emb_std=W, **options,
        ),
        stax.GlobalAvgPool(), dense(3),
    )  # fmt: skip


def pooled(*layers):
    """Layers between two convolutions, and a readout of the mean over pixels."""
    return stax.serial(
        conv(), stax.Relu(), *layers, conv(), stax.Relu(), stax.GlobalAvgPool(),
        dense(3),
    )  # fmt: skip


def relu_expectation(cov, var1, var2):
    """Of a product of rectified Gaussians, as one gives it to `Elementwise`."""
    size = jnp.sqrt(var1 * var2)
    angle = jnp.arccos(cov / size)
    return (size * jnp.sin(angle) + cov * (np.pi - angle)) / (2 * np.pi)


def mlp(activation, depth=2, scheme=SCHEME):
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
    "erf scaled": mlp(lambda: stax.Erf(0.8, 1.3, 0.2)),
    "sin scaled": mlp(lambda: stax.Sin(0.8, 1.3, 0.4)),
    "cos scaled": mlp(lambda: stax.Cos(0.8, 1.3, 0.4)),
    "rbf scaled": mlp(lambda: stax.Rbf(0.7)),
    "exp scaled": mlp(lambda: stax.Exp(0.5, 0.6), 1),
    "gaussian scaled": mlp(lambda: stax.Gaussian(0.5, -0.3), 1),
    "gabor": mlp(stax.Gabor, 1),
    "exp normalized": mlp(lambda: stax.ExpNormalized(0.8, -0.6)),
    "hermite 3": stax.serial(dense(), stax.LayerNorm(), stax.Hermite(3), dense(3)),
    "monomial 0": mlp(lambda: stax.Monomial(0), 1),
    "monomial 5": mlp(lambda: stax.Monomial(5), 1),
    "rectified monomial 3": mlp(lambda: stax.RectifiedMonomial(3), 1),
    "elementwise": mlp(lambda: stax.Elementwise(nngp_fn=relu_expectation)),
    "repeat": stax.serial(
        dense(),
        stax.repeat(stax.serial(stax.Relu(), dense()), 2),
        stax.Relu(),
        dense(3),
    ),
    "tuple outputs": stax.serial(
        dense(),
        stax.FanOut(2),
        stax.parallel(
            stax.serial(stax.Relu(), dense(3)), stax.serial(stax.Erf(), dense(3))
        ),
    ),
    "tuple inputs": stax.serial(
        stax.parallel(dense(), stax.serial(dense(), stax.Relu(), dense())),
        stax.FanInSum(),
        stax.Relu(),
        dense(3),
    ),
    "dropout": stax.serial(
        dense(),
        stax.Relu(),
        stax.Dropout(0.8),
        dense(),
        stax.Erf(),
        stax.Dropout(0.6),
        dense(3),
    ),
    "dropout in test": stax.serial(
        dense(), stax.Relu(), stax.Dropout(0.8, mode="test"), dense(3)
    ),
    "relu standard scaled": stax.serial(
        dense(8, "standard", (1, 2)),
        stax.Relu(),
        dense(8, "standard", (2, 4)),
        stax.Relu(),
        dense(3, "standard", (4, 1)),
    ),
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
    "conv standard": stax.serial(
        conv(scheme="standard"), stax.Relu(),
        conv(8, (3, 3), (2, 2), "VALID", "standard"), stax.Relu(), stax.Flatten(),
        dense(3, "standard"),
    ),
    "flatten": stax.serial(stax.Flatten(), dense(), stax.Relu(), dense(3)),
    "conv local": stax.serial(
        stax.ConvLocal(8, (3, 3), None, "SAME", W, B, None, SCHEME), stax.Relu(),
        stax.ConvLocal(8, (2, 2), (1, 1), "VALID", W, B, None, SCHEME), stax.Relu(),
        stax.GlobalAvgPool(), dense(3),
    ),
    **{
        f"conv transpose {padding}": stax.serial(
            conv(), stax.Relu(),
            stax.ConvTranspose(8, (3, 3), (2, 2), padding, W, B, None, SCHEME),
            stax.Relu(),
            stax.GlobalAvgPool(), dense(3),
        )
        for padding in ("SAME", "VALID", "CIRCULAR")
    },
    "average pool same": pooled(
        stax.AvgPool((2, 2), (1, 1), "SAME", normalize_edges=False)
    ),
    "average pool same normalized": pooled(
        stax.AvgPool((2, 2), (1, 1), "SAME", normalize_edges=True)
    ),
    "average pool circular": pooled(stax.AvgPool((3, 3), (1, 1), "CIRCULAR")),
    "sum pool same": pooled(stax.SumPool((3, 3), (2, 2), "SAME")),
    "resize linear": pooled(stax.ImageResize((-1, 7, 7, -1), "linear")),
    "resize nearest": pooled(stax.ImageResize((-1, 3, 3, -1), "nearest")),
    "dot general": stax.serial(
        conv(), stax.Relu(),
        stax.DotGeneral(rhs=WEIGHTS, dimension_numbers=(((2,), (0,)), ((), ()))),
        conv(8, (3,), (1,)), stax.Relu(), stax.GlobalAvgPool(), dense(3),
    ),
    "dot general scalar": pooled(stax.DotGeneral(rhs=0.7)),
    "identity": pooled(stax.Identity()),
    "layer norm over pixels": pooled(conv(), stax.LayerNorm(axis=(1, 3), eps=1e-5)),
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
    "attention relu": attention("RELU"),
    "attention abs": attention("ABS"),
    "attention positions summed": stax.serial(
        dense(), attention("SOFTMAX", pos_emb_type="SUM")
    ),
    "attention positions concatenated": stax.serial(
        dense(), attention("SOFTMAX", pos_emb_type="CONCAT", val_pos_emb=True)
    ),
    "attention identity positions": stax.serial(
        dense(), attention("IDENTITY", False, pos_emb_type="SUM", val_pos_emb=True)
    ),
}  # fmt: skip

NODES = {
    "aggregate": stax.serial(
        dense(), stax.Relu(), stax.Aggregate(1), dense(), stax.Relu(),
        stax.Aggregate(1), stax.GlobalAvgPool(), dense(3),
    ),
    "aggregate sparse": stax.serial(
        dense(), stax.Relu(), stax.Aggregate(1, implementation="SPARSE"), dense(),
        stax.Relu(), stax.GlobalSumPool(), dense(3),
    ),
}  # fmt: skip

MASKED = {
    "masked": stax.serial(
        dense(), stax.Relu(), dense(), stax.Erf(), stax.GlobalAvgPool(), dense(3)
    ),
    "masked attention": attention("SOFTMAX"),
    "masked flatten": stax.serial(dense(), stax.Relu(), stax.Flatten(), dense(3)),
}


def main():
    """Draw inputs with NumPy; save them with the kernels of every architecture."""
    rng = np.random.default_rng(0)
    saved = {}
    shapes = {"vector": (5,), "image": (5, 5, 2), "token": (4, 3)}
    inputs = {}
    for kind, shape in shapes.items():
        inputs[kind] = tuple(rng.normal(size=(n, *shape)) for n in (4, 3))
    node = [rng.normal(size=(n, 4, 3)) for n in (4, 3)]
    dense_graphs = [rng.normal(size=(n, 4, 4)) for n in (4, 3)]
    edges = [rng.integers(0, 4, size=(n, 6, 2)) for n in (4, 3)]
    for several in edges:
        several[1:, 4:] = -1  # padding
    masked = []
    for n in (4, 3):
        x = rng.normal(size=(n, 4, 3))
        x[1:, 3:] = MASK  # one example is whole
        x[2:, 2:] = MASK
        masked.append(x)
    inputs |= {"node": tuple(node), "masked": tuple(masked)}
    for kind, (x1, x2) in inputs.items():
        saved[f"{kind}/x1"], saved[f"{kind}/x2"] = x1, x2
    for name, patterns in (("graph", dense_graphs), ("edges", edges)):
        saved[f"{name}/x1"], saved[f"{name}/x2"] = patterns

    groups = ((VECTORS, "vector"), (IMAGES, "image"), (TOKENS, "token"),
              (NODES, "node"), (MASKED, "masked"))  # fmt: skip
    for group, kind in groups:
        for name, (_, _, kernel_fn) in group.items():
            if SCHEME == "standard" and ("attention" in name or "standard" in name):
                continue
            x1, x2 = inputs[kind]
            for suffix in ("same", "cross"):
                one, two = x1, None if suffix == "same" else x2
                options = {}
                if kind == "node":
                    pattern = edges if "sparse" in name else dense_graphs
                    options = {"pattern": (pattern[0], pattern[suffix == "cross"])}
                if kind == "masked":
                    options = {"mask_constant": MASK}
                if name == "tuple inputs":
                    one = (one, one[:, :3])
                    two = None if two is None else (two, two[:, :3])
                k = kernel_fn(one, two, ("nngp", "ntk"), **options)
                several = (
                    k
                    if isinstance(k, list | tuple) and name == "tuple outputs"
                    else [k]
                )
                for i, each in enumerate(several):
                    part = f"{name}/{i}" if len(several) > 1 else name
                    saved[f"{part}/{suffix}/nngp"] = each.nngp
                    saved[f"{part}/{suffix}/ntk"] = each.ntk
            print(name, flush=True)
    suffix = "" if SCHEME == "ntk" else f"_{SCHEME}"
    path = Path(__file__)
    np.savez_compressed(path.with_name(f"{path.stem}{suffix}.npz"), **saved)
    print(len(saved), "arrays")


if __name__ == "__main__":
    main()
