"""The kernel as an operator: its products, its structure and solving with it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import lineax as lx
import pytest

import equintk as nt
from tests.helpers import assert_close
from tests.zoo import MODELS

NAMES = [
    "conv2d, strides and groups",
    "gru cell",
    "custom vjp with weights inside",
    "custom vjp in a scan",
]


def matrix(kernel, n_out_axes=1):
    n1, n2, *out = kernel.shape
    rows = [n1, *out[:n_out_axes]]
    kernel = jnp.moveaxis(kernel, 1, 1 + n_out_axes)
    return kernel.reshape(jnp.prod(jnp.asarray(rows)).item(), -1)


@pytest.fixture
def mlp(getkey):
    return eqx.nn.MLP(3, 2, 8, 2, activation=jnp.tanh, key=getkey())


@pytest.mark.parametrize("batch_size", [2, 5, 32])
@pytest.mark.parametrize("given", [False, True])
def test_products_are_those_of_the_full_kernel(mlp, given, batch_size, getkey):
    x1 = jr.normal(getkey(), (5, 3))
    x2 = jr.normal(getkey(), (3, 3)) if given else None
    operator = nt.NTKOperator(mlp, x1, x2, batch_size)
    v = jr.normal(getkey(), operator.in_structure().shape)
    full = nt.ntk_full(mlp, x1, x2)
    assert_close(operator.mv(v), jnp.einsum("ijab,jb->ia", full, v))
    assert_close(operator.as_matrix(), matrix(full))
    assert_close(operator.T.as_matrix(), matrix(full).T)
    w = jr.normal(getkey(), operator.out_structure().shape)
    assert_close(jnp.vdot(operator.T.mv(w), v), jnp.vdot(w, operator.mv(v)))
    assert_close(lx.diagonal(operator), jnp.diag(matrix(full)))
    assert_close(lx.materialise(operator).mv(v), operator.mv(v))


@pytest.mark.parametrize("name", NAMES)
def test_products_are_right_for_models_of_every_kind(name, getkey):
    case = MODELS[name]
    model, x = case.model(getkey()), case.inputs(getkey(), 3)
    mask = case.mask(model)
    operator = nt.NTKOperator(model, x, batch_size=2, trainable=mask)
    v = jr.normal(getkey(), operator.in_structure().shape)
    expected = matrix(nt.ntk_full(model, x, trainable=mask), v.ndim - 1) @ jnp.ravel(v)
    assert_close(jnp.ravel(operator.mv(v)), expected)


def test_scalar_and_matrix_outputs_keep_their_axes(getkey):
    x = jr.normal(getkey(), (4, 3))
    scalar = eqx.nn.MLP(3, "scalar", 5, 1, key=getkey())
    assert nt.NTKOperator(scalar, x).mv(jnp.ones(4)).shape == (4,)
    square = eqx.nn.Sequential(
        [eqx.nn.Linear(3, 4, key=getkey()), eqx.nn.Lambda(lambda h: h.reshape(2, 2))]
    )
    operator = nt.NTKOperator(square, x)
    assert operator.mv(jnp.ones((4, 2, 2))).shape == (4, 2, 2)
    assert_close(operator.as_matrix(), matrix(nt.ntk_full(square, x), 2))


def test_float32_products_are_right_to_rounding(mlp, getkey):
    x, v = jr.normal(getkey(), (5, 3)), jr.normal(getkey(), (5, 2))
    cast = lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a
    narrow = nt.NTKOperator(jtu.tree_map(cast, mlp), cast(x), batch_size=2)
    got = narrow.mv(cast(v))
    assert got.dtype == jnp.float32
    assert_close(got, nt.NTKOperator(mlp, x).mv(v), rtol=1e-5)


def test_conjugate_gradients_solve_with_it_inside_and_outside_of_jit(mlp, getkey):
    x, y = jr.normal(getkey(), (6, 3)), jr.normal(getkey(), (6, 2))
    kernel = matrix(nt.ntk_full(mlp, x))
    expected = jnp.linalg.solve(kernel + 0.1 * jnp.eye(12), jnp.ravel(y))

    def solve(operator, y):
        identity = lx.IdentityLinearOperator(operator.in_structure())
        shifted = lx.TaggedLinearOperator(
            operator + 0.1 * identity, lx.positive_semidefinite_tag
        )
        solver = lx.CG(rtol=1e-10, atol=1e-10)
        return lx.linear_solve(shifted, y, solver).value

    operator = nt.NTKOperator(mlp, x, batch_size=4)
    assert_close(jnp.ravel(solve(operator, y)), expected, rtol=1e-7)
    assert_close(jnp.ravel(eqx.filter_jit(solve)(operator, y)), expected, rtol=1e-7)


def test_products_are_mapped_over_vectors_and_over_an_ensemble(getkey):
    x, v = jr.normal(getkey(), (4, 3)), jr.normal(getkey(), (3, 4, 2))
    build = lambda key: eqx.nn.MLP(3, 2, 5, 1, activation=jnp.tanh, key=key)
    keys = jr.split(getkey(), 3)
    one = nt.NTKOperator(build(keys[0]), x)
    assert_close(jax.vmap(one.mv)(v)[1], one.mv(v[1]))
    product = lambda key, v: nt.NTKOperator(build(key), x).mv(v)
    assert_close(jax.vmap(product)(keys, v)[0], one.mv(v[0]))


def test_products_have_the_derivatives_of_the_kernel(mlp, getkey):
    x, v = jr.normal(getkey(), (4, 3)), jr.normal(getkey(), (4, 2))
    by_operator = jax.grad(lambda x: jnp.vdot(v, nt.NTKOperator(mlp, x).mv(v)))(x)
    quadratic = lambda x: jnp.einsum("ia,ijab,jb->", v, nt.ntk_full(mlp, x), v)
    assert_close(by_operator, jax.grad(quadratic)(x))


def test_only_the_kernel_of_one_batch_is_positive(mlp, getkey):
    x = jr.normal(getkey(), (4, 3))
    gram, cross = nt.NTKOperator(mlp, x), nt.NTKOperator(mlp, x, x)
    assert lx.is_symmetric(gram) and lx.is_positive_semidefinite(gram)
    assert not lx.is_symmetric(cross) and not lx.is_positive_semidefinite(cross)
    assert not lx.is_diagonal(gram) and not lx.is_negative_semidefinite(gram)


def test_a_vector_of_another_shape_or_dtype_is_refused(mlp, getkey):
    operator = nt.NTKOperator(mlp, jr.normal(getkey(), (4, 3)))
    with pytest.raises(ValueError, match=r"shape \(n2, \*out\) = \(4, 2\).*Type"):
        operator.mv(jnp.ones(8))
    with pytest.raises(ValueError, match="dtype float64, but it has .* float32.*Type"):
        operator.mv(jnp.ones((4, 2), jnp.float32))
    with pytest.raises(ValueError, match=r"has \(2, 4\) and float64\.$"):
        operator.mv(jnp.ones((2, 4)))


def test_what_has_no_single_real_output_is_refused(getkey):
    class Pair(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w * x, x

    class Complex(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return jnp.real(self.w) * x

    x = jr.normal(getkey(), (4, 3))
    with pytest.raises(ValueError, match="must return one array"):
        nt.NTKOperator(Pair(jnp.ones(3)), x)
    with pytest.raises(ValueError, match="real parameters"):
        nt.NTKOperator(Complex(jnp.asarray([1j, 1, 2])), x)
