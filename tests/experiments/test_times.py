import numpy as np
import pytest

from experiments import times
from experiments.schema import LearningRateUnit, OptimizerConfig, TimeGridConfig


@pytest.mark.parametrize("name", ["log", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 7, 256, 100_000])
@pytest.mark.parametrize("n_times", [1, 2, 10, 400])
def test_a_grid_goes_from_0_to_the_last_step_in_at_most_n_times(name, steps, n_times):
    grid = times.build(TimeGridConfig(name, steps, n_times))
    assert grid[0] == 0
    assert grid[-1] == steps
    assert np.all(np.diff(grid) > 0)
    assert grid.dtype.kind == "i"
    assert len(grid) - 1 <= n_times


def test_a_logarithmic_grid_multiplies():
    grid = times.build(TimeGridConfig("log", 256, 9))
    assert grid.tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_a_linear_grid_adds():
    grid = times.build(TimeGridConfig("linear", 30, 3))
    assert grid.tolist() == [0, 10, 20, 30]


def test_a_linear_grid_has_every_step_when_it_may():
    grid = times.build(TimeGridConfig("linear", 5, 50))
    assert grid.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_fraction_of_the_stability_bound_scales_with_it():
    config = OptimizerConfig("sgd", 0.25, LearningRateUnit.stability_bound)
    assert times.learning_rate(config, 8.0) == 2.0


@pytest.mark.parametrize("bound", [8.0, float("inf")])
def test_an_absolute_learning_rate_ignores_the_stability_bound(bound):
    config = OptimizerConfig("sgd", 0.25, LearningRateUnit.absolute)
    assert times.learning_rate(config, bound) == 0.25


def test_flow_time_is_learning_rate_times_steps():
    np.testing.assert_array_equal(
        times.flow_time(np.array([0, 1, 4]), 0.5), [0, 0.5, 2]
    )


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_a_fraction_of_no_bound_is_refused_with_the_absolute_unit(bound):
    config = OptimizerConfig("sgd", 0.5, LearningRateUnit.stability_bound)
    with pytest.raises(ValueError, match="0.5 times it is no learning rate.*=absolute"):
        times.learning_rate(config, bound)


def test_an_unknown_time_grid_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no time grid `cubic`.*log, linear"):
        times.build(TimeGridConfig("cubic", 10, 3))
