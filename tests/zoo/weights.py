"""Weights in products: shared, seen through views, computed from other parameters."""

import jax
import jax.numpy as jnp

from .member import member

WEIGHTS = {}


# The same weight several times.


@member(WEIGHTS, w=(3, 3), v=(2, 3))
def a_weight_used_twice(x, w, v):
    return v @ jnp.tanh(w @ jnp.sin(w @ x))


@member(WEIGHTS, w=(4, 3))
def tied_autoencoder(x, w):
    return w.T @ jnp.tanh(w @ x)


@member(WEIGHTS, w=(4, 3), b=(4,), c=(3,))
def tied_autoencoder_with_biases(x, w, b, c):
    return w.T @ jnp.tanh(w @ x + b) + c


@member(WEIGHTS, w=(3, 4))
def a_weight_times_itself(x, w):
    return w @ w.T @ x


@member(WEIGHTS, w=(3, 3))
def quadratic_form(x, w):
    return x @ w @ x


@member(WEIGHTS, w=(3, 3))
def matrix_powers(x, w):
    return jnp.linalg.matrix_power(w, 3) @ x


@member(WEIGHTS, x=(5, 3), w=(4, 3), v=(4, 4))
def a_weight_used_per_token_and_on_their_mean(x, w, v):
    tokens = jnp.tanh(jax.vmap(lambda t: w @ t)(x))
    return v @ jnp.mean(tokens, axis=0) + w @ jnp.mean(x, axis=0)


@member(WEIGHTS, x=(2, 3), w=(4, 3), b=(4,), c=(4,))
def one_weight_with_two_biases(x, w, b, c):
    return jnp.sin(w @ x[0] + b) * jnp.tanh(w @ x[1] + c)


@member(WEIGHTS, w=(3, 3))
def a_weight_in_a_product_and_a_penalty(x, w):
    return jnp.tanh(w @ x) + 0.1 * jnp.sum(w**2)


@member(WEIGHTS, w=(3,))
def a_vector_in_a_product_and_added(x, w):
    return jnp.sin(w @ x) * x + w


@member(WEIGHTS, w=(4, 4))
def a_symmetrised_weight(x, w):
    s = w + w.T
    return s[:3, :3] @ x


# Shared among positions, heads and members.


@member(WEIGHTS, x=(5, 3), w=(3, 4), v=(4, 2))
def tokens_times_a_weight_on_the_right(x, w, v):
    return jnp.mean(jnp.tanh(x @ w) @ v, axis=0)


@member(WEIGHTS, x=(5, 3), w=(4, 3))
def tokens_by_vmap_and_no_reduction(x, w):
    return jax.vmap(lambda t: jnp.tanh(w @ t))(x)


@member(WEIGHTS, x=(2, 5, 3), w=(4, 3))
def two_token_axes(x, w):
    return jnp.einsum("abi,oi->oab", x, w).sum(axis=1) ** 2


@member(WEIGHTS, x=(5, 3), w=(2, 4, 3), v=(2, 4, 6))
def heads_with_a_batch_axis_on_the_weight(x, w, v):
    heads = jnp.tanh(jnp.einsum("hoi,si->hso", w, x))
    return jnp.einsum("hso,hop->p", heads, v)


@member(WEIGHTS, x=(5, 4), q=(2, 3, 4), k=(2, 3, 4), v=(2, 3, 4), o=(4, 2, 3))
def attention_written_with_einsum(x, q, k, v, o):
    query, key, value = (jnp.einsum("hdi,si->hsd", w, x) for w in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("hsd,htd->hst", query, key))
    return jnp.einsum("hst,htd,ohd->so", weights, value, o)[0]


@member(WEIGHTS, x=(4, 3), w=(5, 4, 3))
def several_contracted_axes(x, w):
    return jnp.tensordot(w, jnp.sin(x), 2)


@member(WEIGHTS, x=(4, 3), w=(3, 5, 4))
def contracted_axes_in_another_order(x, w):
    return jnp.einsum("ab,boa->o", x, w) ** 2


@member(WEIGHTS, x=(2, 3), w=(2, 4, 3), b=(2, 4))
def an_ensemble_inside_the_model(x, w, b):
    return jnp.prod(jax.vmap(lambda w, b, x: jnp.tanh(w @ x + b))(w, b, x), axis=0)


@member(WEIGHTS, w=(5, 4, 3), b=(5, 4))
def an_ensemble_of_one_input(x, w, b):
    return jnp.mean(jax.vmap(lambda w, b: jnp.tanh(w @ x + b))(w, b), axis=0)


@member(WEIGHTS, w=(3, 4), v=(3, 4))
def an_outer_product(x, w, v):
    return jnp.outer(x @ w, x @ v)


@member(WEIGHTS, x=(4,), w=(3,))
def a_weight_that_contracts_nothing(x, w):
    return jnp.sin(jnp.einsum("i,j->ij", w, x))


