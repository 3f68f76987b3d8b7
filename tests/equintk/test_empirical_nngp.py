"""Products of one network's outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import assert_close

pytestmark = pytest.mark.conformance


class Matrix(eqx.Module):
    """An output of shape `(2, 3)`."""

    layer: eqx.nn.Linear

    def __call__(self, x):
        return jnp.tanh(self.layer(x)).reshape(2, 3)


def test_the_family_are_products_of_outputs(getkey):
    model = Matrix(eqx.nn.Linear(4, 6, key=getkey()))
    x1, x2 = jr.normal(getkey(), (5, 4)), jr.normal(getkey(), (3, 4))
    f1, f2 = (np.asarray(jax.vmap(model)(x)) for x in (x1, x2))
    average = np.einsum("iab,jab->ij", f1, f2) / 6
    assert_close(nt.empirical_nngp(model, x1, x2, batch_size=2), average)
    assert_close(nt.empirical_nngp(model, x1), np.einsum("iab,jab->ij", f1, f1) / 6)
    full = np.einsum("iab,jcd->ijabcd", f1, f2)
    assert_close(nt.empirical_nngp_full(model, x1, x2, batch_size=2), full)
    per_output = np.einsum("iab,jab->ijab", f1, f2)
    assert_close(nt.empirical_nngp_per_output(model, x1, x2), per_output)
    assert_close(
        nt.empirical_nngp_full(model, x1, x2, average=0, diagonal=-1),
        per_output.mean(2),
    )
    assert_close(nt.empirical_nngp_diag(model, x1, batch_size=2), (f1**2).mean((1, 2)))
    of_each = np.einsum("iab,icd->iabcd", f1, f1)
    assert_close(nt.empirical_nngp_diag_full(model, x1, batch_size=2), of_each)
    assert_close(
        nt.empirical_nngp_diag_full(model, x1, average=0, diagonal=1),
        np.einsum("iab,iab->ib", f1, f1) / 2,
    )


def test_a_function_without_parameters_has_outputs_and_a_kernel(getkey):
    x = jr.normal(getkey(), (4, 3))
    assert_close(nt.empirical_nngp(jnp.sin, x), jnp.sin(x) @ jnp.sin(x).T / 3)


def test_both_kernels_at_once_are_each_kernel(getkey):
    model = eqx.nn.MLP(3, 2, 8, 1, key=getkey())
    x1, x2 = jr.normal(getkey(), (5, 3)), jr.normal(getkey(), (3, 3))
    both = nt.empirical_kernels(model, x1, x2, batch_size=2)
    assert_close(both.ntk, nt.ntk(model, x1, x2))
    assert_close(both.nngp, nt.empirical_nngp(model, x1, x2))


def test_the_mean_over_initialisations_is_the_monte_carlo_nngp(getkey):
    build = lambda key: eqx.nn.MLP(3, 2, 8, 1, key=key)
    x, key = jr.normal(getkey(), (4, 3)), getkey()
    mean = nt.monte_carlo(lambda m: nt.empirical_nngp(m, x), build, key, 5).mean
    assert_close(mean, nt.nngp(build, key, x, n_samples=5))
