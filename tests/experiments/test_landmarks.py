import pytest

from experiments import landmarks
from experiments.compare import Measurement


def curve(metric, values, split="train"):
    steps = (0, 1, 10, 100)
    pairs = zip(steps, values, strict=True)
    return [Measurement(metric, split, step, value) for step, value in pairs]


LOSS = curve("loss_network", [2.0, 7.0, 1.0, 0.5])
DRIFT = curve("kernel_drift", [0.0, 0.1, 0.3, 0.5])


def test_the_peak_of_the_loss_is_relative_to_its_start_on_training_examples():
    elsewhere = curve("loss_network", [1.0, 99.0, 1.0, 1.0], split="test")
    assert landmarks.of([*elsewhere, *LOSS, *DRIFT])["loss_peak"] == 3.5


def test_halfway_is_the_first_step_with_half_of_the_last_drift():
    assert landmarks.of([*LOSS, *DRIFT])["drift_halfway"] == 0.1


def test_a_kernel_that_stays_and_a_loss_of_zero_have_no_landmarks():
    still = curve("kernel_drift", [0.0] * 4)
    assert landmarks.of([*curve("loss_network", [0.0] * 4), *still]) == {}


def test_the_gain_of_alignment_is_from_start_to_end():
    turned = curve("target_alignment", [0.2, 0.9, 0.1, 0.6])
    gain = landmarks.of([*LOSS, *DRIFT, *turned])["target_alignment_gain"]
    assert gain == pytest.approx(0.4)
