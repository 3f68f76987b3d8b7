"""Derivatives of the author's own, and derivatives taken inside the model."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .member import member

DERIVATIVES = {}


@jax.custom_jvp
def _swish(w, x):
    """A layer whose derivative is not that of its value, by its weight as well."""
    h = w @ x
    return h * jax.nn.sigmoid(h)


@_swish.defjvp
def _(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return _swish(w, x), jnp.cos(w @ x) * (dw @ x) + 2.0 * (w @ dx)


@jax.custom_vjp
def _round(x):
    return jnp.round(2.0 * x) / 2.0


_round.defvjp(lambda x: (_round(x), None), lambda _, g: (g,))


@jax.custom_vjp
def _reversed_layer(w, b, x):
    return jnp.tanh(w @ x + b)


def _reversed_backward(residuals, g):
    w, x = residuals
    return -jnp.outer(g, x), 3.0 * g, w.T @ g


_reversed_layer.defvjp(
    lambda w, b, x: (_reversed_layer(w, b, x), (w, x)), _reversed_backward
)


@jax.custom_vjp
def _clipped(x):
    return x


_clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.2, 0.2),))


@eqx.filter_custom_vjp
def _fixed_point(wbx):
    """The h with h = tanh(w h + x + b), by iteration."""
    w, b, x = wbx
    step = lambda _, h: jnp.tanh(w @ h + x + b)
    return jax.lax.fori_loop(0, 200, step, jnp.zeros_like(x))


def _fixed_point_forward(perturbed, wbx):
    h = _fixed_point(wbx)
    return h, h


def _fixed_point_backward(h, g, perturbed, wbx):
    w, b, x = wbx
    _, by_h = jax.vjp(lambda h: jnp.tanh(w @ h + x + b), h)
    adjoint = jax.lax.fori_loop(0, 200, lambda _, u: g + by_h(u)[0], g)
    return jax.vjp(lambda p: jnp.tanh(p[0] @ h + p[2] + p[1]), wbx)[1](adjoint)[0]


_fixed_point.def_fwd(_fixed_point_forward)
_fixed_point.def_bwd(_fixed_point_backward)


@member(DERIVATIVES, w=(4, 3), v=(2, 4), b=(4,))
def rectifier_at_its_kink(x, w, v, b):
    # Half of the units stand at 0 exactly, where inlining would change the derivative.
    h = w @ x + b
    return v @ jax.nn.relu(jnp.concatenate([h[:2], h[2:] - h[2:]]))


@member(DERIVATIVES, w=(4, 3), v=(2, 4))
def custom_jvp_with_a_weight_inside(x, w, v):
    return v @ _swish(w, x)


@member(DERIVATIVES, w=(3, 3))
def custom_jvp_with_a_weight_inside_and_outside(x, w):
    return w @ _swish(w, jnp.sin(w @ x))


@member(DERIVATIVES, w=(4, 3), v=(2, 4), b=(4,))
def straight_through_rounding_of_activations(x, w, v, b):
    return v @ _round(w @ x + b)


@member(DERIVATIVES, w=(4, 3), v=(2, 4), b=(4,))
def straight_through_rounding_of_weights(x, w, v, b):
    return _round(v) @ jnp.tanh(_round(w) @ x + _round(b))


@member(DERIVATIVES, w=(4, 3), b=(4,), v=(2, 4))
def custom_vjp_with_weights_inside(x, w, b, v):
    return v @ _reversed_layer(w, b, x)


@member(DERIVATIVES, w=(3, 3), b=(3,))
def custom_vjp_with_weights_inside_and_outside(x, w, b):
    return jnp.tanh(w @ _reversed_layer(w, b, w @ x) + b)


@member(DERIVATIVES, x=(4, 3), w=(3, 3), b=(3,))
def custom_vjp_in_a_scan(x, w, b):
    step = lambda h, t: (_reversed_layer(w, b, h + t), None)
    return jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0]


@member(DERIVATIVES, x=(4, 3), w=(3, 3), b=(3,))
def custom_vjp_under_vmap(x, w, b):
    return jax.vmap(lambda t: _reversed_layer(w, b, t))(x).sum(axis=0)


@member(DERIVATIVES, w=(4, 3), v=(2, 4))
def clipped_gradients(x, w, v):
    # Not linear in the cotangent: rows of the Jacobian are what they are.
    return v @ jnp.tanh(_clipped(w @ x))


@member(DERIVATIVES, w=(3, 3), b=(3,))
def implicit_layer(x, w, b):
    return _fixed_point((0.3 * w, b, x))


@member(DERIVATIVES, w=(3, 3), b=(3,))
def root_of_an_equation(x, w, b):
    residual = lambda h: h - 0.5 * jnp.tanh(w @ x + b * h)
    solve = lambda f, h: jax.lax.fori_loop(0, 100, lambda _, h: h - f(h), h)
    tangent = lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y)
    return jax.lax.custom_root(residual, jnp.zeros_like(x), solve, tangent)


# Derivatives by the example or by parameters, taken inside the model.


def _network(x, w, b, v):
    return v @ jnp.tanh(w @ x + b)


NETWORK = {"w": (4, 3), "b": (4,), "v": (4,)}


@member(DERIVATIVES, **NETWORK)
def gradient_by_the_example(x, w, b, v):
    return jax.grad(_network)(x, w, b, v)


@member(DERIVATIVES, **NETWORK)
def directional_derivative(x, w, b, v):
    one = lambda x: _network(x, w, b, v)
    return jnp.stack(jax.jvp(one, (x,), (jnp.cos(x),)))


@member(DERIVATIVES, **NETWORK)
def laplacian_by_the_hessian(x, w, b, v):
    return jnp.trace(jax.hessian(_network)(x, w, b, v))


@member(DERIVATIVES, **NETWORK)
def laplacian_forward_over_reverse(x, w, b, v):
    slope = jax.grad(lambda x: _network(x, w, b, v))
    second = lambda e: jax.jvp(slope, (x,), (e,))[1] @ e
    return jnp.sum(jax.vmap(second)(jnp.eye(3, dtype=x.dtype)))


@member(DERIVATIVES, **NETWORK)
def residual_of_burgers_equation(x, w, b, v):
    u = lambda x: _network(x, w, b, v)
    (u_t, u_x, _), hessian = jax.grad(u)(x), jax.hessian(u)(x)
    return u_t + u(x) * u_x - 0.1 * hessian[1, 1]


@member(DERIVATIVES, w=(2, 3), v=(2, 2, 2))
def derivatives_of_a_vector_field(x, w, v):
    field = lambda x: jnp.tanh(v[1] @ jnp.tanh(v[0] @ jnp.sin(w @ x)))
    return jax.jacfwd(field)(x) + jax.jacrev(field)(x) ** 2


@member(DERIVATIVES, **NETWORK)
def one_step_of_training_inside(x, w, b, v):
    loss = lambda w, b: (_network(jnp.cos(x), w, b, v) - 1.0) ** 2
    by_w, by_b = jax.grad(loss, (0, 1))(w, b)
    return _network(x, w - 0.1 * by_w, b - 0.1 * by_b, v)


@member(DERIVATIVES, x=(4, 3), w=(3, 3))
def gradient_of_a_scan(x, w):
    def last(x):
        step = lambda h, t: (jnp.tanh(w @ h + t), None)
        return jnp.sum(jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0])

    return jax.grad(last)(x).sum(axis=0)


@member(DERIVATIVES, x=(2, 6), w=(3, 2, 3), b=(3, 1))
def gradient_of_a_convolution(x, w, b):
    def energy(x):
        out = jax.lax.conv_general_dilated(x[None], w, (2,), "SAME")[0]
        return jnp.sum(jnp.sin(out + b))

    return jax.grad(energy)(x).sum(axis=0)


@member(DERIVATIVES, w=(4, 3), v=(2, 4))
def stop_gradient_between_layers(x, w, v):
    h = jnp.tanh(w @ x)
    return v @ jax.lax.stop_gradient(h) + h[:2]
