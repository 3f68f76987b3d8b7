"""Rounding, equal and opposite inputs, precisions and derivatives."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt

OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}


def mlp(activation, depth=4, dtype=jnp.float64):
    return eqx.nn.MLP(5, 3, 8, depth, activation=activation, dtype=dtype, key=jr.key(0))


def difficult(dtype=jnp.float64):
    """A point, twice, its opposite, its double, a near one, zero, and another."""
    x = jr.normal(jr.key(1), (2, 5), dtype)
    near = x[0] + jnp.asarray(1e-4, dtype) * x[1]
    return jnp.stack([x[0], x[0], -x[0], 2 * x[0], near, 0 * x[0], x[1]])


@pytest.mark.slow
def test_the_diagonal_of_deep_relu_networks_is_exact():
    # q' = W^2 q / 2 + b^2 and the tangent kernel t' = q' + W^2 t / 2.
    x = jr.normal(jr.key(2), (2000, 5)) * jnp.exp(jr.normal(jr.key(3), (2000, 1)))
    q = 1.3**2 * np.sum(np.asarray(x) ** 2, axis=1) / 5 + 0.2**2
    t = q.copy()
    for _ in range(4):
        q = 1.3**2 * q / 2 + 0.2**2
        t = q + 1.3**2 * t / 2
    model = mlp(jax.nn.relu)

    @jax.jit
    def diagonals(x):
        # Compiled as one with all the others of a block, where optimisation may fuse.
        kernels = nt.infinite_kernels(model, x, **OPTIONS)
        return jnp.diagonal(kernels.nngp), jnp.diagonal(kernels.ntk)

    for start in range(0, 2000, 500):
        part = slice(start, start + 500)
        nngp, ntk = diagonals(x[part])
        np.testing.assert_allclose(nngp, q[part], rtol=1e-12)
        np.testing.assert_allclose(ntk, t[part], rtol=1e-12)


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64]
)
@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu, pytest.param(jax.nn.gelu, marks=pytest.mark.slow), jnp.abs],
)
def test_equal_opposite_and_zero_inputs_have_finite_kernels_and_gradients(
    activation, dtype
):
    model, x = mlp(activation, 2, dtype), difficult(dtype)
    kernels = nt.infinite_kernels(model, x, **OPTIONS)
    for kernel in (kernels.nngp, kernels.ntk):
        assert kernel.dtype == dtype
        assert np.isfinite(kernel).all()
        np.testing.assert_array_equal(kernel, kernel.T)
        smallest, *_, largest = np.linalg.eigvalsh(np.asarray(kernel, np.float64))
        assert smallest > -50 * float(jnp.finfo(dtype).eps) * largest
        # The point and its copy have the same kernels.
        np.testing.assert_array_equal(kernel[0], kernel[1])

    def loss(x):
        k = nt.infinite_kernels(model, x, **OPTIONS)
        return jnp.sum(k.nngp) + jnp.sum(jnp.cos(k.ntk))

    assert np.isfinite(jax.grad(loss)(x)).all()


def test_float32_is_close_to_float64():
    x = jr.normal(jr.key(4), (10, 5))
    exact = nt.infinite_ntk(mlp(jax.nn.relu), x, **OPTIONS)
    rounded = nt.infinite_ntk(
        mlp(jax.nn.relu, dtype=jnp.float32), x.astype(jnp.float32), **OPTIONS
    )
    np.testing.assert_allclose(rounded, exact, rtol=1e-5)


@pytest.mark.parametrize("name", ["W_std", "b_std"])
def test_gradients_by_the_standard_deviations_are_those_of_differences(name):
    x = jr.normal(jr.key(5), (3, 5))

    def total(value):
        options = OPTIONS | {name: value}
        kernels = nt.infinite_kernels(mlp(jax.nn.relu, 2), x, **options)
        return jnp.sum(kernels.nngp) + jnp.sum(kernels.ntk)

    value, step = OPTIONS[name], 1e-5
    difference = (total(value + step) - total(value - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(value), difference, rtol=1e-7)


def test_gradients_by_the_inputs_are_those_of_differences():
    x1, x2 = jr.normal(jr.key(6), (2, 5)), jr.normal(jr.key(7), (2, 5))
    total = lambda x: jnp.sum(nt.infinite_ntk(mlp(jax.nn.relu, 2), x, x2, **OPTIONS))
    gradient = jax.grad(total)(x1)
    step = jnp.zeros_like(x1).at[1, 2].set(1e-5)
    difference = (total(x1 + step) - total(x1 - step)) / 2e-5
    np.testing.assert_allclose(gradient[1, 2], difference, rtol=1e-6)


@functools.cache
def by_quadrature(activation):
    """Both kernels of one hidden layer from an integral over the plane."""
    x = np.asarray(jr.normal(jr.key(8), (3, 5)))
    gram = 1.3**2 * x @ x.T / 5 + 0.2**2
    nodes, weights = np.polynomial.legendre.leggauss(400)
    z, w = (
        12 * nodes,
        12 * weights * np.exp(-((12 * nodes) ** 2) / 2) / np.sqrt(2 * np.pi),
    )
    slope = jax.grad(activation)
    nngp, ntk = np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            if i == j:
                u = v = np.sqrt(gram[i, i]) * z
                weight = w
            else:
                a = np.sqrt(gram[i, i])
                b = gram[i, j] / a
                c = np.sqrt(gram[j, j] - b**2)
                u = np.repeat(a * z, z.size)
                v = (b * z[:, None] + c * z[None, :]).ravel()
                weight = np.outer(w, w).ravel()
            f, g = (np.asarray(activation(jnp.asarray(s))) for s in (u, v))
            df, dg = (np.asarray(jax.vmap(slope)(jnp.asarray(s))) for s in (u, v))
            nngp[i, j] = 1.3**2 * weight @ (f * g) + 0.2**2
            ntk[i, j] = nngp[i, j] + 1.3**2 * gram[i, j] * (weight @ (df * dg))
    return x, nngp, ntk


@pytest.mark.parametrize(
    "activation",
    [jnp.tanh, jax.nn.silu, jax.nn.softplus, jax.nn.gelu, jax.nn.mish],
    ids=lambda f: f.__name__,
)
def test_functions_without_a_closed_form_agree_with_an_integral(activation):
    x, nngp, ntk = by_quadrature(activation)
    got = nt.infinite_kernels(mlp(activation, 1), jnp.asarray(x), **OPTIONS)
    np.testing.assert_allclose(got.nngp, nngp, rtol=1e-9)
    np.testing.assert_allclose(got.ntk, ntk, rtol=1e-9)
