"""Several outputs, complex numbers, chosen axes, diagonals and parts of kernels.

The reference takes everything apart into real arrays: a complex parameter into its real
and imaginary parts, a complex output into the same along a last axis of two.
"""

import functools
import itertools
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

import equintk as nt
from tests.helpers import (
    average_of,
    diagonal_of,
    one_in,
    reference_of,
    relative_error,
)
from tests.zoo import MODELS
from tests.zoo.member import Function, numpy_rng

pytestmark = pytest.mark.conformance

SEVERAL, COMPLEX = {}, {}


def _enter(models, x=(3,), x_complex=False, **shapes):
    """Enter a function of parameters, complex where the shape begins with `complex`."""

    def enter(apply):
        name = apply.__name__.replace("_", " ")
        models[name] = apply, x, x_complex, shapes
        return apply

    return enter


def _normal(rng, shape):
    if shape[:1] == (complex,):
        return rng.standard_normal((*shape[1:], 2)) @ np.asarray([0.7, 0.7j])
    return 0.7 * rng.standard_normal(shape)


@functools.cache
def _reference(name):
    """Model, inputs of 5 and 3 examples, their real Jacobians by output and leaf."""
    apply, x, x_complex, shapes = (SEVERAL | COMPLEX)[name]
    rng = numpy_rng(jr.key(zlib.crc32(name.encode())))
    parameters = {k: jnp.asarray(_normal(rng, shape)) for k, shape in shapes.items()}
    model = Function(parameters, apply)
    shape = (complex, *x) if x_complex else x
    x1, x2 = (np.stack([_normal(rng, shape) for _ in range(n)]) for n in (5, 3))
    return model, x1, x2, _jacobians(model, x1), _jacobians(model, x2)


def _jacobians(model, x):
    leaves, treedef = jtu.tree_flatten(model)
    parts = [[a.real, a.imag] if jnp.iscomplexobj(a) else [a] for a in leaves]

    def outputs(parts, x):
        leaves = [jax.lax.complex(*p) if len(p) == 2 else p[0] for p in parts]
        outs = jtu.tree_leaves(treedef.unflatten(leaves)(x))
        return [
            jnp.stack([out.real, out.imag], -1) if jnp.iscomplexobj(out) else out
            for out in outs
        ]

    shapes = [out.shape for out in jax.eval_shape(outputs, parts, x[0])]
    rows = jax.jit(jax.jacrev(outputs))
    each = [rows(parts, one) for one in x]
    result = []
    for i, shape in enumerate(shapes):
        of_leaf = [
            np.concatenate(
                [
                    np.stack([np.reshape(e[i][j][k], (*shape, -1)) for e in each])
                    for k in range(len(part))
                ],
                axis=-1,
            )
            for j, part in enumerate(parts)
        ]
        result.append(of_leaf)
    return result


def _full(one, two):
    """`(n1, n2, *out, *out)` from the Jacobians of one output, all leaves together."""
    one, two = (np.concatenate(side, axis=-1) for side in (one, two))
    kernel = np.tensordot(one, two, (-1, -1))
    out = one.ndim - 2
    return np.moveaxis(kernel, 1 + out, 1)


def _check(name, batch_size=2):
    model, x1, x2, j1, j2 = _reference(name)
    structure = jtu.tree_structure(jax.eval_shape(model, x1[0]))
    for kernel, part in (
        (nt.ntk, average_of),
        (nt.ntk_full, lambda full: full),
        (nt.ntk_per_output, diagonal_of),
    ):
        for other, j in ((x2, j2), (None, j1)):
            got = kernel(model, x1, other, batch_size=batch_size)
            assert jtu.tree_structure(got) == structure
            for leaf, one, two in zip(jtu.tree_leaves(got), j1, j, strict=True):
                assert jnp.isrealobj(leaf)
                assert relative_error(leaf, part(_full(one, two))) < 1e-12


# Several outputs.


@_enter(SEVERAL, w=(4, 3), v=(2, 4), b=(4,))
def a_tuple_that_shares_its_layers(x, w, v, b):
    h = jnp.tanh(w @ x + b)
    return v @ h, h[:3], jnp.sum(h)


@_enter(SEVERAL, w=(4, 3), v=(2, 3))
def a_dictionary_without_anything_shared(x, w, v):
    return {"one": jnp.tanh(w @ x), "two": {"three": [jnp.sin(v @ x), None]}}


@_enter(SEVERAL, x=(4, 3), w=(3, 3), u=(3, 3))
def the_last_state_and_all_states_of_a_scan(x, w, u):
    step = lambda h, t: ((h := jnp.tanh(w @ t + u @ h)), h)
    return jax.lax.scan(step, jnp.zeros(3, x.dtype), x)


