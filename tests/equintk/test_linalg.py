"""Functions of a kernel: what is refused, what counts as zero, derivatives."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from equintk._eigenbasis import Eigenbasis
from equintk._linalg import flatten_kernel, rounding
from equintk.predict.descent import _Descent
from equintk.predict.flow import _Flow
from tests.helpers import assert_close, relative_error, tolerance


def gram(n, rank, dtype: Any = np.float64):
    features = np.random.default_rng(0).normal(size=(n, rank)).astype(dtype)
    return features @ features.T / rank


def descent(rate, steps):
    rate, steps = jnp.asarray(rate), jnp.asarray(steps, float)
    return _Descent(rate=rate, steps=steps, ended=jnp.asarray(False))


def flow(time):
    return _Flow.at(jnp.asarray(time), jnp.asarray(1.0))


@functools.partial(jax.jit, static_argnames="fitted")
def differences(decay, eigenvalues, shift=0.0, fitted=False):
    """The divided differences of w: its derivative at a diagonal matrix."""

    def function(kernel):
        basis = Eigenbasis(kernel, shift)
        apply = basis.fitted if fitted else basis.coefficients
        return apply(decay, jnp.eye(len(kernel)))

    kernel = jnp.diag(jnp.asarray(eigenvalues))
    return jax.jvp(function, (kernel,), (jnp.ones_like(kernel),))[1]


def test_flattening_keeps_the_outputs_of_an_example_together():
    x1, x2, out = np.arange(2), np.arange(3), np.arange(4)
    i, j, a, b = np.meshgrid(x1, x2, out, out, indexing="ij")
    kernel = 1000 * i + 100 * j + 10 * a + b
    flat = flatten_kernel(kernel, 1)
    assert flat.shape == (8, 12)
    for row, column in np.ndindex(flat.shape):
        i, a = divmod(row, 4)
        j, b = divmod(column, 4)
        assert flat[row, column] == 1000 * i + 100 * j + 10 * a + b


def test_flattening_ravels_outputs_of_any_rank_in_row_major_order():
    kernel = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 4, 5))
    ravelled = kernel.reshape(2, 3, 20, 20)
    np.testing.assert_array_equal(
        flatten_kernel(kernel, 2), flatten_kernel(ravelled, 1)
    )
    scalar = kernel[..., 0, 0, 0, 0]
    np.testing.assert_array_equal(flatten_kernel(scalar, 0), scalar)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_kernel_of_low_rank_is_accepted_in_its_own_precision(dtype):
    values = Eigenbasis(gram(40, rank=3, dtype=dtype)).eigenvalues
    assert values.min() >= 0
    assert np.sum(values < rounding(40, dtype) * values.max()) == 37


def test_a_float32_kernel_is_not_held_to_float64_rounding():
    kernel = gram(40, rank=3, dtype=jnp.float32)
    with pytest.raises(ValueError, match="rounding in float64"):
        Eigenbasis(np.asarray(kernel, np.float64) - 1e-6 * np.eye(40))
    Eigenbasis(kernel - 1e-6 * np.eye(40, dtype=np.float32))


def test_a_negative_eigenvalue_is_refused_with_its_size_and_the_remedies():
    with pytest.raises(
        ValueError,
        match=r"smallest eigenvalue is -1.00e-01, where rounding in float64 allows -.*"
        r"one random draw.*float64, or add a `ridge` above 1.00e-01 \* c",
    ):
        Eigenbasis(np.diag([1.0, 2.0, -0.1]))


def test_a_ridge_that_lifts_the_negative_eigenvalue_is_accepted():
    values = Eigenbasis(np.diag([1.0, 2.0, -0.1]), shift=0.2).eigenvalues
    assert_close(values, [-0.1, 1, 2])


def test_an_asymmetric_kernel_is_refused():
    kernel = np.eye(3) + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(
        ValueError, match="symmetric.*differ by 1.00e-01.*same|one random"
    ):
        Eigenbasis(kernel)


def test_a_traced_kernel_is_refused_when_it_is_computed():
    fitted = lambda k: Eigenbasis(k).fitted(flow(1.0), jnp.ones((2, 1)))
    with pytest.raises(Exception, match="negative eigenvalue beyond rounding"):
        jax.block_until_ready(jax.jit(fitted)(jnp.diag(jnp.array([1.0, -0.1]))))
    with pytest.raises(Exception, match="not symmetric beyond rounding"):
        jax.block_until_ready(jax.jit(fitted)(jnp.array([[1.0, 0.3], [0.0, 1.0]])))
    kernels = jnp.stack([jnp.eye(2), jnp.diag(jnp.array([1.0, -0.1]))])
    with pytest.raises(Exception, match="negative eigenvalue beyond rounding"):
        jax.block_until_ready(jax.vmap(fitted)(kernels))


def test_null_modes_follow_the_limit_early_and_stay_put_late():
    basis = Eigenbasis(np.diag([0.0, 1.0]))
    floor = rounding(2, np.float64)
    ones = np.ones((2, 1))
    early = basis.coefficients(_Flow(scaled_time=0.5 / floor, ended=False), ones)
    late = basis.coefficients(_Flow(scaled_time=2 / floor, ended=False), ones)
    end = basis.coefficients(_Flow(scaled_time=0.0, ended=True), ones)
    assert_close(early[:, 0], [0.5 / floor, 1])
    np.testing.assert_array_equal(late, [[0], [1]])
    np.testing.assert_array_equal(end, late)


EIGENVALUES = np.array(
    [0, 1e-12, 1e-6, 1e-6 * (1 + 1e-9), 0.01, 0.3, 0.3 + 1e-13, 1, 1.9]
)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 20])
def test_divided_differences_of_descent_are_those_of_its_polynomial(steps):
    # w = sum_k a^k with a = 1 - lambda, and a^k - b^k over a - b is a sum of products.
    a = 1 - EIGENVALUES
    exact = np.zeros((len(a), len(a)))
    for k in range(steps):
        for i in range(k):
            exact -= np.outer(a**i, a ** (k - 1 - i))
    got = differences(descent(1.0, steps), EIGENVALUES)
    np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("time", [1e-3, 1.0, 30.0])
def test_divided_differences_of_flow_are_those_of_its_integral(time):
    # w = integral of exp(-s lambda) over s, its divided difference one more integral.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    nodes, weights = (nodes + 1) / 2, weights / 2
    s, between = time * nodes[:, None], nodes[None, :]
    larger, smaller = EIGENVALUES[:, None, None, None], EIGENVALUES[None, :, None, None]
    integrand = -s * np.exp(-s * (smaller + between * (larger - smaller)))
    exact = np.einsum("ijst,s,t->ij", integrand, time * weights, weights)
    np.testing.assert_allclose(differences(flow(time), EIGENVALUES), exact, rtol=1e-11)


@pytest.mark.parametrize("shift", [0.0, 0.2])
@pytest.mark.parametrize("time", [0.1, 10.0, jnp.inf])
def test_divided_differences_of_fitted_values_follow_the_product_rule(shift, time):
    values = np.array([0.5, 0.5, 0.7, 2.0])
    plain = differences(flow(time), values, shift)
    apply = lambda k: Eigenbasis(k, shift).coefficients(flow(time), jnp.eye(4))
    weight = jnp.diagonal(apply(jnp.diag(values)))
    exact = values[:, None] * plain + np.asarray(weight)[None, :]
    got = differences(flow(time), values, shift, fitted=True)
    np.testing.assert_allclose(got, exact, atol=1e-13)


def test_derivatives_at_infinite_time_are_those_of_the_pseudo_inverse():
    # Of constant rank: d(A+) = -A+ dA A+ + A+^2 dA (1 - A A+) and its transpose.
    values, inverse = np.array([0, 0, 0.5, 2.0]), np.array([0, 0, 2.0, 0.5])
    null = values == 0
    exact = -np.outer(inverse, inverse)
    exact += np.outer(inverse**2, null) + np.outer(null, inverse**2)
    np.testing.assert_allclose(differences(flow(jnp.inf), values), exact, atol=1e-13)


ARGUMENTS = ("kernel", "y", "time", "ridge", "c", "k_test_train")


def loss(dynamics, kernel, y, time, ridge, c, k_test_train):
    """A number that depends on every output; descent takes twenty steps, or all.

    With momentum it also goes on from a state with a velocity.
    """
    f0, g0 = jnp.linspace(-1, 1, len(y)), jnp.linspace(0, 1, len(k_test_train))
    if dynamics == "flow":
        at = nt.predict.GradientFlow(kernel, y, c=c, ridge=ridge)
    else:
        momentum = 0.6 if dynamics == "momentum" else 0.0
        at = nt.predict.GradientDescent(
            kernel, y, learning_rate=0.3, momentum=momentum, c=c, ridge=ridge
        )
        time = 10 * time
        if dynamics == "momentum":
            g0 = at.test(3, k_test_train, f0, g0)
            f0 = at.state(3, f0)
    train, test = at.train(time, f0), at.test(time, k_test_train, f0, g0)
    weights = lambda out: jnp.arange(1.0, len(out) + 1)
    return jnp.vdot(weights(train), train) + jnp.vdot(weights(test), test)


def kernels():
    x = np.random.default_rng(0).normal(size=(5, 30)) / 5
    duplicated = x[[0, 1, 1, 2, 0]]
    return {
        "identity": np.eye(5),
        "generic": x @ x.T,
        "duplicated inputs": duplicated @ duplicated.T,
        "nearly repeated": np.eye(5) + 1e-10 * x @ x.T,
    }


@pytest.mark.parametrize(
    "dynamics",
    ["flow", "descent", pytest.param("momentum", marks=pytest.mark.slow)],
)
def test_gradients_agree_with_finite_differences(dynamics):
    rng = np.random.default_rng(1)
    x, y, k_test_train = (
        rng.normal(size=(5, 5)),
        rng.normal(size=5),
        rng.normal(size=(2, 5)),
    )
    along = {name: np.ones(()) for name in ARGUMENTS}
    # An eigenvalue of zero may only move up: the direction is positive, the differences
    # are one-sided, of third order.
    along |= {"kernel": x @ x.T, "y": np.ones(5), "k_test_train": np.ones((2, 5))}
    gradient = jax.jit(jax.grad(loss, tuple(range(1, 7))), static_argnums=0)
    value = jax.jit(loss, static_argnums=0)
    for name, kernel in kernels().items():
        for time in (2.0, jnp.inf):
            # Without a ridge, a null mode has no derivative at the end of training.
            end = name == "duplicated inputs" and time == jnp.inf
            numbers = (kernel, y, time, 0.3 if end else 0.0, 0.7, k_test_train)
            got = gradient(dynamics, *numbers)
            for i, argument in enumerate(ARGUMENTS):
                if argument == "time" and (time == jnp.inf or dynamics != "flow"):
                    continue
                slope = np.vdot(got[i], along[argument])
                h = 2e-5
                f = [
                    value(dynamics, *numbers[:i], numbers[i] + k * h * along[argument],
                          *numbers[i + 1 :])
                    for k in range(4)
                ]  # fmt: skip
                finite = (-11 * f[0] + 18 * f[1] - 9 * f[2] + 2 * f[3]) / (6 * h)
                error = abs(slope - finite) / (1 + abs(finite))
                assert error < 1e-6, (name, time, argument, slope, finite)


@pytest.mark.parametrize("first", [1, 2], ids=["kernel", "targets"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_second_derivative_by_the_kernel_is_refused_rather_than_wrong(
    first, compiled
):
    numbers = (kernels()["generic"], jnp.ones(5), 2.0, 0.1, 0.7, jnp.ones((2, 5)))
    function = jax.jit(loss, static_argnums=0) if compiled else loss
    twice = jax.jit(jax.jacfwd(jax.grad(function, first), 1), static_argnums=0)
    with pytest.raises(NotImplementedError, match="first derivatives with respect to"):
        twice("flow", *numbers)


def test_second_derivatives_by_all_else_are_right():
    # The kernel's derivative is linear in the residual, so affine in the targets.
    kernel, others = kernels()["generic"], (2.0, 0.1, 0.7, jnp.ones((2, 5)))
    by_kernel = lambda y: jax.grad(loss, 1)("flow", kernel, y, *others)
    derivative = jax.jit(lambda y: jax.jvp(by_kernel, (y,), (jnp.ones(5),)))
    (start, slope), (end, _) = derivative(jnp.zeros(5)), derivative(jnp.ones(5))
    assert_close(slope, end - start)


def test_an_eigenbasis_is_not_differentiated_by_itself():
    flow_of_identity = nt.predict.GradientFlow(np.eye(2), np.ones(2))
    outputs = lambda flow: jnp.sum(flow.train(1.0, np.zeros(2)))
    with pytest.raises(
        TypeError, match="create GradientFlow or GradientDescent inside"
    ):
        eqx.filter_grad(outputs)(flow_of_identity)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_traced_basis_gives_what_the_host_gives(fitted):
    kernel, b = gram(6, rank=4), np.random.default_rng(1).normal(size=(6, 2))

    def apply(kernel, decay):
        basis = Eigenbasis(kernel)
        return basis.fitted(decay, b) if fitted else basis.coefficients(decay, b)

    apply_traced = jax.jit(apply)
    for time in (0.3, 1e8, np.inf):
        host = apply(kernel, _Flow.at(np.float64(time), 1.0))
        assert isinstance(host, np.ndarray)
        traced = apply_traced(kernel, flow(time))
        assert relative_error(traced, host) < tolerance(jnp.float64, 1e6)
