"""Kernels of two thousand real points are positive semi-definite up to rounding."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from equinox import nn
from sklearn.datasets import load_digits, load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d

import equintk as nt
from tests.equintk.infinite.architectures import Net

pytestmark = pytest.mark.slow

OPTIONS = {"parameterization": "ntk", "W_std": 1.4, "b_std": 0.1}
FEW = 20  # times the rounding of the largest eigenvalue
KEYS = jr.split(jr.key(0), 4)


@functools.cache
def points():
    """All digits, and patches of photographs, many of which are nearly equal."""
    photographs = [
        extract_patches_2d(image.mean(2) / 255, (8, 8), max_patches=n, random_state=0)
        for image, n in zip(load_sample_images().images, (102, 101), strict=True)
    ]
    patches = np.concatenate(photographs).reshape(-1, 64)
    digits, _ = load_digits(return_X_y=True)
    return np.concatenate([np.asarray(digits) / 16, patches])


def mlp(activation, depth, dtype):
    return eqx.nn.MLP(64, 1, 64, depth, activation, dtype=dtype, key=KEYS[0])


def normed(dtype):
    first = nn.Linear(64, 64, dtype=dtype, key=KEYS[0])
    inner = nn.Linear(64, 64, dtype=dtype, key=KEYS[1])
    last = nn.Linear(64, 1, dtype=dtype, key=KEYS[2])

    def call(p, x):
        h = p[0](x)
        h = h + p[2](jax.nn.relu(p[1](h)))
        return p[3](jax.nn.relu(h))

    return Net([first, nn.LayerNorm(64, dtype=dtype), inner, last], call)


def convolutional(dtype):
    first = nn.Conv2d(1, 16, 3, padding=1, dtype=dtype, key=KEYS[0])
    second = nn.Conv2d(16, 16, 3, stride=2, dtype=dtype, key=KEYS[1])
    last = nn.Linear(16 * 9, 1, dtype=dtype, key=KEYS[2])

    def call(p, x):
        h = jax.nn.relu(p[1](jax.nn.relu(p[0](x.reshape(1, 8, 8)))))
        return p[2](jnp.ravel(h))

    return Net([first, second, last], call)


def exact_gelu(z):
    return jax.nn.gelu(z, approximate=False)


MODELS = {
    "ReLU, 4 layers": lambda dtype: mlp(jax.nn.relu, 4, dtype),
    "ReLU, 12 layers": lambda dtype: mlp(jax.nn.relu, 12, dtype),
    "abs": lambda dtype: mlp(jnp.abs, 3, dtype),
    "erf": lambda dtype: mlp(jax.scipy.special.erf, 3, dtype),
    "GELU": lambda dtype: mlp(exact_gelu, 2, dtype),
    "tanh, a series": lambda dtype: mlp(jnp.tanh, 2, dtype),
    "residual with a norm": normed,
    "convolutional": convolutional,
}


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", MODELS)
def test_kernels_of_real_points_are_positive_semidefinite(name, dtype):
    x = jnp.asarray(points(), dtype)
    assert len(x) == 2000
    kernels = nt.infinite_kernels(MODELS[name](dtype), x, **OPTIONS)
    for kernel in kernels[:2]:
        assert kernel.dtype == dtype
        np.testing.assert_array_equal(kernel, kernel.T)
        smallest, *_, largest = np.linalg.eigvalsh(np.asarray(kernel, np.float64))
        assert smallest > -FEW * float(jnp.finfo(dtype).eps) * largest, smallest
