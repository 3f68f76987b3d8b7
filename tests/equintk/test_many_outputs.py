"""Kernels of hundreds of outputs: what they cost, and that they are right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

import equintk as nt
from equintk._empirical import backward
from equintk._empirical.backward import Cotangents, cotangents_of
from equintk._empirical.modes import modes_of
from equintk._empirical.reading import Member, read
from tests.helpers import (
    brute_force_full,
    diagonal_of,
    plain_kernel,
    relative_error,
)

pytestmark = pytest.mark.conformance

N_OUTPUTS = 300


@pytest.fixture(scope="module")
def setting():
    model = eqx.nn.MLP(3, N_OUTPUTS, 4, 1, key=jr.key(0))
    x1, x2 = jr.normal(jr.key(1), (3, 3)), jr.normal(jr.key(2), (2, 3))
    return model, x1, x2, brute_force_full(model, x1), brute_force_full(model, x1, x2)


def test_every_output_with_every_other_equals_float64_jacobians(setting):
    model, x1, x2, k11, k12 = setting
    assert relative_error(nt.ntk_full(model, x1), k11) < 1e-12
    assert relative_error(nt.ntk_full(model, x1, x2, batch_size=1), k12) < 1e-12
    assert relative_error(nt.ntk_per_output(model, x1, x2), diagonal_of(k12)) < 1e-12


def test_gradients_of_coupled_outputs_are_not_written(setting):
    # Each output has its own gradient, mostly zeros: 300 times the parameters.
    model, x1, *_ = setting
    reading, _ = read(Member("ntk", (), ()), model, x1, None, "highest", 3.0)
    n_params = sum(p.size for p in jtu.tree_leaves(eqx.filter(model, eqx.is_array)))
    assert reading.example_bytes < 8 * N_OUTPUTS * n_params / 100


def test_rows_of_one_output_each_are_ones_among_zeros_in_the_order_of_the_modes():
    results = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((2, 3), jnp.float32), ((), jnp.float64))
    ]
    cotangents = cotangents_of(results, modes_of([(2, 3), ()], None, None))
    one, two = cotangents()
    assert [(a.shape, a.dtype) for a in (one, two)] == [
        (a.shape, a.dtype) for a in cotangents.structs
    ]
    np.testing.assert_array_equal(one, np.eye(7, 6))
    np.testing.assert_array_equal(two, np.eye(7)[:, 6:])
    transposed = cotangents_of(results[:1], modes_of([(2, 3)], (0,), None))()[0]
    assert sorted(map(tuple, transposed)) == sorted(map(tuple, np.eye(6)))
    np.testing.assert_array_equal(transposed[0] + transposed[1], [1, 0, 0, 1, 0, 0])


def test_rows_of_many_outputs_are_not_constants_of_a_program():
    result = jax.ShapeDtypeStruct((N_OUTPUTS,), jnp.float32)
    numbers = np.arange(N_OUTPUTS)
    cotangents = Cotangents((numbers,), (result,))
    compiled = jax.jit(lambda: cotangents()).lower().compile()
    np.testing.assert_array_equal(compiled()[0], np.eye(N_OUTPUTS))
    program = compiled.as_text()
    assert program is not None
    assert f"f32[{N_OUTPUTS},{N_OUTPUTS}]{{1,0}} constant" not in program


def test_rows_that_are_no_constants_work_under_all_transformations(monkeypatch):
    monkeypatch.setattr(backward, "_KNOWN", 0)
    model = eqx.nn.MLP(2, 3, 5, 1, activation=jnp.tanh, key=jr.key(0))
    x = jr.normal(jr.key(1), (4, 2))
    expected = brute_force_full(model, x)
    assert relative_error(nt.ntk_full(model, x), expected) < 1e-12
    models = jtu.tree_map(
        lambda a: jnp.stack([a, 2 * a]) if eqx.is_array(a) else a, model
    )
    ensemble = eqx.filter_jit(eqx.filter_vmap(lambda m: nt.ntk_full(m, x)))(models)
    assert relative_error(ensemble[0], expected) < 1e-12
    slope, plain = (
        jax.jit(jax.jacfwd(jax.grad(lambda x, of=kernel: jnp.sum(of(model, x) ** 2))))(
            x
        )
        for kernel in (nt.ntk, plain_kernel)
    )
    assert relative_error(slope, plain) < 1e-12
