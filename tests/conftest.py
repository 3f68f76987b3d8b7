"""Strict JAX on the chosen device: float64, no silent promotion of dtypes or ranks."""

import os

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    """`python -m pytest -m "conformance and not slow" --device gpu`."""
    parser.addoption(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where JAX computes: cpu (the default, even where there is a GPU) or gpu",
    )
    parser.addoption(
        "--optimised",
        action="store_true",
        help="compile as for users; takes twice as long",
    )


def pytest_configure(config):
    """Choose the device, and how to compile for it, before anything is computed."""
    if not config.getoption("--optimised"):
        _compile_cheaply(is_quick=config.getoption("markexpr") == "not slow")
    if config.getoption("--device") == "cpu":
        jax.config.update("jax_platforms", "cpu")
        return
    # Workers and the tests' own processes share its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        jax.config.update("jax_default_device", jax.devices("gpu")[0])
    except RuntimeError as error:
        raise pytest.UsageError(
            "`--device gpu` needs a GPU that JAX can use, but JAX finds none: "
            f"{error}. Install JAX for it, such as by `python -m pip install "
            '"jax[cuda13]"`, or leave the option out to compute on the CPU.'
        ) from error


def _compile_cheaply(is_quick):
    """Almost all the time goes into compiling programs that run once.

    Without fusion emitters a number may be rounded in two ways in one program, so that
    correlations of one are missed by 1e-8: what is slow is held to more than that.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for processes of the tests
    if is_quick and jax.__version_info__[:2] == (
        0,
        10,
    ):  # XLA ends the process at unknown flags
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


@pytest.fixture
def optimised(request):
    """For tests that compute for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    is_cheap = not request.config.getoption("--optimised")
    jax.config.update("jax_disable_most_optimizations", is_cheap)


@pytest.fixture
def getkey(request):
    """A function that gives a new key at each call, the same ones for the same test."""
    import zlib

    import jax.random as jr

    seed = zlib.crc32(request.node.nodeid.encode())
    keys = iter(jr.split(jr.key(seed), 64))
    return lambda: next(keys)
