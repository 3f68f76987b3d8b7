"""Kernels at infinite width by equintk: of modules as a user would write them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from equinox import nn

import equintk as nt
from benchmarks.kernels.values import examples
from benchmarks.kernels.workloads import Workload

from .workloads import B_STD, W_STD


class ConvNet(eqx.Module):
    """Convolutions, and a readout of all places or of their average."""

    convolutions: list
    readout: nn.Linear
    pooled: bool = eqx.field(static=True)

    def __call__(self, x):
        """The output for one image."""
        for layer in self.convolutions:
            x = jax.nn.relu(layer(x))
        return self.readout(x.mean((1, 2)) if self.pooled else x.ravel())


def prepare(workload: Workload, method: str):
    """For a number of examples, a function of nothing that gives their kernel."""
    del method
    model = _model(workload)

    def at(n: int):
        x = jnp.asarray(examples(workload.net, n))
        return lambda: nt.infinite_kernels(
            model, x, parameterization="ntk", W_std=W_STD, b_std=B_STD,
            batch_size=workload.batch_size,
        ).ntk  # fmt: skip

    return at


def _model(workload: Workload) -> nn.MLP | ConvNet:
    net, keys = workload.net, jr.split(jr.key(0), 8)
    if net.kind == "relu":
        depth = len(net.layers) - 1
        return nn.MLP(net.in_shape[0], 1, 16, depth, key=keys[0])
    channels = net.in_shape[0]
    layers = [
        nn.Conv2d(16 if i else channels, 16, 3, padding=1, key=keys[i])
        for i in range(3)
    ]
    pooled = net.kind == "pooled"
    places = 1 if pooled else net.in_shape[1] * net.in_shape[2]
    return ConvNet(layers, nn.Linear(16 * places, 1, key=keys[7]), pooled)
