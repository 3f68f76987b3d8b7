"""Random projections: unbiased, of the stated error, one draw for all blocks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk._empirical import tap_sketch
from equintk._empirical.folding import folded, folded_size
from equintk._empirical.signs import signs
from tests.helpers import (
    ZOO,
    assert_close,
    average_of,
    brute_force_full,
    one_in,
    reference,
    relative_error,
)

CASES = ["scalar output", "cnn with pooling", "frozen layer"]
METHODS = ["gaussian", "rademacher", "sketch"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=one_in(2, CASES))
def case(request):
    """Model, mask, 5 inputs, 3 inputs, and the exact kernels of both pairs."""
    return reference(request.param)


def test_the_draw_does_not_depend_on_the_batch_size(case, method, getkey):
    model, mask, x1, x2, *_ = case
    given = {"key": getkey(), "proj_dim": 6, "method": method, "trainable": mask}
    whole = nt.mc_ntk(model, x1=x1, x2=x2, **given)
    assert_close(nt.mc_ntk(model, x1=x1, x2=x2, batch_size=2, **given), whole)


def test_all_blocks_and_both_sides_share_one_draw(case, method, getkey):
    model, _, x, *_ = case
    given = {"key": getkey(), "proj_dim": 6, "method": method, "batch_size": 2}
    whole = nt.mc_ntk(model, x1=x, **given)
    assert_close(nt.mc_ntk(model, x1=x[:2], x2=x[2:], **given), whole[:2, 2:])


@pytest.mark.parametrize("method", ["gaussian", "rademacher"])
def test_a_larger_projection_extends_the_same_draw(method, getkey):
    model, key = eqx.nn.MLP(3, 2, 4, 1, key=getkey()), getkey()
    x = jr.normal(getkey(), (4, 3))
    small = nt.ntk_features(model, key, x, 3, method) * np.sqrt(3)
    large = nt.ntk_features(model, key, x, 8, method) * np.sqrt(8)
    assert small.shape == (4, 2, 3)
    assert_close(large[..., :3], small)


def test_gaussian_features_are_derivatives_along_the_keys_normal_numbers(getkey):
    # The draw is part of the interface: a key gives these numbers in any version.
    model, key, x = eqx.nn.Linear(3, "scalar", key=getkey()), getkey(), np.eye(3)
    numbers = jnp.stack([jr.normal(jr.fold_in(key, i), (4,)) for i in range(2)])
    along = (numbers[:, :3] + numbers[:, 3:]).T / np.sqrt(2)
    assert_close(nt.ntk_features(model, key, x, proj_dim=2), along)


def test_features_contract_to_the_kernel(case, method, getkey):
    model, _, x1, x2, *_ = case
    given = {"key": getkey(), "proj_dim": 6, "method": method, "batch_size": 2}
    z1, z2 = (nt.ntk_features(model, x=x, **given) for x in (x1, x2))
    rest = tuple(range(1, z1.ndim))
    contracted = jnp.tensordot(z1, z2, axes=(rest, rest))
    assert_close(nt.mc_ntk(model, x1=x1, x2=x2, **given), contracted)


def worst_z(draws, exact):
    """The largest deviation of a mean from the truth, in standard errors of it."""
    draws = np.asarray(draws, np.float64)
    error = draws.mean(0) - exact
    # An entry may have no error at all: then rounding is all there is.
    standard = draws.std(0, ddof=1) / np.sqrt(len(draws)) + 1e-12 * np.abs(exact).max()
    return np.max(np.abs(error) / standard)


def of_many_keys(function, key, n_keys):
    return jax.jit(jax.vmap(function))(jr.split(key, n_keys))


@pytest.mark.parametrize(
    ("name", "method"),
    one_in(2, itertools.product(ZOO, ["sketch"]))
    + one_in(3, itertools.product(CASES, METHODS[:2])),
)
def test_the_estimate_is_unbiased(name, method, getkey):
    # The worst of 15 entries stays below 5 but once in a hundred thousand.
    model, mask, x1, x2, _, exact = reference(name)
    kernel = lambda key: nt.mc_ntk(model, key, x1, x2, 8, method, trainable=mask)
    assert worst_z(of_many_keys(kernel, getkey(), 600), average_of(exact)) < 5


def test_sketched_features_are_unbiased_for_coupled_outputs(getkey):
    model, mask, x1, _, exact, _ = reference("cnn with pooling")
    k = exact.shape[-1]

    def coupled(key):
        z = nt.ntk_features(model, key, x1, 8, "sketch", trainable=mask)
        return k * jnp.einsum("iar,jbr->ijab", z, z)

    assert worst_z(of_many_keys(coupled, getkey(), 600), exact) < 5


@pytest.mark.parametrize("folds", [True, False], ids=["folded", "Khatri-Rao"])
@pytest.mark.parametrize(
    "name",
    one_in(2, ["mlp", "cnn with pooling", "gru in a scan", "attention over tokens"]),
)
def test_both_ways_of_sketching_a_weight_are_unbiased(folds, name, getkey, monkeypatch):
    monkeypatch.setattr(tap_sketch, "_is_folded", lambda *_: folds)
    model, mask, x1, x2, _, exact = reference(name)
    # Another size than elsewhere: what is compiled is kept by arguments.
    kernel = lambda key: nt.mc_ntk(model, key, x1, x2, 7, "sketch", trainable=mask)
    assert worst_z(of_many_keys(kernel, getkey(), 600), average_of(exact)) < 5


@pytest.mark.parametrize("name", one_in(2, ZOO))
def test_a_sketch_with_room_for_all_parameters_is_exact(name, getkey):
    model, mask, x1, x2, _, exact = reference(name)
    n_params = sum(
        a.size for a in jax.tree_util.tree_leaves(eqx.filter(model, eqx.is_array))
    )
    got = nt.mc_ntk(model, getkey(), x1, x2, n_params, "sketch", trainable=mask)
    assert_close(got, average_of(exact))


@pytest.mark.parametrize("proj_dim", [16, pytest.param(128, marks=pytest.mark.slow)])
def test_the_error_over_64_keys_follows_its_law_within_10_percent(proj_dim, getkey):
    model = eqx.nn.MLP(40, 1, 64, 1, jnp.tanh, use_bias=False, key=getkey())
    x = jr.normal(getkey(), (50, 40))
    exact = nt.ntk(model, x)
    effective_rank = jnp.trace(exact) ** 2 / jnp.sum(exact**2)
    assert effective_rank >= 8
    keys = jr.split(getkey(), 64)
    squares = [
        relative_error(nt.mc_ntk(model, k, x, None, proj_dim), exact) ** 2 for k in keys
    ]
    law = np.sqrt((1 + effective_rank) / proj_dim)
    assert 0.9 < np.sqrt(np.mean(squares)) / law < 1.1


def products_of_columns(model, key, x, n_columns, method):
    """Independent estimates of the kernel of one output, one for each direction."""
    z = nt.ntk_features(model, key, x, n_columns, method) * np.sqrt(n_columns)
    return np.einsum("ir,jr->rij", z, z)


def test_signs_have_the_variance_of_normals_less_that_of_single_parameters(getkey):
    # Few parameters, so that what is taken off is much of it.
    model = eqx.nn.MLP(2, "scalar", 2, 1, jnp.tanh, key=getkey())
    x = jr.normal(getkey(), (3, 2))
    _, jacobian = gradients(model, x)
    kernel = jacobian @ jacobian.T
    normal = kernel**2 + np.outer(np.diag(kernel), np.diag(kernel))
    law = normal - 2 * (jacobian**2) @ (jacobian**2).T
    assert relative_error(law, normal) > 0.2
    got = {
        method: products_of_columns(model, getkey(), x, 40_000, method).var(0)
        for method in ("gaussian", "rademacher")
    }
    assert relative_error(got["rademacher"], law) < 0.05
    assert relative_error(got["gaussian"], normal) < 0.1


def test_products_of_projections_keep_to_their_bound(getkey, monkeypatch):
    monkeypatch.setattr(tap_sketch, "_is_folded", lambda *_: False)
    model = eqx.nn.MLP(6, "scalar", 9, 2, jnp.tanh, use_bias=False, key=getkey())
    model = eqx.tree_at(lambda m: m.layers[-1].bias, model, None)
    x = jr.normal(getkey(), (3, 6))
    by_leaf, jacobian = gradients(model, x)
    kernel = jacobian @ jacobian.T
    own = np.outer(np.diag(kernel), np.diag(kernel))
    normal = kernel**2 + own
    added = 0
    for g in by_leaf:
        part = np.sum(g**2, axis=1)
        added = added + 6 * np.outer(part, part)
    got = products_of_columns(model, getkey(), x, 20_011, "sketch").var(0)
    assert np.all(got < 1.05 * (normal + added))
    assert np.all(got > normal)  # rank-one gradients: there is something to bound


def gradients(model, x):
    """Of each leaf, `(n, p)`, and of all together."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    gradient = jax.grad(lambda p, x: eqx.combine(p, static)(x))
    each = jax.vmap(lambda x: gradient(params, x))(x)
    by_leaf = [
        np.asarray(leaf).reshape(len(x), -1) for leaf in jax.tree_util.tree_leaves(each)
    ]
    return by_leaf, np.concatenate(by_leaf, axis=1)


