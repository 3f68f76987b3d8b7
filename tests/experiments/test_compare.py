import math

import numpy as np
import pytest

import equintk as nt
from experiments import compare
from experiments.datasets import Dataset
from experiments.losses import Objective
from experiments.tables import PARAMETERS
from experiments.trajectory import Trajectory

# Two training outputs at two times, 5 apart.
TRAIN = np.array([[[0.0], [0.0]], [[3.0], [4.0]]])


def dataset(n_out=1, classes=None):
    y_train, y_test = np.ones((2, n_out)), np.full((1, n_out), 5.0)
    return Dataset("d", np.zeros((2, 1)), y_train, np.zeros((1, 1)), y_test, classes)


def found(network, prediction, data, c=1.0):
    squared = nt.predict.losses.squared
    objective = Objective(squared, data.y_train, data.y_test, lambda n: c, 1.0)
    rows = compare.trajectories(network, prediction, data, objective)
    return {(row.metric, row.split, row.step): row.value for row in rows}


def moving_test(train, by=1.0):
    """A trajectory whose single test output moves from 0 to `by`."""
    return Trajectory(np.array([0, 9]), train, np.array([[[0.0]], [[by]]]))


def test_divergence_is_relative_to_the_distance_the_network_moves():
    network = moving_test(TRAIN)
    prediction = moving_test(np.zeros((2, 2, 1)), by=3.0)
    got = found(network, prediction, dataset())
    assert got["relative_divergence", "train", 9] == 1  # 5 apart of 5 moved
    assert got["relative_divergence", "test", 9] == 2  # 2 apart of 1 moved
    assert got["relative_divergence", "train", 0] == 0
    assert got["rmse", "train", 9] == pytest.approx(5 / math.sqrt(2))
    assert got["rmse", "test", 9] == 2


def test_the_loss_is_half_c_times_the_sum_of_squared_errors():
    network = moving_test(TRAIN)
    got = found(network, network, dataset(), c=0.5)
    assert got["loss_network", "train", 9] == pytest.approx(0.25 * (2**2 + 3**2))
    assert got["loss_prediction", "train", 0] == pytest.approx(0.25 * 2)
    assert got["loss_network", "test", 9] == pytest.approx(0.25 * 4**2)


def test_accuracy_is_there_for_classes_only():
    network = moving_test(TRAIN)
    assert not any(
        "accuracy" in metric for metric, *_ in found(network, network, dataset())
    )
    got = found(network, moving_test(-TRAIN), dataset(classes=(3, 8)))
    assert got["accuracy_network", "train", 9] == 1
    assert got["accuracy_prediction", "train", 9] == 0


def test_differences_near_the_rounding_of_float32_are_not_lost():
    # 1e-30 squared is zero in float32.
    def single(by):
        train = np.array([[[0.0], [0.0]], [[by], [0.0]]], np.float32)
        return Trajectory(np.array([0, 9]), train, train[:, :1])

    got = found(single(1e-30), single(2e-30), dataset())
    assert got["relative_divergence", "train", 9] == pytest.approx(1)


def test_a_network_that_does_not_move_is_an_error_with_what_to_raise():
    still = moving_test(np.zeros((2, 2, 1)))
    with pytest.raises(
        ValueError, match="did not move.*optimizer.learning_rate or steps"
    ):
        found(still, still, dataset())


def test_movement_is_by_layer_and_of_all_layers_together():
    start = {
        "input": [np.array([[3.0, 4.0]]), np.array([0.0])],
        "readout": [np.array([12.0])],
    }
    now = {
        "input": [np.array([[3.0, 4.0]]), np.array([3.0])],
        "readout": [np.array([16.0])],
    }
    rows = list(compare.movement(7, start, now))
    assert {(row.split, row.step) for row in rows} == {(PARAMETERS, 7)}
    assert {row.metric: row.value for row in rows} == pytest.approx(
        {
            "movement_absolute/input": 3,
            "movement_relative/input": 3 / 5,
            "movement_absolute/readout": 4,
            "movement_relative/readout": 4 / 12,
            "movement_absolute/all": 5,
            "movement_relative/all": 5 / 13,
        }
    )
