"""The arithmetic of the benchmark of sketches; it times nothing."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from benchmarks.sketches import Network, law, rows, table


def test_the_law_is_that_of_one_output_and_is_the_same_for_copies_of_it(getkey):
    x = np.asarray(jr.normal(getkey(), (6, 9)))
    kernel = x @ x.T
    rank = np.trace(kernel) ** 2 / np.sum(kernel**2)
    expected = np.sqrt((1 + rank) / 7)
    assert np.isclose(law(kernel[..., None, None], 7), expected)
    copies = np.broadcast_to(kernel[..., None, None], (6, 6, 3, 3))
    assert np.isclose(law(copies, 7), expected)


@pytest.mark.slow
def test_every_method_gets_a_row_and_directions_the_smallest_size_alone(getkey):
    model = eqx.nn.MLP(3, 2, 5, 1, dtype=jnp.float32, key=getkey())
    network = Network(model, jr.normal(getkey(), (4, 3), jnp.float32))
    found = rows(network, [100, 10], 1)
    names = ["exact", "gaussian", "rademacher", "sketch", "sketch"]
    assert [row.name for row in found] == names
    assert [row.proj_dim for row in found] == [None, 10, 10, 10, 100]
    assert found[-1].error < 1e-5 and found[-1].size == 4 * 2 * 100
    assert len(table("mlp", network, found).splitlines()) == 6
