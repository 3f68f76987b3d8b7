"""Blocks of examples, the last of them smaller: no kernel depends on them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from equinox import nn

import equintk as nt
from tests.equintk.infinite.adversaries import net, relu
from tests.equintk.infinite.architectures import tokens

OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}
N1, N2, BLOCK = 5, 3, 2


def masked_tokens(n):
    """Of each example another number of tokens is known, of one a single one."""
    x = jr.normal(jr.key(1), (n, 4, 3))
    known = jnp.arange(4)[None] < 1 + jnp.arange(n)[:, None] % 4
    return jnp.where(known[:, :, None], x, tokens.MASK)


def several(p, x):
    """An array with places, and in a tuple vectors: of a mean, and of an end alone."""
    h = p[0](x)
    return {
        "places": h,
        "vectors": (p[1](jnp.mean(relu(h), axis=1)), p[1](jnp.sin(h[:, -1]))),
    }


SEVERAL = net(
    several,
    lambda n, key: nn.Conv1d(2, n, 3, padding=1, key=key),
    lambda n, key: nn.Linear(n, 3, key=key),
)


def images(n):
    """Two of them equal."""
    x = jr.normal(jr.key(1), (n, 2, 4))
    return x.at[-1].set(x[0])


def several_model():
    return SEVERAL(8, jr.key(0))


MASKED, ATTENDED = tokens.MASKED["masked"], tokens.MASKED["masked attention"]
slow = pytest.mark.slow
CASES = [
    pytest.param(MASKED, masked_tokens, N2, id="masked, of others"),
    pytest.param(MASKED, masked_tokens, None, id="masked", marks=slow),
    pytest.param(ATTENDED, masked_tokens, None, id="masked attention", marks=slow),
    pytest.param(several_model, images, None, id="a tree of outputs"),
    pytest.param(several_model, images, N2, id="a tree, of others", marks=slow),
]


def assert_same(got, expected):
    assert jtu.tree_structure(got) == jtu.tree_structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("make", "examples", "n_columns"), CASES)
def test_kernels_in_several_blocks_are_those_of_one(make, examples, n_columns):
    model, x = make(), examples(N1)
    others = () if n_columns is None else (x[1 : 1 + n_columns],)
    seen = []
    blocks = nt.infinite_kernels(
        model, x, *others, **OPTIONS, batch_size=BLOCK,
        progress=lambda done, total: seen.append(total),
    )  # fmt: skip
    whole = nt.infinite_kernels(model, x, *others, **OPTIONS)
    assert seen[-1] >= 6
    assert_same(blocks.nngp, whole.nngp)
    assert_same(blocks.ntk, whole.ntk)


def test_a_kernel_of_many_outputs_in_blocks_is_symmetric():
    ntk = nt.infinite_ntk(SEVERAL(8, jr.key(0)), images(N1), **OPTIONS, batch_size=2)
    places = ntk["places"]
    assert places.shape == (N1, N1, 4, 4)
    assert_same(places, places.transpose(1, 0, 3, 2))
    assert_same(places[0], places[-1])  # of equal images
