"""The tests compute on the device that `--device` names."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
NAME = "test_arrays_are_on_the_device_that_was_asked_for"


@pytest.mark.conformance
def test_arrays_are_on_the_device_that_was_asked_for(pytestconfig):
    (device,) = jnp.ones(3).devices()
    assert device.platform == pytestconfig.getoption("--device")


def run(platforms, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments,
         f"{Path(__file__)}::{NAME}"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": platforms},
    )  # fmt: skip


def test_the_default_is_the_cpu_whatever_jax_would_take():
    done = run("cuda")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_a_missing_gpu_is_refused_before_any_test():
    done = run("cpu", "--device", "gpu")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "needs a GPU that JAX can use, but JAX finds none" in done.stderr
    assert "leave the option out" in done.stderr and "passed" not in done.stdout