def test_the_error_of_a_sketch_falls_at_least_as_the_root_of_its_size(getkey):
    # 38 thousand parameters, a convolution and tokens' worth of positions folded, a
    # wide layer by products: a hundredfold size is a tenth of the error, or less where
    # it lets more be folded.
    model = Mixed(getkey())
    x = jr.normal(getkey(), (8, 1, 8, 8))
    exact = nt.ntk(model, x)
    keys = jr.split(getkey(), 24)

    def error(proj_dim):
        squares = [
            relative_error(nt.mc_ntk(model, k, x, None, proj_dim, "sketch"), exact) ** 2
            for k in keys
        ]
        return np.sqrt(np.mean(squares))

    assert error(8) / error(800) > 7


class Mixed(eqx.Module):
    """A convolution and two wide layers."""

    convolution: eqx.nn.Conv2d
    wide: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, key):
        k1, k2, k3 = jr.split(key, 3)
        self.convolution = eqx.nn.Conv2d(1, 8, 3, key=k1)
        self.wide = eqx.nn.Linear(288, 128, key=k2)
        self.readout = eqx.nn.Linear(128, 2, key=k3)

    def __call__(self, x):
        return self.readout(jnp.tanh(self.wide(jnp.sin(self.convolution(x)).ravel())))


def test_a_fold_puts_no_two_entries_of_a_row_together_nor_of_a_column():
    # As many columns as buckets: entry mod size alone would add columns up.
    ones = jnp.ones((8, 8), jnp.int8)
    for row in range(2):
        for at in ((row, slice(None)), (slice(None), row)):
            gradient = jnp.zeros((1, 8, 8)).at[0, *at].set(1.0)
            assert_close(folded(gradient, ones, 3, 8), np.ones((1, 8)))
    assert folded_size(8, 8, 8) == 72 and folded_size(8, 8, 64) == 64


