"""Derivatives that are a factor for each output times one for each example."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import pytest

import equintk as nt
from equintk._empirical.backward import backward, cotangents_of, one_output
from equintk._empirical.modes import modes_of
from equintk._empirical.structure import structure_of
from equintk._parameters import real_outputs
from equintk._trace.flatten import flatten
from tests.helpers import average_of, reference_of, relative_error
from tests.zoo.member import member

pytestmark = pytest.mark.conformance

MODELS = {}
SEPARABLE = {}  # how many of each model's weights have such derivatives


def enter(n_separable, **shapes):
    def decorate(apply):
        member(MODELS, **shapes)(apply)
        SEPARABLE[apply.__name__.replace("_", " ")] = n_separable
        return apply

    return decorate


@enter(1, u=(4, 3), v=(4, 4), w=(5, 4), b=(4,))
def only_the_last_hidden_layer_of_a_perceptron(x, u, v, w, b):
    return w @ jax.nn.relu(v @ jnp.tanh(u @ x) + b)


@enter(1, u=(6, 3), w=(5, 6))
def derivatives_with_several_terms(x, u, w):
    return w @ jax.nn.gelu(u @ x)


@enter(1, u=(4, 3), w=(5, 4))
def a_nonlinearity_and_a_skip_beside_it(x, u, w):
    z = u @ x
    return w @ (z + jnp.sin(z))


@enter(1, x=(2, 6, 6), u=(4, 2, 3, 3), w=(5, 4))
def averages_over_an_image(x, u, w):
    z = jax.lax.conv_general_dilated(x[None], u, (2, 2), "SAME")[0]
    return w @ jnp.mean(jax.nn.softplus(z), axis=(1, 2))


@enter(0, x=(2, 6), u=(4, 2, 3), w=(5, 4))
def sums_of_a_linear_convolution(x, u, w):
    # Nothing of the example is in the derivative.
    z = jax.lax.conv_general_dilated(x[None], u, (1,), "SAME")[0]
    return w @ jnp.sum(z, axis=1)


@enter(0, x=(4, 5), u=(256, 5), w=(4, 256))
def averages_of_a_wide_linear_map(x, u, w):
    # So wide that XLA once gave back whatever was in memory.
    return w @ jnp.mean(x @ u.T, axis=0)


@enter(0, x=(2, 6, 6), u=(4, 2, 3, 3), w=(5, 36))
def readouts_that_differ_over_an_image(x, u, w):
    z = jax.lax.conv_general_dilated(x[None], u, (2, 2), "SAME")[0]
    return w @ jnp.tanh(z).reshape(-1)


@enter(0, u=(4, 3), w=(5, 4))
def outputs_that_compete(x, u, w):
    return jax.nn.softmax(w @ jnp.tanh(u @ x))


@enter(0, u=(4, 3), w=(5, 4), v=(5, 4))
def two_ways_from_a_layer_to_the_output(x, u, w, v):
    z = u @ x
    return w @ jnp.tanh(z) + v @ jnp.sin(z)


@enter(0, u=(4, 3), w=(1, 4))
def a_single_output(x, u, w):
    return w @ jnp.tanh(u @ x)


def _n_separable(model, x):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jtu.tree_flatten(params)

    def output(leaves, x):
        return real_outputs(eqx.combine(treedef.unflatten(leaves), static)(x))

    flat = flatten(output, leaves, x)
    results = jax.eval_shape(output, leaves, x)
    modes = modes_of([results[0].shape], None, None)
    cotangents = cotangents_of(results, modes)
    one = one_output(structure_of(flat, len(leaves)))
    found = []

    def trace(leaves, x):
        at_sites, _ = backward(one, leaves, [], [x], modes, cotangents())
        found.extend(site.weights is not None for site in at_sites)

    jax.eval_shape(trace, leaves, x)
    return sum(found)


@pytest.mark.parametrize("name", MODELS)
def test_averaged_kernels_equal_float64_jacobians_either_way(name):
    model, _, x1, x2, k11, k12 = reference_of(MODELS[name], name)
    assert _n_separable(model, x1[0]) == SEPARABLE[name]
    assert relative_error(nt.ntk(model, x1, batch_size=2), average_of(k11)) < 1e-12
    if SEPARABLE[name]:
        assert relative_error(nt.ntk(model, x1, x2), average_of(k12)) < 1e-12


def test_readouts_of_zero_have_the_second_derivative_of_the_kernel():
    # The square root of a sum of squares would have none.
    case = MODELS["a nonlinearity and a skip beside it"]
    model, x = case.model(jr.key(0)), case.inputs(jr.key(1), 2)
    direction = model.parameters["w"]

    def trace(w, kernel):
        changed = eqx.tree_at(lambda m: m.parameters["w"], model, w)
        return jnp.trace(kernel(changed, x))

    def plainly(model, x):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        jacobian = jax.vmap(
            jax.jacrev(lambda p, one: eqx.combine(p, static)(one)), (None, 0)
        )(params, x)
        leaves = [j.reshape(2, 5, -1) for j in jtu.tree_leaves(jacobian)]
        return sum(jnp.einsum("iap,jap->ij", j, j) for j in leaves)

    def second(kernel):
        slope = jax.grad(lambda w: trace(w, kernel))
        return jax.jvp(slope, (jnp.zeros_like(direction),), (direction,))[1]

    got, expected = second(nt.ntk), second(plainly) / 5
    assert relative_error(got, expected) < 1e-12
