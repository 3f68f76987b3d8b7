"""What single equations give: rules that users give, masks, sums of rows."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from equinox import nn
from jax.extend.core import Primitive
from jax.interpreters import batching

import equintk as nt
from tests.equintk.infinite.adversaries import HID, IN, READ, after, net

OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}
KEY = jr.key(0)

halved = Primitive("halved_relu")
halved.def_impl(lambda x, *, slope: slope * np.maximum(x, 0))
halved.def_abstract_eval(lambda x, *, slope: x)
batching.primitive_batchers[halved] = lambda args, dims, **params: (
    halved.bind(*args, **params),
    dims[0],
)


def test_a_rule_of_the_users_own_says_what_a_primitive_does():
    model = after(lambda p, h: halved.bind(h, slope=0.5))(8, KEY)
    roles = {".layers[1].weight": 8, ".layers[1].bias": "bias"}
    x = jr.normal(KEY, (3, 5))
    with pytest.raises(nt.NoLimitError, match="`halved_relu`"):
        nt.infinite_kernels(model, x, roles=roles, **OPTIONS)

    @nt.infinite_rule("halved_relu")
    def _(z, *, slope):
        return slope * jax.nn.relu(z)

    got = nt.infinite_kernels(model, x, roles=roles, **OPTIONS)
    known = after(lambda p, h: 0.5 * jax.nn.relu(h))(8, KEY)
    expected = nt.infinite_kernels(known, x, **OPTIONS)
    np.testing.assert_allclose(got.ntk, expected.ntk, rtol=1e-12)


def test_a_rule_for_what_has_one_is_refused():
    with pytest.raises(ValueError, match="has a rule of its own"):
        nt.infinite_rule("dot_general")


def dropout(rate):
    return lambda n, key: nn.Dropout(rate)


def dropped(p, pair):
    x, key = pair
    return p[2](p[1](jax.nn.relu(p[0](x)), key=key))


def test_equal_keys_are_equal_masks():
    # E[m m'] is 1/q for one mask, 1 for two: the mean square of kept entries.
    model = net(dropped, IN, dropout(0.2), READ)(8, KEY)
    plain = after(lambda p, h: jax.nn.relu(h))(8, KEY)
    x = jr.normal(KEY, (3, 5))
    keys = jr.split(KEY, 3).at[2].set(jr.split(KEY, 3)[1])
    base = nt.infinite_nngp(plain, x, **OPTIONS)
    again = np.equal.outer([0, 1, 1], [0, 1, 1])
    expected = np.where(again, 0.04 + (base - 0.04) / 0.8, base)
    got = nt.infinite_nngp(model, (x, keys), **OPTIONS)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_one_key_for_two_masks_is_refused():
    def twice(p, pair):
        x, key = pair
        h = p[1](jax.nn.relu(p[0](x)), key=key)
        return p[3](p[1](jax.nn.relu(p[2](h)), key=jr.wrap_key_data(jr.key_data(key))))

    model = net(twice, IN, dropout(0.2), HID, READ)(8, KEY)
    x = jr.normal(KEY, (2, 5))
    with pytest.raises(Exception, match="draws two masks"):
        nt.infinite_kernels(model, (x, jr.split(KEY, 2)), **OPTIONS)


def test_random_numbers_that_are_no_masks_are_refused():
    model = net(
        lambda p, pair: p[1](p[0](pair[0]) + jr.normal(pair[1], (p[0].out_features,))),
        IN, READ,
    )(8, KEY)  # fmt: skip
    x = jr.normal(KEY, (2, 5))
    with pytest.raises(nt.NoLimitError):
        nt.infinite_kernels(model, (x, jr.split(KEY, 2)), **OPTIONS)


def test_sums_of_rows_are_those_of_a_graph():
    def by_edges(p, pair):
        x, edges = pair
        h = jax.vmap(p[0])(x)
        found = jax.ops.segment_sum(h[edges[:, 0]], edges[:, 1], 3)
        return p[1](jnp.mean(found, axis=0))

    def by_graph(p, pair):
        x, edges = pair
        graph = jnp.zeros((3, 3)).at[edges[:, 0], edges[:, 1]].add(1.0)
        return p[1](jnp.mean(graph.T @ jax.vmap(p[0])(x), axis=0))

    x = jr.normal(KEY, (2, 3, 5))
    edges = jr.randint(KEY, (2, 4, 2), 0, 3)
    one, two = (
        nt.infinite_ntk(net(call, IN, READ)(8, KEY), (x, edges), **OPTIONS)
        for call in (by_edges, by_graph)
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)


@pytest.mark.slow
def test_resizing_keeps_height_and_width_apart():
    # The incumbent exchanges them; here the linear map itself decides.
    conv = lambda n, key: nn.Conv2d(1, n, 2, padding="SAME", key=key)
    x = jr.normal(KEY, (2, 1, 3, 4))
    plain = net(lambda p, x: p[0](x), conv)(8, KEY)
    resized = net(lambda p, x: jax.image.resize(p[0](x), (8, 5, 6), "linear"), conv)
    k = nt.infinite_nngp(plain, x, **OPTIONS)
    got = nt.infinite_nngp(resized(8, KEY), x, **OPTIONS)
    rows, columns = (
        jax.image.resize(jnp.eye(n), (m, n), "linear") for n, m in ((3, 5), (4, 6))
    )
    maps = (rows, columns, rows, columns)
    expected = np.einsum("ijabcd,wa,xb,yc,zd->ijwxyz", k, *maps)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
