"""Kernels under the caller's transformations, against the same of plain Jacobians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

import equintk as nt
from tests.helpers import (
    assert_close,
    numpy_rng,
    one_in,
    plain_kernel,
    relative_error,
)
from tests.zoo import MODELS

# Each reaches another way of computing: products, convolutions, rows, scans, the rest.
NAMES = [
    "mlp without biases",
    "conv1d",
    "tied embedding and head",
    "recurrent network",
    "scan over stacked layers",
    "weight norm",
]


def _setting(name):
    case = MODELS[name]
    x1, x2 = case.inputs(jr.key(2), 3), case.inputs(jr.key(3), 2)
    weights = jnp.asarray(numpy_rng(jr.key(4)).standard_normal((3, 2)))
    return case.model(jr.key(1)), x1, x2, weights


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_the_model_are_those_of_the_plain_kernel(name):
    model, x1, x2, weights = _setting(name)
    by_model = lambda kernel: jtu.tree_leaves(
        eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(weights * kernel(m, x1, x2))))(
            model
        )
    )
    pairs = zip(by_model(nt.ntk), by_model(plain_kernel), strict=True)
    assert all(relative_error(got, expected) < 1e-11 for got, expected in pairs)


@pytest.mark.parametrize("name", ["mlp without biases", "conv1d", "recurrent network"])
def test_derivatives_by_the_inputs_are_those_of_the_plain_kernel(name):
    model, x1, x2, weights = _setting(name)

    def derivatives(kernel):
        value = lambda x: jnp.sum(weights * kernel(model, x, x2))
        forward = lambda x: jax.jvp(value, (x,), (jnp.cos(x),))[1]
        return jax.jit(lambda x: (jax.grad(value)(x), forward(x)))(x1)

    for got, expected in zip(
        derivatives(nt.ntk), derivatives(plain_kernel), strict=True
    ):
        assert relative_error(got, expected) < 1e-11


@pytest.mark.parametrize("name", one_in(2, NAMES))
def test_an_ensemble_under_vmap_has_the_kernels_of_its_members(name):
    case = MODELS[name]
    models = [case.model(jr.key(seed)) for seed in range(3)]
    stacked = jtu.tree_map(
        lambda *a: jnp.stack(a) if eqx.is_array(a[0]) else a[0], *models
    )
    x1, x2 = case.inputs(jr.key(2), 3), case.inputs(jr.key(3), 2)
    got = eqx.filter_vmap(lambda m: nt.ntk_full(m, x1, x2, batch_size=2))(stacked)
    for member, model in zip(got, models, strict=True):
        assert relative_error(member, nt.ntk_full(model, x1, x2)) < 1e-12


def test_a_kernel_of_relu_units_has_the_gradient_of_its_active_ones():
    # f(x) = v . relu(W x): K = relu(Wx) . relu(Wx') + sum over units active at both of
    # v_i^2 x . x', and away from kinks activity does not change.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 3)))
    mlp = eqx.nn.MLP(
        3, "scalar", 6, 1, use_bias=False, use_final_bias=False, key=jr.key(0)
    )

    def by_hand(mlp, x):
        w, v = (layer.weight for layer in mlp.layers)
        h = x @ w.T
        active = jax.lax.stop_gradient((h > 0).astype(x.dtype))
        hidden = (h * active) @ (h * active).T
        return hidden + (x @ x.T) * ((active * v**2) @ active.T)

    def total(kernel):
        return eqx.filter_grad(lambda m, x: jnp.sum(jnp.sin(kernel(m, x))))

    assert_close(nt.ntk(mlp, x), by_hand(mlp, x))
    got, expected = (jtu.tree_leaves(total(k)(mlp, x)) for k in (nt.ntk, by_hand))
    for one, two in zip(got, expected, strict=True):
        assert_close(one, two)


def test_second_derivatives_of_a_kernel_are_those_of_the_plain_one():
    _, x1, x2, weights = _setting("mlp without biases")
    model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jr.key(1))

    def hessian(kernel):
        value = lambda x: jnp.sum(weights * kernel(model, x, x2))
        return jax.jit(jax.hessian(value))(x1)

    assert relative_error(hessian(nt.ntk), hessian(plain_kernel)) < 1e-10
