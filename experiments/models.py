"""The networks, written as a user of Equinox would write them: one example in, one out.

Every network has an `input` layer, a tuple of `hidden` layers and a linear `readout`,
so that its layers have names; they are drawn as Equinox draws them, and what draws them
otherwise (`equintk.parameterize`) wraps the network and leaves it unchanged.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

import equintk as nt
from experiments import imports
from experiments.schema import (
    CNNConfig,
    ConfigError,
    CustomModelConfig,
    MLPConfig,
    ModelConfig,
    ResidualMLPConfig,
    SirenConfig,
)

Activation = Callable[[Array], Array]


class MLP(eqx.Module):
    """Fully connected: `depth` layers of `width` units, each with an activation."""

    input: eqx.nn.Linear
    hidden: tuple[eqx.nn.Linear, ...]
    readout: eqx.nn.Linear
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int,
        depth: int,
        activation: Activation,
        *,
        key,
    ):
        first, *middle, last = jr.split(key, depth + 1)
        self.input = eqx.nn.Linear(in_dim, width, key=first)
        self.hidden = tuple(eqx.nn.Linear(width, width, key=k) for k in middle)
        self.readout = eqx.nn.Linear(width, out_dim, key=last)
        self.activation = activation

    def __call__(self, x: Float[Array, " in_dim"]) -> Float[Array, " out_dim"]:
        """Outputs for one example."""
        h = self.activation(self.input(x))
        for layer in self.hidden:
            h = self.activation(layer(h))
        return self.readout(h)


class ResidualMLP(eqx.Module):
    """Fully connected: `depth` layers `h + activation(W h + b)` of `width` units."""

    input: eqx.nn.Linear
    hidden: tuple[eqx.nn.Linear, ...]
    readout: eqx.nn.Linear
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int,
        depth: int,
        activation: Activation,
        *,
        key,
    ):
        first, *middle, last = jr.split(key, depth + 2)
        self.input = eqx.nn.Linear(in_dim, width, key=first)
        self.hidden = tuple(eqx.nn.Linear(width, width, key=k) for k in middle)
        self.readout = eqx.nn.Linear(width, out_dim, key=last)
        self.activation = activation

    def __call__(self, x: Float[Array, " in_dim"]) -> Float[Array, " out_dim"]:
        """Outputs for one example."""
        h = self.input(x)
        for layer in self.hidden:
            h = h + self.activation(layer(h))
        return self.readout(h)


class Siren(eqx.Module):
    """A coordinate network of sines: `sin(omega (W x + b))`, then `sin(W h + b)`.

    Source: Sitzmann et al., arXiv:2006.09661, section 3.2; there later layers too have
    a frequency, which their weights are divided by again.
    """

    input: eqx.nn.Linear
    hidden: tuple[eqx.nn.Linear, ...]
    readout: eqx.nn.Linear
    omega: float = eqx.field(static=True)  # radians per unit of W x + b

    def __init__(
        self, in_dim: int, out_dim: int, width: int, depth: int, omega: float, *, key
    ):
        first, *middle, last = jr.split(key, depth + 1)
        self.input = eqx.nn.Linear(in_dim, width, key=first)
        self.hidden = tuple(eqx.nn.Linear(width, width, key=k) for k in middle)
        self.readout = eqx.nn.Linear(width, out_dim, key=last)
        self.omega = omega

    def __call__(self, x: Float[Array, " in_dim"]) -> Float[Array, " out_dim"]:
        """Outputs for one example."""
        h = jnp.sin(self.omega * self.input(x))
        for layer in self.hidden:
            h = jnp.sin(layer(h))
        return self.readout(h)


class CNN(eqx.Module):
    """`depth` convolutions of `width` channels, each with an activation; then pooling.

    Stride one and zero padding keep the size of the image. `pooling` is `"mean"`, over
    pixels, or `"flatten"`.
    """

    input: eqx.nn.Conv2d
    hidden: tuple[eqx.nn.Conv2d, ...]
    readout: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    pooling: str = eqx.field(static=True)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        out_dim: int,
        width: int,
        depth: int,
        kernel_size: int,
        activation: Activation,
        pooling: str,
        *,
        key,
    ):
        channels, rows, columns = image_shape
        first, *middle, last = jr.split(key, depth + 1)
        conv = lambda c, k: eqx.nn.Conv2d(c, width, kernel_size, padding="SAME", key=k)
        self.input = conv(channels, first)
        self.hidden = tuple(conv(width, k) for k in middle)
        n_features = width if pooling == "mean" else width * rows * columns
        self.readout = eqx.nn.Linear(n_features, out_dim, key=last)
        self.image_shape = image_shape
        self.activation = activation
        self.pooling = pooling

    def __call__(self, x: Float[Array, " in_dim"]) -> Float[Array, " out_dim"]:
        """Outputs for one example, an image as a vector."""
        h = self.activation(self.input(x.reshape(self.image_shape)))
        for layer in self.hidden:
            h = self.activation(layer(h))
        h = h.mean(axis=(1, 2)) if self.pooling == "mean" else h.ravel()
        return self.readout(h)


Network = MLP | ResidualMLP | Siren | CNN


def build(
    config: ModelConfig,
    in_dim: int,
    out_dim: int,
    image_shape: tuple[int, int, int] | None,
    key: Any,
) -> PyTree:
    """The network that a config names, drawn from `key` as Equinox draws its layers.

    Args:
        config: its size and its activation.
        in_dim: length of one example, a vector.
        out_dim: length of its output.
        image_shape: channels, rows and columns of one example, if it is an image.
        key: a JAX random key.

    Raises:
        ConfigError: if there is no such network, or it reads images and these are none.
    """
    if config.name not in _NETWORKS:
        raise ConfigError(
            f"There is no model `{config.name}`. Type model.name= one of "
            f"{', '.join(_NETWORKS)}."
        )
    return _NETWORKS[config.name](config, in_dim, out_dim, image_shape, key)


class Rescaled(eqx.Module):
    """`scale * (f(x) - f_0(x))`, where `f_0` is fixed, or nothing.

    The larger the scale, the less parameters move for one change of the outputs.

    Source: Chizat, Oyallon and Bach, arXiv:1812.07956, section 1.
    """

    module: PyTree
    start: PyTree | None
    scale: float = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """Outputs for one example."""
        f = self.module(x)
        if self.start is not None:
            f = f - jax.lax.stop_gradient(self.start(x))
        return self.scale * f


def rescaled(config: ModelConfig, model: PyTree) -> PyTree:
    """The model with the output scale that a config asks for, centred or not."""
    if config.output_scale == 1 and not config.centred:
        return model
    return Rescaled(model, model if config.centred else None, config.output_scale)


class Reshaped(eqx.Module):
    """A network that reads images, given them as vectors."""

    module: PyTree
    in_shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        """Outputs for one example."""
        return self.module(x.reshape(self.in_shape))


def readout_only(model: PyTree, x: Array) -> PyTree:
    """Which leaves train when the last layer does alone: a PyTree of bools.

    Args:
        model: any network, bare or wrapped.
        x: one example.
    """
    return nt.last_layer(model, x)


def layers(model: PyTree) -> dict[str, list[Array]]:
    """The trainable arrays of each layer, from `input` over `hidden[0]` to `readout`.

    Args:
        model: any network, bare or wrapped by `equintk.parameterize` or in this file;
            then these are the raw arrays, which are what is trained. A layer is what
            holds arrays.
    """
    while isinstance(model, nt.Parameterized | Rescaled | Reshaped):
        model = model.module
    found: dict[str, list[Array]] = {}
    for path, leaf in jtu.tree_leaves_with_path(model):
        if eqx.is_inexact_array(leaf):
            name = jtu.keystr(path[:-1]) or jtu.keystr(path)
            found.setdefault(name.lstrip("."), []).append(leaf)
    return found


def _mlp(config: MLPConfig, in_dim, out_dim, image_shape, key) -> MLP:
    activation = _ACTIVATIONS[config.activation.name]
    return MLP(in_dim, out_dim, config.width, config.depth, activation, key=key)


def _residual_mlp(
    config: ResidualMLPConfig, in_dim, out_dim, image_shape, key
) -> ResidualMLP:
    activation = _ACTIVATIONS[config.activation.name]
    return ResidualMLP(in_dim, out_dim, config.width, config.depth, activation, key=key)


def _siren(config: SirenConfig, in_dim, out_dim, image_shape, key) -> Siren:
    return Siren(in_dim, out_dim, config.width, config.depth, config.omega, key=key)


def _cnn(config: CNNConfig, in_dim, out_dim, image_shape, key) -> CNN:
    if image_shape is None:
        raise ConfigError(
            f"model=cnn reads images, but one example of this data set is a vector of "
            f"{in_dim} numbers that is no image. Type dataset=digits_3v8 or "
            "dataset=digits10, or another model such as model=mlp."
        )
    return CNN(
        image_shape,
        out_dim,
        config.width,
        config.depth,
        config.kernel_size,
        _ACTIVATIONS[config.activation.name],
        config.pooling.name,
        key=key,
    )


def _custom(config: CustomModelConfig, in_dim, out_dim, image_shape, key) -> PyTree:
    build = imports.function("model.build", config.build)
    in_shape = image_shape or (in_dim,)
    model = build(key, in_shape, out_dim, config.width)
    one = jax.ShapeDtypeStruct(in_shape, jnp.result_type(float))
    try:
        got = eqx.filter_eval_shape(model, one)
    except Exception as error:
        raise ConfigError(
            f"model.build={config.build} gave a {type(model).__name__} that does not "
            f"take one example of shape {in_shape}: {type(error).__name__}: {error}"
        ) from error
    if getattr(got, "shape", None) != (out_dim,):
        raise ConfigError(
            f"model.build={config.build} must give a network whose output for one "
            f"example has shape ({out_dim},), but it gives {got}."
        )
    return Reshaped(model, in_shape) if image_shape else model


_NETWORKS: dict[str, Callable[..., PyTree]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "siren": _siren,
    "residual_mlp": _residual_mlp,
    "custom": _custom,
}


def _gelu(x: Array) -> Array:
    """`x Φ(x)` with the exact normal distribution; JAX's default approximates it."""
    return jax.nn.gelu(x, approximate=False)


_ACTIVATIONS: dict[str, Activation] = {
    "erf": jax.scipy.special.erf,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": _gelu,
}
