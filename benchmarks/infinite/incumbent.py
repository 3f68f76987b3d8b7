"""Kernels at infinite width by neural-tangents, in its own environment."""

import functools

import jax
import jax.numpy as jnp
from neural_tangents import stax  # pyright: ignore[reportMissingImports]

from benchmarks.kernels.values import examples
from benchmarks.kernels.workloads import Workload

from .workloads import B_STD, W_STD

_GIVEN = {"W_std": W_STD, "b_std": B_STD}


def prepare(workload: Workload, method: str):
    """For a number of examples, a function of nothing that gives their kernel."""
    del method
    _, _, kernel_fn = stax.serial(*_layers(workload))
    # The NNGP is on the way to the tangent kernel.
    kernel = jax.jit(lambda x: kernel_fn(x, None, ("nngp", "ntk")).ntk)

    def at(n: int):
        x = examples(workload.net, n)
        x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x  # channels last
        return functools.partial(kernel, jnp.asarray(x))

    return at


def _layers(workload: Workload) -> list:
    if workload.net.kind == "relu":
        hidden = [stax.Dense(16, **_GIVEN), stax.Relu()]
        return hidden * (len(workload.net.layers) - 1) + [stax.Dense(1, **_GIVEN)]
    conv = stax.Conv(16, (3, 3), padding="SAME", **_GIVEN)
    together = stax.GlobalAvgPool() if workload.net.kind == "pooled" else stax.Flatten()
    return [conv, stax.Relu()] * 3 + [together, stax.Dense(1, **_GIVEN)]
