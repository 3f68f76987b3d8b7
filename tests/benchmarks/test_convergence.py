"""The comparison of wide networks with their limit, in small."""

import dataclasses

import numpy as np
import pytest

from benchmarks.convergence.__main__ import main
from benchmarks.convergence.measure import Mean, measure
from benchmarks.convergence.networks import NETWORKS
from experiments.slopes import fit_power_law


def test_kernels_of_embedded_words_approach_their_limit():
    found = measure(NETWORKS["embedding"], (16, 64), 16, 16, 60)
    assert found.ok, found
    assert found.errors[64] < found.errors[16]
    # What would not approach it is seen.
    flat = fit_power_law([16, 32, 64], [0.5, 0.51, 0.49])
    assert not dataclasses.replace(found, law=flat).ok


def test_a_mean_that_is_off_by_five_percent_is_seen():
    draws = 1 + 0.3 * np.random.default_rng(0).normal(size=(1000, 3, 3))
    assert Mean.of(draws, np.ones((3, 3))).deviation < 4
    assert Mean.of(draws, np.full((3, 3), 1.05)).deviation > 4


def test_half_of_the_architectures_are_impossible_in_stax():
    assert len(NETWORKS) >= 12
    assert sum(not network.stax for network in NETWORKS.values()) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_wide_networks_approach_their_limit(name):
    small = ["--widths", "64,128,256,512", "--at", "128"]
    assert main(["--networks", name, *small]) == 0