def test_signs_are_fair_and_independent(getkey):
    drawn = np.asarray(signs(getkey(), (5, 40_000), jnp.float64))
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    products = drawn @ drawn.T / np.sqrt(drawn.shape[1])
    assert np.max(np.abs(products - np.diag(np.diag(products)))) < 5
    assert np.max(np.abs(drawn.sum(1))) / np.sqrt(drawn.shape[1]) < 5


def test_works_under_jit_and_vmap_over_keys(method, getkey):
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    x, keys = jr.normal(getkey(), (4, 3)), jr.split(getkey(), 3)
    kernel = lambda key: nt.mc_ntk(model, key, x, None, 7, method)
    assert_close(jax.jit(kernel)(keys[0]), kernel(keys[0]))
    assert_close(jax.vmap(kernel)(keys)[1], kernel(keys[1]))


def test_features_are_differentiable_by_the_examples(method, getkey):
    model, key = eqx.nn.MLP(3, 2, 9, 1, jnp.tanh, key=getkey()), getkey()
    x, step = jr.normal(getkey(), (1, 3)), jr.normal(getkey(), (1, 3))
    features = lambda x: nt.ntk_features(model, key, x, 5, method)
    _, along = jax.jvp(features, (x,), (step,))
    h = 1e-5
    difference = (features(x + h * step) - features(x - h * step)) / (2 * h)
    assert_close(along, difference, rtol=1e-7)


def test_raw_and_typed_keys_give_the_same_draw(method, getkey):
    model, x = eqx.nn.MLP(3, 2, 4, 1, key=getkey()), jr.normal(getkey(), (4, 3))
    assert_close(
        nt.mc_ntk(model, jr.PRNGKey(5), x, method=method),
        nt.mc_ntk(model, jr.key(5), x, method=method),
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    one_in(
        2,
        itertools.product(
            ["mlp", "cnn with pooling", "gru in a scan"],
            [jnp.bfloat16, jnp.float16, jnp.float32],
        ),
    ),
)
def test_a_sketch_in_lower_precision_is_the_same_but_for_rounding(dtype, name, getkey):
    # Both halves run the same signs, so only rounding tells them apart.
    case = ZOO[name]
    model, x, key = (
        case.model(getkey(), dtype),
        case.inputs(getkey(), 4, dtype),
        getkey(),
    )
    wide = jax.tree_util.tree_map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    got = nt.mc_ntk(model, key, x, None, 20, "sketch")
    assert got.dtype == dtype
    expected = nt.mc_ntk(wide, key, x.astype(jnp.float64), None, 20, "sketch")
    assert_close(got.astype(jnp.float64), expected, rtol=8 * jnp.finfo(dtype).eps)


