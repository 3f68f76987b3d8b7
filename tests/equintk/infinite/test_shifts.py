"""Sums over a convolution's offsets against the definition, place by place."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from equintk._infinite.numbers.shifts import Window, convolved


def by_definition(k, windows, rank, diagonal):
    sides = [0] if diagonal else [0, rank]
    for d, w, n in windows:
        axes = [side + d for side in sides]
        x = np.moveaxis(k, axes, range(len(axes)))
        dilated = (n - 1) * w.lhs_dilation + 1 + sum(w.padding)
        size = (dilated - (w.size - 1) * w.rhs_dilation - 1) // w.stride + 1
        out = np.zeros((size,) * len(axes) + x.shape[len(axes) :])
        for o in itertools.product(range(size), repeat=len(axes)):
            for offset in range(w.size):
                at = [i * w.stride + offset * w.rhs_dilation - w.padding[0] for i in o]
                places = [i // w.lhs_dilation for i in at]
                on_grid = all(i % w.lhs_dilation == 0 for i in at)
                if on_grid and all(0 <= i < n for i in places):
                    out[o] += x[tuple(places)]
        k = np.moveaxis(out, range(len(axes)), axes)
    return k


WINDOWS = {
    "same": [(0, Window(3, 1, (1, 1), 1, 1)), (1, Window(3, 1, (1, 1), 1, 1))],
    "valid": [(0, Window(2, 1, (0, 0), 1, 1)), (1, Window(3, 1, (0, 0), 1, 1))],
    "strided": [(0, Window(3, 2, (1, 1), 1, 1)), (1, Window(2, 2, (0, 1), 1, 1))],
    "dilated": [(0, Window(2, 1, (1, 1), 1, 2)), (1, Window(3, 1, (2, 2), 1, 2))],
    "transposed": [(0, Window(3, 1, (2, 2), 2, 1)), (1, Window(2, 1, (1, 1), 3, 1))],
    "full": [(0, Window(3, 1, (2, 2), 1, 1)), (1, Window(4, 1, (3, 3), 1, 1))],
    "cropped": [(0, Window(2, 1, (-1, 0), 1, 1))],
    "large": [(0, Window(4, 1, (2, 1), 1, 1)), (1, Window(4, 1, (1, 2), 1, 1))],
}


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", WINDOWS)
def test_sums_over_offsets_are_those_of_the_definition(name, diagonal):
    shape = (4, 5, 2)
    windows = [(d, window, shape[d]) for d, window in WINDOWS[name]]
    k = np.random.default_rng(0).normal(size=shape if diagonal else shape * 2)
    got = convolved(jnp.asarray(k), windows, 3, diagonal)
    np.testing.assert_allclose(got, by_definition(k, windows, 3, diagonal), atol=1e-12)


def test_many_places_are_shifted_and_not_multiplied_by_a_matrix():
    windows = [(0, Window(3, 1, (1, 1), 1, 1), 200)]
    k = np.random.default_rng(0).normal(size=(200,))
    got = convolved(jnp.asarray(k), windows, 1, True)
    np.testing.assert_allclose(got, by_definition(k, windows, 1, True), atol=1e-12)
