"""Every layer of `equinox.nn` that has parameters, and those around them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

from ..helpers import Case
from .member import generic

LAYERS = {}


def _enter(name, build, shape, tokens=0):
    LAYERS[name] = Case(generic(build), shape, tokens)


def _layer(name, layer, *args, shape, **kwargs):
    """A layer and an activation, so that no kernel is that of a linear map."""

    def build(key):
        return nn.Sequential([layer(*args, **kwargs, key=key), nn.Lambda(jnp.tanh)])

    _enter(name, build, shape)


_layer("linear", nn.Linear, 3, 4, shape=(3,))
_layer("linear without bias", nn.Linear, 3, 4, use_bias=False, shape=(3,))
_layer("linear of a scalar", nn.Linear, "scalar", 4, shape=())
_layer("linear to a scalar", nn.Linear, 3, "scalar", shape=(3,))
_layer("linear of a scalar to a scalar", nn.Linear, "scalar", "scalar", shape=())
_layer("conv1d", nn.Conv1d, 2, 3, 3, stride=2, dilation=2, shape=(2, 9))
_layer("conv1d of one position", nn.Conv1d, 2, 3, 4, shape=(2, 4))
_layer("conv1d, kernel of one", nn.Conv1d, 2, 3, 1, shape=(2, 3))
_layer(
    "conv2d, strides and groups", nn.Conv2d, 4, 6, (3, 2), (2, 1), groups=2,
    shape=(4, 5, 4),
)  # fmt: skip
_layer(
    "conv2d, padded unevenly", nn.Conv2d, 2, 3, 3, 2, ((0, 2), (1, 0)), (1, 2),
    use_bias=False, shape=(2, 4, 5),
)  # fmt: skip
_layer("conv2d, same", nn.Conv2d, 2, 3, (2, 3), 2, "SAME", shape=(2, 4, 3))
_layer("conv2d, same lower", nn.Conv2d, 1, 2, (2, 4), 1, "SAME_LOWER", shape=(1, 3, 3))
_layer("conv2d, valid", nn.Conv2d, 1, 2, 2, 1, "VALID", shape=(1, 3, 3))
for _mode in ("CIRCULAR", "REFLECT", "REPLICATE"):
    _layer(
        f"conv2d, {_mode.lower()}", nn.Conv2d, 1, 2, 3, 2, 1, padding_mode=_mode,
        shape=(1, 4, 3),
    )  # fmt: skip
_layer("conv3d", nn.Conv3d, 2, 4, (2, 1, 3), (1, 2, 1), 1, groups=2, shape=(2, 2, 2, 3))
_layer("depthwise convolution", nn.Conv2d, 3, 6, 2, groups=3, shape=(3, 3, 3))
_layer(
    "transposed conv1d", nn.ConvTranspose1d, 2, 3, 3, 3, output_padding=1, shape=(2, 3)
)
_layer(
    "transposed conv2d, dilation", nn.ConvTranspose2d, 2, 3, (2, 3), (2, 1),
    dilation=(1, 2), padding=1, shape=(2, 3, 3),
)  # fmt: skip
_layer(
    "transposed conv1d, groups", nn.ConvTranspose1d, 4, 6, 3, 2, 1, 1, groups=2,
    shape=(4, 3),
)  # fmt: skip
_layer(
    "transposed conv2d, same", nn.ConvTranspose2d, 2, 1, 3, 2, padding="SAME",
    shape=(2, 2, 3),
)  # fmt: skip
_layer(
    "transposed conv2d, circular", nn.ConvTranspose2d, 1, 2, 3, 2, padding="SAME",
    padding_mode="CIRCULAR", shape=(1, 3, 2),
)  # fmt: skip
_layer(
    "transposed conv3d", nn.ConvTranspose3d, 1, 2, 2, (1, 2, 1), use_bias=False,
    shape=(1, 2, 1, 2),
)  # fmt: skip
_layer("mlp without biases", nn.MLP, 3, 2, 4, 2, use_bias=False, shape=(3,))
_layer(
    "mlp without the last bias", nn.MLP, 3, 2, 4, 1, jnp.sin, jnp.tanh,
    use_final_bias=False, shape=(3,),
)  # fmt: skip
_layer("mlp with trained activations", nn.MLP, 3, 2, 4, 2, nn.PReLU(0.3), shape=(3,))


class Cell(eqx.Module):
    """One step of a recurrent cell from an input and a state, both given."""

    cell: Any

    def __call__(self, x):
        if isinstance(self.cell, nn.LSTMCell):
            h, c = self.cell(x[0], (x[1, :2], x[2, :2]))
            return jnp.stack([h, c])
        return self.cell(x[0], x[1, :2])


_enter("gru cell", lambda key: Cell(nn.GRUCell(3, 2, key=key)), (2, 3))
_enter(
    "gru cell without bias",
    lambda key: Cell(nn.GRUCell(3, 2, use_bias=False, key=key)),
    (2, 3),
)
_enter("lstm cell", lambda key: Cell(nn.LSTMCell(3, 2, key=key)), (3, 3))


class Tokens(eqx.Module):
    """Embedded tokens, something over their sequence, and a mean."""

    embedding: nn.Embedding
    mix: Any

    def __call__(self, tokens):
        return jnp.tanh(self.mix(jax.vmap(self.embedding)(tokens))).mean(axis=0)


class SelfAttention(eqx.Module):
    """Attention of a sequence to itself, causal or rotary."""

    attention: nn.MultiheadAttention
    rotary: nn.RotaryPositionalEmbedding | None
    causal: bool = False

    def __call__(self, x):
        def rotate(query, key, value):
            assert self.rotary is not None
            turn = jax.vmap(self.rotary, in_axes=1, out_axes=1)
            return turn(query), turn(key), value

        mask = jnp.tril(jnp.ones((len(x), len(x)), bool)) if self.causal else None
        process = None if self.rotary is None else rotate
        return self.attention(x, x, x, mask=mask, process_heads=process)


class CrossAttention(eqx.Module):
    """Queries, keys, values and outputs of four sizes, with every bias."""

    attention: nn.MultiheadAttention

    def __init__(self, key):
        self.attention = nn.MultiheadAttention(
            2, 4, 3, 2, 3, 2, 3, True, True, True, True, dropout_p=0.5,
            inference=True, key=key,
        )  # fmt: skip

    def __call__(self, x):
        return self.attention(x[:2, :4], x[:, :3], x[:, :2] ** 2)


_enter(
    "embedding",
    lambda key: Tokens(nn.Embedding(4, 3, key=key), jnp.sin),
    (5,),
    tokens=4,
)
_enter(
    "rotary attention over embedded tokens",
    lambda key: Tokens(
        nn.Embedding(4, 4, key=key),
        SelfAttention(
            nn.MultiheadAttention(2, 4, qk_size=2, key=key),
            nn.RotaryPositionalEmbedding(2),
        ),
    ),
    (3,),
    tokens=4,
)
_enter(
    "causal attention",
    lambda key: SelfAttention(nn.MultiheadAttention(2, 4, key=key), None, True),
    (3, 4),
)
_enter("attention of four sizes with biases", CrossAttention, (3, 4))


def _normed(*norms):
    """A layer, the norms one after the other, an activation and a sum."""

    def build(key):
        return nn.Sequential(
            [nn.Linear(3, 6, key=key), *norms, nn.Lambda(lambda h: jnp.sin(h[:4]))]
        )

    return build


_enter("layer norm and rms norm", _normed(nn.LayerNorm(6), nn.RMSNorm(6)), (3,))
_enter(
    "norms without weight or bias",
    _normed(
        nn.LayerNorm(6, use_weight=False),
        nn.RMSNorm(6, use_bias=False),
        nn.LayerNorm(6, use_weight=False, use_bias=False),
    ),
    (3,),
)
_enter("group norm", _normed(nn.GroupNorm(2, 6)), (3,))


class NormedImage(eqx.Module):
    """Norms over an image: by group of channels, and over all axes at once."""

    conv: nn.Conv2d
    groups: nn.GroupNorm
    layer: nn.LayerNorm
    slope: nn.PReLU

    def __init__(self, key):
        self.conv = nn.Conv2d(1, 4, 2, key=key)
        self.groups = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm((4, 2, 2))
        self.slope = nn.PReLU(jnp.linspace(0.1, 0.4, 4)[:, None, None])

    def __call__(self, x):
        return self.layer(self.slope(self.groups(self.conv(x)))).sum(axis=(1, 2))


_enter("norms over an image", NormedImage, (1, 3, 3))


class Stateful(eqx.Module):
    """Stateful layers in inference mode, with the state they came to in training."""

    layers: nn.Sequential
    state: nn.State

    def __init__(self, build, shape, key):
        @eqx.filter_jit
        def trained(key):
            k1, k2 = jr.split(key)
            layers, state = nn.make_with_state(build)(k1)
            for batch in jr.normal(k2, (3, 7, *shape)):
                _, state = jax.vmap(
                    layers, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
                )(batch, state)
            return layers, state

        layers, state = trained(key)
        self.layers, self.state = nn.inference_mode(layers), state

    def __call__(self, x):
        return jnp.tanh(self.layers(x, self.state)[0])


def _stateful(name, build, shape):
    _enter(name, lambda key: Stateful(build, shape, key), shape)


_stateful(
    "batch norm in inference mode",
    lambda key: nn.Sequential(
        [
            nn.Linear(3, 4, key=key),
            nn.BatchNorm(4, "batch", mode="ema"),
            nn.Lambda(jnp.tanh),
            nn.Linear(4, 3, key=key),
            nn.BatchNorm(3, "batch", mode="batch", momentum=0.5),
        ]
    ),
    (3,),
)
_stateful(
    "convolution with batch norm in inference mode",
    lambda key: nn.Sequential(
        [
            nn.Conv2d(1, 3, 2, key=key),
            nn.BatchNorm(3, "batch", channelwise_affine=False, mode="batch"),
            nn.BatchNorm(3, "batch", mode="ema"),
        ]
    ),
    (1, 3, 2),
)
_stateful(
    "spectral norm",
    lambda key: nn.Sequential(
        [
            nn.SpectralNorm(nn.Linear(3, 4, key=key), "weight", key=key),
            nn.Lambda(jnp.tanh),
            nn.SpectralNorm(nn.Linear(4, 2, key=key), "weight", key=key),
        ]
    ),
    (3,),
)
_enter(
    "weight norm",
    lambda key: nn.Sequential(
        [
            nn.WeightNorm(nn.Linear(3, 4, key=key)),
            nn.Lambda(jnp.tanh),
            nn.WeightNorm(nn.Linear(4, 2, key=key), axis=None),
        ]
    ),
    (3,),
)
_enter(
    "weight norm of a convolution",
    lambda key: nn.Sequential(
        [nn.WeightNorm(nn.Conv1d(2, 3, 2, key=key)), nn.Lambda(jnp.sin)]
    ),
    (2, 4),
)
_enter(
    "pooling and dropout in inference mode",
    lambda key: nn.Sequential(
        [
            nn.Conv2d(1, 2, 2, key=key),
            nn.MaxPool2d(2, 1, padding=1),
            nn.Dropout(0.5, inference=True),
            nn.Identity(),
            nn.AvgPool2d(2, 2),
            nn.AdaptiveMaxPool2d(2),
            nn.Lambda(jnp.ravel),
            nn.Linear(8, 2, key=key),
        ]
    ),
    (1, 5, 4),
)
