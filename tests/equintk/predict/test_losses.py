"""Losses of one example: against optax, and against labels that mean something else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equintk.predict import losses
from tests.helpers import assert_close

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=4)


@pytest.mark.parametrize("y", [jnp.array(2), jnp.array([0.1, 0.2, 0.3, 0.4])])
def test_softmax_cross_entropy_is_that_of_optax(y):
    reference = (
        optax.softmax_cross_entropy_with_integer_labels
        if y.ndim == 0
        else optax.softmax_cross_entropy
    )
    logits = jnp.asarray(LOGITS)
    assert_close(losses.softmax_cross_entropy(logits, y), reference(logits, y))


@pytest.mark.parametrize("y", [-1, 4])
def test_a_class_out_of_range_is_nan_and_so_is_its_gradient(y):
    value, gradient = jax.value_and_grad(losses.softmax_cross_entropy)(
        jnp.asarray(LOGITS), jnp.array(y)
    )
    assert jnp.isnan(value) and jnp.isnan(gradient).all()


def test_logistic_is_that_of_optax_at_any_size_of_logit():
    f, y = jnp.array([-800.0, -1, 0, 3, 800]), jnp.array([0.0, 1, 0.5, 1, 1])
    expected = optax.sigmoid_binary_cross_entropy(f, y)
    assert_close(losses.logistic(f, y), jnp.sum(expected))
    assert jnp.isfinite(jax.grad(losses.logistic)(f, y)).all()


def test_huber_is_that_of_optax_and_squared_without_outliers():
    f, y = (
        jnp.asarray(3 * RNG.normal(size=(3, 2))),
        jnp.asarray(RNG.normal(size=(3, 2))),
    )
    loss = functools.partial(losses.huber, delta=0.7)
    assert_close(loss(f, y), jnp.sum(optax.huber_loss(f, y, delta=0.7)))
    far = functools.partial(losses.huber, delta=100.0)
    for derivative in (lambda f: f, jax.grad, jax.hessian):
        assert_close(derivative(far)(f, y), derivative(losses.squared)(f, y))


def test_shapes_and_types_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"has shape \(2, 2\) and one target \(\)"):
        losses.softmax_cross_entropy(jnp.ones((2, 2)), jnp.array(1))
    with pytest.raises(ValueError, match=r"integers as classes.*`y.astype\(int\)`"):
        losses.softmax_cross_entropy(jnp.ones(2), jnp.array(1.0))
    for loss in (losses.squared, losses.logistic, losses.huber):
        with pytest.raises(ValueError, match=r"outputs of shape \(3,\) and targets of"):
            loss(jnp.ones(3), jnp.array(1.0))
