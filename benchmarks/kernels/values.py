"""The same weights and examples in both environments, from NumPy seeds."""

import numpy as np

from .workloads import Net

OMEGA = 30.0  # the frequency of a SIREN's sines
_GAIN = {"siren": 2**0.5 / OMEGA}  # keeps the activations' size from layer to layer


def examples(net: Net, n: int) -> np.ndarray:
    """Standard normal examples, shape `(n, *in_shape)`; images have channels first.

    The first ones are the same for every `n`.
    """
    return np.random.default_rng(0).standard_normal((n, *net.in_shape), np.float32)


def parameters(net: Net) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each layer, shaped as Equinox has them."""
    rng = np.random.default_rng(1)
    gain = np.float32(_GAIN.get(net.kind, 2**0.5))
    drawn = []
    for layer in net.layers:
        weight = rng.standard_normal(layer.shape, np.float32)
        ones = (1,) * (len(layer.shape) - 2)
        bias = rng.standard_normal((layer.fan_out, *ones), np.float32)
        drawn.append((weight * gain / np.float32(layer.fan_in**0.5), bias * gain / 10))
    return drawn