@_enter(SEVERAL, w=(4, 3))
def one_array_in_a_list(x, w):
    return [jnp.tanh(w @ x)]


@_enter(SEVERAL, w=(2, 3), v=(2,))
def an_output_that_knows_no_parameter(x, w, v):
    return jnp.sin(x), w @ x, v


@_enter(SEVERAL, w=(4, 3), b=(4,))
def value_and_derivative(x, w, b):
    u = lambda x: jnp.sum(jnp.tanh(w @ x + b))
    return jax.value_and_grad(u)(x)


# Complex parameters and outputs.


@_enter(COMPLEX, w=(complex, 4, 3))
def a_complex_linear_map(x, w):
    return w @ x.astype(w.dtype)


@_enter(COMPLEX, x_complex=True, w=(complex, 4, 3), b=(complex, 4), v=(complex, 2, 4))
def complex_from_end_to_end(x, w, b, v):
    return v @ jnp.tanh(w @ x + b)


@_enter(COMPLEX, x_complex=True, w=(complex, 4, 3), b=(4,))
def complex_inside_and_real_outside(x, w, b):
    return jnp.abs(w @ x) + b


@_enter(COMPLEX, w=(4, 3), v=(2, 4))
def real_inside_and_complex_outside(x, w, v):
    phase = v @ jnp.tanh(w @ x)
    return jax.lax.complex(jnp.cos(phase), jnp.sin(phase))


@_enter(COMPLEX, x_complex=True, w=(complex, 4, 3))
def a_weight_and_its_conjugate(x, w):
    return w.conj().T @ jnp.sin(w @ x)


@_enter(COMPLEX, x_complex=True, w=(complex, 3, 3), g=())
def scaled_by_complex_and_by_real_numbers(x, w, g):
    return (0.5j * w) @ x + g.astype(w.dtype) * (w.T @ x) / 3.0


@_enter(COMPLEX, x_complex=True, w=(complex, 4, 3))
def a_weight_times_a_complex_number(x, w):
    return jnp.abs((0.5j * w) @ x)


@_enter(COMPLEX, x_complex=True, w=(complex, 4, 3))
def real_and_imaginary_parts_of_a_weight(x, w):
    return w.real @ x.real + jnp.tanh(w.imag @ x.imag)


@_enter(COMPLEX, x=(5, 3), a=(complex, 4), b=(complex, 4, 3), c=(complex, 2, 4))
def a_linear_recurrence(x, a, b, c):
    step = lambda h, t: (a * h + b @ t.astype(b.dtype), None)
    return (c @ jax.lax.scan(step, jnp.zeros(4, a.dtype), x)[0]).real


@_enter(COMPLEX, x=(6,), w=(complex, 4))
def a_filter_on_frequencies(x, w):
    return jnp.fft.irfft(w * jnp.fft.rfft(x), 6)


@_enter(COMPLEX, x_complex=True, x=(2, 5), w=(complex, 3, 2, 3), b=(complex, 3, 1))
def a_complex_convolution(x, w, b):
    return (jax.lax.conv_general_dilated(x[None], w, (1,), "SAME")[0] + b).mean(axis=1)


@_enter(COMPLEX, w=(complex, 4, 3), v=(2, 3))
def a_real_and_a_complex_output(x, w, v):
    return v @ x, w @ jnp.tanh(x).astype(w.dtype)


@pytest.mark.parametrize("name", one_in(2, SEVERAL))
def test_there_is_a_kernel_for_each_output_of_a_pytree(name):
    _check(name)


@pytest.mark.parametrize("name", one_in(2, COMPLEX))
def test_complex_numbers_count_as_pairs_of_real_ones(name):
    _check(name)


# Axes, diagonals and parts of kernels of real arrays.

AXES = ["an output of rank three", "tokens by vmap and no reduction", "conv2d, same"]


@functools.cache
def _zoo_reference(name):
    return reference_of(MODELS[name], name)


def _with_axes(full, average, diagonal):
    """Of a full kernel: `average` axes averaged, of `diagonal` axes the diagonal."""
    out = (full.ndim - 2) // 2
    average, diagonal = ({a % out for a in axes} for axes in (average, diagonal))
    one = [2 + a for a in range(out)]
    two = [a if a - 2 in average | diagonal else a + out for a in one]
    rest = [a for a in range(out) if a not in average | diagonal]
    axes = [2 + a for a in sorted(diagonal)]
    axes += [2 + a for a in rest] + [2 + a + out for a in rest]
    size = np.prod([full.shape[2 + a] for a in average], dtype=int)
    return np.einsum(full, [0, 1, *one, *two], [0, 1, *axes]) / size


