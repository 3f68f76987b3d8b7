"""Functions that are another one where no node of a series looks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk._infinite.functions.function import Function
from equintk._infinite.functions.unseen import narrow, unseen

HIDDEN = {
    "one band": lambda z: jnp.where(jnp.abs(z - 0.7) < 1e-5, 100.0, z),
    "two comparisons": lambda z: jnp.where((z > 0.7) & (z < 0.7 + 1e-6), 1e4, z),
    "a smooth bump": lambda z: z + 100 * jnp.exp(-(((z - 0.7) / 1e-3) ** 2)),
    "a tooth": lambda z: jnp.tanh(z) + jax.nn.relu(1e3 - 1e9 * jnp.abs(z - 1.234)),
}
PLAIN = {
    "gelu": jax.nn.gelu,
    "selu": jax.nn.selu,
    "hard_swish": jax.nn.hard_swish,
    "hard_tanh": jax.nn.hard_tanh,
    "log_sigmoid": jax.nn.log_sigmoid,
    "sparse_plus": jax.nn.sparse_plus,
    "shrunk": lambda z: jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.5, 0),
    "fast": lambda z: jnp.sin(30 * z),
    "steep": lambda z: jnp.tanh(50 * z),
    "floor": jnp.floor,
    "overflowing": lambda z: jnp.maximum(jnp.sinh(30 * z), -1e300),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_narrow_intervals_are_found_with_what_they_add(name):
    function = Function(("hidden", name), HIDDEN[name])
    low, high, square = narrow(function)
    (at,) = np.flatnonzero(
        (low < 0.705) & (high > 0.7) | (low < 1.2341) & (high > 1.2339)
    )
    z = jnp.linspace(low[at], high[at], 200_001)
    beyond = jnp.max(jnp.abs(HIDDEN[name](z))) - jnp.abs(z[0])
    np.testing.assert_allclose(square[at], beyond**2, rtol=0.3)


def test_functions_of_further_numbers_are_searched_as_well():
    shifted = Function("shifted", lambda z, p: HIDDEN["one band"](z * p) + p, 1)
    assert unseen(shifted, jnp.ones(())) > 1e-3


@pytest.mark.parametrize("name", PLAIN)
def test_functions_without_any_lose_nothing(name):
    function = Function(("plain", name), PLAIN[name])
    assert not unseen(function, jnp.asarray([0.0, 1e-3, 1.0, 100.0])).any()


@pytest.mark.parametrize("options", [{}, {"b_std": 0.1}])
def test_what_no_node_sees_raises(options):
    mlp = eqx.nn.MLP(3, 2, 64, 1, HIDDEN["one band"], key=jr.key(0))
    with pytest.raises(ValueError, match="tolerance"):
        nt.infinite_nngp(mlp, jnp.eye(3), parameterization="ntk", **options)


def test_decisions_have_no_derivative():
    """Biases that start at zero move what is decided, which has no derivative."""
    mlp = eqx.nn.MLP(3, 1, 64, 1, lambda z: jnp.where(z > 0, z, 0.2 * z), key=jr.key(0))
    leaky = eqx.tree_at(
        lambda m: m.activation, mlp, lambda z: jax.nn.leaky_relu(z, 0.2)
    )
    one, two = (
        nt.infinite_ntk(m, jnp.eye(3), parameterization="ntk") for m in (mlp, leaky)
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)
