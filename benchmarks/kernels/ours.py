"""Kernels by equintk, as a user types them."""

import functools

import jax.numpy as jnp

import equintk as nt

from .models import build
from .values import examples
from .workloads import Workload


def prepare(workload: Workload, method: str):
    """For a number of examples, a function of nothing that gives their kernel."""
    del method
    model = build(workload.net)
    kernel = nt.ntk_full if workload.full else nt.ntk

    def at(n: int):
        x = jnp.asarray(examples(workload.net, n))
        return functools.partial(kernel, model, x, batch_size=workload.batch_size)

    return at
