"""Random projections: unbiased, of the stated error, one draw for all blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import ZOO, assert_close, average_of, reference, relative_error

CASES = ["scalar output", "cnn with pooling", "frozen layer"]


@pytest.fixture(params=CASES)
def case(request):
    """Model, mask, 5 inputs, 3 inputs, and the exact kernels of both pairs."""
    return reference(request.param)


def test_the_draw_does_not_depend_on_the_batch_size(case, getkey):
    model, mask, x1, x2, *_ = case
    key = getkey()
    whole = nt.mc_ntk(model, key, x1, x2, proj_dim=6, trainable=mask)
    blocks = nt.mc_ntk(model, key, x1, x2, proj_dim=6, batch_size=2, trainable=mask)
    assert_close(blocks, whole)


def test_all_blocks_and_both_sides_share_one_draw(case, getkey):
    model, _, x, *_ = case
    key = getkey()
    whole = nt.mc_ntk(model, key, x, proj_dim=6, batch_size=2)
    assert_close(
        nt.mc_ntk(model, key, x[:2], x[2:], proj_dim=6, batch_size=2), whole[:2, 2:]
    )


def test_a_larger_projection_extends_the_same_draw(getkey):
    model, key = eqx.nn.MLP(3, 2, 4, 1, key=getkey()), getkey()
    x = jr.normal(getkey(), (4, 3))
    small = nt.ntk_features(model, key, x, proj_dim=3) * np.sqrt(3)
    large = nt.ntk_features(model, key, x, proj_dim=8) * np.sqrt(8)
    assert small.shape == (4, 2, 3)
    assert_close(large[..., :3], small)


def test_features_contract_to_the_kernel(case, getkey):
    model, _, x1, x2, *_ = case
    key = getkey()
    z1, z2 = (
        nt.ntk_features(model, key, x, proj_dim=6, batch_size=2) for x in (x1, x2)
    )
    rest = tuple(range(1, z1.ndim))
    contracted = jnp.tensordot(z1, z2, axes=(rest, rest))
    assert_close(nt.mc_ntk(model, key, x1, x2, proj_dim=6, batch_size=2), contracted)


def test_the_estimate_is_unbiased(case, getkey):
    # A z-test of every entry: the worst of 15 stays below 4.5 but once in ten thousand.
    model, mask, x1, x2, _, exact = case
    draws = jnp.stack(
        [
            nt.mc_ntk(model, key, x1, x2, proj_dim=50, batch_size=5, trainable=mask)
            for key in jr.split(getkey(), 40)
        ]
    )
    error = draws.mean(0) - average_of(exact)
    z = error / (draws.std(0, ddof=1) / np.sqrt(len(draws)))
    assert jnp.max(jnp.abs(z)) < 4.5


@pytest.mark.parametrize("proj_dim", [16, 128])
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


def test_works_under_jit_and_vmap_over_keys(getkey):
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    x, keys = jr.normal(getkey(), (4, 3)), jr.split(getkey(), 3)
    kernel = lambda key: nt.mc_ntk(model, key, x, proj_dim=7)
    assert_close(jax.jit(kernel)(keys[0]), kernel(keys[0]))
    assert_close(jax.vmap(kernel)(keys)[1], kernel(keys[1]))


def test_raw_and_typed_keys_give_the_same_draw(getkey):
    model, x = eqx.nn.MLP(3, 2, 4, 1, key=getkey()), jr.normal(getkey(), (4, 3))
    assert_close(nt.mc_ntk(model, jr.PRNGKey(5), x), nt.mc_ntk(model, jr.key(5), x))


def test_float32_stays_float32(getkey):
    model = ZOO["mlp"].model(getkey(), jnp.float32)
    assert nt.mc_ntk(model, getkey(), np.ones((2, 3), np.float32)).dtype == jnp.float32


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
        ({"method": "fourier"}, '`method` must be "gaussian"'),
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


def test_features_of_a_model_that_is_not_finite_are_an_error(getkey):
    model = eqx.nn.MLP(3, 1, 4, 1, key=getkey())
    broken = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(4, jnp.nan))
    with pytest.raises(ValueError, match="Features with .* NaN or infinite"):
        nt.ntk_features(broken, getkey(), np.ones((2, 3)))
