"""Programs are compiled so that XLA gets them right, and nest in the caller's."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk import _compiled
from tests.attention import Attention, in_float32


@pytest.fixture(scope="module")
def attention():
    return in_float32(Attention(256, 40, key=jr.key(0)))


def test_many_derivatives_of_a_wide_attention_are_those_of_few(attention):
    # With jaxlib 0.10, and 600 derivatives or more at once, XLA's fusions give others.
    x = jr.normal(jr.key(1), (17, 9, 7), jnp.float32)
    at_once = nt.ntk_diag(attention, x, batch_size=17)
    each = nt.ntk_diag(attention, x, batch_size=4)
    np.testing.assert_allclose(at_once, each, rtol=5e-6)
    gradients = nt.ntk(attention, x, x[:2], batch_size=17)
    np.testing.assert_allclose(jnp.diagonal(gradients), each[:2], rtol=5e-6)


def product(a, b):
    return jnp.sum(jnp.sin(a @ b))


@pytest.mark.parametrize("compiled", [_compiled.jit, _compiled.filter_jit])
def test_programs_nest_in_those_of_the_caller(compiled):
    f = compiled(product)
    a, b = jr.normal(jr.key(0), (2, 3, 3))
    value = product(a, b)
    assert jnp.allclose(f(a, b), value)
    assert jnp.allclose(jax.jit(lambda: f(a, b))(), value)
    assert jnp.allclose(jax.jit(f)(a, b), value)
    assert jnp.allclose(jax.vmap(f, (0, None))(a[None], b), value)
    assert jnp.allclose(jax.grad(f)(a, b), jax.grad(product)(a, b))
    added, _ = jax.lax.scan(lambda c, _: (c + f(a, b), None), 0.0, jnp.arange(3))
    assert jnp.allclose(added, 3 * value)
    around = lambda a: compiled(lambda b: product(a, b))(b)
    assert jnp.allclose(jax.grad(around)(a), jax.grad(product)(a, b))


def test_an_option_of_another_version_is_left_out(monkeypatch):
    monkeypatch.setattr(_compiled, "_OPTION", "xla_of_no_version")
    monkeypatch.setattr(_compiled, "_APART", {"xla_of_no_version": "1"})
    monkeypatch.setattr(_compiled, "_refused", set())
    f = _compiled.jit(product)
    a, b = jr.normal(jr.key(0), (2, 3, 3))
    value = product(a, b)
    for _ in range(2):
        assert jnp.allclose(f(a, b), value)
    assert _compiled._refused == {"xla_of_no_version"}


def test_other_errors_of_a_program_are_raised():
    def fails(x):
        return jax.pure_callback(lambda x: 1 / 0, x, x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="ZeroDivision"):
        _compiled.jit(fails)(jnp.ones(())).block_until_ready()
