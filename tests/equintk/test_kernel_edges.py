"""Kernels at values and sizes where a shortcut would show."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk import _assembly
from equintk._empirical import kernel as kernel_module
from tests.helpers import average_of, brute_force_full, relative_error
from tests.zoo import MODELS

pytestmark = pytest.mark.conformance

NAMES = ["mlp without biases", "conv1d", "tied embedding and head", "recurrent network"]


def _setting(name, n):
    case = MODELS[name]
    return case.model(jr.key(1)), case.inputs(jr.key(2), n)


def _agrees(model, x1, x2=None, batch_size=32):
    expected = average_of(brute_force_full(model, x1, x2))
    got = nt.ntk(model, x1, x2, batch_size=batch_size)
    assert got.shape == expected.shape
    assert relative_error(got, expected) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_one_example_against_many_and_many_against_one(name):
    model, x = _setting(name, 4)
    _agrees(model, x[:1])
    _agrees(model, x[:1], x, batch_size=3)
    _agrees(model, x, x[:1], batch_size=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_example_several_times_gives_equal_rows(name):
    model, x = _setting(name, 3)
    twice = jnp.concatenate([x, x[:2], x[:1]])
    kernel = np.asarray(nt.ntk(model, twice, batch_size=4))
    assert relative_error(kernel[3:], kernel[[0, 1, 0]]) < 1e-14
    _agrees(model, twice, batch_size=4)


@pytest.mark.parametrize("name", NAMES)
def test_where_features_take_much_to_make_small_blocks_of_them_are_joined(
    name, monkeypatch
):
    # Thirteen blocks of one, in tiles of three.
    model, x = _setting(name, 13)
    monkeypatch.setattr(kernel_module, "_MAKING_BYTES", 1)
    joined, sizes = _assembly.joined, []

    def counted(each, block, size):
        sizes.append((len(each), block, size))
        return joined(each, block, size)

    monkeypatch.setattr("equintk._batch.joined", counted)
    _agrees(model, x)
    assert sizes and all(block == 1 and size > 1 for _, block, size in sizes)
    _agrees(model, x, x[:5])
    diagonal = nt.ntk_diag(model, x)
    assert relative_error(diagonal, np.diagonal(nt.ntk(model, x))) < 1e-12


WINDOWS = [
    dict(window_strides=(2, 1), padding=((-1, 2), (0, -2))),
    dict(
        window_strides=(1, 2), padding=((1, 0), (-1, 3)),
        lhs_dilation=(2, 3), rhs_dilation=(2, 1),
    ),
    dict(window_strides=(3, 2), padding=((9, 0), (0, 8)), rhs_dilation=(1, 2)),
]  # fmt: skip


class OddWindows(eqx.Module):
    """Convolutions that cut the image, dilate it, or look at nothing but padding."""

    kernels: list[jax.Array]

    def __call__(self, x):
        of_image = zip(self.kernels, WINDOWS, strict=False)
        total = sum(
            jnp.tanh(jax.lax.conv_general_dilated(x[None], kernel, **how)).sum(
                (0, 2, 3)
            )
            for kernel, how in of_image
        )
        # An image without pixels, padded.
        empty = jax.lax.conv_general_dilated(
            x[None, :, :0], self.kernels[-1], (1, 1), ((2, 2), (0, 0))
        )
        return total + empty.sum()


def test_convolutions_see_what_their_windows_reach_and_nothing_beside(getkey):
    kernels = [jr.normal(getkey(), (2, 2, 3, 2)) for _ in (*WINDOWS, None)]
    x = jr.normal(getkey(), (3, 2, 7, 6))
    model = OddWindows(kernels)
    full = brute_force_full(model, x)
    assert relative_error(nt.ntk_full(model, x, batch_size=3), full) < 1e-12


class SafeNorm(eqx.Module):
    """A norm with the derivative zero at zero, where the plain one has none."""

    w: jax.Array

    def __call__(self, x):
        h = self.w @ x
        square = jnp.sum(h**2)
        zero = square == 0
        return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def test_zero_inputs_with_a_safe_norm_have_a_kernel_of_zero(getkey):
    model = SafeNorm(jr.normal(getkey(), (4, 3)))
    x = jr.normal(getkey(), (3, 3)).at[1].set(0.0)
    kernel = nt.ntk(model, x, batch_size=2)
    assert np.all(kernel[1] == 0) and np.all(kernel[:, 1] == 0)
    _agrees(model, x, batch_size=2)


def test_zero_inputs_of_a_network_without_biases_have_a_kernel_of_zero(getkey):
    model = eqx.nn.MLP(3, 2, 4, 2, use_bias=False, use_final_bias=False, key=getkey())
    assert np.all(nt.ntk(model, jnp.zeros((3, 3)), jr.normal(getkey(), (2, 3))) == 0)


def test_parameters_of_very_different_scales_keep_their_digits(getkey):
    # The last layer's part of the kernel is 1e-12 of the first layer's.
    model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=getkey())
    last = lambda m: m.layers[-1].weight
    model = eqx.tree_at(last, model, replace_fn=lambda w: 1e6 * w)
    x = jr.normal(getkey(), (4, 3))
    _agrees(model, x, batch_size=3)
    small = jax.tree_util.tree_map(lambda _: False, model)
    small = eqx.tree_at(last, small, True)
    expected = average_of(brute_force_full(model, x, None, small))
    assert relative_error(nt.ntk(model, x, trainable=small), expected) < 1e-12


def test_float32_inputs_of_a_float64_model_are_left_to_jax(getkey):
    model = eqx.nn.Linear(3, 2, key=getkey())
    x = np.asarray(jr.normal(getkey(), (4, 3)), np.float32)
    with pytest.raises(Exception, match="no available implicit dtype promotion path"):
        nt.ntk(model, x)
    with jax.numpy_dtype_promotion("standard"):
        got = nt.ntk(model, x)
    assert got.dtype == jnp.float64
    assert relative_error(got, nt.ntk(model, x.astype(np.float64))) < 1e-12