@member(WEIGHTS, x=(5, 3), w=(5,), v=(5, 3))
def elementwise_gates(x, w, v):
    return jnp.tanh(w[:, None] * x * v).sum(axis=0)


# Seen through a view.


@member(WEIGHTS, w=(5, 3), v=(2, 5))
def scaled_by_literals(x, w, v):
    return (v * 0.5) @ jnp.tanh((w / 3**0.5) @ x) / 5**0.5


@member(WEIGHTS, w=(4, 3))
def scaled_after_the_product(x, w):
    return -2.0 * (w @ x) / 3.0


@member(WEIGHTS, w=(5, 3), s=(5, 1))
def scaled_by_an_array_of_constants(x, w, s):
    return jnp.tanh((w * jnp.arange(1.0, 6.0, dtype=w.dtype)[:, None] * s) @ x)


@member(WEIGHTS, w=(4, 3), g=())
def scaled_by_a_parameter(x, w, g):
    return jnp.tanh((g * w) @ x)


@member(WEIGHTS, w=(4, 3))
def scaled_by_an_input(x, w):
    return jnp.tanh((w * x[0]) @ x)


@member(WEIGHTS, w=(4, 3))
def masked_by_an_input(x, w):
    return jnp.tanh(jnp.where(x[None, :] > 0, w, 0.3 * w) @ x)


@member(WEIGHTS, w=(4, 3))
def masked_by_a_constant(x, w):
    return jnp.tril(w) @ jnp.sin(x)


@member(WEIGHTS, w=(3, 4))
def transposed(x, w):
    return jnp.tanh(w.T @ x)


@member(WEIGHTS, x=(2, 3), w=(3, 5, 2, 4))
def transposed_of_rank_four_and_reshaped(x, w):
    matrix = jnp.transpose(w, (3, 1, 2, 0)).reshape(20, 6)
    return jnp.tanh(matrix @ x.reshape(6))


@member(WEIGHTS, w=(2, 6), v=(24,))
def reshaped(x, w, v):
    return v.reshape(6, 4) @ jnp.tanh(w.reshape(4, 3) @ x)


@member(WEIGHTS, w=(12,))
def one_vector_of_all_parameters(x, w):
    hidden = jnp.tanh(w[:6].reshape(2, 3) @ x + w[6:8])
    return w[8:].reshape(2, 2) @ hidden


@member(WEIGHTS, x=(4,), w=(9, 4))
def one_projection_split_in_three(x, w):
    q, k, v = jnp.split(w @ x, 3)
    return q * jax.nn.sigmoid(k) + v


@member(WEIGHTS, w=(7, 5))
def sliced_with_strides(x, w):
    return jnp.tanh(w[1::2, ::2] @ x)


@member(WEIGHTS, w=(4, 3))
def flipped(x, w):
    return jnp.tanh(w[::-1, ::-1] @ x) + w @ x


@member(WEIGHTS, w=(4, 3), v=(2, 3))
def concatenated(x, w, v):
    return jnp.tanh(jnp.concatenate([w, v, w[:1]]) @ x)


@member(WEIGHTS, w=(4, 1), v=(1, 3))
def broadcast(x, w, v):
    return (jnp.broadcast_to(w, (4, 3)) * v) @ x + jnp.tile(w, (1, 3)) @ x


@member(WEIGHTS, w=(2, 2))
def padded_and_rolled(x, w):
    return jnp.tanh(jnp.roll(jnp.pad(w, ((1, 1), (0, 1))), 1, axis=0) @ x)


@member(WEIGHTS, w=(4, 1, 3, 1))
def squeezed(x, w):
    return jnp.sin(jnp.squeeze(w, (1, 3)) @ x)


@member(WEIGHTS, w=(4, 3))
def partly_constant(x, w):
    return jnp.concatenate([jax.lax.stop_gradient(w[:2]), w[2:]]) @ jnp.sin(x)


@member(WEIGHTS, w=(4, 3), v=(4,))
def used_only_as_a_constant(x, w, v):
    return jnp.tanh(jax.lax.stop_gradient(w) @ x) * v


@member(WEIGHTS, w=(4, 3), v=(2, 4))
def never_used(x, w, v):
    return jnp.tanh(w @ x)


@member(WEIGHTS, w=(4, 3), v=(4, 3))
def used_and_multiplied_by_zero(x, w, v):
    return jnp.tanh(w @ x + 0.0 * (v @ x))


@member(WEIGHTS, w=(4, 3))
def sorted_and_cut(x, w):
    return jnp.sort(w, axis=1) @ x + jnp.maximum(w, 0.2) @ x + jnp.max(w)


@member(WEIGHTS, w=(4, 3), v=(2, 3))
def written_into_another(x, w, v):
    return jnp.tanh(w.at[1:3].set(v).at[0].add(v[0]) @ x)