def test_leaves_of_two_dtypes_go_into_one_sketch(getkey):
    model, x = eqx.nn.MLP(3, 2, 5, 1, jnp.tanh, key=getkey()), np.eye(3)
    half = eqx.tree_at(
        lambda m: m.layers[0].weight, model, replace_fn=lambda w: w.astype(jnp.float32)
    )
    mixed = Cast(half)
    got = nt.mc_ntk(mixed, getkey(), x, None, 64, "sketch")
    assert got.dtype == jnp.float64
    assert_close(got, average_of(brute_force_full(mixed, x)), rtol=1e-6)


class Cast(eqx.Module):
    inner: eqx.nn.MLP

    def __call__(self, x):
        one, two = self.inner.layers
        h = one.weight.astype(x.dtype) @ x + one.bias
        return two(jnp.tanh(h))


@jax.custom_vjp
def straight_through(x):
    return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


class Straight(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.sum(straight_through(self.weight @ x), keepdims=True)


def test_a_custom_vjp_is_refused_by_directions_and_sketched_with_its_own_rule(getkey):
    model, x = Straight(jr.normal(getkey(), (4, 3))), jr.normal(getkey(), (5, 3))
    for method in ("gaussian", "rademacher"):
        with pytest.raises(ValueError, match=f'{method}.*Type `method="sketch"`'):
            nt.mc_ntk(model, getkey(), x, method=method)
    assert_close(nt.mc_ntk(model, getkey(), x, None, 12, "sketch"), 4 * x @ x.T)


def test_a_sketch_draws_bytes_and_holds_no_gradient_of_many_examples(getkey):
    # Embeddings of 20,000 words: a gradient has a million entries, features have 50.
    model = Words(getkey())
    x = jr.randint(getkey(), (6, 4), 0, 20_000)
    live = []

    def largest(done, total):
        live.append(max(a.nbytes for a in jax.live_arrays()))

    given = {"proj_dim": 50, "method": "sketch", "batch_size": 2}
    z = nt.ntk_features(model, getkey(), x, progress=largest, **given)
    n_params = model.table.weight.size
    assert z.shape == (6, 50) and max(live) <= 8 * n_params


class Words(eqx.Module):
    table: eqx.nn.Embedding

    def __init__(self, key):
        self.table = eqx.nn.Embedding(20_000, 50, key=key)

    def __call__(self, words):
        return jnp.sum(jnp.sin(jax.vmap(self.table)(words)))


def test_float32_stays_float32(method, getkey):
    model = ZOO["mlp"].model(getkey(), jnp.float32)
    x = np.ones((2, 3), np.float32)
    assert nt.mc_ntk(model, getkey(), x, method=method).dtype == jnp.float32


def test_no_matrix_of_parameters_times_projections_is_held(getkey):
    # 4.5 million parameters: only one direction fits into a chunk, six are asked for.
    model = eqx.nn.MLP(4, 1, 2100, 2, dtype=jnp.float32, key=getkey())
    n_params = sum(
        a.size for a in jax.tree_util.tree_leaves(eqx.filter(model, eqx.is_array))
    )
    live = []

    def largest(done, total):
        live.append(max(a.nbytes for a in jax.live_arrays()))

    nt.mc_ntk(
        model, getkey(), np.ones((2, 4), np.float32), proj_dim=6, progress=largest
    )
    assert max(live) <= 2 * 4 * n_params


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"proj_dim": -5}, "`proj_dim` must be"),
        ({"proj_dim": 0}, "`proj_dim` must be"),
        (
            {"method": "fourier"},
            '`method` must be "gaussian", "rademacher" or "sketch"',
        ),
        ({"method": None}, "but it is None"),
        ({"key": 0}, "`key` must be one JAX random key such as"),
        ({"key": jr.split(jr.key(0))}, "`key` must be one JAX random key"),
    ],
)
def test_bad_input_is_refused_with_what_to_type(arguments, text, getkey):
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    arguments = {"key": jr.key(0), "x1": np.ones((2, 3)), **arguments}
    for function in (nt.mc_ntk, nt.ntk_features):
        if function is nt.ntk_features:
            arguments["x"] = arguments.pop("x1")
        with pytest.raises(ValueError, match=text):
            function(model, **arguments)


def test_complex_parameters_are_refused(method, getkey):
    model = Straight(jnp.ones((4, 3), complex))
    with pytest.raises(ValueError, match="`model.weight` is complex"):
        nt.mc_ntk(model, getkey(), np.ones((2, 3)), method=method)


def test_features_of_a_model_that_is_not_finite_are_an_error(method, getkey):
    model = eqx.nn.MLP(3, 1, 4, 1, key=getkey())
    broken = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(4, jnp.nan))
    with pytest.raises(ValueError, match="Features with .* NaN or infinite"):
        nt.ntk_features(broken, getkey(), np.ones((2, 3)), method=method)
