"""What is read from a model's jaxpr."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.core import eval_jaxpr

from equintk._trace.flatten import flatten, most_bytes, scan_parts
from equintk._trace.uses import uses
from tests.helpers import assert_close


def flat_of(function, *args):
    return flatten(function, *(jnp.asarray(a) for a in args))


def names(flat):
    return [eqn.primitive.name for eqn in flat.jaxpr.eqns]


def test_calls_are_inlined_and_give_the_same_numbers(getkey):
    w, x = jr.normal(getkey(), (3, 3)), jr.normal(getkey(), (3,))

    @jax.jit
    def inner(w, x):
        return jax.checkpoint(lambda x: jnp.sin(jax.jit(jnp.matmul)(w, x)))(x)

    def outer(w, x):
        return inner(w, x) + inner(w.T, x)

    flat = flat_of(outer, w, x)
    assert not {"jit", "pjit", "remat2", "checkpoint", "closed_call"} & {*names(flat)}
    assert names(flat).count("dot_general") == 2
    (got,) = eval_jaxpr(flat.jaxpr, flat.consts, w, x)
    assert_close(got, outer(w, x))


@pytest.mark.parametrize("kind", ["custom_jvp", "custom_vjp"])
def test_a_gradient_of_ones_own_survives(kind):
    # The derivative is 7, whatever the function says.
    if kind == "custom_jvp":
        odd = jax.custom_jvp(jnp.sin)
        odd.defjvp(lambda x, t: (jnp.sin(x[0]), 7.0 * t[0]))
    else:
        odd = jax.custom_vjp(jnp.sin)
        odd.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (7.0 * g,))

    flat = flat_of(jax.jit(lambda x: odd(x)), 0.3)
    grad = jax.grad(lambda x: eval_jaxpr(flat.jaxpr, flat.consts, x)[0])(0.3)
    assert grad == 7.0


def test_the_derivative_of_relu_at_zero_stays_zero():
    flat = flat_of(jax.jit(jax.nn.relu), 0.0)
    assert jax.grad(lambda x: eval_jaxpr(flat.jaxpr, (), x)[0])(0.0) == 0.0


def test_the_parts_of_a_scan_are_told_apart(getkey):
    w, stack = jr.normal(getkey(), (2, 2)), jr.normal(getkey(), (5, 2))

    def function(w, stack):
        def body(carry, x):
            h, i = carry
            return (jnp.tanh(w @ h + x), i + 1), (h, x)

        return jax.lax.scan(body, (jnp.zeros(2), jnp.zeros(())), stack)

    flat = flat_of(function, w, stack)
    (eqn,) = (e for e in flat.jaxpr.eqns if e.primitive.name == "scan")
    body, n_consts, n_carry = scan_parts(eqn)
    assert (n_consts, n_carry, len(body.jaxpr.invars)) == (1, 2, 4)


def test_a_weight_is_seen_through_what_only_moves_or_scales_it(getkey):
    w, x = jr.normal(getkey(), (6, 2)), jr.normal(getkey(), (3,))

    def function(w, x):
        return (0.5 * w).reshape(4, 3).astype(jnp.float32).astype(float) @ x

    ((use,),) = uses(flat_of(function, w, x), 1)
    assert use.name == "dot_general"
    assert use.view.shape == (4, 3)
    assert use.view.keeps_all_entries
    assert [s.name for s in use.view.steps if s.name == "mul"] == ["mul"]


def test_what_is_not_known_is_a_use():
    def function(w, x):
        return jnp.sort(w) @ x + jnp.cumsum(w)[0]

    ((sort, cumsum),) = uses(flat_of(function, jnp.ones(3), jnp.ones(3)), 1)
    assert (sort.name, cumsum.name) == ("sort", "cumsum")


def test_weights_in_scans_are_constants_or_slices(getkey):
    shared, layers = jr.normal(getkey(), (2, 2)), jr.normal(getkey(), (4, 2, 2))

    def function(shared, layers, x):
        step = lambda h, w: (jnp.tanh(w @ (shared @ h)), None)
        return jax.lax.scan(step, x, layers)[0]

    of_shared, of_layers = uses(flat_of(function, shared, layers, jnp.ones(2)), 2)
    assert [u.name for u in (*of_shared, *of_layers)] == ["dot_general"] * 2
    assert of_layers[0].view.shape == (2, 2)
    assert of_shared[0].view.layout != of_layers[0].view.layout
    assert len(of_shared[0].path) == 2


def test_a_returned_parameter_is_a_use_without_an_equation():
    ((use,),) = uses(flat_of(lambda w: w.T, jnp.ones((2, 3))), 1)
    assert (use.name, use.eqn) == ("result", None)


def test_a_layer_of_equinox_uses_its_weight_and_bias_once(getkey):
    layer = eqx.nn.Linear(3, 2, key=getkey())
    weight, bias = uses(
        flat_of(
            lambda w, b, x: eqx.tree_at(lambda m: (m.weight, m.bias), layer, (w, b))(x),
            layer.weight, layer.bias, jnp.ones(3),
        ), 2,
    )  # fmt: skip
    assert [u.name for u in weight] == ["dot_general"]
    assert [u.name for u in bias] == ["add"]


def test_what_is_held_at_once_is_what_is_still_read():
    def function(w, x):
        wide = jnp.sin(x)[:, None] * w  # 8 * 80, beside x's sine of 8 * 10
        short = jnp.sum(wide, axis=1)  # 8 * 10, beside 8 * 80
        return short, jnp.concatenate([short, short])  # 8 * 30

    flat = flat_of(function, jnp.ones((10, 8)), jnp.ones(10))
    w, x = flat.jaxpr.invars
    assert most_bytes(flat, [x]) == 8 * 90
    unread = flat_of(lambda x: (jnp.sin(x) + 1)[:2], jnp.ones(10))
    assert most_bytes(unread, unread.jaxpr.invars) == 8 * 20
    assert most_bytes(unread, []) == 0