@pytest.mark.parametrize("name", AXES)
def test_any_axes_are_averaged_or_kept_along_the_diagonal(name):
    model, _, x1, x2, _, k12 = _zoo_reference(name)
    out = (k12.ndim - 2) // 2
    choices = itertools.product("adc", repeat=out)
    picked = [choice for i, choice in enumerate(choices) if i % 4 in (1, 2)]
    for choice in picked[:8]:
        average = tuple(a for a in range(out) if choice[a] == "a")
        diagonal = tuple(a - out for a in range(out) if choice[a] == "d")
        got = nt.ntk_full(
            model, x1, x2, batch_size=2, average=average, diagonal=diagonal
        )
        assert relative_error(got, _with_axes(k12, average, diagonal)) < 1e-12


def test_axes_of_a_symmetric_kernel_and_of_each_output_with_itself():
    model, _, x1, _, k11, _ = _zoo_reference(AXES[0])
    got = nt.ntk_full(model, x1, batch_size=2, average=(-1,), diagonal=0)
    assert relative_error(got, _with_axes(k11, (2,), (0,))) < 1e-12
    got = nt.ntk_per_output(model, x1, batch_size=2, average=(0, -1))
    assert relative_error(got, _with_axes(k11, (0, 2), (1,))) < 1e-12


@pytest.mark.parametrize("name", one_in(2, list(MODELS)[::9]))
def test_diagonals_and_parts_belong_to_the_kernel(name):
    model, mask, x1, x2, k11, k12 = _zoo_reference(name)
    arguments = {"batch_size": 2, "trainable": mask}
    diagonal = np.einsum("ii...->i...", k11)
    got = nt.ntk_diag_full(model, x1, **arguments)
    assert relative_error(got, diagonal) < 1e-12
    got = nt.ntk_diag(model, x1, **arguments)
    assert relative_error(got, np.diagonal(average_of(k11))) < 1e-12

    parts = nt.ntk_by_parameter(model, x1, x2, **arguments)
    leaves = jtu.tree_leaves(parts)
    assert all(leaf.shape == (5, 3) for leaf in leaves)
    assert relative_error(sum(leaves), average_of(k12)) < 1e-12
    params = eqx.filter(model, mask)
    assert jtu.tree_structure(parts) == jtu.tree_structure(params)


def test_each_part_is_the_kernel_of_its_parameter_alone():
    names = [
        "tied autoencoder with biases",
        "low rank correction",
        "recurrent network",
        "complex from end to end",
    ]
    for name in names:
        if name in MODELS:
            model, _, x1, x2, *_ = _zoo_reference(name)
        else:
            model, x1, x2, *_ = _reference(name)
        parts = nt.ntk_by_parameter(model, x1, x2, batch_size=2)
        for key in model.parameters:
            mask = jtu.tree_map(lambda _: False, model)
            mask = eqx.tree_at(lambda m, key=key: m.parameters[key], mask, True)
            alone = nt.ntk(model, x1, x2, batch_size=2, trainable=mask)
            assert relative_error(parts.parameters[key], alone) < 1e-12


# The NNGP kernel of one network: the same family, with outputs for Jacobians.


@pytest.mark.parametrize("name", ["conv2d, same", "linear to a scalar", "gru cell"])
def test_the_nngp_of_one_network_is_the_product_of_its_outputs(name):
    model, _, x1, x2, *_ = _zoo_reference(name)
    f1, f2 = (np.asarray(jax.vmap(model)(x)) for x in (x1, x2))
    for other, f in ((x2, f2), (None, f1)):
        full = np.moveaxis(np.multiply.outer(f1, f), f1.ndim, 1)
        for kernel, part in (
            (nt.empirical_nngp, average_of),
            (nt.empirical_nngp_full, lambda full: full),
            (nt.empirical_nngp_per_output, diagonal_of),
        ):
            got = kernel(model, x1, other, batch_size=2)
            assert relative_error(got, part(full)) < 1e-12
    diagonal = np.mean(f1.reshape(5, -1) ** 2, axis=1)
    assert relative_error(nt.empirical_nngp_diag(model, x1), diagonal) < 1e-12


def test_the_nngp_of_several_and_of_complex_outputs():
    model, x1, x2, *_ = _reference("a real and a complex output")
    got = nt.empirical_nngp_full(model, x1, x2, batch_size=2)
    split = lambda f: np.stack([f.real, f.imag], -1) if np.iscomplexobj(f) else f
    outs1, outs2 = (map(np.asarray, jax.vmap(model)(x)) for x in (x1, x2))
    for kernel, one, two in zip(got, outs1, outs2, strict=True):
        f1, f2 = split(one), split(two)
        full = np.moveaxis(np.multiply.outer(f1, f2), f1.ndim, 1)
        assert relative_error(kernel, full) < 1e-12
