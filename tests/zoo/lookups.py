"""Rows, columns and windows of a parameter, chosen by integers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ..helpers import Case
from .member import generic, member

LOOKUPS = {}
# Examples of five tokens below four: in every one some token comes twice.
FIVE = {"x": (5,), "tokens": 4}


def _draw_wild(rng, n):
    """Tokens beyond both ends of a table of four rows."""
    return rng.integers(-7, 9, (n, 5))


def _draw_with_weights(rng, n):
    return {
        "tokens": rng.integers(0, 4, (n, 5)),
        "weights": rng.standard_normal((n, 5)),
    }


class TiedLanguageModel(eqx.Module):
    """The example in the documentation of `equinox.nn.Shared`."""

    shared: eqx.nn.Shared
    hidden: eqx.nn.Linear

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        embedding = eqx.nn.Embedding(4, 3, key=k1)
        head = eqx.nn.Linear(3, 4, key=k2)
        self.hidden = eqx.nn.Linear(3, 3, key=k3)
        self.shared = eqx.nn.Shared(
            (embedding, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight
        )

    def __call__(self, tokens):
        embedding, head = self.shared()
        h = jnp.tanh(jax.vmap(self.hidden)(jax.vmap(embedding)(tokens)))
        return head(jnp.mean(h, axis=0))


LOOKUPS["tied embedding and head by Shared"] = Case(
    generic(TiedLanguageModel), (5,), tokens=4
)


@member(LOOKUPS, **FIVE, w=(4, 3), v=(2, 3))
def rows_by_indexing(x, w, v):
    return v @ jnp.tanh(w[x]).sum(axis=0)


@member(LOOKUPS, x=(), tokens=4, w=(4, 3), v=(2, 3))
def one_row_by_a_scalar(x, w, v):
    return v @ jnp.tanh(w[x])


@member(LOOKUPS, x=(2, 3), tokens=4, w=(4, 3))
def rows_by_a_matrix_of_indices(x, w):
    return jnp.sin(jnp.take(w, x, axis=0)).prod(axis=1)


@member(LOOKUPS, **FIVE, w=(3, 4))
def columns(x, w):
    return jnp.sin(w[:, x]).sum(axis=1) * jnp.take(w, x, axis=1)[:, 0]


@member(LOOKUPS, **FIVE, w=(4, 3), v=(3, 4))
def rows_of_a_transpose_and_of_a_scaled_table(x, w, v):
    return jnp.sin(v.T[x] * w[x] * 3**0.5).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def rows_of_a_normalised_table(x, w):
    return (w / jnp.linalg.norm(w, axis=1, keepdims=True))[x].sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 4))
def single_entries(x, w):
    return jnp.sin(w[x[:-1], x[1:]])


@member(LOOKUPS, **FIVE, w=(4, 3), b=(2, 4))
def tied_embedding_and_head(x, w, b):
    return jnp.tanh(w @ jnp.tanh(w[x]).sum(axis=0) + b[0]) * b[1]


@member(LOOKUPS, **FIVE, w=(4, 3))
def one_table_for_two_kinds_of_tokens(x, w):
    return jnp.sin(w[x[:2]]).sum(axis=0) * jnp.tanh(w[x[2:]]).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def looked_up_and_penalised(x, w):
    return jnp.tanh(w[x]).sum(axis=0) + 0.1 * jnp.sum(w**2)


@member(LOOKUPS, **FIVE, w=(4, 3), p=(6, 3))
def tokens_plus_positions(x, w, p):
    return jnp.tanh(w[x] + p[: x.shape[0]] + p[jnp.arange(5)[::-1]]).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def one_hot_times_a_table(x, w):
    return jnp.sin(jax.nn.one_hot(x, 4, dtype=w.dtype) @ w).sum(axis=0)


@member(LOOKUPS, draw=_draw_wild, w=(4, 3))
def out_of_range_rows_are_filled(x, w):
    return jnp.cos(w.at[x].get(mode="fill", fill_value=0.5)).sum(axis=0)


@member(LOOKUPS, draw=_draw_wild, w=(4, 3))
def out_of_range_rows_are_clipped(x, w):
    return jnp.cos(jnp.take(w, x, axis=0, mode="clip")).sum(axis=0)


@member(LOOKUPS, draw=_draw_wild, w=(4, 3))
def out_of_range_rows_wrap(x, w):
    return jnp.cos(jnp.take(w, x, axis=0, mode="wrap")).sum(axis=0)


@member(LOOKUPS, draw=_draw_wild, w=(4, 3))
def out_of_range_rows_by_plain_indexing(x, w):
    return jnp.cos(w[x]).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def rows_promised_to_be_in_range(x, w):
    return jnp.cos(w.at[x].get(mode="promise_in_bounds")).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def sorted_rows(x, w):
    return jnp.cos(w.at[jnp.sort(x)].get(indices_are_sorted=True)).prod(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def rows_counted_from_the_end(x, w):
    return jnp.sin(w[x - 4]).sum(axis=0) * w[-1]


@member(LOOKUPS, draw=_draw_with_weights, w=(4, 3))
def a_weighted_bag_of_rows(x, w):
    return jnp.sin(x["weights"] @ w[x["tokens"]])


@member(LOOKUPS, draw=_draw_with_weights, w=(4, 2, 3), v=(5, 3))
def a_matrix_for_each_token(x, w, v):
    return jnp.einsum("sij,sj,s->i", w[x["tokens"]], v, x["weights"])


@member(LOOKUPS, x=(), tokens=6, w=(7, 3))
def a_window_of_rows_that_may_be_clamped(x, w):
    return jnp.sin(jax.lax.dynamic_slice(w, (x, 1), (3, 2)))


@member(LOOKUPS, x=(), tokens=4, w=(3, 4), b=(3,))
def a_column_used_as_a_weight(x, w, b):
    return jnp.tanh(jax.lax.dynamic_index_in_dim(w, x, 1, keepdims=False) + b) @ w


@member(LOOKUPS, x=(4, 3), w=(3, 4))
def the_row_that_the_network_chooses(x, w):
    chosen = jnp.argmax(x @ w, axis=1)
    return jnp.sin(w.T[chosen]).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3))
def entries_along_an_axis(x, w):
    index = jnp.stack([x[:3], x[2:]])
    return jnp.take_along_axis(w, index, axis=0) ** 2


@member(LOOKUPS, **FIVE, w=(4, 3))
def rows_summed_by_segment(x, w):
    return jnp.sin(jax.ops.segment_sum(w[x], x % 2, num_segments=2))


@member(LOOKUPS, **FIVE, w=(5, 3), v=(4, 3))
def rows_written_at_tokens(x, w, v):
    return jnp.sin(v.at[x].add(w)).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3), frozen=("w",), v=(4, 3))
def a_frozen_table_and_a_trained_one(x, w, v):
    return jnp.tanh(w[x] + v[x]).sum(axis=0)


@member(LOOKUPS, **FIVE, w=(4, 3), a=(3, 3))
def rows_by_small_unsigned_integers(x, w, a):
    return jnp.tanh(w[x.astype(jnp.uint8)] @ a).sum(axis=0)
