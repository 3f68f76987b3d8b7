"""Kernels in float32 and in half precision against float64 Jacobians."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import equintk as nt
from tests.helpers import (
    assert_close,
    average_of,
    brute_force_full,
    one_in,
    relative_error,
)
from tests.zoo import MODELS

pytestmark = pytest.mark.conformance

NAMES = [
    "mlp without biases",
    "conv2d, strides and groups",
    "transposed conv1d",
    "attention of four sizes with biases",
    "layer norm and rms norm",
    "tied autoencoder with biases",
    "scaled by literals",
    "tied embedding and head",
    "scan over stacked layers",
    "recurrent network",
    "gradient by the example",
]


# The forward and backward pass round a few times for each layer, and the sums over
# parameters run in float32 at least. Sixteen times eps holds with a factor of two to
# spare in every one of these models.
@pytest.mark.parametrize(
    ("name", "dtype"),
    one_in(4, itertools.product(NAMES, [jnp.float32, jnp.bfloat16, jnp.float16])),
)
def test_low_precision_costs_a_few_roundings_and_the_dtype_stays(name, dtype):
    case = MODELS[name]
    model = case.model(jr.key(1), dtype)
    x = case.inputs(jr.key(2), 4, dtype)
    got = nt.ntk_full(model, x, batch_size=3)
    assert got.dtype == dtype
    error = relative_error(got.astype(jnp.float64), brute_force_full(model, x))
    assert error < 16 * float(jnp.finfo(dtype).eps)


def test_sums_over_many_parameters_do_not_stagnate_in_half_precision(getkey):
    # 4096 equal terms: in float16 alone the sum would stop growing at 2048.
    model = eqx.nn.Linear(4096, 1, use_bias=False, dtype=jnp.float16, key=getkey())
    x = jnp.full((2, 4096), 1.0, jnp.float16)
    assert jnp.all(nt.ntk(model, x) == 4096.0)


class Mixed(eqx.Module):
    """Parameters in float32, products in bfloat16, the output in float32."""

    w: jax.Array
    v: jax.Array
    b: jax.Array

    def __call__(self, x):
        low = lambda a: a.astype(jnp.bfloat16)
        h = jnp.tanh(low(self.w) @ low(x) + low(self.b))
        return (low(self.v) @ h).astype(jnp.float32)


def test_a_model_that_computes_in_a_lower_dtype_than_it_holds(getkey):
    draw = lambda *shape: jr.normal(getkey(), shape, jnp.float32)
    model, x = Mixed(draw(5, 3), draw(2, 5), draw(5)), draw(4, 3)
    got = nt.ntk(model, x, batch_size=2)
    assert got.dtype == jnp.float32

    # The same roundings in both, but for the order of sums.
    rows = jax.vmap(jax.jacrev(lambda m, x: m(x)), (None, 0))(model, x)
    rows = [leaf.reshape(4, 2, -1) for leaf in jax.tree_util.tree_leaves(rows)]
    plain = sum(jnp.einsum("iap,jap->ij", leaf, leaf) for leaf in rows) / 2
    assert relative_error(got, plain) < 4 * float(jnp.finfo(jnp.bfloat16).eps)


class TwoDtypes(eqx.Module):
    """One weight in float32, one in float64."""

    w: jax.Array
    v: jax.Array

    def __call__(self, x):
        return self.v @ jnp.tanh((self.w @ x.astype(jnp.float32)).astype(jnp.float64))


def test_parameters_of_two_dtypes_give_a_kernel_of_the_wider(getkey):
    model = TwoDtypes(
        jr.normal(getkey(), (5, 3), jnp.float32), jr.normal(getkey(), (2, 5))
    )
    x = jr.normal(getkey(), (4, 3))
    got = nt.ntk(model, x)
    assert got.dtype == jnp.float64

    class Wide(eqx.Module):
        w: jax.Array
        v: jax.Array

        def __call__(self, x):
            return self.v @ jnp.tanh(self.w @ x)

    wide = Wide(model.w.astype(jnp.float64), model.v)
    expected = average_of(brute_force_full(wide, x))
    assert relative_error(got, expected) < 8 * float(jnp.finfo(jnp.float32).eps)


@pytest.mark.parametrize("compute", [nt.ntk, nt.ntk_diag, nt.NTKOperator])
def test_an_unknown_precision_is_answered_with_those_that_there_are(compute, getkey):
    model, x = eqx.nn.Linear(3, 2, key=getkey()), jr.normal(getkey(), (4, 3))
    with pytest.raises(ValueError, match='`precision` must be "highest", "high" or'):
        compute(model, x, precision="hihgest")


def test_projections_refuse_an_unknown_precision_and_algorithms_are_known(getkey):
    model, x = eqx.nn.Linear(3, 2, key=getkey()), jr.normal(getkey(), (4, 3))
    with pytest.raises(ValueError, match="`precision` must be"):
        nt.mc_ntk(model, getkey(), x, precision="hihgest")
    single = eqx.nn.Linear(3, 2, dtype=jnp.float32, key=getkey())
    x = x.astype(jnp.float32)
    assert_close(nt.ntk(single, x, precision="F32_F32_F32"), nt.ntk(single, x))
