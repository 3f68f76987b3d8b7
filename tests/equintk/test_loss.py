"""The constant c of each squared loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equintk as nt
from tests.helpers import assert_close


def half_sum(error):
    return 0.5 * np.sum(error**2)


def half_mean_over_examples(error):
    return 0.5 * np.mean(np.sum(error.reshape(len(error), -1) ** 2, axis=1))


def half_mean(error):
    return 0.5 * np.mean(error**2)


LOSSES = {
    "sum": half_sum,
    "mean_over_examples": half_mean_over_examples,
    "mean": half_mean,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
def test_c_over_two_times_the_sum_is_the_loss_as_coded(name, shape):
    error = np.random.default_rng(0).normal(size=shape)
    c = nt.loss_scale(name, error)
    assert_close(c / 2 * np.sum(error**2), LOSSES[name](error))


def test_the_mean_squared_error_without_the_half_has_twice_the_c():
    error = np.random.default_rng(0).normal(size=(4, 3))
    c = 2 * nt.loss_scale("mean", error)
    assert_close(c / 2 * np.sum(error**2), np.mean(error**2))


def test_only_the_shape_of_the_targets_is_read():
    struct = jax.ShapeDtypeStruct((4, 5), jnp.float32)
    assert nt.loss_scale("mean", struct) == 1 / 20
    assert nt.loss_scale("mean", [[1, 2], [3, 4], [5, 6]]) == 1 / 6


@pytest.mark.parametrize("name", ["mse", None, ["sum"]])
def test_an_unknown_loss_is_refused_with_the_names_there_are(name):
    with pytest.raises(
        ValueError, match="must be one of 'sum', 'mean_over_examples', "
    ):
        nt.loss_scale(name, jnp.ones((3, 2)))


@pytest.mark.parametrize("shape", [(), (0, 2), (3, 0)])
def test_targets_without_examples_or_outputs_are_refused(shape):
    with pytest.raises(ValueError, match=r"at least one target.*`y_train\[None\]`"):
        nt.loss_scale("mean", jnp.ones(shape))
