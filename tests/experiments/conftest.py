"""What the tests of whole runs share."""

import jax
import pytest


@pytest.fixture
def runs_may_set_jax():
    """A run sets JAX's precision for its process; afterwards it is as it was."""
    set_by_runs = (
        "jax_enable_x64", "jax_default_matmul_precision", "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes", "jax_enable_compilation_cache",
    )  # fmt: skip
    before = {name: getattr(jax.config, name) for name in set_by_runs}
    # What a test compiles without optimisations is of no use to the user.
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
