"""The standard deviations that the layers of Equinox draw their parameters with."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.nn as nn
import jax.tree_util as jtu


def own_deviations(model: Any) -> dict[str, float]:
    """The standard deviations that the layers of `equinox.nn` draw with, by path."""
    found: dict[str, float] = {}
    for path, node in _nodes(model, tuple(_OWN)):
        for kind, limit in _OWN.items():
            if isinstance(node, kind):
                for field, value in vars(node).items():
                    if eqx.is_inexact_array(value):
                        found[f"{path}.{field}"] = limit(node)
                break
    return found


def _nodes(model: Any, kinds: tuple[type, ...]) -> list[tuple[str, Any]]:
    nodes = jtu.tree_leaves_with_path(model, is_leaf=lambda n: isinstance(n, kinds))
    return [(jtu.keystr(p), node) for p, node in nodes if isinstance(node, kinds)]


def _uniform(fan_in: int) -> float:
    """Of a uniform draw between `-1/sqrt(fan_in)` and its opposite."""
    return 1 / math.sqrt(3 * fan_in)


def _convolution(layer: Any) -> float:
    return _uniform(layer.in_channels // layer.groups * math.prod(layer.kernel_size))


_OWN: dict[type, Callable[[Any], float]] = {
    nn.Linear: lambda m: _uniform(1 if m.in_features == "scalar" else m.in_features),
    nn.Conv: _convolution,
    nn.ConvTranspose: _convolution,
    nn.GRUCell: lambda m: _uniform(m.hidden_size),
    nn.LSTMCell: lambda m: _uniform(m.hidden_size),
    nn.Embedding: lambda m: 1.0,
}