# Computed from other parameters.


@member(WEIGHTS, w=(4, 3), b=(4, 1), a=(1, 3))
def low_rank_correction(x, w, b, a):
    return jnp.tanh((w + 0.5 * b @ a) @ x)


@member(WEIGHTS, w=(4, 3), b=(4, 1), a=(1, 3), frozen=("w",))
def low_rank_correction_of_a_frozen_weight(x, w, b, a):
    return jnp.tanh(w @ x + b @ (a @ x))


@member(WEIGHTS, w=(4, 5), v=(5, 3))
def a_product_of_two_parameters(x, w, v):
    return jnp.tanh((w @ v) @ x)


@member(WEIGHTS, v=(4, 3), g=(4, 1))
def weight_norm_by_hand(x, v, g):
    return jnp.tanh((g * v / jnp.linalg.norm(v, axis=1, keepdims=True)) @ x)


@member(WEIGHTS, w=(4, 3), g=())
def standardised_weight(x, w, g):
    centred = w - jnp.mean(w, axis=1, keepdims=True)
    return (g * centred / jnp.std(w, axis=1, keepdims=True)) @ x


@member(WEIGHTS, w=(4, 3))
def softmax_of_a_weight(x, w):
    return jax.nn.softmax(w, axis=1) @ x


@member(WEIGHTS, w=(3, 3), b=(3,))
def solution_of_linear_equations(x, w, b):
    return jnp.linalg.solve(w @ w.T + 2 * jnp.eye(3, dtype=w.dtype), x) * b


@member(WEIGHTS, w=(3, 3))
def inverse_and_determinant(x, w):
    s = w @ w.T + 2 * jnp.eye(3, dtype=w.dtype)
    return jnp.linalg.inv(s) @ x + jnp.linalg.slogdet(s)[1]


@member(WEIGHTS, w=(3, 3))
def cholesky_factor(x, w):
    s = w @ w.T + 2 * jnp.eye(3, dtype=w.dtype)
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(s), x, lower=True)


@member(WEIGHTS, w=(3, 3))
def orthogonal_weight(x, w):
    return jax.scipy.linalg.expm(w - w.T) @ x


@member(WEIGHTS, w=(5,), v=(3,))
def convolution_by_fourier_transform(x, w, v):
    product = jnp.fft.rfft(w) * jnp.fft.rfft(x, 5)
    return jnp.fft.irfft(product, 5)[:3] * v


@member(WEIGHTS, w=(6, 3), b=(6,), v=(2, 3))
def weights_made_by_a_network(x, w, b, v):
    made = (w @ jnp.sin(x) + b).reshape(2, 3)
    return jnp.tanh((made + v) @ x)


@member(WEIGHTS, w=(4, 3), v=(4,))
def parameters_alone(x, w, v):
    return jnp.tanh(w.T @ v)


@member(WEIGHTS, w=(2, 2))
def a_parameter_as_the_output(x, w):
    return w


@member(WEIGHTS, w=(2, 3, 5, 3))
def an_output_of_rank_three(x, w):
    return jnp.tanh(w @ x)


@member(WEIGHTS, x=(), w=(), b=())
def scalars_everywhere(x, w, b):
    return jnp.sin(w * x + b)


@member(WEIGHTS, x=(5, 4), w=(3, 4, 3))
def a_raw_convolution_along_time(x, w):
    return jax.lax.conv_general_dilated(
        x[None], w, (1,), "SAME", dimension_numbers=("NWC", "OIW", "NWC")
    )[0].max(axis=0)


@member(WEIGHTS, x=(6, 2), w=(3, 2, 4), v=(3, 4, 1))
def convolutions_with_channels_last_and_a_shared_batch(x, w, v):
    conv = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    both = jnp.stack([x, x[::-1]])
    return conv(jnp.tanh(conv(both, w)), v)[..., 0]


@member(WEIGHTS, x=(3, 7), w=(2, 3, 3))
def a_convolution_kernel_used_twice(x, w):
    conv = lambda x, w: jax.lax.conv_general_dilated(x[None], w, (2,), "SAME")[0]
    return conv(x, w) * conv(jnp.sin(x), w[:, :, ::-1])


@member(WEIGHTS, x=(3, 7), w=(1, 3, 2))
def the_weight_as_the_image_of_a_convolution(x, w):
    # Parameters on the left, the example as the filter.
    return jax.lax.conv_general_dilated(w, x[None, :, :2], (1,), [(1, 1)])[0, 0]


@member(WEIGHTS, x=(5, 3), w=(3, 40), v=(5, 3, 40))
def tokens_contracted_by_their_entries_and_whole(x, w, v):
    tokens, whole = jnp.tanh(x @ w), jnp.tanh(jnp.tensordot(x, v, 2))
    return jnp.sum(tokens) + jnp.sum(whole)
