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


def difficult(dtype=jnp.float64, distance=1e-4):
    """A point, twice, its opposite, its double, a near one, zero, and another."""
    x = jr.normal(jr.key(1), (2, 5)).astype(dtype)
    near = x[0] + jnp.asarray(distance, dtype) * x[1]
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


def test_deep_networks_do_not_end_with_the_stack():
    kernel = lambda x: nt.infinite_ntk(mlp(jax.nn.relu, 16), x, **OPTIONS)
    found = jax.eval_shape(kernel, jax.ShapeDtypeStruct((2, 5), jnp.float64))
    assert found.shape == (2, 2)


@pytest.mark.slow
def test_the_kernels_of_a_deep_network_are_those_of_the_recursion():
    # For x and 2 x, without biases: twice that of x and x, which grows with the depth.
    model = eqx.nn.MLP(5, 3, 8, 40, use_bias=False, use_final_bias=False, key=jr.key(0))
    x = jr.normal(jr.key(1), (1, 5))
    both = jnp.concatenate([x, 2 * x])
    found = nt.infinite_kernels(model, both, parameterization="ntk", W_std=2**0.5)
    q = 2 * float(jnp.sum(x**2)) / 5
    by_scale = np.outer([1, 2], [1, 2])
    np.testing.assert_allclose(found.nngp, q * by_scale, rtol=1e-10)
    np.testing.assert_allclose(found.ntk, 41 * q * by_scale, rtol=1e-6)


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


def exact_gelu(z):
    return jax.nn.gelu(z, approximate=False)


@functools.cache
def gradients(activation, dtype, near):
    """Of a sum over both kernels: by inputs, `W_std` and `b_std`. And what gives it."""
    model, x = mlp(activation, 2, dtype), difficult(dtype, near)
    by_nngp, by_ntk = jr.normal(jr.key(5), (2, len(x), len(x))).astype(dtype)

    @jax.jit
    def total(x, W_std, b_std):
        kernels = nt.infinite_kernels(
            model, x, parameterization="ntk", W_std=W_std, b_std=b_std
        )
        return jnp.sum(by_nngp * kernels.nngp) + jnp.sum(by_ntk * kernels.ntk)

    at = x, jnp.asarray(1.3, dtype), jnp.asarray(0.2, dtype)
    return total, at, jax.jit(jax.grad(total, (0, 1, 2)))(*at)


ACTIVATIONS = [
    jax.nn.relu,
    *(pytest.param(f, marks=pytest.mark.slow) for f in (jnp.abs, exact_gelu, jnp.tanh)),
    *(pytest.param(f, marks=pytest.mark.slow) for f in (jax.scipy.special.erf,)),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_differences_at_difficult_inputs(activation):
    # Where two inputs are equal the tangent kernel of a kink has a kink of its own, of
    # which a symmetric difference sees the middle. There kernels round to a root of
    # eps: smaller steps see less.
    total, at, found = gradients(activation, jnp.float64, 1e-2)
    step = 1e-5
    for i, gradient in enumerate(found):
        size = np.abs(gradient).max()
        for entry in np.ndindex(gradient.shape):
            moved = [
                total(*at[:i], at[i].at[entry].add(sign * step), *at[i + 1 :])
                for sign in (1, -1)
            ]
            difference = (moved[0] - moved[1]) / (2 * step)
            assert abs(gradient[entry] - difference) < 2e-4 * size, (i, entry)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_in_float32_are_those_of_float64_at_difficult_inputs(activation):
    exact = gradients(activation, jnp.float64, 1e-2)[2]
    rounded = gradients(activation, jnp.float32, 1e-2)[2]
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == jnp.float32
        assert relative_to_largest(found, expected) < 1e-3


def relative_to_largest(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    return np.abs(found - expected).max() / np.abs(expected).max()


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
