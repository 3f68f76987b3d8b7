"""Parameters inside loops, branches, and functions that are compiled apart."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ..helpers import Case
from .member import generic, member

CONTROL = {}


class StackedLayers(eqx.Module):
    """An MLP as one scan over layers built by `equinox.filter_vmap`."""

    layers: eqx.nn.MLP
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        make = lambda k: eqx.nn.MLP(3, 3, 4, 1, activation=jnp.tanh, key=k)
        self.layers = eqx.filter_vmap(make)(jr.split(k1, 3))
        self.readout = eqx.nn.Linear(3, 2, key=k2)

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        step = lambda h, layer: (h + eqx.combine(layer, static)(h), None)
        return self.readout(jax.lax.scan(step, x, arrays)[0])


class Recurrent(eqx.Module):
    """A recurrent network that returns every state."""

    cell: Any

    def __call__(self, xs):
        lstm = isinstance(self.cell, eqx.nn.LSTMCell)
        zero = jnp.zeros(2, xs.dtype)

        def step(state, x):
            state = self.cell(x, state)
            return state, state[0] if lstm else state

        return jax.lax.scan(step, (zero, zero) if lstm else zero, xs)[1]


CONTROL["scan over stacked layers"] = Case(generic(StackedLayers), (3,))
CONTROL["mlp with scan=True"] = Case(
    generic(lambda key: eqx.nn.MLP(3, 2, 4, 3, jnp.tanh, scan=True, key=key)), (3,)
)
CONTROL["lstm that returns every state"] = Case(
    generic(lambda key: Recurrent(eqx.nn.LSTMCell(3, 2, key=key))), (4, 3)
)
CONTROL["gru without bias that returns every state"] = Case(
    generic(lambda key: Recurrent(eqx.nn.GRUCell(3, 2, use_bias=False, key=key))),
    (4, 3),
)


@member(CONTROL, x=(5, 3), w=(4, 3), u=(4, 4), b=(4,), v=(2, 4))
def recurrent_network(x, w, u, b, v):
    step = lambda h, t: (jnp.tanh(u @ h + w @ t + b), None)
    return v @ jax.lax.scan(step, jnp.zeros(4, x.dtype), x)[0]


@member(CONTROL, x=(5, 3), w=(4, 3), u=(4, 4), h=(4,))
def recurrent_network_in_reverse_from_a_trained_state(x, w, u, h):
    step = lambda h, t: (jnp.tanh(u @ h + w @ t), h[:2])
    return jax.lax.scan(step, h, x, reverse=True)[1]


@member(CONTROL, x=(5, 3), w=(4, 3), u=(4, 4), b=(4,))
def unrolled_by_two(x, w, u, b):
    step = lambda h, t: (jnp.tanh(u @ h + w @ t + b), None)
    return jax.lax.scan(step, jnp.ones(4, x.dtype), x, unroll=2)[0]


@member(CONTROL, x=(1, 3), w=(4, 3), u=(4, 4))
def a_scan_of_one_step(x, w, u):
    step = lambda h, t: (jnp.tanh(u @ h + w @ t), h)
    return jax.lax.scan(step, jnp.ones(4, x.dtype), x)[0]


@member(CONTROL, x=(4, 3), w=(2, 3, 3), u=(2, 3, 3), b=(2, 3))
def nested_scans_of_layers_over_time(x, w, u, b):
    def layer(xs, p):
        w, u, b = p
        step = lambda h, t: ((h := jnp.tanh(u @ h + w @ t + b)), h)
        return jax.lax.scan(step, jnp.zeros(3, x.dtype), xs)[1], None

    return jax.lax.scan(layer, x, (w, u, b))[0][-1]


@member(CONTROL, x=(4, 3), w=(3, 3), u=(3, 3))
def nested_scans_with_one_weight_in_both(x, w, u):
    def outer(h, t):
        inner = lambda g, _: (jnp.sin(u @ g + w @ t), None)
        return jnp.tanh(w @ jax.lax.scan(inner, h, None, length=2)[0]), None

    return jax.lax.scan(outer, jnp.zeros(3, x.dtype), x)[0]


@member(CONTROL, x=(2, 4, 3), w=(3, 3), u=(3, 3))
def a_scan_inside_vmap(x, w, u):
    step = lambda h, t: (jnp.tanh(u @ h + w @ t), None)
    one = lambda xs: jax.lax.scan(step, jnp.zeros(3, x.dtype), xs)[0]
    return jax.vmap(one)(x)


@member(CONTROL, x=(4, 2, 3), w=(3, 3), b=(3,))
def vmap_inside_a_scan(x, w, b):
    step = lambda h, t: (jax.vmap(lambda h, t: jnp.tanh(w @ (h + t) + b))(h, t), None)
    return jax.lax.scan(step, jnp.zeros((2, 3), x.dtype), x)[0].sum(axis=0)


@member(CONTROL, x=(4, 3), w=(3, 3))
def a_weight_carried_unchanged(x, w):
    step = lambda c, t: ((jnp.tanh(c[1] @ c[0] + t), c[1]), None)
    return jax.lax.scan(step, (jnp.zeros(3, x.dtype), w), x)[0][0]


@member(CONTROL, x=(4, 3), w=(3, 3))
def a_weight_carried_and_changed(x, w):
    def step(c, t):
        h, v = c
        return (jnp.tanh(v @ h + t), 0.9 * v + 0.1 * jnp.outer(t, h)), None

    return jax.lax.scan(step, (jnp.ones(3, x.dtype), w), x)[0][0]


@member(CONTROL, x=(4, 3), w=(3, 3), u=(3, 3))
def a_weight_that_starts_the_carry(x, w, u):
    step = lambda h, t: (jnp.tanh(u @ h) + t[:, None], None)
    return jax.lax.scan(step, w, x)[0][0]


@member(CONTROL, x=(4, 3), w=(3, 3))
def a_carry_that_is_replaced_by_a_weight(x, w):
    step = lambda h, t: (w, jnp.tanh(h @ t))
    return jax.lax.scan(step, jnp.ones((3, 3), x.dtype), x)[1].sum(axis=0)


@member(CONTROL, x=(4, 3), w=(3, 3), b=(4, 3))
def a_bias_for_each_step(x, w, b):
    step = lambda h, tb: (jnp.tanh(w @ h + tb[0] + tb[1]), None)
    return jax.lax.scan(step, jnp.zeros(3, x.dtype), (x, b))[0]


@member(CONTROL, w=(3, 3, 3), v=(3, 3))
def a_weight_both_scanned_over_and_constant(x, w, v):
    step = lambda h, layer: (jnp.tanh(layer @ h + w[0] @ h) + v @ h, None)
    return jax.lax.scan(step, x, w)[0]


@member(CONTROL, x=(4, 3), w=(6,), u=(3, 3))
def views_inside_and_outside_a_scan(x, w, u):
    outside = jnp.concatenate([w, w[:3]]).reshape(3, 3) / 2.0
    step = lambda h, t: (jnp.tanh(outside @ t + (u.T / 3.0) @ h), None)
    return jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0]


@member(CONTROL, w=(6, 4), b=(6,))
def stacked_layers_seen_through_a_reshape(x, w, b):
    layers = (w.reshape(2, 3, 4)[:, :, 1:], b.reshape(2, 3))
    step = lambda h, p: (jnp.tanh(p[0] @ h + p[1]), h)
    return jax.lax.scan(step, x, layers)[0]


@member(CONTROL, x=(4, 3), w=(3, 3), v=(3, 3))
def a_parameter_not_used_in_the_body(x, w, v):
    step = lambda c, t: ((jnp.tanh(w @ c[0] + t), c[1]), None)
    return jax.lax.scan(step, (jnp.zeros(3, x.dtype), v), x)[0][0]


@member(CONTROL, x=(5,), tokens=4, w=(4, 3), u=(3, 3))
def a_lookup_in_a_scan(x, w, u):
    step = lambda h, token: (jnp.tanh(u @ h + w[token]), None)
    return jax.lax.scan(step, jnp.zeros(3, w.dtype), x)[0]


@member(CONTROL, x=(3, 2, 5), w=(2, 2, 3), b=(2, 1))
def a_convolution_in_a_scan(x, w, b):
    def step(h, t):
        out = jax.lax.conv_general_dilated((h + t)[None], w, (1,), "SAME")[0]
        return jnp.tanh(out + b), None

    return jax.lax.scan(step, jnp.zeros((2, 5), x.dtype), x)[0].mean(axis=1)


@member(CONTROL, x=(4, 3), w=(3, 3))
def rows_by_map(x, w):
    return jax.lax.map(lambda t: jnp.tanh(w @ t), x).sum(axis=0)


@member(CONTROL, x=(4, 3), w=(3, 3))
def associative_scan(x, w):
    maps = jnp.tanh(x[:, :, None] * w[None])
    return jax.lax.associative_scan(jnp.matmul, maps)[-1, 0]


@member(CONTROL, w=(3, 3, 3), b=(3, 3))
def layers_chosen_by_the_counter_of_a_loop(x, w, b):
    body = lambda i, h: jnp.tanh(w[i] @ h + b[i])
    return jax.lax.fori_loop(0, 3, body, x)


@member(CONTROL, w=(3, 3), b=(3,))
def explicit_euler(x, w, b):
    step = lambda h, _: (h + 0.1 * jnp.tanh(w @ h + b), None)
    return jax.lax.scan(step, x, None, length=5)[0]


@member(CONTROL, w=(4, 3), b=(4,))
def a_loop_without_a_derivative(x, w, b):
    # Newton's method for a constant; the count of steps depends on the parameters.
    start = jax.lax.stop_gradient(jnp.sum(w**2))
    halve = lambda c: (c[0] / 2, c[1] + 1)
    _, steps = jax.lax.while_loop(lambda c: c[0] > 0.1, halve, (start, jnp.asarray(0)))
    return jnp.tanh(w @ x + b) * steps.astype(x.dtype)


@member(CONTROL, w=(4, 3), v=(4, 3), b=(4,))
def a_branch_with_weights_in_both_arms(x, w, v, b):
    one, two = (lambda x: jnp.tanh(w @ x + b)), (lambda x: jnp.sin(v @ x) * b)
    return jax.lax.cond(x[0] > 0, one, two, x)


@member(CONTROL, w=(3, 3), v=(3, 3))
def a_branch_that_parameters_choose(x, w, v):
    return jax.lax.cond(w[0] @ x > 0, lambda: w @ x, lambda: jnp.sin(v @ x))


@member(CONTROL, w=(3, 4, 3), b=(4,))
def a_switch_among_experts(x, w, b):
    arms = [lambda x, i=i: jnp.tanh(w[i] @ x + b) for i in range(3)]
    return jax.lax.switch(jnp.argmax(x), arms, x)


@member(CONTROL, x=(4, 3), w=(3, 3), v=(3, 3))
def a_branch_in_a_scan(x, w, v):
    def step(h, t):
        arms = (lambda h: jnp.tanh(w @ h + t)), (lambda h: jnp.sin(v @ h) + t)
        return jax.lax.cond(t[0] > 0, *arms, h), None

    return jax.lax.scan(step, jnp.ones(3, x.dtype), x)[0]


@member(CONTROL, w=(4, 3), v=(4, 4), b=(4,))
def functions_compiled_apart(x, w, v, b):
    layer = jax.jit(lambda w, x, b: jnp.tanh(w @ x + b))
    return layer(v, layer(w, x, b), b)


@member(CONTROL, w=(3, 3), b=(3,))
def one_compiled_function_called_twice(x, w, b):
    layer = jax.jit(jax.jit(lambda x: jnp.tanh(w @ x + b)))
    return layer(layer(x))


@member(CONTROL, w=(4, 3), v=(2, 4), b=(4,))
def checkpoint(x, w, v, b):
    return v @ jax.checkpoint(lambda w, x: jnp.tanh(w @ x + b))(w, x)


@member(CONTROL, w=(4, 3), v=(2, 4))
def checkpoint_with_a_policy(x, w, v):
    policy = jax.checkpoint_policies.dots_saveable
    inner = lambda w, v: v @ jnp.tanh(w @ x)
    return jnp.sin(eqx.filter_checkpoint(inner, policy=policy)(w, v))


@member(CONTROL, x=(4, 3), w=(3, 3), b=(3,))
def checkpoint_in_a_scan(x, w, b):
    step = jax.checkpoint(lambda h, t: (jnp.tanh(w @ h + t + b), None))
    return jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0]


@member(CONTROL, x=(4, 3), w=(3, 3), b=(3,))
def checkpoint_of_a_scan(x, w, b):
    step = lambda h, t: (jnp.tanh(w @ h + t + b), None)
    run = lambda x: jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0]
    return jax.checkpoint(run)(x)


@member(CONTROL, x=(4, 3), w=(3, 3))
def noise_from_a_fixed_key(x, w):
    noise = jr.normal(jr.key(0), (4, 3), x.dtype)
    kept = jr.bernoulli(jr.key(1), 0.5, w.shape)
    return jnp.tanh((x + noise) @ jnp.where(kept, w, 0.0)).sum(axis=0)


@member(CONTROL, w=(4, 3), b=(4,))
def a_check_inside_the_model(x, w, b):
    h = w @ x + b
    return jnp.tanh(eqx.error_if(h, jnp.any(jnp.isnan(h)), "not a number"))


@member(CONTROL, w=(3, 3), v=(2, 3))
def a_loop_of_no_steps(x, w, v):
    return v @ jax.lax.scan(lambda h, _: (jnp.tanh(w @ h), None), x, None, length=0)[0]
