"""Kernels from one Jacobian per leaf, written plainly: what users write themselves."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .models import build
from .values import examples
from .workloads import Workload


def prepare(workload: Workload, method: str):
    """For a number of examples, a function that gives their averaged kernel."""
    del method
    params, static = eqx.partition(build(workload.net), eqx.is_inexact_array)

    @jax.jit
    def kernel(params, x):
        jacobian = jax.jacrev(lambda p, one: eqx.combine(p, static)(one))
        by_leaf = jax.vmap(jacobian, (None, 0))(params, x)  # (n, out, *leaf) each
        blocks = [
            jnp.einsum("iap,jap->ij", j, j)
            for leaf in jtu.tree_leaves(by_leaf)
            for j in [leaf.reshape(*leaf.shape[:2], -1)]
        ]
        return sum(blocks) / workload.net.out_size

    def at(n: int):
        return functools.partial(kernel, params, jnp.asarray(examples(workload.net, n)))

    return at
