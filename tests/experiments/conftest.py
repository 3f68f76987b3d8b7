"""What the tests of whole runs share."""

import jax
import pytest


@pytest.fixture
def runs_may_set_jax():
    """A run sets JAX's precision for its process; afterwards it is as it was.

    Compilation takes most of the time of a miniature run, hence without optimisations.
    """
    set_by_runs = ("jax_enable_x64", "jax_default_matmul_precision")
    before = {name: getattr(jax.config, name) for name in set_by_runs}
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    for name, value in before.items():
        jax.config.update(name, value)
