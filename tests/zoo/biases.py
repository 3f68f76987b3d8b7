"""Biases: what is added, how often, to what, and through which broadcast."""

import jax
import jax.numpy as jnp

from .member import member

BIASES = {}


@member(BIASES, w=(4, 3), b=(4,))
def added_on_the_left(x, w, b):
    return jnp.tanh(b + w @ x)


@member(BIASES, w=(4, 3), b=(4,))
def added_twice(x, w, b):
    return jnp.tanh(w @ x + b + b)


@member(BIASES, w=(4, 3), b=(4,))
def added_before_and_after_the_activation(x, w, b):
    return jnp.tanh(w @ x + b) + b


@member(BIASES, w=(4, 3), b=(4,), c=(4,))
def two_biases(x, w, b, c):
    return jnp.tanh((w @ x + b) + c)


@member(BIASES, w=(4, 3), b=(4,), c=(4,))
def two_biases_added_to_each_other_first(x, w, b, c):
    return jnp.tanh(w @ x + (b + 2.0 * c))


@member(BIASES, w=(4, 3), b=(4,))
def subtracted(x, w, b):
    return jnp.tanh(w @ x - b) * jnp.sin(b - w @ x)


@member(BIASES, w=(4, 3), b=(4,))
def scaled_by_a_literal(x, w, b):
    return jnp.tanh((w / 2.0) @ x + 0.3 * b)


@member(BIASES, w=(4, 3), b=(4,))
def added_to_a_scaled_product(x, w, b):
    return jnp.tanh((w @ x) / 3**0.5 + b)


@member(BIASES, w=(4, 3), b=(4,))
def multiplied_instead(x, w, b):
    return jnp.tanh((w @ x) * b)


@member(BIASES, w=(4, 3), b=(3,))
def added_before_the_product(x, w, b):
    return jnp.tanh(w @ (x + b))


@member(BIASES, w=(4, 3), b=(4,))
def added_while_the_bare_product_is_used_too(x, w, b):
    product = w @ x
    return jnp.tanh(product + b) * product


@member(BIASES, w=(4, 3), v=(4, 4), b=(4,))
def shared_by_two_layers(x, w, v, b):
    return v @ jnp.tanh(w @ x + b) + b


@member(BIASES, x=(2, 3), w=(4, 3), b=(4,))
def shared_by_two_uses_of_one_weight(x, w, b):
    return jnp.tanh(w @ x[0] + b) * jnp.sin(w @ x[1] + b)


@member(BIASES, x=(2, 3), w=(4, 3), v=(4, 3), b=(4,))
def added_to_a_sum_of_two_products(x, w, v, b):
    return jnp.tanh(w @ x[0] + v @ x[1] + b)


@member(BIASES, x=(2, 3), w=(4, 3), b=(4,))
def added_to_one_of_two_uses(x, w, b):
    return jnp.tanh(w @ x[0] + b) * jnp.sin(w @ x[1])


@member(BIASES, w=(4, 3), b=())
def a_scalar_bias(x, w, b):
    return jnp.tanh(w @ x + b)


@member(BIASES, w=(4, 3), b=(1,))
def a_bias_of_size_one(x, w, b):
    return jnp.tanh(w @ x + b)


@member(BIASES, x=(5, 3), w=(3, 4), b=(4,))
def a_bias_on_tokens(x, w, b):
    return jnp.mean(jnp.tanh(x @ w + b[None, :]), axis=0)


@member(BIASES, x=(4, 3), w=(3, 4), b=(4,))
def a_bias_along_the_other_axis_of_the_same_size(x, w, b):
    return jnp.tanh(x @ w + b[:, None]).sum(axis=1)


@member(BIASES, x=(5, 3), w=(3, 4), b=(5, 4))
def a_bias_for_each_position(x, w, b):
    return jnp.mean(jnp.tanh(x @ w + b), axis=0)


@member(BIASES, x=(5, 3), w=(3, 4), b=(5,))
def a_bias_for_each_position_and_all_channels(x, w, b):
    return jnp.mean(jnp.tanh(x @ w + b[:, None]), axis=0)


@member(BIASES, x=(5, 3), w=(3, 4), b=(5, 1), c=(1, 4))
def biases_with_axes_of_size_one(x, w, b, c):
    return jnp.mean(jnp.tanh(x @ w + b + c), axis=0)


@member(BIASES, w=(4, 3), b=(2, 4))
def a_bias_of_higher_rank_than_the_product(x, w, b):
    return jnp.tanh((w @ x)[None, :] + b)


@member(BIASES, w=(6, 3), b=(2, 3))
def added_after_a_reshape(x, w, b):
    return jnp.tanh((w @ x).reshape(2, 3) + b)


@member(BIASES, x=(5, 3), w=(4, 3), b=(4,))
def added_after_a_transpose(x, w, b):
    return jnp.tanh((w @ x.T).T + b[None, :]).sum(axis=0)


@member(BIASES, w=(4, 3), b=(2,))
def added_to_half_of_the_product(x, w, b):
    product = w @ x
    return jnp.tanh(jnp.concatenate([product[:2] + b, product[2:]]))


@member(BIASES, w=(4, 3), b=(8,))
def a_slice_of_a_longer_bias(x, w, b):
    return jnp.tanh(w @ x + b[2:6]) * b[::2]


@member(BIASES, w=(4, 3), b=(4,))
def added_under_a_condition(x, w, b):
    product = w @ x
    return jnp.where(x[0] > 0, product + b, product - 2.0 * b)


@member(BIASES, w=(4, 3), b=(4,), frozen=("w",))
def only_the_bias_is_trained(x, w, b):
    return jnp.tanh(w @ x + b)


@member(BIASES, w=(4, 3), b=(4,), frozen=("b",))
def only_the_weight_is_trained(x, w, b):
    return jnp.tanh(w @ x + b)


@member(BIASES, w=(4, 3), v=(4, 3), b=(4,), frozen=("w",))
def a_frozen_weight_and_a_trained_one_with_one_bias(x, w, v, b):
    return jnp.tanh(w @ x + b) * (v @ x + b)


@member(BIASES, w=(4, 3), b=(4,))
def weight_and_bias_in_one_matrix(x, w, b):
    joined = jnp.concatenate([w, b[:, None]], axis=1)
    return jnp.tanh(joined @ jnp.concatenate([x, jnp.ones(1, x.dtype)]))


@member(BIASES, w=(3, 3), b=(3,))
def the_bias_is_also_an_activation(x, w, b):
    return jnp.tanh(w @ b + x) + b


@member(BIASES, w=(4, 4), b=(4,))
def the_bias_is_the_diagonal_of_the_weight(x, w, b):
    return jnp.tanh(w[:, :3] @ x + jnp.diagonal(w)) + b


@member(BIASES, x=(2, 5), w=(3, 2, 3), b=(3, 1), c=(5,))
def convolution_with_biases_by_channel_and_by_position(x, w, b, c):
    out = jax.lax.conv_general_dilated(x[None], w, (1,), "SAME")[0]
    return jnp.tanh(out + b + c[None, :]).mean(axis=1)


@member(BIASES, x=(2, 5), w=(3, 2, 3), b=(3,))
def convolution_with_one_bias_in_two_places(x, w, b):
    out = jax.lax.conv_general_dilated(x[None], w, (1,), "SAME")[0]
    return jnp.tanh(out + b[:, None]).mean(axis=1) * b
