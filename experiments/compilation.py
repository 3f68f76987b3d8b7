"""Compiled programs kept on disk, so that a process need not compile them again."""

import os
import platform
from pathlib import Path

from experiments.schema import Config


def use_cache(config: Config) -> None:
    """Let JAX keep what it compiles, unless the config or the user says otherwise.

    Programs fit the processor they were compiled on, so machines of other make that
    share a home directory have caches of their own.
    """
    if not config.compilation_cache:
        return
    import jax

    if jax.config.jax_compilation_cache_dir:  # type: ignore
        return
    jax.config.update("jax_compilation_cache_dir", str(_place(jax.__version__)))
    # By default only what takes over a second to compile is kept: 2 programs of 45.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _place(version: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "equintk" / f"jax-{version}-{_make()}"


def _make() -> str:
    """Tells processors with different instructions apart."""
    import hashlib

    about = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                about += line
            elif not line:
                break  # the other cores are alike
    except OSError:
        about += platform.processor()
    return hashlib.sha256(about.encode()).hexdigest()[:8]
